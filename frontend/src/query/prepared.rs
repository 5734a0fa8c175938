//! The physical plans of a form of statements: everything is decided but the constants and the regions.
//!
//! A form has one plan for the statements that need one region, and one for those that need several. Only plans over
//! one table are prepared, whose parameters are all in filters beside the regions.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use greptime_query::{PreparedPlan, bind_expr, has_parameters, parameter};
use greptime_types::RegionId;
use tokio::sync::OnceCell;

use super::exec::RegionQueryExec;
use super::plan_cache::number_of;
use super::provider::{ChosenRegions, RegionTable};

/// A logical plan that is prepared when it is needed.
pub struct Preparation {
    /// With `parameter(n)` for the constants.
    plan: LogicalPlan,
    table: Arc<dyn datafusion::catalog::TableProvider>,
    filters: Vec<Expr>,
    one: OnceCell<Option<Prepared>>,
    several: OnceCell<Option<Prepared>>,
}

struct Prepared {
    root: Arc<dyn ExecutionPlan>,
    /// What the regions run.
    plan: Bytes,
}

impl Preparation {
    /// `None` if the optimised plan is not one that can be prepared.
    pub fn new(optimised: &LogicalPlan, types: &[DataType]) -> Result<Option<Self>> {
        let Some(plan) = with_parameters(optimised, types)? else {
            return Ok(None);
        };
        let mut scans = Vec::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                scans.push((source_as_provider(&scan.source)?, scan.filters.clone()));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let Ok([(table, filters)]) = <[_; 1]>::try_from(scans) else {
            return Ok(None);
        };
        Ok(table.is::<RegionTable>().then_some(Self {
            plan,
            table,
            filters,
            one: OnceCell::new(),
            several: OnceCell::new(),
        }))
    }

    /// The plan of one statement; `None` if it has to be planned from its constants.
    pub async fn plan(
        &self,
        state: &SessionState,
        constants: &[ScalarValue],
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let regions = self.regions_for(constants)?;
        let prepared = match regions.len() {
            0 => return Ok(None),
            1 => &self.one,
            _ => &self.several,
        };
        // What fails here is planned from its constants, and fails there if it must.
        let prepare = || async {
            let prepared = self.prepare(state, &regions).await;
            prepared.unwrap_or_else(|error| {
                tracing::debug!(%error, "a form of statements could not be prepared");
                None
            })
        };
        let prepared = prepared.get_or_init(prepare).await;
        prepared
            .as_ref()
            .map(|p| p.instance(regions.clone(), constants))
            .transpose()
    }

    fn regions_for(&self, constants: &[ScalarValue]) -> Result<Vec<RegionId>> {
        let Some(table) = self.table.downcast_ref::<RegionTable>() else {
            return Ok(vec![]);
        };
        if !table.is_partitioned() {
            return Ok(table.regions_for(&[]));
        }
        let filters = self.filters.iter().cloned();
        let filters: Vec<Expr> = filters.map(|f| bind_expr(f, constants)).collect::<Result<_>>()?;
        Ok(table.regions_for(&filters))
    }

    async fn prepare(&self, state: &SessionState, regions: &[RegionId]) -> Result<Option<Prepared>> {
        let chosen = Arc::new(ChosenRegions(regions.to_vec()));
        let config = state.config().clone().with_extension(chosen);
        let state = SessionStateBuilder::new_from_existing(state.clone())
            .with_config(config)
            .build();
        let root = state
            .query_planner()
            .create_physical_plan(&self.plan, &state)
            .await?;
        Prepared::new(root)
    }
}

impl Prepared {
    fn new(root: Arc<dyn ExecutionPlan>) -> Result<Option<Self>> {
        let (mut queries, mut contained) = (Vec::new(), true);
        root.apply(|node| {
            if let Some(query) = node.downcast_ref::<RegionQueryExec>() {
                queries.push(Arc::clone(query.plan()));
                return Ok(TreeNodeRecursion::Jump);
            }
            contained &= !has_parameters(node.as_ref())?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let Ok([beside]) = <[_; 1]>::try_from(queries) else {
            return Ok(None);
        };
        match PreparedPlan::new(&beside)?.filter(|_| contained) {
            Some(beside) => {
                let plan = beside.encode()?;
                Ok(Some(Self { root, plan }))
            }
            None => Ok(None),
        }
    }

    /// A plan of its own, since operators keep what they have counted and sorted.
    fn instance(&self, regions: Vec<RegionId>, constants: &[ScalarValue]) -> Result<Arc<dyn ExecutionPlan>> {
        self.renewed(&self.root, &|query| {
            let query = query.prepared(regions.clone(), self.plan.clone(), constants)?;
            Ok(Arc::new(query))
        })
    }

    fn renewed(
        &self,
        node: &Arc<dyn ExecutionPlan>,
        query: &impl Fn(&RegionQueryExec) -> Result<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(found) = node.downcast_ref::<RegionQueryExec>() {
            return query(found);
        }
        let children = node.children().into_iter();
        let children = children.map(|child| self.renewed(child, query));
        let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        let node = Arc::clone(node).reset_state()?;
        node.replace_children(children.collect::<Result<_>>()?, recompute)
    }
}

/// The plan with a call for each constant that was taken out; `None` if one is not in a filter.
fn with_parameters(plan: &LogicalPlan, types: &[DataType]) -> Result<Option<LogicalPlan>> {
    let mut filtering = true;
    let replaced = plan.clone().transform_up_with_subqueries(|node| {
        let filters = matches!(node, LogicalPlan::Filter(_) | LogicalPlan::TableScan(_));
        node.map_expressions(|expr| {
            expr.transform_up(|expr| {
                let Expr::Placeholder(placeholder) = &expr else {
                    return Ok(Transformed::no(expr));
                };
                filtering &= filters;
                match number_of(&placeholder.id).and_then(|n| Some((n, types.get(n)?))) {
                    Some((number, kind)) => Ok(Transformed::yes(parameter(number, kind)?)),
                    None => {
                        filtering = false;
                        Ok(Transformed::no(expr))
                    }
                }
            })
        })
    })?;
    Ok(filtering.then_some(replaced.data))
}
