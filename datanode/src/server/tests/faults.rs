//! Disks that fill up, clocks that go back, and rows at the edges of what there is.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, StringArray, TimestampMillisecondArray};
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::prelude::{col, lit};
use greptime_proto::v1;
use greptime_types::{ColumnSchema, ColumnType, ErrorKind, Semantic, TableSchema, TimeUnit};

use crate::config::DatanodeConfig;
use crate::testing::{Node, Row, SkewedClock, row, table};

const DAY: i64 = 24 * 60 * 60 * 1000;
const NOW: i64 = 1_800_000_000_000;

async fn compact(node: &Node) {
    let region = node.datanode.regions().get(node.region).unwrap();
    node.datanode.compact_one(&region).await.unwrap();
}

/// The same rows from memory, after a crash, from files, and from merged files.
async fn is_everywhere(node: Node, expected: &[Row]) -> Node {
    assert_eq!(node.read().await.unwrap(), expected, "in memory");
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap(), expected, "from the log");
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), expected, "from files");
    compact(&node).await;
    assert_eq!(node.read().await.unwrap(), expected, "from merged files");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_as_retryable_and_goes_on_when_there_is_space() {
    let node = Arc::new(Node::new().await);
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.log.set_full(true);
    let waiting = Arc::clone(&node);
    let waiting = tokio::spawn(async move { waiting.write(&[row("a", 2, 2.0)]).await });
    for _ in 0..20 {
        let refused = node.write(&[row("a", 3, 3.0)]).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::ResourceExhausted, "{refused}");
        assert!(
            refused.is_retryable() && refused.message.contains("is full"),
            "{refused}"
        );
    }
    assert_eq!(node.read().await.unwrap()[0], row("a", 1, 1.0), "reads go on");
    node.log.set_full(false);
    // Taken before or after the disk was full, it was not acknowledged before it was on disk.
    let _ = waiting.await.unwrap();
    node.write(&[row("a", 2, 2.0), row("a", 3, 3.0)]).await.unwrap();
    let node = Arc::into_inner(node).unwrap().crash().await;
    node.wait_until_readable().await;
    let expected = [row("a", 1, 1.0), row("a", 2, 2.0), row("a", 3, 3.0)];
    assert_eq!(node.read().await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_rows_go_to_files() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.log.set_full(true);
    let region = node.datanode.regions().get(node.region).unwrap();
    let flushed = || region.with_state(|s| s.memory() == 0);
    node.wait_for("memory is flushed", flushed).await;
    assert_eq!(node.read().await.unwrap(), [row("a", 1, 1.0)]);
}

