use std::collections::BTreeMap;

use arrow::array::{
    Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMillisecondType, UInt8Type, UInt64Type};
use greptime_types::{ColumnSchema, ColumnType, TableInfo, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::schema::engine_schema;
use crate::testing::{batch, many_series, row, table};

const BUFFERS: Buffers = Buffers { rows: 100, series: 0 };
const DAY: i64 = 24 * 60 * 60 * 1000;

/// host (0) and n (1) are tags, ts (2) the time, usage (3) the field.
fn two_tags(append_mode: bool) -> TableInfo {
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("n", ColumnType::Int64, Semantic::Tag),
        ColumnSchema::new(
            "ts",
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
        ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
    ];
    let mut table = table(1, append_mode);
    table.schema = TableSchema::new(columns, vec!["host".into(), "n".into()]).unwrap();
    table
}

/// host, n, ts, usage
type Row = (Option<String>, Option<i64>, i64, Option<f64>);

fn write_of(rows: &[Row], table: &TableInfo) -> SeriesBatch {
    let columns: [(&str, arrow::array::ArrayRef); 4] = [
        (
            "host",
            Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>()),
        ),
        ("n", Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>())),
        (
            "ts",
            Arc::new(
                rows.iter()
                    .map(|r| Some(r.2))
                    .collect::<TimestampMillisecondArray>(),
            ),
        ),
        (
            "usage",
            Arc::new(rows.iter().map(|r| r.3).collect::<Float64Array>()),
        ),
    ];
    let named = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap();
    SeriesBatch::from_named(&named, &table.schema).unwrap()
}

/// Rows with their sequence and operation.
type Read = Vec<(Row, u64, u8)>;

fn read(batch: &RecordBatch) -> Read {
    let text = cast(batch.column(0), &DataType::Utf8).unwrap();
    let host = text.as_string::<i32>();
    let n = batch.column(1).as_primitive::<Int64Type>();
    let ts = batch.column(2).as_primitive::<TimestampMillisecondType>();
    let usage = batch.column(3).as_primitive::<Float64Type>();
    let sequence = batch.column(4).as_primitive::<UInt64Type>();
    let op = batch.column(5).as_primitive::<UInt8Type>();
    let row = |i: usize| {
        let row = (
            host.is_valid(i).then(|| host.value(i).to_owned()),
            n.is_valid(i).then(|| n.value(i)),
            ts.value(i),
            usage.is_valid(i).then(|| usage.value(i)),
        );
        (row, sequence.value(i), op.value(i))
    };
    (0..batch.num_rows()).map(row).collect()
}

fn key((row, sequence, _): &(Row, u64, u8)) -> (Option<String>, Option<i64>, i64, std::cmp::Reverse<u64>) {
    (row.0.clone(), row.1, row.2, std::cmp::Reverse(*sequence))
}

/// All rows of all runs, each of which must be in order.
fn runs(memtable: &Memtable, after: u64, table: &TableInfo) -> Read {
    let schema = engine_schema(&table.schema, |_| true, true);
    let mut all = Vec::new();
    let selected = memtable.view().runs(after, &schema, table, &Selection::all());
    for (batch, span) in selected.unwrap() {
        let rows = read(&batch);
        let times = || rows.iter().map(|r| r.0.2);
        assert_eq!((times().min(), times().max()), (Some(span.0), Some(span.1)));
        assert!(rows.is_sorted_by_key(key), "a run is not in order: {rows:?}");
        all.extend(rows);
    }
    all.sort_by_key(key);
    all
}

