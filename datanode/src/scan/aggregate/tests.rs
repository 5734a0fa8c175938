//! Aggregates beside a region against DataFusion's own over the rows that a reader should see.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use greptime_proto::v1;
use greptime_query::{RegionScan, RegionScanSpec};
use proptest::prelude::*;

use crate::testing::{Node, Row, batch};

/// The region as a table, so that SQL can be planned over it.
#[derive(Debug)]
struct Leaf(RegionScanSpec);

#[async_trait]
impl TableProvider for Leaf {
    fn schema(&self) -> SchemaRef {
        self.0.schema.to_arrow()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let spec = RegionScanSpec {
            projection: projection.cloned(),
            filters: filters.to_vec(),
            limit,
            ..self.0.clone()
        };
        Ok(Arc::new(RegionScan::try_new(spec)?))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

fn context() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_aggregation = false;
    SessionContext::new_with_config(config)
}

/// What the region answers, and the plan that it ran.
async fn beside_region(node: &Node, sql: &str) -> (Vec<RecordBatch>, String) {
    let ctx = context();
    ctx.register_table("t", Arc::new(Leaf(node.spec()))).unwrap();
    let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let request = node.query_request(&plan);
    let shown = node.datanode.explain(&request).unwrap();
    let rows = node.datanode.query(request).await.unwrap();
    (
        rows.rows.try_collect().await.unwrap(),
        displayable(shown.as_ref()).indent(false).to_string(),
    )
}

async fn expected(rows: &[Row], sql: &str) -> Vec<RecordBatch> {
    let ctx = context();
    let rows = batch(rows);
    ctx.register_table(
        "t",
        Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap()),
    )
    .unwrap();
    ctx.sql(sql).await.unwrap().collect().await.unwrap()
}

const QUERIES: [&str; 19] = [
    "SELECT host, count(*), count(usage), sum(usage), avg(usage), min(usage), max(usage) FROM t GROUP BY host ORDER BY host",
    "SELECT date_bin(INTERVAL '3 milliseconds', ts) AS b, max(usage) FROM t GROUP BY b ORDER BY b",
    "SELECT date_bin(INTERVAL '2 milliseconds', ts, TIMESTAMP '1970-01-01T00:00:00.001Z') AS b, host, sum(usage) FROM t GROUP BY b, host ORDER BY b, host",
    "SELECT date_trunc('second', ts) AS b, host, count(*) FROM t GROUP BY b, host ORDER BY b, host",
    "SELECT count(*) FROM t",
    "SELECT count(*), max(usage), min(ts), max(ts) FROM t WHERE ts >= TIMESTAMP '1970-01-01T00:00:00.002' AND ts < TIMESTAMP '1970-01-01T00:00:00.009'",
    "SELECT host, avg(usage) FROM t WHERE usage > 1 GROUP BY host ORDER BY host",
    "SELECT date_bin(INTERVAL '4 milliseconds', ts) AS b, avg(usage) FROM t WHERE host = 'host-1' AND ts > TIMESTAMP '1970-01-01T00:00:00.001' GROUP BY b ORDER BY b",
    "SELECT host, sum(usage) FILTER (WHERE usage < 3), count(host) FROM t WHERE host IS NOT NULL GROUP BY host ORDER BY host",
    "SELECT host, sum(usage * 2 + 1) FROM t WHERE host IN ('host-0', 'host-2') OR usage = 2 GROUP BY host ORDER BY host",
    "SELECT host, last_value(usage ORDER BY ts) FROM t GROUP BY host ORDER BY host",
    "SELECT DISTINCT ON (host) host, ts, usage FROM t ORDER BY host, ts DESC",
    "SELECT host, max(ts), last_value(usage ORDER BY ts), first_value(usage * 2 ORDER BY ts DESC) FROM t GROUP BY host ORDER BY host",
    "SELECT DISTINCT ON (host) usage, host, ts FROM t WHERE ts < TIMESTAMP '1970-01-01T00:00:00.006' ORDER BY host, ts DESC",
    "SELECT host, last_value(usage ORDER BY ts) FROM t WHERE host <> 'host-1' GROUP BY host HAVING max(ts) > TIMESTAMP '1970-01-01T00:00:00.004' ORDER BY host",
    "SELECT date_bin(INTERVAL '3 milliseconds', ts) AS b, count(*) FROM t WHERE ts < TIMESTAMP '1970-01-01T00:00:00.010' GROUP BY b ORDER BY b DESC LIMIT 2",
    "SELECT host, max(usage) AS m FROM t GROUP BY host HAVING max(usage) > 2 ORDER BY m DESC, host LIMIT 2",
    "SELECT host, ts, count(*) FROM t GROUP BY host, ts ORDER BY host, ts",
    "SELECT count(DISTINCT host), count(DISTINCT usage) FROM t",
];

