//! Writes and queries that need more memory than there is: they wait, spill or fail, and the node goes on.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{col, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::sorts::sort::SortExec;
use futures::{StreamExt, TryStreamExt};
use greptime_clock::SystemClock;
use greptime_log::MemoryLog;
use greptime_query::{RegionScan, from_datafusion};
use greptime_types::{Error, ErrorKind};

use crate::config::DatanodeConfig;
use crate::testing::{Node, Place, Row, SmallDisk, row, start_node};

const POOL: u64 = 16 << 20;
/// Sorting or grouping so many takes more than the pool.
const ROWS: usize = 300_000;

fn usages(rows: std::ops::Range<usize>) -> Vec<Row> {
    // A prime that does not divide the number of rows: every number comes once.
    let usage = |n: usize| (n * 7919 % ROWS) as f64;
    rows.map(|n| row(&format!("host_{}", n % 9), n as i64, usage(n)))
        .collect()
}

async fn filled(config: DatanodeConfig) -> Node {
    let node = Node::with(config, true).await;
    fill(&node).await;
    node
}

/// A file with so many distinct numbers.
async fn fill(node: &Node) {
    for start in (0..ROWS).step_by(30_000) {
        node.write(&usages(start..start + 30_000)).await.unwrap();
    }
    node.flush().await.unwrap();
}

fn small() -> DatanodeConfig {
    DatanodeConfig {
        query_memory: POOL,
        ..DatanodeConfig::default()
    }
}

/// All rows by their number, largest first.
pub(super) fn sorted(node: &Node) -> Arc<dyn ExecutionPlan> {
    let scan = Arc::new(RegionScan::try_new(node.spec()).unwrap());
    let options = SortOptions {
        descending: true,
        nulls_first: false,
    };
    let by = PhysicalSortExpr::new(col("usage", &scan.schema()).unwrap(), options);
    Arc::new(SortExec::new(LexOrdering::new(vec![by]).unwrap(), scan))
}

/// How many rows there are with each value of a column.
pub(super) fn grouped(node: &Node, by: &str) -> Arc<dyn ExecutionPlan> {
    let scan = Arc::new(RegionScan::try_new(node.spec()).unwrap());
    let schema = scan.schema();
    let groups = PhysicalGroupBy::new_single(vec![(col(by, &schema).unwrap(), by.into())]);
    let count = AggregateExprBuilder::new(count_udaf(), vec![lit(1_i64)])
        .schema(Arc::clone(&schema))
        .alias("n")
        .build()
        .unwrap();
    let counts = vec![Arc::new(count)];
    let single = AggregateMode::Single;
    Arc::new(AggregateExec::try_new(single, groups, counts, vec![None], scan, schema).unwrap())
}

pub(super) fn reserved(node: &Node) -> usize {
    node.datanode.queries.runtime_env().memory_pool.reserved()
}

pub(super) fn spilled(node: &Node) -> u64 {
    node.datanode.queries.runtime_env().disk_manager.used_disk_space()
}

pub(super) fn spill_files(node: &Node) -> usize {
    let dirs = std::fs::read_dir(node.dir.path().join("spill")).unwrap();
    let files =
        |dir: std::io::Result<std::fs::DirEntry>| std::fs::read_dir(dir.unwrap().path()).unwrap().count();
    dirs.map(files).sum()
}

/// The answer of a query that never holds more than the pool, and that has to spill.
async fn answer(node: &Node, plan: &Arc<dyn ExecutionPlan>) -> Vec<RecordBatch> {
    let mut rows = node.datanode.query(node.query_request(plan)).await.unwrap().rows;
    let (mut batches, mut most) = (Vec::new(), 0);
    while let Some(batch) = rows.try_next().await.unwrap() {
        assert!(reserved(node) <= POOL as usize, "{}", reserved(node));
        most = most.max(spilled(node));
        batches.push(batch);
    }
    assert!(most > 0, "nothing was spilled");
    batches
}

async fn failure(node: &Node, plan: &Arc<dyn ExecutionPlan>) -> Error {
    let rows = node.datanode.query(node.query_request(plan)).await.unwrap().rows;
    from_datafusion(&rows.try_collect::<Vec<_>>().await.unwrap_err())
}

#[tokio::test]
async fn what_can_spill_answers_over_more_than_the_memory() {
    let node = filled(small()).await;
    let batches = answer(&node, &sorted(&node)).await;
    let sorted = batches.iter().flat_map(|batch| {
        let usages = batch.column_by_name("usage").unwrap();
        usages.as_primitive::<Float64Type>().values().to_vec()
    });
    assert!(sorted.eq((0..ROWS).rev().map(|n| n as f64)));
    let batches = answer(&node, &grouped(&node, "usage")).await;
    let (mut groups, mut counts) = (Vec::new(), Vec::new());
    for batch in &batches {
        groups.extend_from_slice(batch.column(0).as_primitive::<Float64Type>().values());
        counts.extend_from_slice(batch.column(1).as_primitive::<Int64Type>().values());
    }
    groups.sort_by(f64::total_cmp);
    assert!(groups.into_iter().eq((0..ROWS).map(|n| n as f64)));
    assert!(counts.iter().all(|n| *n == 1));
}

