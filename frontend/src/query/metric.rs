//! Metrics of Prometheus, each readable as a table of its name.
//!
//! All metrics of a database lie in one physical table. A metric's table is a view on it: the rows of the metric,
//! with the labels that the metric has. There is no record of a metric but its rows, so which there are is asked
//! of the regions, and remembered for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::Column;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use greptime_query::from_datafusion;
use greptime_types::{Result, Semantic, TableInfo};
use parking_lot::Mutex;

use super::engine::{Engine, Protocol, Session};
use super::provider::RegionTable;
use crate::route::{Catalog, Deadline};

pub const PHYSICAL_TABLE: &str = "greptime_physical_table";
pub const METRIC_COLUMN: &str = "__metric";
pub const SERIES_COLUMN: &str = "__tsid";
pub const TIME_COLUMN: &str = "greptime_timestamp";
pub const VALUE_COLUMN: &str = "greptime_value";

/// How long an answer of the regions is used again.
const REMEMBER: Duration = Duration::from_secs(60);
/// How long a list of names waits for regions; without an answer it goes without metrics.
const LIST_PATIENCE: Duration = Duration::from_secs(2);
/// More metrics than this are not remembered.
const MAX_REMEMBERED: usize = 10_000;

#[derive(Clone, Debug)]
struct Known {
    labels: BTreeSet<String>,
    /// On the clock's scale; labels may have been added since.
    asked: Duration,
}

#[derive(Default)]
pub struct MetricTables {
    /// By database and metric.
    known: Mutex<BTreeMap<(String, String), Known>>,
}

/// The columns of the physical table that are labels.
fn label_columns(physical: &TableInfo) -> impl Iterator<Item = &str> {
    physical
        .schema
        .columns
        .iter()
        .filter(|c| c.semantic == Semantic::Field && c.name != VALUE_COLUMN)
        .map(|c| c.name.as_str())
}

fn own_session(database: &str) -> Session {
    Session {
        database: database.to_string(),
        user: String::new(),
        protocol: Protocol::Http,
    }
}

impl MetricTables {
    /// The view of a metric; `None` if there is no such metric.
    pub async fn table(
        &self,
        engine: &Arc<Engine>,
        catalog: &Catalog,
        database: &str,
        metric: &str,
        deadline: Deadline,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(physical) = catalog.table(database, PHYSICAL_TABLE) else {
            return Ok(None);
        };
        let Some(labels) = self.labels(engine, physical, metric, deadline).await? else {
            return Ok(None);
        };
        let plain = |name: &str| Expr::Column(Column::new_unqualified(name));
        let source = RegionTable::new(Arc::clone(physical), Arc::clone(&engine.router));
        let shown = [TIME_COLUMN, VALUE_COLUMN].into_iter();
        let shown = shown.chain(label_columns(physical).filter(|l| labels.contains(*l)));
        let plan = LogicalPlanBuilder::scan(PHYSICAL_TABLE, provider_as_source(Arc::new(source)), None)
            .and_then(|plan| plan.filter(plain(METRIC_COLUMN).eq(lit(metric))))
            .and_then(|plan| plan.project(shown.map(plain)))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| from_datafusion(&e))?;
        Ok(Some(Arc::new(ViewTable::new(plan, None))))
    }

    /// The labels that rows of the metric have.
    async fn labels(
        &self,
        engine: &Arc<Engine>,
        physical: &TableInfo,
        metric: &str,
        deadline: Deadline,
    ) -> Result<Option<BTreeSet<String>>> {
        let key = (physical.database.clone(), metric.to_string());
        let now = engine.router.clock.now();
        if let Some(known) = self.known.lock().get(&key)
            && now.saturating_sub(known.asked) < REMEMBER
        {
            return Ok(Some(known.labels.clone()));
        }
        let names: Vec<&str> = label_columns(physical).collect();
        let counts: Vec<String> = names
            .iter()
            .map(|n| format!(", count(\"{}\")", n.replace('"', "\"\"")))
            .collect();
        let sql = format!(
            "SELECT count(*){} FROM {PHYSICAL_TABLE} WHERE {METRIC_COLUMN} = '{}'",
            counts.concat(),
            metric.replace('\'', "''")
        );
        let batches = engine
            .rows_of(&own_session(&physical.database), &sql, deadline)
            .await?;
        let count = |column: usize| -> i64 {
            let of = |b: &datafusion::arrow::array::RecordBatch| {
                b.column(column)
                    .as_primitive::<Int64Type>()
                    .iter()
                    .flatten()
                    .sum::<i64>()
            };
            batches.iter().map(of).sum()
        };
        if count(0) == 0 {
            return Ok(None);
        }
        let labels: BTreeSet<String> = (0..names.len())
            .filter(|i| count(i + 1) > 0)
            .map(|i| names[i].to_string())
            .collect();
        let mut known = self.known.lock();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(
            key,
            Known {
                labels: labels.clone(),
                asked: now,
            },
        );
        Ok(Some(labels))
    }

    /// Notes what a writer has just stored, so that a new label is seen at once.
    pub fn note(&self, database: &str, metric: &str, labels: &BTreeSet<String>) {
        let mut known = self.known.lock();
        if let Some(known) = known.get_mut(&(database.to_string(), metric.to_string()))
            && !labels.is_subset(&known.labels)
        {
            known.labels.extend(labels.iter().cloned());
        }
    }

    /// Names of the metrics of a database, as far as regions answer soon.
    pub async fn names(&self, engine: &Arc<Engine>, database: &str) -> Vec<String> {
        if engine
            .router
            .view
            .catalog()
            .table(database, PHYSICAL_TABLE)
            .is_none()
        {
            return vec![];
        }
        let sql = format!("SELECT DISTINCT {METRIC_COLUMN} FROM {PHYSICAL_TABLE} ORDER BY 1");
        let deadline = engine.router.deadline_in(LIST_PATIENCE);
        match engine.rows_of(&own_session(database), &sql, deadline).await {
            Ok(batches) => batches
                .iter()
                .flat_map(|b| {
                    let names = b.column(0).as_string::<i32>();
                    (0..names.len())
                        .filter(|i| names.is_valid(*i))
                        .map(|i| names.value(i).to_string())
                })
                .collect(),
            Err(error) => {
                tracing::debug!(%error, database, "metrics are left out of a list of tables");
                vec![]
            }
        }
    }
}