/// Those that are computed from stretches of series.
const ACCELERATED: usize = 17;

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Option<u8>, i64, Option<u8>)>),
    Delete(Vec<(Option<u8>, i64)>),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = || prop::option::weighted(0.9, 0..4_u8);
    let cell = (host(), 0..12_i64, prop::option::weighted(0.8, 0..5_u8));
    let step = prop_oneof![
        5 => prop::collection::vec(cell, 1..12).prop_map(Step::Write),
        1 => prop::collection::vec((host(), 0..12_i64), 1..4).prop_map(Step::Delete),
        3 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..10)
}

fn name(host: Option<u8>) -> Option<String> {
    host.map(|n| format!("host-{n}"))
}

async fn check(append_mode: bool, steps: Vec<Step>) {
    let node = match append_mode {
        true => Node::appending().await,
        false => Node::new().await,
    };
    let (mut newest, mut all) = (BTreeMap::new(), Vec::new());
    for step in steps {
        match step {
            Step::Write(cells) => {
                let rows: Vec<Row> = cells
                    .iter()
                    .map(|(h, t, u)| (name(*h), *t, u.map(f64::from)))
                    .collect();
                node.write(&rows).await.unwrap();
                newest.extend(rows.iter().map(|r| ((r.0.clone(), r.1), r.2)));
                all.extend(rows);
            }
            Step::Delete(_) if append_mode => {}
            Step::Delete(keys) => {
                let rows: Vec<Row> = keys.iter().map(|(h, t)| (name(*h), *t, None)).collect();
                let options = crate::testing::WriteOptions {
                    op: v1::WriteOp::Delete,
                    ..node.options()
                };
                node.write_with(options, &rows).await.unwrap();
                for row in &rows {
                    newest.remove(&(row.0.clone(), row.1));
                }
            }
            Step::Flush => drop(node.flush().await.unwrap()),
        }
    }
    let rows: Vec<Row> = match append_mode {
        true => all,
        false => newest.into_iter().map(|((h, t), u)| (h, t, u)).collect(),
    };
    for (number, sql) in QUERIES.iter().enumerate() {
        let (found, plan) = beside_region(&node, sql).await;
        assert_eq!(
            plan.contains("RegionAggregateExec"),
            number < ACCELERATED,
            "{sql}\n{plan}"
        );
        if append_mode && (sql.contains("last_value") || sql.contains("DISTINCT ON")) {
            // Which of two rows with one time is the last is not said.
            continue;
        }
        let (found, expected) = (text(&found), text(&expected(&rows, sql).await));
        assert_eq!(found, expected, "{sql}\n{plan}");
    }
}

fn text(batches: &[RecordBatch]) -> String {
    let rows: Vec<RecordBatch> = batches.iter().filter(|b| b.num_rows() > 0).cloned().collect();
    pretty_format_batches(&rows).unwrap().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn aggregates_beside_a_region_are_those_over_its_rows(
        append_mode in prop::bool::weighted(0.2),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check(append_mode, steps));
    }
}
