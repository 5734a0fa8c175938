//! Tables that change while rows are written, and rows that are merged, truncated or never kept.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use bytes::Bytes;
use datafusion::prelude::{col, lit};
use futures::TryStreamExt;
use greptime_log::{CommittedEntry, LogStore};
use greptime_proto::v1;
use greptime_query::{RegionScanSpec, from_datafusion};
use greptime_types::{
    Change, ColumnSchema, ColumnType, ErrorKind, MergeMode, Semantic, TableInfo, TableOptions, TableSchema,
    TimeUnit,
};

use crate::config::DatanodeConfig;
use crate::region::RegionEntry;
use crate::testing::{Node, WriteOptions, batch, row, table};

fn rename(from: &str, to: &str) -> Change {
    Change::RenameColumn {
        from: from.into(),
        to: to.into(),
    }
}

/// What the log has when the table became this one.
fn entry_of(table: &TableInfo) -> Bytes {
    RegionEntry::Alter(Box::new(table.clone())).encode().unwrap()
}

/// Rows of `batch` under other names.
fn named(names: [&str; 3], rows: &RecordBatch) -> RecordBatch {
    let fields: Vec<Field> = names
        .iter()
        .zip(rows.schema().fields())
        .map(|(name, field)| field.as_ref().clone().with_name(*name))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), rows.columns().to_vec()).unwrap()
}

/// One column of all rows, as text, sorted.
async fn texts(node: &Node, name: &str) -> Vec<Option<String>> {
    let batches = node.scan(node.spec()).await.unwrap();
    let mut texts = Vec::new();
    for batch in &batches {
        let column = arrow::compute::cast(batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
        let column = column.as_string::<i32>();
        texts.extend((0..column.len()).map(|i| column.is_valid(i).then(|| column.value(i).to_owned())));
    }
    texts.sort();
    texts
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|t| Some((*t).to_owned())).collect()
}

#[tokio::test]
async fn a_renamed_tag_time_and_field_keep_their_rows_in_memory() {
    let mut node = Node::new().await;
    node.write(&[row("a", 1, 1.0), row("b", 1, 1.0)]).await.unwrap();
    node.alter(&[
        rename("host", "node"),
        rename("ts", "at"),
        rename("usage", "load"),
    ])
    .await;
    let rows = named(["node", "at", "load"], &batch(&[row("a", 1, 2.0)]));
    node.write_batch(node.options(), &rows).await.unwrap();
    assert_eq!(texts(&node, "load").await, some(&["1.0", "2.0"]));
    let spec = RegionScanSpec {
        filters: vec![col("node").eq(lit("a"))],
        ..node.spec()
    };
    let found = node.scan(spec).await.unwrap();
    assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    // What is in the log is replayed under the names of its time.
    let node = node.crash().await;
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
    assert_eq!(texts(&node, "load").await, some(&["1.0", "2.0"]));
}

/// Another column under the name of the first.
fn usage_anew() -> [Change; 2] {
    let drop_usage = Change::DropColumn {
        name: "usage".into(),
        if_exists: false,
    };
    let again = Change::AddColumn {
        column: ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
        if_not_exists: false,
    };
    [drop_usage, again]
}

#[tokio::test]
async fn rows_for_a_name_that_means_another_column_now_are_refused_as_retryable() {
    let mut node = Node::new().await;
    let old = node.options();
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.alter(&usage_anew()).await;
    let error = node.write_with(old, &[row("a", 2, 2.0)]).await.unwrap_err();
    assert!(
        error.is_retryable() && error.kind == ErrorKind::Conflict,
        "{error}"
    );
    assert_eq!(
        texts(&node, "usage").await,
        [None],
        "the new column has no values yet"
    );
    // The same request, made anew.
    let anew = WriteOptions {
        schema_version: 2,
        ..old
    };
    assert!(
        !node
            .write_with(anew, &[row("a", 2, 2.0)])
            .await
            .unwrap()
            .duplicate
    );
    assert_eq!(texts(&node, "usage").await, [None, Some("2.0".into())]);
}

