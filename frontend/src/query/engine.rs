//! One DataFusion session per statement, over one snapshot of the catalog and one memory pool for all.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::optimizer::Analyzer;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast;
use futures::{StreamExt, TryStreamExt};
use greptime_proto::transport::MetaLink;
use greptime_query::{
    QueryPool, SpillLimit, from_datafusion, in_short_turns, into_datafusion, json_functions, sort_reserve,
};
use greptime_types::format::PREPARED_FORMAT;
use greptime_types::{Error, Result};

use super::analyze::with_reports;
use super::bounds::BoundMemory;
use super::cast_names::name_casts;
use super::catalog::{Databases, VIRTUAL_DATABASES};
use super::exec::QueryDeadline;
use super::functions::{Variables, session_functions};
use super::memory::{AnswerSpace, hold_statement};
use super::metric::MetricTables;
use super::plan_cache::{Bound, Entry, PlanCache, Template};
use super::pushdown::PushToRegions;
use super::time_literals::TimeLiterals;
use super::yielding::YieldInJoins;
use crate::config::FrontendConfig;
use crate::metrics::FrontendMetrics;
use crate::route::{Catalog, Deadline, Router};
use crate::sql::{CATALOG, unknown_column};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    MySql,
    Postgres,
}

impl Protocol {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::MySql => "mysql",
            Self::Postgres => "postgres",
        }
    }
}

/// Who asks, and what names without a database mean.
#[derive(Clone, Debug)]
pub struct Session {
    pub database: String,
    pub user: String,
    pub protocol: Protocol,
}

pub struct Engine {
    pub router: Arc<Router>,
    pub link: Arc<dyn MetaLink>,
    pub metrics: MetricTables,
    counters: FrontendMetrics,
    base: SessionState,
    plans: PlanCache,
    spill_limit: SpillLimit,
}