/// The rows of the runs that are of `host` and in `times`, or only the latest of them.
fn picked(
    memtable: &Memtable,
    table: &TableInfo,
    host: &str,
    times: std::ops::RangeInclusive<i64>,
    latest: bool,
) -> Read {
    let schema = engine_schema(&table.schema, |_| true, true);
    let holds = |tags: &RecordBatch| {
        let hosts = cast(tags.column(0), &DataType::Utf8).unwrap();
        let hosts = hosts.as_string::<i32>().iter();
        Ok(hosts.map(|h| Some(h == Some(host))).collect())
    };
    let selection = Selection {
        times,
        series: Some(SeriesFilter {
            tags: Arc::new(schema.project(&[0]).unwrap()),
            holds: &holds,
        }),
        latest,
    };
    let mut all = Vec::new();
    for (batch, _) in memtable.view().runs(0, &schema, table, &selection).unwrap() {
        let rows = read(&batch);
        assert!(!rows.is_empty() && rows.is_sorted_by_key(key));
        all.extend(rows);
    }
    all
}

/// What the writes come to, done in the simplest way.
fn naive(writes: &[(u64, RowOp, Vec<Row>)], after: u64, versions: Versions) -> Read {
    let mut kept: BTreeMap<_, (Row, u64, u8)> = BTreeMap::new();
    let mut number = 0;
    for (sequence, op, rows) in writes.iter().filter(|w| w.0 > after) {
        for row in rows {
            number += 1;
            let identity = (row.0.clone(), row.1, row.2);
            let of_write = match versions {
                Versions::All => (*sequence, number),
                Versions::OfEachWrite => (*sequence, 0),
                Versions::Newest => (0, 0),
            };
            kept.insert((identity, of_write), (row.clone(), *sequence, op.code()));
        }
    }
    let mut all: Read = kept.into_values().collect();
    all.sort_by_key(key);
    all
}

fn sorted_values(mut rows: Read) -> Vec<String> {
    rows.sort_by_key(key);
    let mut shown: Vec<String> = rows.iter().map(|r| format!("{r:?}")).collect();
    shown.sort();
    shown
}

