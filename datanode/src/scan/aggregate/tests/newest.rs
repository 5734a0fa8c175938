//! The newest rows of groups: which they are, what is read for them, and what they take.

use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{Float64Type, TimestampMillisecondType};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use greptime_query::QueryPool;
use greptime_types::{ColumnSchema, ColumnType, Semantic, TableInfo, TableSchema, TimeUnit};

use super::*;
use crate::config::DatanodeConfig;
use crate::testing::{Fault, Request, WriteOptions, row, table};

/// Enough for all that is asked for here.
const MEMORY: u64 = 64 << 20;
const HOSTS: i64 = 20_000;
const FILES: i64 = 16;

const NEWEST_USAGE: &str = "SELECT host, last_value(usage ORDER BY ts) FROM t GROUP BY host";

/// The plan that the region runs for a statement.
async fn plan_of(node: &Node, sql: &str) -> Arc<dyn ExecutionPlan> {
    let ctx = context(Shape::Whole);
    ctx.register_table("t", Arc::new(Leaf(node.spec()))).unwrap();
    let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    node.datanode.explain(&node.query_request(&plan)).unwrap()
}

/// The rows, computed in a memory of so many bytes.
fn run(plan: &Arc<dyn ExecutionPlan>, bytes: u64) -> (SendableRecordBatchStream, Arc<dyn MemoryPool>) {
    let pool: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(bytes, "datanode.query_memory"));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool));
    let ctx = TaskContext::default().with_runtime(runtime.build_arc().unwrap());
    (execute_stream(Arc::clone(plan), Arc::new(ctx)).unwrap(), pool)
}

/// What a counter of the plan's only operator came to.
fn counted(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    assert!(plan.children().is_empty(), "{plan:?}");
    let metrics = plan.metrics().unwrap();
    metrics.sum_by_name(name).map_or(0, |count| count.as_usize())
}

/// Hosts in racks; `a` and `b` are fields.
fn racks() -> TableInfo {
    let time = ColumnType::Timestamp(TimeUnit::Millisecond);
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("rack", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("ts", time, Semantic::Timestamp),
        ColumnSchema::new("a", ColumnType::Float64, Semantic::Field),
        ColumnSchema::new("b", ColumnType::Float64, Semantic::Field),
    ];
    TableInfo {
        schema: TableSchema::new(columns, vec!["host".into(), "rack".into()]).unwrap(),
        ..table(1024, false)
    }
}

/// One row of each of 20 hosts in four racks at a time; either `a` or `b` is NULL.
fn row_of_each_host(ts: i64) -> RecordBatch {
    let hosts = 0..20_i64;
    let text = |texts: Vec<String>| Arc::new(StringArray::from(texts)) as ArrayRef;
    let number = |host: i64, odd: i64| ((host + ts) % 2 == odd).then_some((host * 1000 + ts) as f64);
    let field = |odd| Arc::new(hosts.clone().map(|h| number(h, odd)).collect::<Float64Array>()) as ArrayRef;
    let times = TimestampMillisecondArray::from_value(ts, 20);
    RecordBatch::try_from_iter_with_nullable([
        (
            "host",
            text(hosts.clone().map(|h| format!("host-{h}")).collect()),
            true,
        ),
        (
            "rack",
            text(hosts.clone().map(|h| format!("rack-{}", h % 4)).collect()),
            true,
        ),
        ("ts", Arc::new(times), false),
        ("a", field(0), true),
        ("b", field(1), true),
    ])
    .unwrap()
}