impl Engine {
    pub fn new(
        config: &FrontendConfig,
        router: Arc<Router>,
        link: Arc<dyn MetaLink>,
        counters: FrontendMetrics,
    ) -> Result<Arc<Self>> {
        let mut runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(QueryPool::new(
                config.query_memory,
                "frontend.query_memory",
            )))
            .with_max_temp_directory_size(config.spill_limit);
        if let Some(dir) = &config.spill_dir {
            runtime = runtime.with_temp_file_path(dir);
        }
        let runtime = runtime.build_arc().map_err(|e| from_datafusion(&e))?;
        let mut analyzers = Analyzer::new().rules;
        analyzers.insert(0, Arc::new(TimeLiterals));
        let mut base = SessionStateBuilder::new()
            .with_config(session_config(config))
            .with_runtime_env(runtime)
            .with_default_features()
            .with_table_functions(Default::default())
            .with_file_formats(vec![])
            .with_analyzer_rules(analyzers)
            .with_physical_optimizer_rules(optimizer_rules())
            .build();
        for function in json_functions() {
            base.register_udf(function).map_err(|e| from_datafusion(&e))?;
        }
        Ok(Arc::new(Self {
            router,
            link,
            metrics: MetricTables::default(),
            counters,
            base,
            plans: PlanCache::default(),
            spill_limit: SpillLimit {
                bytes: config.spill_limit,
                setting: "frontend.spill_limit",
                is_cut: false,
            },
        }))
    }

    /// Room in the memory of queries for an answer of at most `max` bytes.
    pub fn answer_space(&self, max: u64) -> AnswerSpace {
        let pool = &self.base.runtime_env().memory_pool;
        AnswerSpace::new(MemoryConsumer::new("an answer").register(pool), max)
    }

    /// Bytes that queries have now: in memory, and on disk.
    pub fn held(&self) -> (usize, u64) {
        let runtime = self.base.runtime_env();
        (
            runtime.memory_pool.reserved(),
            runtime.disk_manager.used_disk_space(),
        )
    }

    /// The memory for parsing and planning a statement of this length; to be kept until it has run.
    pub fn statement_space(&self, length: usize) -> Result<MemoryReservation> {
        let pool = &self.base.runtime_env().memory_pool;
        hold_statement(MemoryConsumer::new("a statement").register(pool), length)
    }

    /// The names that a statement can use, in one state of the catalog.
    fn state(self: &Arc<Self>, session: &Session, deadline: Deadline) -> SessionState {
        let catalog = self.router.view.catalog();
        let config = self
            .base
            .config()
            .clone()
            .with_default_catalog_and_schema(CATALOG, session.database.as_str())
            .with_extension(Arc::new(QueryDeadline(deadline)));
        let databases = Databases::new(catalog, Arc::clone(self), session.clone(), deadline);
        let mut state = SessionStateBuilder::new_from_existing(self.base.clone())
            .with_config(config)
            .with_catalog_list(Arc::new(databases))
            .build();
        for function in session_functions(session) {
            // Registering replaces DataFusion's own of the same name.
            let _ = state.register_udf(function);
        }
        Variables::install(&mut state);
        // The moment that `now()` means in this statement.
        state.mark_start_execution();
        state
    }

    /// Plans a SELECT, or an EXPLAIN of one.
    pub async fn plan(
        self: &Arc<Self>,
        session: &Session,
        statement: &ast::Statement,
        deadline: Deadline,
    ) -> Result<Planned> {
        let catalog = self.router.view.catalog();
        expect_database(&catalog, &session.database)?;
        if let Some(template) = Template::of(statement, session, catalog.revision)
            && let Some(planned) = self.plan_by_form(session, &template, deadline).await?
        {
            return Ok(planned);
        }
        let state = self.state(session, deadline);
        let plan = self.analysed(&state, statement, deadline).await?;
        self.counters.planned(false);
        Ok(Planned {
            task: state.task_ctx(),
            state: Arc::new(state),
            plan: Arc::new(plan),
            bound: None,
            router: Arc::clone(&self.router),
            deadline,
            spill_limit: self.spill_limit,
        })
    }

    /// From the plan of all statements of this form; `None` if there is none, and the statement is to be planned.
    async fn plan_by_form(
        self: &Arc<Self>,
        session: &Session,
        template: &Template,
        deadline: Deadline,
    ) -> Result<Option<Planned>> {
        let known = self.plans.get(template);
        let from_cache = known.is_some();
        let entry = match known {
            Some(entry) => entry,
            None => {
                let state = self.state(session, deadline);
                // A form that cannot be planned is remembered too; the statement itself says what is wrong.
                let plan = self.analysed(&state, template.statement(), deadline).await.ok();
                let entry = Entry::new(template, state, plan).map_err(|e| from_datafusion(&e))?;
                self.plans.insert(template, entry)
            }
        };
        let Some(bound) = entry.bind(template) else {
            return Ok(None);
        };
        self.counters.planned(from_cache);
        let state = Arc::clone(entry.state());
        let config = state
            .config()
            .clone()
            .with_extension(Arc::new(QueryDeadline(deadline)));
        let task = TaskContext::from(state.as_ref()).with_session_config(config);
        Ok(Some(Planned {
            state,
            task: Arc::new(task),
            plan: Arc::clone(bound.logical()),
            bound: Some(bound),
            router: Arc::clone(&self.router),
            deadline,
            spill_limit: self.spill_limit,
        }))
    }

    /// The statement as a plan that only reads.
    async fn analysed(
        &self,
        state: &SessionState,
        statement: &ast::Statement,
        deadline: Deadline,
    ) -> Result<LogicalPlan> {
        let mut statement = statement.clone();
        name_casts(&mut statement);
        let statement = DataFusionStatement::Statement(Box::new(statement));
        let planning = state.statement_to_plan(statement);
        let plan = tokio::time::timeout(self.router.time_left(deadline), planning)
            .await
            .map_err(|_| Error::deadline("the query could not be planned within its deadline"))?
            .map_err(|e| column_not_found(&e).unwrap_or_else(|| table_not_found(from_datafusion(&e))))?;
        let read_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(|e| from_datafusion(&e))?;
        Ok(plan)
    }

    /// Runs a query of this program's own.
    pub async fn rows_of(
        self: &Arc<Self>,
        session: &Session,
        sql: &str,
        deadline: Deadline,
    ) -> Result<Vec<RecordBatch>> {
        let parsed = crate::sql::parse_statements(sql, crate::sql::Lexer::Standard)?;
        let Some(crate::sql::Statement::Query(query)) = parsed.first() else {
            return Err(Error::internal("not a query"));
        };
        // Boxed, since planning a query may ask for the rows of another one.
        let planned = Box::pin(self.plan(session, query, deadline)).await?;
        planned
            .execute()
            .await?
            .try_collect()
            .await
            .map_err(|e| from_datafusion(&e))
    }
}

/// DataFusion's rules, and ours in two places. What runs in one region as a whole moves there before rows would be
/// dealt out to several streams; all else moves at the end, when the streams and their merging are decided.
fn optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let dealing = rules
        .iter()
        .position(|r| r.name() == "EnsureRequirements")
        .unwrap_or(0);
    rules.insert(dealing, Arc::new(PushToRegions::Whole));
    // The last rule only checks.
    let end = rules.len().saturating_sub(1);
    rules.insert(end, Arc::new(PushToRegions::Parts));
    rules.insert(end + 1, Arc::new(BoundMemory));
    rules.insert(end + 2, Arc::new(YieldInJoins));
    rules
}

