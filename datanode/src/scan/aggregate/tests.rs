//! Aggregates beside a region against DataFusion's own over the rows that a reader should see.

mod newest;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use greptime_proto::v1;
use proptest::prelude::*;

use crate::testing::{Leaf, Node, Row, batch};

/// In which operators an aggregate comes to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One.
    Whole,
    /// One for states and one that merges them.
    InTwo,
    /// The same, as frontends with several streams plan it.
    InTwoByGroup,
    /// The same, with streams joined in between.
    InTwoJoined,
    /// Only the one for states, as for one of several regions.
    States,
}

const SHAPES: [Shape; 5] = [
    Shape::Whole,
    Shape::InTwo,
    Shape::InTwoByGroup,
    Shape::InTwoJoined,
    Shape::States,
];

fn context(shape: Shape) -> SessionContext {
    let streams = 1 + usize::from(shape == Shape::InTwoByGroup);
    let mut config = SessionConfig::new().with_target_partitions(streams);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_aggregation = false;
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features();
    if shape != Shape::Whole {
        // One of them would make one operator of both.
        state = state.with_physical_optimizer_rules(vec![]);
    }
    SessionContext::new_with_state(state.build())
}

/// The rows that the region gives, and the plan that it ran. Both have the schema of the plan that was sent.
async fn beside_region(node: &Node, plan: &Arc<dyn ExecutionPlan>) -> (Vec<RecordBatch>, String) {
    let request = node.query_request(plan);
    let shown = node.datanode.explain(&request).unwrap();
    assert_eq!(shown.schema(), plan.schema());
    let rows = node.datanode.query(request).await.unwrap();
    let rows: Vec<RecordBatch> = rows.rows.try_collect().await.unwrap();
    assert!(rows.iter().all(|batch| batch.schema() == plan.schema()));
    (rows, displayable(shown.as_ref()).indent(false).to_string())
}

/// The answer to a statement, and the plan that the region ran.
async fn answer(node: &Node, sql: &str, shape: Shape) -> (Vec<RecordBatch>, String) {
    let ctx = context(shape);
    ctx.register_table("t", Arc::new(Leaf(node.spec()))).unwrap();
    let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    match shape {
        Shape::Whole | Shape::InTwo | Shape::InTwoByGroup => beside_region(node, &plan).await,
        Shape::InTwoJoined => {
            let joined = with_partial(&plan, |partial| Arc::new(CoalescePartitionsExec::new(partial)));
            beside_region(node, &joined).await
        }
        Shape::States => {
            let mut partial = Arc::clone(&plan);
            with_partial(&plan, |found| {
                partial = Arc::clone(&found);
                found
            });
            let (states, shown) = beside_region(node, &partial).await;
            let states = MemTable::try_new(partial.schema(), vec![states]).unwrap();
            let states = states.scan(&ctx.state(), None, &[], None).await.unwrap();
            let above = with_partial(&plan, |_| Arc::clone(&states));
            (collect(above, ctx.task_ctx()).await.unwrap(), shown)
        }
    }
}

/// The plan with another operator in the place of the partial aggregate that is the lowest.
fn with_partial(
    plan: &Arc<dyn ExecutionPlan>,
    mut other: impl FnMut(Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan>,
) -> Arc<dyn ExecutionPlan> {
    let mut found = false;
    let replaced = Arc::clone(plan).transform_up(|node| {
        let aggregate = node.downcast_ref::<AggregateExec>();
        let is_partial = aggregate.is_some_and(|a| *a.mode() == AggregateMode::Partial);
        if found || !is_partial {
            return Ok(Transformed::no(node));
        }
        found = true;
        Ok(Transformed::yes(other(node)))
    });
    assert!(found, "{plan:?}");
    replaced.unwrap().data
}

async fn expected(rows: &[Row], sql: &str) -> Vec<RecordBatch> {
    let ctx = context(Shape::Whole);
    let rows = batch(rows);
    ctx.register_table(
        "t",
        Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap()),
    )
    .unwrap();
    ctx.sql(sql).await.unwrap().collect().await.unwrap()
}

