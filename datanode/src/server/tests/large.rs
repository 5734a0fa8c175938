//! Many series, one series with many rows, and wide tables, through files and merges.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::compute::{
    SortColumn, concat_batches, interleave_record_batch, lexsort_to_indices, take_record_batch,
};
use bytes::Bytes;
use datafusion::prelude::{col, lit};
use greptime_proto::v1;
use greptime_types::{ColumnSchema, ColumnType, Semantic, TableSchema, TimeUnit};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::compaction;
use crate::config::DatanodeConfig;
use crate::testing::{Node, Row, many_series, row, table};

/// Only what the test asks for is flushed and merged.
fn by_hand() -> DatanodeConfig {
    DatanodeConfig {
        flush_size: 1 << 30,
        memtable_soft_limit: 1 << 30,
        memtable_hard_limit: 2 << 30,
        ..compaction::by_hand()
    }
}

async fn compact(node: &Node) {
    let request = v1::CompactRequest {
        header: node.header(),
        region_id: node.region.as_u64(),
    };
    let merged = node.datanode.compact(request).await.unwrap();
    assert!(merged.files_after < merged.files_before, "{merged:?}");
}

async fn write(node: &Node, rows: &[Row]) {
    for rows in rows.chunks(50_000) {
        node.write(rows).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_series_and_one_hot_series_are_flushed_merged_and_read() {
    let node = Node::with(by_hand(), false).await;
    let series = many_series();
    // Neither in the order of their names, nor of their times.
    let shuffled = |i: i64| i * 7919 % series;
    let host = |n: i64| format!("host_{n:07}");
    let of_series = |i: i64, value: f64| row(&host(shuffled(i)), 5, value);
    let hot = |i: i64, value: f64| row("hot", shuffled(i), value);
    let first: Vec<Row> = (0..series)
        .flat_map(|i| [of_series(i, 1.0), hot(i, 1.0)])
        .collect();
    write(&node, &first).await;
    node.flush().await.unwrap();
    // Every third row of both is overwritten.
    let second: Vec<Row> = (0..series)
        .filter(|i| shuffled(*i) % 3 == 0)
        .flat_map(|i| [of_series(i, 2.0), hot(i, 2.0)])
        .collect();
    write(&node, &second).await;
    node.flush().await.unwrap();
    let value = |n: i64| if n % 3 == 0 { 2.0 } else { 1.0 };
    let mut expected: Vec<Row> = (0..series).map(|n| row(&host(n), 5, value(n))).collect();
    expected.extend((0..series).map(|n| row("hot", n, value(n))));
    // Not compared by `assert_eq`, which would print them.
    assert!(node.read().await.unwrap() == expected, "from two files");
    compact(&node).await;
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert!(node.read().await.unwrap() == expected, "from merged files");
    for n in [0, 1, series / 2, series - 1] {
        let host = host(n);
        let found = node
            .read_where(vec![col("host").eq(lit(host.as_str()))])
            .await
            .unwrap();
        assert_eq!(found, [row(&host, 5, value(n))]);
    }
    let found = node.read_where(vec![col("host").eq(lit("hot"))]).await.unwrap();
    assert!(found == expected[series as usize..], "{} hot rows", found.len());
}

const COLUMNS: usize = 500;
/// More than a row group takes.
const ROWS: usize = 15_000;
/// In a write.
const PART: usize = 2500;

fn field_type(column: usize) -> ColumnType {
    match column % 8 {
        0 => ColumnType::String,
        1 => ColumnType::Boolean,
        2..5 => ColumnType::Int64,
        _ => ColumnType::Float64,
    }
}

/// A column of the given rows in the given round of writes; some values are NULL.
fn field(column: usize, round: usize, rows: &[usize]) -> ArrayRef {
    let value = |row: usize| row * 31 + column * 7 + round;
    let some = |row: &usize| (value(*row) % 11 != 0).then(|| value(*row));
    let values = rows.iter().map(some);
    match field_type(column) {
        ColumnType::String => Arc::new(
            values
                .map(|v| v.map(|v| format!("v{}", v % 100)))
                .collect::<StringArray>(),
        ),
        ColumnType::Boolean => Arc::new(values.map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>()),
        ColumnType::Int64 => Arc::new(values.map(|v| v.map(|v| v as i64 - 5)).collect::<Int64Array>()),
        _ => Arc::new(
            values
                .map(|v| v.map(|v| v as f64 / 8.0))
                .collect::<Float64Array>(),
        ),
    }
}

/// Rows of ten series.
fn wide_rows(round: usize, rows: &[usize]) -> RecordBatch {
    let hosts: StringArray = rows.iter().map(|r| Some(format!("host-{}", r % 10))).collect();
    let times: TimestampMillisecondArray = rows.iter().map(|r| Some(*r as i64)).collect();
    let mut columns: Vec<(String, ArrayRef, bool)> = vec![
        ("host".into(), Arc::new(hosts), true),
        ("ts".into(), Arc::new(times), false),
    ];
    columns.extend((2..COLUMNS).map(|c| (format!("f{c}"), field(c, round, rows), true)));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

async fn wide_node() -> Node {
    let mut columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new(
            "ts",
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
    ];
    let of = |c: usize| ColumnSchema::new(format!("f{c}"), field_type(c), Semantic::Field);
    columns.extend((2..COLUMNS).map(of));
    let mut of = table(1024, false);
    of.schema = TableSchema::new(columns, vec!["host".into()]).unwrap();
    Node::of(by_hand(), of).await
}

/// All rows by series and time.
async fn all_rows(node: &Node) -> RecordBatch {
    let batches = node.scan(node.spec()).await.unwrap();
    let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
    let by = |i: usize| SortColumn {
        values: Arc::clone(rows.column(i)),
        options: None,
    };
    let order = lexsort_to_indices(&[by(0), by(1)], None).unwrap();
    take_record_batch(&rows, &order).unwrap()
}

fn are_same(found: &RecordBatch, expected: &RecordBatch, place: &str) {
    assert_eq!(found.num_rows(), expected.num_rows(), "{place}");
    for (at, field) in expected.schema().fields().iter().enumerate() {
        assert!(
            found.column(at) == expected.column(at),
            "{place}: column {} has other values",
            field.name()
        );
    }
}

async fn row_groups(node: &Node) -> Vec<i64> {
    let mut all = Vec::new();
    for key in node.store.keys().await {
        if key.contains("/sst/") {
            let object = node.store.get(&Path::from(key)).await.unwrap();
            let bytes: Bytes = object.bytes().await.unwrap();
            let file = SerializedFileReader::new(bytes).unwrap();
            all.extend(file.metadata().row_groups().iter().map(|g| g.num_rows()));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn full_row_groups_of_five_hundred_columns_are_flushed_merged_and_read() {
    let node = wide_node().await;
    let all: Vec<usize> = (0..ROWS).collect();
    for part in all.chunks(PART) {
        node.write_batch(node.options(), &wide_rows(0, part))
            .await
            .unwrap();
    }
    node.flush().await.unwrap();
    let groups = row_groups(&node).await;
    assert!(
        groups.len() > 1 && groups[0] > 5000,
        "none of the row groups {groups:?} is full"
    );
    // The last ones are overwritten.
    let newer: Vec<usize> = (ROWS - PART..ROWS).collect();
    node.write_batch(node.options(), &wide_rows(1, &newer))
        .await
        .unwrap();
    node.flush().await.unwrap();
    let mut order = all;
    order.sort_by_key(|row| (row % 10, *row));
    let is_newer = |row: &usize| *row >= ROWS - PART;
    let (of_first, of_second) = (wide_rows(0, &order), wide_rows(1, &order));
    let of_round: Vec<(usize, usize)> = (0..ROWS).map(|i| (usize::from(is_newer(&order[i])), i)).collect();
    let expected = interleave_record_batch(&[&of_first, &of_second], &of_round).unwrap();
    are_same(&all_rows(&node).await, &expected, "from two files");
    compact(&node).await;
    let node = node.crash().await;
    node.wait_until_readable().await;
    are_same(&all_rows(&node).await, &expected, "from merged files");
}
