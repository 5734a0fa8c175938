//! The first rows by time.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::config::DatanodeConfig;
use crate::testing::{Dice, Leaf, Node, Row, WriteOptions, row, rows_of};

/// The rows of a statement, of which all but the order is done beside the region, and how many the region looked at.
async fn ask(node: &Node, sql: &str) -> (Vec<Row>, usize) {
    // A filter gives its rows out when it has a batch of them.
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(10);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    let ctx = SessionContext::new_with_config(config);
    ctx.register_table("t", Arc::new(Leaf(node.spec()))).unwrap();
    let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let plan = node.datanode.explain(&node.query_request(&plan)).unwrap();
    let found: Vec<RecordBatch> = collect(Arc::clone(&plan), ctx.task_ctx()).await.unwrap();
    let metrics = leaf(&plan).metrics().unwrap();
    let looked_at = metrics
        .sum_by_name("rows_selected")
        .map_or(0, |count| count.as_usize());
    (found.iter().flat_map(rows_of).collect(), looked_at)
}

fn leaf(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.children()[..] {
        [] => Arc::clone(plan),
        [input] => leaf(input),
        _ => panic!("{plan:?}"),
    }
}

/// Files that follow each other in time, of ten rows each.
async fn in_files(files: i64) -> Node {
    let not_merged = DatanodeConfig {
        compaction_active_runs: 1000,
        compaction_inactive_runs: 1000,
        compaction_soft_runs: 10_000,
        compaction_hard_runs: 20_000,
        ..DatanodeConfig::default()
    };
    let node = Node::with(not_merged, false).await;
    for file in 0..files {
        let times = file * 10..file * 10 + 10;
        let rows: Vec<Row> = times
            .map(|ts| row(&format!("host-{}", ts % 3), ts, ts as f64))
            .collect();
        node.write(&rows).await.unwrap();
        node.flush().await.unwrap();
    }
    node
}

#[tokio::test]
async fn files_that_cannot_have_one_of_the_first_rows_are_not_read() {
    // Some are read before the first rows are known: by each stream, and on the way from it.
    let streams = SessionConfig::new().target_partitions() as i64;
    let files = 40 + 8 * streams;
    let node = in_files(files).await;
    let last = files * 10 - 1;
    let times = |rows: &[Row]| rows.iter().map(|row| row.1).collect::<Vec<_>>();
    for (order, expected) in [("DESC", [last, last - 1, last - 2]), ("ASC", [0, 1, 2])] {
        for filter in ["", "WHERE usage >= 0"] {
            let sql = format!("SELECT host, ts, usage FROM t {filter} ORDER BY ts {order}, host LIMIT 3");
            let (found, looked_at) = ask(&node, &sql).await;
            assert_eq!(times(&found), expected, "{sql}");
            assert!(
                looked_at < files as usize * 5,
                "{sql}: {looked_at} of {} rows",
                files * 10
            );
        }
    }
    // Of what is not in order by time all is read.
    let (found, looked_at) = ask(&node, "SELECT host, ts, usage FROM t ORDER BY usage DESC LIMIT 3").await;
    assert_eq!(times(&found), [last, last - 1, last - 2]);
    assert_eq!(looked_at, files as usize * 10);
}

#[tokio::test]
async fn the_first_rows_are_those_of_a_sort_of_all_rows() {
    let mut dice = Dice::new(5);
    for append in [false, true] {
        let node = Node::with(DatanodeConfig::default(), append).await;
        for _ in 0..30 {
            let start = dice.roll(300) as i64;
            let mut some = || {
                row(
                    &format!("host-{}", dice.roll(4)),
                    start + dice.roll(60) as i64,
                    dice.roll(9) as f64,
                )
            };
            let rows: Vec<Row> = (0..10).map(|_| some()).collect();
            match dice.roll(5) {
                0 if !append => {
                    let op = greptime_proto::v1::WriteOp::Delete;
                    let options = WriteOptions { op, ..node.options() };
                    node.write_with(options, &rows).await.unwrap();
                }
                _ => drop(node.write(&rows).await.unwrap()),
            }
            if dice.roll(2) == 0 {
                node.flush().await.unwrap();
            }
            let mut all = node.read().await.unwrap();
            let (descending, limit, least) =
                (dice.roll(2) == 0, 1 + dice.roll(20) as usize, dice.roll(9) as f64);
            all.retain(|row| row.2.is_some_and(|usage| usage >= least));
            all.sort_by(|a, b| {
                let by_time = if descending { b.1.cmp(&a.1) } else { a.1.cmp(&b.1) };
                by_time.then_with(|| a.partial_cmp(b).unwrap())
            });
            all.truncate(limit);
            let order = if descending { "DESC" } else { "ASC" };
            let sql = format!(
                "SELECT host, ts, usage FROM t WHERE usage >= {least:.1} ORDER BY ts {order}, host, usage LIMIT {limit}"
            );
            assert_eq!(ask(&node, &sql).await.0, all, "{sql}");
        }
    }
}