#[derive(Clone, Debug)]
enum Step {
    Write(RowOp, Vec<Row>),
    Read,
    Forget(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = proptest::option::of("[ab]{0,2}");
    let days = prop_oneof![8 => -1..2_i64, 1 => -400..400_i64];
    let time = (days, 0..4_i64).prop_map(|(day, ms)| day * DAY + ms);
    let row = (
        host,
        proptest::option::of(-1..2_i64),
        time,
        proptest::option::of(0.0..1.0),
    );
    let op = prop_oneof![4 => Just(RowOp::Put), 1 => Just(RowOp::Delete)];
    let write = (op, proptest::collection::vec(row, 1..6)).prop_map(|(op, rows)| Step::Write(op, rows));
    let step = prop_oneof![20 => write, 2 => Just(Step::Read), 1 => (0..40_u64).prop_map(Step::Forget)];
    proptest::collection::vec(step, 1..90)
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(
        steps in steps(),
        append in any::<bool>(),
        after in 0..60_u64,
        host in "[ab]{0,2}",
        from in -2 * DAY..2 * DAY,
        length in prop_oneof![0..4_i64, Just(DAY), Just(i64::MAX / 2)],
    ) {
        let table = two_tags(append);
        let versions = if append { Versions::All } else { Versions::OfEachWrite };
        let (mut memtable, mut writes, mut sequence) = (Memtable::default(), Vec::new(), 0);
        for step in steps {
            match step {
                Step::Write(op, rows) => {
                    sequence += 1;
                    let write = write_of(&rows, &table);
                    memtable.insert(&write, &table.schema, (sequence, op), BUFFERS).unwrap();
                    writes.push((sequence, op, rows));
                }
                Step::Read => {
                    let expected = sorted_values(naive(&writes, 0, versions));
                    prop_assert_eq!(sorted_values(runs(&memtable, 0, &table)), expected);
                }
                Step::Forget(through) => {
                    memtable.forget_through(through.min(sequence)).unwrap();
                    writes.retain(|w| w.0 > through.min(sequence));
                }
            }
        }
        let expected = sorted_values(naive(&writes, after, versions));
        prop_assert_eq!(sorted_values(runs(&memtable, after, &table)), expected);
        let times = from..=from + length;
        let mut wanted = naive(&writes, 0, versions);
        wanted.retain(|(row, _, _)| row.0.as_deref() == Some(&host) && times.contains(&row.2));
        let found = picked(&memtable, &table, &host, times.clone(), false);
        prop_assert_eq!(sorted_values(found), sorted_values(wanted.clone()));
        let series = |row: &Row| (row.0.clone(), row.1);
        let is_latest = |(row, _, _): &(Row, u64, u8)| {
            let later = |(other, _, _): &(Row, u64, u8)| series(other) == series(row) && other.2 > row.2;
            !wanted.iter().any(later)
        };
        // A run does not know of later rows of another.
        let mut found = picked(&memtable, &table, &host, times, true);
        found.retain(is_latest);
        let latest = wanted.iter().filter(|row| is_latest(row)).cloned();
        prop_assert_eq!(sorted_values(found), sorted_values(latest.collect()));
        let newest = if append { Versions::All } else { Versions::Newest };
        let schema = engine_schema(&table.schema, |_| true, true);
        let mut flushed = Vec::new();
        for window in memtable.view().sorted_windows(after, &table, newest) {
            let batches = window.batches(7, Arc::clone(&schema)).map(|b| read(&b.unwrap()));
            let rows: Read = batches.flatten().collect();
            prop_assert!(rows.is_sorted_by_key(key));
            flushed.extend(rows);
        }
        prop_assert_eq!(sorted_values(flushed), sorted_values(naive(&writes, after, newest)));
    }
}

fn insert(memtable: &mut Memtable, sequence: u64, rows: &[crate::testing::Row]) {
    let schema = table(1, true).schema;
    let rows = SeriesBatch::from_named(&batch(rows), &schema).unwrap();
    memtable
        .insert(&rows, &schema, (sequence, RowOp::Put), BUFFERS)
        .unwrap();
}

fn sequences(view: &MemtableView, after: u64) -> Vec<u64> {
    let table = table(1, true);
    let schema = engine_schema(&table.schema, |_| true, true);
    let mut all = Vec::new();
    for (batch, _) in view.runs(after, &schema, &table, &Selection::all()).unwrap() {
        let column = batch.column_by_name("__sequence").unwrap();
        all.extend(column.as_primitive::<UInt64Type>().values().iter().copied());
    }
    all.sort_unstable();
    all
}

#[test]
fn small_writes_are_joined_into_few_chunks_and_none_is_lost() {
    let mut memtable = Memtable::default();
    for sequence in 1..=5000 {
        insert(&mut memtable, sequence, &[row("a", sequence as i64, 1.0)]);
    }
    assert!(memtable.chunks() < 3 * JOINED, "{} chunks", memtable.chunks());
    assert_eq!(memtable.rows(), 5000);
    assert_eq!(sequences(&memtable.view(), 0), (1..=5000).collect::<Vec<_>>());
    assert_eq!(memtable.max_sequence(), Some(5000));
}

#[test]
fn what_is_in_files_is_forgotten_row_by_row() {
    let mut memtable = Memtable::default();
    for sequence in 1..=100 {
        insert(&mut memtable, sequence, &[row("a", sequence as i64, 1.0)]);
    }
    let rest: Vec<u64> = (38..=100).collect();
    assert_eq!(
        sequences(&memtable.view(), 37),
        rest,
        "a reader can skip them before"
    );
    let before = memtable.bytes();
    memtable.forget_through(37).unwrap();
    assert!(memtable.bytes() < before);
    assert_eq!(sequences(&memtable.view(), 0), rest);
    memtable.forget_through(100).unwrap();
    assert!(memtable.is_empty());
    assert_eq!(memtable.bytes(), 0);
}

#[test]
fn a_reader_keeps_what_it_saw_while_rows_are_added_and_forgotten() {
    let mut memtable = Memtable::default();
    insert(&mut memtable, 1, &[row("a", 1, 1.0)]);
    let seen = memtable.view();
    insert(&mut memtable, 2, &[row("b", 1, 1.0)]);
    assert_eq!(sequences(&seen, 0), [1]);
    assert_eq!(sequences(&memtable.view(), 0), [1, 2]);
    memtable.forget_through(2).unwrap();
    assert_eq!(sequences(&seen, 0), [1]);
}

#[test]
fn sorting_is_done_once_and_rows_that_come_later_are_few() {
    let mut memtable = Memtable::default();
    for sequence in 1..=100 {
        insert(&mut memtable, sequence, &[row("a", -(sequence as i64), 1.0)]);
    }
    sequences(&memtable.view(), 0);
    assert_eq!(
        memtable.chunks(),
        1,
        "the sorted run is in the place of what it was made of"
    );
    for sequence in 101..=2000 {
        insert(&mut memtable, sequence, &[row("a", -(sequence as i64), 1.0)]);
        if sequence % 10 == 0 {
            assert_eq!(sequences(&memtable.view(), 0).len(), sequence as usize);
            assert!(memtable.chunks() < 12, "{} runs", memtable.chunks());
        }
    }
}

#[test]
fn memory_is_counted_with_series_and_with_what_readers_made() {
    let mut memtable = Memtable::default();
    let rows: Vec<_> = (0..10_000)
        .map(|i| row(&format!("host_{i:0100}"), i, 1.0))
        .collect();
    insert(&mut memtable, 1, &rows);
    let before = memtable.bytes();
    assert!(before > 10_000 * 110, "{before} bytes for 10,000 names of 105");
    sequences(&memtable.view(), 0);
    assert!(
        memtable.bytes() > 10_000 * 210,
        "{} bytes with a run",
        memtable.bytes()
    );
}

#[test]
fn many_series_and_one_hot_series_are_both_sorted() {
    let series = many_series();
    let shuffled = |i: i64| i * 7919 % series;
    let mut memtable = Memtable::default();
    let rows: Vec<_> = (0..series)
        .map(|i| row(&format!("host_{}", shuffled(i)), 5, 1.0))
        .collect();
    insert(&mut memtable, 1, &rows);
    let hot: Vec<_> = (0..series).map(|i| row("hot", shuffled(i), 1.0)).collect();
    insert(&mut memtable, 2, &hot);
    let table = table(1, false);
    let schema = engine_schema(&table.schema, |_| true, true);
    let runs = memtable
        .view()
        .runs(0, &schema, &table, &Selection::all())
        .unwrap();
    let rows: usize = runs.iter().map(|(run, _)| run.num_rows()).sum();
    assert_eq!(rows as i64, 2 * series);
    for (run, _) in &runs {
        let hosts = cast(run.column(0), &DataType::Utf8).unwrap();
        let hosts = hosts.as_string::<i32>();
        let times = run.column(1).as_primitive::<TimestampMillisecondType>();
        let row = |i: usize| (hosts.value(i), times.value(i));
        assert!((1..run.num_rows()).all(|i| row(i - 1) < row(i)));
    }
}

#[test]
fn a_column_that_changed_its_type_is_read_in_the_new_one_and_an_absent_one_is_null() {
    let mut memtable = Memtable::default();
    insert(&mut memtable, 1, &[row("a", 1, 1.5)]);
    let mut table = table(1, false);
    let usage = table
        .schema
        .columns
        .iter_mut()
        .find(|c| c.name == "usage")
        .unwrap();
    usage.column_type = ColumnType::String;
    usage.name = "used".into();
    let more = [
        ColumnSchema::new("dc", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("n", ColumnType::Int64, Semantic::Field),
    ];
    let more = more.map(|column| greptime_types::Change::AddColumn {
        column,
        if_not_exists: false,
    });
    let table = table.altered(&more).unwrap().unwrap();
    let schema = engine_schema(&table.schema, |_| true, true);
    let runs = memtable
        .view()
        .runs(0, &schema, &table, &Selection::all())
        .unwrap();
    let column = |name: &str| runs[0].0.column_by_name(name).unwrap();
    assert_eq!(column("used").as_string::<i32>().value(0), "1.5");
    assert_eq!(
        (column("dc").logical_null_count(), column("n").null_count()),
        (1, 1)
    );
}