/// All series of a rack have the same newest time, so that each of them is right, but no mixture.
#[tokio::test]
async fn all_columns_of_a_group_come_from_one_row() {
    let node = Node::of(DatanodeConfig::default(), racks()).await;
    // Files that follow each other, two that overlap, and rows in memory.
    for (ts, is_flushed) in [(1, true), (2, true), (4, false), (6, true), (5, true), (6, false)] {
        let rows = row_of_each_host(ts);
        node.write_batch(node.options(), &rows).await.unwrap();
        if is_flushed {
            node.flush().await.unwrap();
        }
    }
    let sql = "SELECT DISTINCT ON (rack) rack, b, host, ts, a FROM t ORDER BY rack, ts DESC";
    for shape in SHAPES.into_iter().filter(|shape| *shape != Shape::States) {
        let (found, plan) = answer(&node, sql, shape).await;
        let rows: usize = found.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 4, "{plan}");
        for batch in &found {
            let text = |i: usize| batch.column(i).as_string::<i32>();
            let field = |i: usize| batch.column(i).as_primitive::<Float64Type>();
            let times = batch.column(3).as_primitive::<TimestampMillisecondType>();
            for row in 0..batch.num_rows() {
                let host: i64 = text(2).value(row)["host-".len()..].parse().unwrap();
                assert_eq!(text(0).value(row), format!("rack-{}", host % 4));
                assert_eq!(times.value(row), 6);
                let (set, null) = match host % 2 {
                    0 => (field(4), field(1)),
                    _ => (field(1), field(4)),
                };
                assert!(set.is_valid(row) && null.is_null(row), "{batch:?}");
                assert_eq!(set.value(row), (host * 1000 + 6) as f64);
            }
        }
    }
}

#[tokio::test]
async fn of_older_files_only_tags_and_times_are_read() {
    let node = Node::new().await;
    for file in 0..FILES {
        let mut rows: Vec<Row> = (0..40)
            .map(|n| row(&format!("host-{}", n % 4), file * 1000 + n, n as f64))
            .collect();
        if file == 0 {
            rows.push(row("gone", 5, 0.5));
        }
        node.write(&rows).await.unwrap();
        node.flush().await.unwrap();
    }
    let times = plan_of(&node, "SELECT host, max(ts) FROM t GROUP BY host").await;
    let (rows, _) = run(&times, MEMORY);
    rows.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(counted(&times, "pages_read"), 2 * FILES as usize);
    // Tags and times are decoded now. Usages are wanted of the newest file, of the oldest, and for other streams, which do
    // not know what the first has found, of one in between.
    let usages = plan_of(&node, NEWEST_USAGE).await;
    let (rows, _) = run(&usages, MEMORY);
    let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    let streams = TaskContext::default().session_config().target_partitions();
    let pages = counted(&usages, "pages_read");
    assert!((2..=streams + 1).contains(&pages), "{pages}");
    let usages = rows[0].column(1).as_primitive::<Float64Type>();
    let mut usages = usages.values().to_vec();
    usages.sort_by(f64::total_cmp);
    assert_eq!(usages, [0.5, 36.0, 37.0, 38.0, 39.0]);
}

/// Four hosts, each with ten rows in memory.
async fn in_memory() -> Node {
    let node = Node::new().await;
    for ts in 0..10 {
        let rows: Vec<Row> = (0..4)
            .map(|n| row(&format!("host-{n}"), ts, (10 * n + ts) as f64))
            .collect();
        node.write(&rows).await.unwrap();
    }
    node
}

/// The newest usages, ascending, and how many rows in memory were read for them.
async fn newest_usages(node: &Node) -> (Vec<f64>, usize) {
    let plan = plan_of(node, NEWEST_USAGE).await;
    let rows: Vec<RecordBatch> = run(&plan, MEMORY).0.try_collect().await.unwrap();
    let usages = |batch: &RecordBatch| batch.column(1).as_primitive::<Float64Type>().values().to_vec();
    let mut usages: Vec<f64> = rows.iter().flat_map(usages).collect();
    usages.sort_by(f64::total_cmp);
    (usages, counted(&plan, "rows_in_memory"))
}

#[tokio::test]
async fn of_rows_in_memory_only_the_latest_of_each_series_are_read() {
    let node = in_memory().await;
    assert_eq!(newest_usages(&node).await, (vec![9.0, 19.0, 29.0, 39.0], 4));
}

#[tokio::test]
async fn a_deleted_row_in_memory_leaves_the_one_before_it_as_the_latest() {
    let node = in_memory().await;
    let delete = WriteOptions {
        op: v1::WriteOp::Delete,
        ..node.options()
    };
    node.write_with(delete, &[row("host-2", 9, 0.0)]).await.unwrap();
    let (usages, _) = newest_usages(&node).await;
    assert_eq!(usages, [9.0, 19.0, 28.0, 39.0]);
}