#[tokio::test]
async fn what_cannot_spill_names_the_setting_and_the_next_query_works() {
    let node = filled(DatanodeConfig {
        query_memory: 512 << 10,
        ..DatanodeConfig::default()
    })
    .await;
    let error = failure(&node, &sorted(&node)).await;
    assert_eq!(error.kind, ErrorKind::ResourceExhausted, "{error}");
    let refused =
        "the query needs more memory than is left of 512KiB (datanode.query_memory): blocks of a region";
    assert!(error.message.starts_with(refused), "{error}");
    let advice = "and cannot spill to disk; select fewer rows or columns, or raise the setting";
    assert!(error.message.ends_with(advice), "{error}");
    node.wait_for("the memory is given back", || reserved(&node) == 0)
        .await;
    node.write(&[row("new", 1, 1.0)]).await.unwrap();
    let new = datafusion::prelude::col("host").eq(datafusion::prelude::lit("new"));
    assert_eq!(node.read_where(vec![new]).await.unwrap(), [row("new", 1, 1.0)]);
}

#[tokio::test]
async fn a_spill_beyond_its_limit_names_the_setting() {
    let node = filled(DatanodeConfig {
        query_spill_limit: 64 << 10,
        ..small()
    })
    .await;
    let error = failure(&node, &sorted(&node)).await;
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            ErrorKind::ResourceExhausted,
            "the query has to spill more to disk than is left of 64KiB (datanode.query_spill_limit); select fewer \
             rows or columns, or raise the setting"
        )
    );
    let given_back = || reserved(&node) == 0 && spill_files(&node) == 0;
    node.wait_for("all is given back", given_back).await;
}

#[tokio::test]
async fn queries_that_could_not_spill_on_a_full_disk_can_when_it_has_space() {
    let (store, log, clock) = (Arc::default(), MemoryLog::default(), SystemClock::shared());
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 100) else {
        return;
    };
    let start = async |dir: tempfile::TempDir| {
        let log = Arc::new(log.clone());
        let datanode = start_node(&small(), log, &store, &dir, &clock, &Place::default()).await;
        Node::around(datanode, Arc::clone(&store), dir)
    };
    let node = start(dir).await;
    node.initialise().await.unwrap();
    node.wait_until_leading().await;
    fill(&node).await;
    let Node { dir, datanode, .. } = node;
    datanode.shutdown().await;
    drop(datanode);
    disk.fill();
    let node = start(dir).await;
    node.wait_until_leading().await;
    node.wait_until_readable().await;
    let limit = || {
        let runtime = node.datanode.queries.runtime_env();
        runtime.disk_manager.max_temp_directory_size()
    };
    assert_eq!(limit(), 0);
    for _ in 0..2 {
        let error = failure(&node, &sorted(&node)).await;
        assert_eq!(error.kind, ErrorKind::ResourceExhausted, "{error}");
        assert!(error.message.contains("make room on the node's disk"), "{error}");
        disk.empty();
        // Half of it.
        node.wait_for("there is space to spill", || limit() > 40 << 20)
            .await;
        assert!(limit() <= 50 << 20);
        answer(&node, &sorted(&node)).await;
        node.wait_for("all is given back", || spill_files(&node) == 0)
            .await;
        disk.fill();
        node.wait_for("there is no space to spill", || limit() == 0).await;
    }
    node.datanode.shutdown().await;
}

#[tokio::test]
async fn a_query_that_is_dropped_in_the_middle_gives_back_memory_and_spill_files() {
    let node = filled(small()).await;
    for plan in [sorted(&node), grouped(&node, "usage")] {
        let mut rows = node.datanode.query(node.query_request(&plan)).await.unwrap().rows;
        rows.next().await.unwrap().unwrap();
        assert!(spilled(&node) > 0 && spill_files(&node) > 0);
        drop(rows);
        let given_back = || reserved(&node) == 0 && spilled(&node) == 0 && spill_files(&node) == 0;
        node.wait_for("all is given back", given_back).await;
    }
}

#[tokio::test]
async fn writes_that_are_slowed_down_wait_in_memory_that_is_counted() {
    let node = Node::with(
        DatanodeConfig {
            memtable_soft_limit: 900 << 10,
            memtable_hard_limit: 1 << 20,
            max_write_size: 512 << 10,
            ..DatanodeConfig::default()
        },
        true,
    )
    .await;
    let region = node.datanode.regions().get(node.region).unwrap();
    region.set_runs(node.config.compaction_hard_runs - 1);
    let rows: Vec<Row> = usages(0..2000);
    let slowed = || node.datanode.metrics.writes_slowed.get();
    let writes = (0..6).map(|_| node.write(&rows));
    let looked = async {
        node.wait_for("they wait", || slowed() == 6).await;
        // Each has tens of kilobytes, which others cannot have.
        let refused = node.datanode.budget.reserve(900 << 10).unwrap_err();
        assert!(refused.message.contains("memtable_hard_limit"), "{refused}");
        region.set_runs(0);
    };
    let (written, ()) = tokio::join!(futures::future::join_all(writes), looked);
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let applied = node.datanode.budget.used();
    node.datanode.budget.reserve((1 << 20) - applied).unwrap();
}

#[tokio::test]
async fn a_write_without_room_is_refused_before_it_waits() {
    let node = Node::new().await;
    let region = node.datanode.regions().get(node.region).unwrap();
    region.set_runs(node.config.compaction_hard_runs - 1);
    let others = node
        .datanode
        .budget
        .reserve(node.config.memtable_hard_limit)
        .unwrap();
    let refused = node.write(&[row("a", 1, 1.0)]).await.unwrap_err();
    assert!(refused.message.contains("memtable_hard_limit"), "{refused}");
    assert_eq!(node.datanode.metrics.writes_slowed.get(), 0);
    drop(others);
    region.set_runs(0);
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
}