#[tokio::test]
async fn rows_for_a_column_that_was_renamed_are_refused_as_retryable() {
    let mut node = Node::new().await;
    let old = node.options();
    node.alter(&[rename("usage", "load")]).await;
    let error = node.write_with(old, &[row("a", 1, 1.0)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn a_change_that_comes_again_after_a_later_one_changes_nothing() {
    let mut node = Node::new().await;
    let first = node.table.altered(&[rename("usage", "load")]).unwrap().unwrap();
    let second = first.altered(&[rename("load", "busy")]).unwrap().unwrap();
    for table in [&first, &second, &first] {
        node.datanode.propose(node.region, entry_of(table)).await.unwrap();
    }
    node.table = second;
    let rows = named(["host", "ts", "busy"], &batch(&[row("a", 1, 1.0)]));
    node.write_batch(node.options(), &rows).await.unwrap();
    assert_eq!(texts(&node, "busy").await, some(&["1.0"]));
}

/// The edit of the flush has table and request ids as they were when its rows were taken.
#[tokio::test]
async fn rows_that_come_during_a_flush_before_a_change_are_replayed() {
    let mut node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let altered = node.table.altered(&[rename("usage", "load")]).unwrap().unwrap();
    node.store.hold_puts("/sst/", 1);
    let meanwhile = async {
        node.wait_for("the file is being uploaded", || node.store.holding() == 1)
            .await;
        node.write(&[row("b", 1, 2.0)]).await.unwrap();
        node.datanode
            .propose(node.region, entry_of(&altered))
            .await
            .unwrap();
        node.store.release_puts();
    };
    let (flushed, ()) = tokio::join!(node.flush(), meanwhile);
    let (flushed, region) = (flushed.unwrap(), node.region);
    node.wait_for("the log is trimmed", || {
        node.log.bounds(region).is_none_or(|(low, _)| low > flushed)
    })
    .await;
    node.table = altered;
    assert_eq!(texts(&node, "load").await, some(&["1.0", "2.0"]));
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(texts(&node, "load").await, some(&["1.0", "2.0"]));
}

#[tokio::test]
async fn a_write_that_meets_an_alter_in_the_log_is_not_applied() {
    let mut node = Node::new().await;
    // Both are admitted under version 1; the log has the change first.
    let late = node.options();
    node.table = node.table.altered(&[rename("usage", "load")]).unwrap().unwrap();
    let alter = entry_of(&node.table);
    let rows = [row("a", 1, 1.0)];
    // So many runs make a write wait once it is admitted.
    let region = node.datanode.regions().get(node.region).unwrap();
    region.set_runs(node.config.compaction_soft_runs + 10);
    let (written, altered) = tokio::join!(
        node.write_with(late, &rows),
        node.datanode.propose(node.region, alter)
    );
    altered.unwrap();
    region.set_runs(0);
    assert_eq!(written.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(texts(&node, "load").await, []);
    let anew = WriteOptions {
        schema_version: 2,
        ..late
    };
    let rows = named(["host", "ts", "load"], &batch(&rows));
    assert!(
        !node.write_batch(anew, &rows).await.unwrap().duplicate,
        "its id was not used up"
    );
}

#[tokio::test]
async fn rows_of_before_show_the_default_and_a_new_type() {
    let mut node = Node::new().await;
    node.write(&[row("a", 1, 1.5)]).await.unwrap();
    let with_default = ColumnSchema {
        default: Some("7".into()),
        absent: Some("7".into()),
        ..ColumnSchema::new("n", ColumnType::Int64, Semantic::Field)
    };
    let add = Change::AddColumn {
        column: with_default,
        if_not_exists: false,
    };
    let modify = Change::ModifyColumn {
        name: "usage".into(),
        column_type: ColumnType::String,
    };
    node.alter(&[add, modify]).await;
    assert_eq!(texts(&node, "n").await, some(&["7"]));
    assert_eq!(texts(&node, "usage").await, some(&["1.5"]));
}

/// Memory sorts rows of before and after the change into one run, and a flush writes them into one file.
#[tokio::test]
async fn rows_of_before_show_the_default_beside_rows_that_have_the_column() {
    let mut node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let with_default = ColumnSchema {
        default: Some("7".into()),
        absent: Some("7".into()),
        ..ColumnSchema::new("n", ColumnType::Int64, Semantic::Field)
    };
    node.alter(&[Change::AddColumn {
        column: with_default,
        if_not_exists: false,
    }])
    .await;
    let rows = batch(&[row("b", 1, 2.0)]);
    let mut fields: Vec<Field> = rows
        .schema()
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    fields.push(Field::new("n", DataType::Int64, true));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(arrow::array::Int64Array::from(vec![8])));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    node.write_batch(node.options(), &rows).await.unwrap();
    assert_eq!(texts(&node, "n").await, some(&["7", "8"]));
    node.flush().await.unwrap();
    assert_eq!(texts(&node, "n").await, some(&["7", "8"]));
}

#[tokio::test]
async fn a_query_that_was_planned_for_other_columns_is_refused() {
    let mut node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let old = node.spec();
    node.alter(&[rename("usage", "load")]).await;
    let error = node.scan(old).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(error.message.contains("`usage`"), "{error}");
}

#[tokio::test]
async fn a_query_that_meets_a_change_before_its_first_row_is_refused() {
    let node = Node::new().await;
    let written = node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let request = node.scan_request(node.spec());
    // Another column under the name of the first: its rows have no values.
    let changed = node.table.altered(&usage_anew()).unwrap().unwrap();
    let region = node.datanode.regions().get(node.region).unwrap();
    let reading = node.datanode.query(request).await.unwrap().rows;
    // At once: while this test waits, the scan may begin.
    let entry = CommittedEntry {
        index: written.sequence + 1,
        term: written.epoch,
        data: entry_of(&changed),
        token: None,
    };
    region.apply(&entry, Duration::ZERO).unwrap();
    let read: Result<Vec<RecordBatch>, _> = reading.try_collect().await;
    let error = from_datafusion(&read.unwrap_err());
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
}

async fn merging() -> Node {
    let options = TableOptions {
        merge_mode: MergeMode::LastNonNull,
        ..TableOptions::default()
    };
    let mut node = Node::with_options(DatanodeConfig::default(), options).await;
    let note = Change::AddColumn {
        column: ColumnSchema::new("note", ColumnType::String, Semantic::Field),
        if_not_exists: false,
    };
    node.alter(&[note]).await;
    node
}

fn noted(rows: &[(&str, Option<f64>, Option<&str>)]) -> RecordBatch {
    let keys = batch(&rows.iter().map(|r| row(r.0, 1, 0.0)).collect::<Vec<_>>());
    let mut fields: Vec<Field> = keys
        .schema()
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    fields.push(Field::new("note", DataType::Utf8, true));
    let columns: Vec<ArrayRef> = vec![
        Arc::clone(keys.column(0)),
        Arc::clone(keys.column(1)),
        Arc::new(rows.iter().map(|r| r.1).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.2).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

async fn merged(node: &Node) -> Vec<(Option<f64>, Option<String>)> {
    let batches = node.scan(node.spec()).await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let usage = batch
            .column_by_name("usage")
            .unwrap()
            .as_primitive::<Float64Type>();
        let note = batch.column_by_name("note").unwrap().as_string::<i32>();
        rows.extend((0..batch.num_rows()).map(|i| {
            (
                usage.is_valid(i).then(|| usage.value(i)),
                note.is_valid(i).then(|| note.value(i).to_owned()),
            )
        }));
    }
    rows
}

#[tokio::test]
async fn each_field_has_its_newest_value_wherever_the_rows_lie() {
    let node = merging().await;
    // In one write too.
    let first = noted(&[("a", Some(1.0), None), ("a", None, Some("x"))]);
    node.write_batch(node.options(), &first).await.unwrap();
    assert_eq!(merged(&node).await, [(Some(1.0), Some("x".into()))]);
    node.flush().await.unwrap();
    node.write_batch(node.options(), &noted(&[("a", Some(2.0), None)]))
        .await
        .unwrap();
    assert_eq!(merged(&node).await, [(Some(2.0), Some("x".into()))]);
    node.flush().await.unwrap();
    assert_eq!(merged(&node).await, [(Some(2.0), Some("x".into()))]);
    let busy = RegionScanSpec {
        filters: vec![col("usage").eq(lit(1.0))],
        ..node.spec()
    };
    let found = node.scan(busy).await.unwrap();
    assert_eq!(
        found.iter().map(RecordBatch::num_rows).sum::<usize>(),
        0,
        "1.0 was replaced"
    );
}

#[tokio::test]
async fn a_delete_cuts_off_what_is_older_in_files_too() {
    let node = merging().await;
    node.write_batch(node.options(), &noted(&[("a", Some(1.0), Some("old"))]))
        .await
        .unwrap();
    node.flush().await.unwrap();
    let delete = WriteOptions {
        op: v1::WriteOp::Delete,
        ..node.options()
    };
    let identity = batch(&[row("a", 1, 0.0)]).project(&[0, 1]).unwrap();
    node.write_batch(delete, &identity).await.unwrap();
    node.write_batch(node.options(), &noted(&[("a", Some(2.0), None)]))
        .await
        .unwrap();
    assert_eq!(merged(&node).await, [(Some(2.0), None)]);
    // The file has the row and the delete below it.
    node.flush().await.unwrap();
    assert_eq!(merged(&node).await, [(Some(2.0), None)]);
}

#[tokio::test]
async fn rows_of_an_instant_table_are_acknowledged_and_never_kept() {
    let options = TableOptions {
        ttl: Some("instant".parse().unwrap()),
        ..TableOptions::default()
    };
    let node = Node::with_options(DatanodeConfig::default(), options).await;
    let first = node.write(&[row("a", 1, 1.0)]).await.unwrap();
    assert_eq!(node.read().await.unwrap(), []);
    // Their entries can be taken off the log.
    let flushed = node.flush().await.unwrap();
    assert!(flushed >= first.sequence);
    assert!(!node.store.keys().await.iter().any(|k| k.contains("/sst/")));
    let (region, sequence) = (node.region, first.sequence);
    node.wait_for("the log is trimmed", || {
        node.log.bounds(region).is_none_or(|(low, _)| low > sequence)
    })
    .await;
}

/// A column's values go the way that the column went, whether a row was rewritten on it or not.
#[tokio::test]
async fn a_value_becomes_the_same_wherever_it_was_while_its_column_changed() {
    let to = |column_type| Change::ModifyColumn {
        name: "usage".into(),
        column_type,
    };
    for rewritten in [false, true] {
        let mut node = Node::new().await;
        node.write(&[row("a", 1, 1.5), row("a", 2, 2.0)]).await.unwrap();
        node.alter(&[to(ColumnType::String)]).await;
        if rewritten {
            node.flush().await.unwrap();
        }
        node.alter(&[to(ColumnType::Int64)]).await;
        assert_eq!(
            texts(&node, "usage").await,
            [None, None],
            "rewritten: {rewritten}"
        );
        node.flush().await.unwrap();
        assert_eq!(
            texts(&node, "usage").await,
            [None, None],
            "rewritten: {rewritten}"
        );
    }
}

#[tokio::test]
async fn a_time_without_a_date_is_null_as_a_text_and_keeps_no_row_in_memory() {
    let at = |name, semantic| ColumnSchema::new(name, ColumnType::Timestamp(TimeUnit::Millisecond), semantic);
    let columns = vec![at("ts", Semantic::Timestamp), at("f", Semantic::Field)];
    let of = TableInfo {
        schema: TableSchema::new(columns, vec![]).unwrap(),
        ..table(1024, false)
    };
    let mut node = Node::of(DatanodeConfig::default(), of).await;
    let times = |times: [i64; 2]| Arc::new(TimestampMillisecondArray::from(times.to_vec())) as ArrayRef;
    let rows = [("ts", times([1, 2])), ("f", times([0, i64::MAX]))];
    let rows = RecordBatch::try_from_iter(rows).unwrap();
    node.write_batch(node.options(), &rows).await.unwrap();
    node.alter(&[Change::ModifyColumn {
        name: "f".into(),
        column_type: ColumnType::String,
    }])
    .await;
    let expected = [None, Some("1970-01-01T00:00:00".to_owned())];
    assert_eq!(texts(&node, "f").await, expected);
    node.flush().await.unwrap();
    assert_eq!(texts(&node, "f").await, expected);
}

#[tokio::test]
async fn of_one_write_the_later_row_stays_newer_however_often_memory_is_sorted() {
    let node = merging().await;
    let twice = noted(&[("a", Some(1.0), Some("x")), ("a", Some(2.0), None)]);
    node.write_batch(node.options(), &twice).await.unwrap();
    for n in 0..4 {
        assert_eq!(merged(&node).await[0], (Some(2.0), Some("x".into())), "read {n}");
        // The next read sorts these together with what was sorted.
        let other = [("b", Some(3.0), None)];
        node.write_batch(node.options(), &noted(&other)).await.unwrap();
    }
    node.flush().await.unwrap();
    assert_eq!(merged(&node).await[0], (Some(2.0), Some("x".into())));
}

/// As a frontend writes that has not heard of the column yet.
#[tokio::test]
async fn a_writer_that_does_not_name_a_new_column_puts_no_default_over_its_values() {
    let mut node = merging().await;
    let old = node.options();
    let with_default = ColumnSchema {
        default: Some("7".into()),
        absent: Some("7".into()),
        ..ColumnSchema::new("n", ColumnType::Int64, Semantic::Field)
    };
    node.write_batch(node.options(), &noted(&[("b", Some(1.0), None)]))
        .await
        .unwrap();
    node.alter(&[Change::AddColumn {
        column: with_default,
        if_not_exists: false,
    }])
    .await;
    let rows = noted(&[("a", Some(1.0), None)]);
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("n", DataType::Int64, true)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(arrow::array::Int64Array::from(vec![8])));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    node.write_batch(node.options(), &rows).await.unwrap();
    let late = noted(&[("a", Some(2.0), None)]);
    let late_options = WriteOptions {
        number: node.options().number,
        ..old
    };
    node.write_batch(late_options, &late).await.unwrap();
    assert_eq!(texts(&node, "n").await, some(&["7", "8"]));
    node.flush().await.unwrap();
    assert_eq!(texts(&node, "n").await, some(&["7", "8"]));
}