const QUERIES: [&str; 14] = [
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
    "SELECT date_bin(INTERVAL '3 milliseconds', ts) AS b, count(*) FROM t WHERE ts < TIMESTAMP '1970-01-01T00:00:00.010' GROUP BY b ORDER BY b DESC LIMIT 2",
    "SELECT host, max(usage) AS m FROM t GROUP BY host HAVING max(usage) > 2 ORDER BY m DESC, host LIMIT 2",
    "SELECT host, last_value(usage ORDER BY ts), sum(usage) FROM t GROUP BY host ORDER BY host",
    "SELECT host, last_value(usage ORDER BY ts) FROM t WHERE usage < 3 GROUP BY host ORDER BY host",
];

/// Those that want the newest row of each group, or of none more than that it is there.
const NEWEST: [&str; 10] = [
    "SELECT host, last_value(usage ORDER BY ts) FROM t GROUP BY host ORDER BY host",
    "SELECT DISTINCT ON (host) host, ts, usage FROM t ORDER BY host, ts DESC",
    "SELECT host, max(ts), last_value(usage ORDER BY ts), first_value(usage * 2 ORDER BY ts DESC) FROM t GROUP BY host ORDER BY host",
    "SELECT DISTINCT ON (host) usage, host, ts FROM t WHERE ts < TIMESTAMP '1970-01-01T00:00:00.006' ORDER BY host, ts DESC",
    "SELECT host, last_value(usage ORDER BY ts) FROM t WHERE host <> 'host-1' GROUP BY host HAVING max(ts) > TIMESTAMP '1970-01-01T00:00:00.004' ORDER BY host",
    "SELECT host, last_value(usage IS NULL ORDER BY host, ts) AS u, last_value(usage ORDER BY ts) FROM t GROUP BY host ORDER BY u, host",
    "SELECT max(ts), host FROM t WHERE ts > TIMESTAMP '1970-01-01T00:00:00.003' GROUP BY host ORDER BY host",
    "SELECT max(ts) AS newest FROM t GROUP BY host ORDER BY newest DESC LIMIT 3",
    "SELECT DISTINCT host FROM t ORDER BY host",
    "SELECT host, count(*) FROM (SELECT DISTINCT host FROM t WHERE ts < TIMESTAMP '1970-01-01T00:00:00.006') GROUP BY host ORDER BY host",
];

/// Those that are left to DataFusion.
const OTHERS: [&str; 2] = [
    "SELECT host, ts, count(*) FROM t GROUP BY host, ts ORDER BY host, ts",
    "SELECT count(DISTINCT host), count(DISTINCT usage) FROM t",
];

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

async fn check(append_mode: bool, shape: Shape, steps: Vec<Step>) {
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
    for sql in QUERIES.iter().chain(&NEWEST).chain(&OTHERS) {
        let (found, plan) = answer(&node, sql, shape).await;
        let is_accelerated = !OTHERS.contains(sql);
        assert_eq!(
            plan.contains("RegionAggregateExec"),
            is_accelerated,
            "{sql}\n{plan}"
        );
        if NEWEST.contains(sql) {
            let merges = plan.matches("mode=").count();
            // Of another aggregate over the groups.
            let others = sql.contains("count(*)");
            assert_eq!(merges > 0, others && shape != Shape::States, "{sql}\n{plan}");
        }
        if append_mode && (sql.contains("last_value") || sql.contains("DISTINCT ON")) {
            // Which of two rows with one time is the last is not said.
            continue;
        }
        let (found, expected) = (text(&found), text(&expected(&rows, sql).await));
        assert_eq!(found, expected, "{shape:?} {sql}\n{plan}");
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
        shape in prop::sample::select(&SHAPES[..]),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check(append_mode, shape, steps));
    }
}