fn session_config(config: &FrontendConfig) -> SessionConfig {
    let mut new = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        // Regions are the partitions; rows that come from them are not dealt out again before an aggregate.
        .with_round_robin_repartition(false)
        .with_collect_statistics(false);
    if config.query_parallelism > 0 {
        new = new.with_target_partitions(config.query_parallelism);
    }
    let options = new.options_mut();
    // A filter that changes while the query runs cannot reach a region.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // An aggregate that keeps the first n groups makes room for all n of them at once, however large n is.
    options.optimizer.enable_topk_aggregation = false;
    // Types of columns are Arrow's plain strings everywhere.
    options.sql_parser.map_string_types_to_utf8view = false;
    let streams = options.execution.target_partitions;
    options.execution.sort_spill_reservation_bytes = sort_reserve(config.query_memory, streams);
    new
}

pub fn expect_database(catalog: &Catalog, name: &str) -> Result<()> {
    if VIRTUAL_DATABASES.contains(&name) || catalog.database(name).is_some() {
        return Ok(());
    }
    Err(Error::not_found(format!("database `{name}` does not exist")))
}

/// DataFusion's own words for a column that is missing advise a setting that does not exist here.
fn column_not_found(error: &DataFusionError) -> Option<Error> {
    let DataFusionError::SchemaError(error, _) = error.find_root() else {
        return None;
    };
    let SchemaError::FieldNotFound { field, valid_fields } = error.as_ref() else {
        return None;
    };
    let one_table = valid_fields.windows(2).all(|c| c[0].relation == c[1].relation);
    let mut known = Vec::new();
    for column in valid_fields {
        let name = match one_table {
            true => column.name.clone(),
            false => column.flat_name(),
        };
        if !known.contains(&name) {
            known.push(name);
        }
    }
    Some(unknown_column(&field.flat_name(), "", &known))
}

/// DataFusion says in words only that a table is missing.
fn table_not_found(error: Error) -> Error {
    let missing = error.message.contains("table '") && error.message.contains("not found");
    match missing {
        true => Error::not_found(error.message),
        false => error,
    }
}

/// A query that can be asked for its columns, and run.
pub struct Planned {
    state: Arc<SessionState>,
    task: Arc<TaskContext>,
    /// Of the statement, or of its form if it is `bound` to one.
    plan: Arc<LogicalPlan>,
    bound: Option<Bound>,
    router: Arc<Router>,
    deadline: Deadline,
    spill_limit: SpillLimit,
}

impl Planned {
    /// The columns of the answer.
    pub fn columns(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    /// Types of the statement's own placeholders, by their names, as far as they are known.
    pub fn parameter_types(&self) -> Result<HashMap<String, Option<DataType>>> {
        self.plan.get_parameter_types().map_err(|e| from_datafusion(&e))
    }

    /// The rows, until the deadline; made in short turns.
    pub async fn execute(self) -> Result<SendableRecordBatchStream> {
        let physical = match self.bound {
            Some(bound) => bound.physical(self.router.view.format() >= PREPARED_FORMAT).await,
            None => self.state.create_physical_plan(&self.plan).await,
        };
        let physical = physical.and_then(with_reports).map_err(|e| from_datafusion(&e))?;
        let rows = execute_stream(physical, self.task).map_err(|e| from_datafusion(&e))?;
        let (schema, spill_limit) = (rows.schema(), self.spill_limit);
        let rows = in_short_turns(rows);
        let rows =
            RecordBatchStreamAdapter::new(schema, rows.map_err(move |error| spill_limit.explain(error)));
        Ok(until(self.router, self.deadline, Box::pin(rows)))
    }
}

/// Ends a stream with an error when its time is up.
fn until(
    router: Arc<Router>,
    deadline: Deadline,
    rows: SendableRecordBatchStream,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let timed = futures::stream::unfold(Some(rows), move |rows| {
        let left = router.time_left(deadline);
        async move {
            let mut rows = rows?;
            match tokio::time::timeout(left, rows.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(batch))) => Some((Ok(batch), Some(rows))),
                Ok(Some(Err(error))) => Some((Err(error), None)),
                Err(_) => {
                    let error = Error::deadline("the query did not finish within its deadline");
                    Some((Err::<_, DataFusionError>(into_datafusion(error)), None))
                }
            }
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, timed))
}