/// A disk of before, as a snapshot that was restored: the region may not give sequences anew that files have.
#[tokio::test]
async fn a_log_that_lost_its_end_stops_the_region_even_if_it_was_written_to_since() {
    for writes in [0, 5] {
        let node = Node::new().await;
        node.write(&[row("a", 1, 1.0)]).await.unwrap();
        let older = node.log.copy();
        for i in 2..5 {
            node.write(&[row("a", i, 1.0)]).await.unwrap();
        }
        node.flush().await.unwrap();
        node.store.set_away(true);
        let node = node.restart_on(older).await;
        node.wait_until_leading().await;
        for i in 0..writes {
            node.write(&[row("b", i, 1.0)]).await.unwrap();
        }
        node.store.set_away(false);
        let failed = || node.datanode.reports()[0].role == i32::from(v1::RegionRole::Failed);
        node.wait_for("the region stops", failed).await;
        let error = node.write(&[row("c", 1, 1.0)]).await.unwrap_err();
        assert!(error.message.contains("its log ended before"), "{error}");
        node.read().await.unwrap_err();
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_hides_nothing_and_flushes_by_age_go_on() {
    let config = DatanodeConfig {
        flush_age: Duration::from_millis(100),
        ..DatanodeConfig::default()
    };
    let mut of = table(1024, false);
    of.options.ttl = Some("1d".parse().unwrap());
    let clock = SkewedClock::at(NOW);
    let node = Node::with_clock(config, of, clock.clone()).await;
    let options = node.options();
    let first = [row("a", NOW - DAY / 2, 1.0), row("a", NOW, 2.0)];
    node.write_with(options, &first).await.unwrap();
    clock.set_wall_ms(NOW - 40 * DAY);
    assert_eq!(node.read().await.unwrap(), first);
    let late = row("b", NOW - 40 * DAY, 3.0);
    node.write(std::slice::from_ref(&late)).await.unwrap();
    let region = node.datanode.regions().get(node.region).unwrap();
    node.wait_for("rows are flushed by their age", || {
        region.with_state(|s| s.memory() == 0)
    })
    .await;
    drop(region);
    assert!(
        node.write_with(options, &first).await.unwrap().duplicate,
        "ids know no clock"
    );
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert!(node.write_with(options, &first).await.unwrap().duplicate);
    let all = [first[0].clone(), first[1].clone(), late];
    assert_eq!(node.read().await.unwrap(), all);
    compact(&node).await;
    assert_eq!(node.read().await.unwrap(), all, "nothing has lived its time");
}

#[tokio::test]
async fn rows_at_both_ends_of_time_are_kept_in_order() {
    let node = Node::new().await;
    let times = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    let rows = |value: f64| -> Vec<Row> { times.iter().map(|t| row("a", *t, value)).collect() };
    node.write(&rows(1.0)).await.unwrap();
    node.flush().await.unwrap();
    node.write(&rows(2.0)).await.unwrap();
    let node = is_everywhere(node, &rows(2.0)).await;
    let time = |t: i64| lit(ScalarValue::TimestampMillisecond(Some(t), None));
    for (at, t) in times.iter().enumerate() {
        let found = node.read_where(vec![col("ts").gt_eq(time(*t))]).await.unwrap();
        assert_eq!(found, rows(2.0)[at..], "from {t}");
        let found = node.read_where(vec![col("ts").lt_eq(time(*t))]).await.unwrap();
        assert_eq!(found, rows(2.0)[..=at], "to {t}");
        let found = node.read_where(vec![col("ts").eq(time(*t))]).await.unwrap();
        assert_eq!(found, rows(2.0)[at..=at], "at {t}");
    }
}

#[tokio::test]
async fn rows_that_come_in_the_wrong_order_by_days_are_kept() {
    let node = Node::new().await;
    for day in (0..60).rev() {
        let rows = [row("a", day * DAY, -1.0), row("a", day * DAY + 1, day as f64)];
        node.write(&rows).await.unwrap();
        node.write(&[row("a", (day + 5) * DAY, day as f64)])
            .await
            .unwrap();
        if day % 7 == 0 {
            node.flush().await.unwrap();
        }
    }
    let mut expected = Vec::new();
    for day in 0..65 {
        // The newest write of a day's first row is the one that was late.
        let newest = if day < 5 { -1.0 } else { (day - 5) as f64 };
        expected.push(row("a", day * DAY, newest));
        expected.extend((day < 60).then(|| row("a", day * DAY + 1, day as f64)));
    }
    is_everywhere(node, &expected).await;
}

#[tokio::test]
async fn rows_of_a_megabyte_are_kept() {
    let node = Node::new().await;
    let host = |c: char| c.to_string().repeat(1 << 20);
    let rows: Vec<Row> = "abcd".chars().map(|c| row(&host(c), 1, 1.0)).collect();
    node.write(&rows).await.unwrap();
    let node = is_everywhere(node, &rows).await;
    let found = node
        .read_where(vec![col("host").eq(lit(host('c')))])
        .await
        .unwrap();
    assert_eq!(found, rows[2..3]);
}

#[tokio::test]
async fn rows_of_five_hundred_columns_are_kept() {
    let mut columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new(
            "ts",
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
        ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
    ];
    let more = (3..500).map(|i| ColumnSchema::new(format!("f{i}"), ColumnType::Float64, Semantic::Field));
    columns.extend(more);
    let mut of = table(1024, false);
    of.schema = TableSchema::new(columns, vec!["host".into()]).unwrap();
    let mut node = Node::of(DatanodeConfig::default(), of).await;
    let mut arrays: Vec<(String, ArrayRef)> = vec![
        ("host".into(), Arc::new(StringArray::from(vec!["a", "b"]))),
        ("ts".into(), Arc::new(TimestampMillisecondArray::from(vec![1, 2]))),
        ("usage".into(), Arc::new(Float64Array::from(vec![1.0, 2.0]))),
    ];
    arrays.extend((3..500).map(|i| {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::from(i)), None]));
        (format!("f{i}"), values)
    }));
    let rows = RecordBatch::try_from_iter(arrays).unwrap();
    node.write_batch(node.options(), &rows).await.unwrap();
    node = is_everywhere(node, &[row("a", 1, 1.0), row("b", 2, 2.0)]).await;
    let found = node.scan(node.spec()).await.unwrap();
    let found = arrow::compute::concat_batches(&found[0].schema(), &found).unwrap();
    assert_eq!(found.num_columns(), 500);
    for (at, field) in found.schema().fields().iter().enumerate() {
        let written = rows.column_by_name(field.name()).unwrap();
        assert_eq!(found.column(at), written, "{}", field.name());
    }
}