/// All hosts, in files that follow each other.
async fn many_hosts(files: i64) -> Node {
    let node = Node::new().await;
    for file in 0..files {
        let rows: Vec<Row> = (0..HOSTS)
            .map(|n| row(&format!("host-{n:06}"), file, (n + file) as f64))
            .collect();
        node.write(&rows).await.unwrap();
        node.flush().await.unwrap();
    }
    node
}

/// The other plan gives states out early, of some hosts twice, and merges them with what it may spill.
#[tokio::test]
async fn groups_that_do_not_fit_into_memory_are_merged_from_states() {
    let node = many_hosts(1).await;
    let newer: Vec<Row> = (0..10).map(|n| row(&format!("host-{n:06}"), 7, 0.5)).collect();
    node.write(&newer).await.unwrap();
    let sql = "SELECT host, max(ts), last_value(usage ORDER BY ts) FROM t GROUP BY host";
    // The least memory in which there is an answer is too little for the first plan.
    let mut kib = 1024;
    let (plan, found, pool) = loop {
        let plan = plan_of(&node, sql).await;
        let (found, pool) = run(&plan, kib << 10);
        match found.try_collect::<Vec<RecordBatch>>().await {
            Ok(found) => break (plan, found, pool),
            Err(error) => assert!(
                matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)),
                "{error}"
            ),
        }
        kib += 128;
    };
    assert_eq!(counted(&plan, "starts_with_less_memory"), 1, "{kib} KiB");
    let mut rows: Vec<(String, i64, f64)> = Vec::new();
    for batch in &found {
        assert_eq!(batch.schema(), plan.schema());
        let hosts = batch.column(0).as_string::<i32>();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
        let usages = batch.column(2).as_primitive::<Float64Type>();
        rows.extend((0..batch.num_rows()).map(|i| (hosts.value(i).into(), times.value(i), usages.value(i))));
    }
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let newest = |n: i64| if n < 10 { (7, 0.5) } else { (0, n as f64) };
    let expected = (0..HOSTS).map(|n| (format!("host-{n:06}"), newest(n).0, newest(n).1));
    assert!(rows.into_iter().eq(expected));
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn groups_that_fit_into_memory_come_in_batches_and_give_it_back_at_the_end() {
    let node = many_hosts(FILES).await;
    let plan = plan_of(&node, NEWEST_USAGE).await;
    let (mut rows, pool) = run(&plan, MEMORY);
    let mut groups = Vec::new();
    while let Some(batch) = rows.try_next().await.unwrap() {
        assert!(pool.reserved() > 0);
        groups.push(batch.num_rows());
    }
    let batch = TaskContext::default().session_config().batch_size();
    assert_eq!(groups, [batch, batch, HOSTS as usize - 2 * batch]);
    assert_eq!(counted(&plan, "starts_with_less_memory"), 0);
    drop(rows);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn what_no_plan_has_the_memory_for_fails_and_names_the_setting() {
    let node = many_hosts(FILES).await;
    let (rows, pool) = run(&plan_of(&node, NEWEST_USAGE).await, 64 << 10);
    let error = rows.try_collect::<Vec<_>>().await.unwrap_err().to_string();
    assert!(error.contains("(datanode.query_memory)"), "{error}");
    node.wait_for("the memory is given back", || pool.reserved() == 0)
        .await;
}

/// No answer comes from the bucket in the time of a test.
#[tokio::test]
async fn a_query_that_is_dropped_stops_the_streams_that_read_for_it() {
    let node = many_hosts(FILES).await.crash().await;
    node.wait_until_readable().await;
    node.write(&[row("new", FILES, 1.0)]).await.unwrap();
    let never = Fault::Slow(Duration::from_secs(600));
    // The files are opened before.
    node.store
        .plan_after(FILES as usize, Request::Get, "/sst/", never, 100);
    let (mut rows, pool) = run(&plan_of(&node, NEWEST_USAGE).await, MEMORY);
    let first = tokio::time::timeout(Duration::from_millis(300), rows.next()).await;
    assert!(first.is_err() && pool.reserved() > 0 && node.store.faults_left() < 100);
    drop(rows);
    node.wait_for("the memory is given back", || pool.reserved() == 0)
        .await;
}
