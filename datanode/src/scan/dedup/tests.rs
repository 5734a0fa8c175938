//! Merging against a map, with batches cut anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt8Array, UInt64Array,
};
use arrow::datatypes::{Float64Type, Int64Type, UInt8Type, UInt64Type};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryStreamExt, stream};
use greptime_types::MergeMode;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use proptest::prelude::*;

use super::{Deletes, dedup};
use crate::memtable::KeyColumns;
use crate::region::RowOp;

/// One version of an identity; the position in the list is its sequence.
#[derive(Clone, Debug)]
struct Version {
    tag: Option<u8>,
    time: i64,
    delete: bool,
    a: Option<i8>,
    b: Option<u8>,
}

type Identity = (Option<String>, i64);
type Fields = (Option<f64>, Option<String>);

fn versions() -> impl Strategy<Value = Vec<Version>> {
    let version = (
        prop::option::weighted(0.8, 0..3u8),
        0..3i64,
        prop::bool::weighted(0.15),
        prop::option::of(any::<i8>()),
        prop::option::of(0..9u8),
    );
    let version = version.prop_map(|(tag, time, delete, a, b)| Version {
        tag,
        time,
        delete,
        a: a.filter(|_| !delete),
        b: b.filter(|_| !delete),
    });
    prop::collection::vec(version, 0..60)
}

impl Version {
    fn identity(&self) -> Identity {
        (self.tag.map(|t| format!("t{t}")), self.time)
    }

    fn fields(&self) -> Fields {
        (self.a.map(f64::from), self.b.map(|b| format!("b{b}")))
    }
}

fn key(merge_mode: MergeMode) -> KeyColumns {
    let name = |name: &str, data_type| (name.to_owned(), data_type);
    KeyColumns {
        columns: vec![
            name("tag", arrow::datatypes::DataType::Utf8),
            name("time", arrow::datatypes::DataType::Int64),
        ],
        append_mode: false,
        merge_mode,
    }
}

/// Sorted as rows are in a region.
fn batch(versions: &[Version]) -> RecordBatch {
    let mut rows: Vec<(Identity, usize)> = versions
        .iter()
        .enumerate()
        .map(|(i, v)| (v.identity(), i))
        .collect();
    rows.sort_by(|(a, i), (b, j)| a.cmp(b).then(j.cmp(i)));
    let of = |i: usize| &versions[i];
    let tags: StringArray = rows.iter().map(|((tag, _), _)| tag.clone()).collect();
    let times: Int64Array = rows.iter().map(|((_, time), _)| Some(*time)).collect();
    let a: Float64Array = rows.iter().map(|(_, i)| of(*i).fields().0).collect();
    let b: StringArray = rows.iter().map(|(_, i)| of(*i).fields().1).collect();
    let sequences: UInt64Array = rows.iter().map(|(_, i)| Some(*i as u64)).collect();
    let op = |v: &Version| if v.delete { RowOp::Delete } else { RowOp::Put };
    let ops: UInt8Array = rows.iter().map(|(_, i)| Some(op(of(*i)).code())).collect();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("tag", Arc::new(tags), true),
        ("time", Arc::new(times), true),
        ("a", Arc::new(a), true),
        ("b", Arc::new(b), true),
        (SEQUENCE_COLUMN, Arc::new(sequences), true),
        (OP_COLUMN, Arc::new(ops), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// What came out: identity, fields, sequence and whether it is a delete.
type Row = (Identity, Fields, u64, bool);

fn run(batch: &RecordBatch, cuts: &[usize], mode: MergeMode, deletes: Deletes) -> Vec<Row> {
    let mut bounds: Vec<usize> = cuts.iter().map(|c| c % (batch.num_rows() + 1)).collect();
    bounds.extend([0, batch.num_rows()]);
    bounds.sort_unstable();
    let parts: Vec<_> = bounds
        .windows(2)
        .map(|w| Ok(batch.slice(w[0], w[1] - w[0])))
        .collect();
    let rows = Box::pin(RecordBatchStreamAdapter::new(batch.schema(), stream::iter(parts)));
    let merged = dedup(rows, key(mode), deletes);
    let batches: Vec<RecordBatch> = futures::executor::block_on(merged.try_collect()).unwrap();
    batches.iter().flat_map(rows_of).collect()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let text = |column: &ArrayRef, i: usize| {
        let column = column.as_string::<i32>();
        column.is_valid(i).then(|| column.value(i).to_owned())
    };
    let row = |i: usize| {
        let a = batch.column(2).as_primitive::<Float64Type>();
        (
            (
                text(batch.column(0), i),
                batch.column(1).as_primitive::<Int64Type>().value(i),
            ),
            (a.is_valid(i).then(|| a.value(i)), text(batch.column(3), i)),
            batch.column(4).as_primitive::<UInt64Type>().value(i),
            batch.column(5).as_primitive::<UInt8Type>().value(i) == RowOp::Delete.code(),
        )
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The versions applied to a map, one after the other.
fn model(versions: &[Version], mode: MergeMode) -> BTreeMap<Identity, (Fields, u64)> {
    let mut map: BTreeMap<Identity, (Fields, u64)> = BTreeMap::new();
    for (sequence, version) in versions.iter().enumerate() {
        let identity = version.identity();
        if version.delete {
            map.remove(&identity);
            continue;
        }
        let older = map.remove(&identity).map(|(fields, _)| fields);
        let new = version.fields();
        let fields = match (mode, older) {
            (MergeMode::LastNonNull, Some(older)) => (new.0.or(older.0), new.1.or(older.1)),
            _ => new,
        };
        map.insert(identity, (fields, sequence as u64));
    }
    map
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_reader_sees_is_what_a_map_has(
        versions in versions(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
        mode in prop_oneof![Just(MergeMode::LastRow), Just(MergeMode::LastNonNull)],
    ) {
        let shown = run(&batch(&versions), &cuts, mode, Deletes::Drop);
        let expected: Vec<Row> = model(&versions, mode)
            .into_iter()
            .map(|(identity, (fields, sequence))| (identity, fields, sequence, false))
            .collect();
        prop_assert_eq!(shown, expected);
    }

    /// Files are made of parts of the rows, and merged again: with the deletes kept, nothing is lost on the way.
    #[test]
    fn merging_parts_first_changes_nothing(
        versions in versions(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
        split in any::<prop::sample::Index>(),
        mode in prop_oneof![Just(MergeMode::LastRow), Just(MergeMode::LastNonNull)],
    ) {
        let at = if versions.is_empty() { 0 } else { split.index(versions.len()) };
        let whole = batch(&versions);
        let parts = |range: &dyn Fn(u64) -> bool| {
            let sequences = whole.column(4).as_primitive::<UInt64Type>();
            let wanted: Vec<bool> = sequences.values().iter().map(|s| range(*s)).collect();
            let part = arrow::compute::filter_record_batch(&whole, &wanted.into()).unwrap();
            run(&part, &cuts, mode, Deletes::Keep)
        };
        let (old, new) = (parts(&|s| s < at as u64), parts(&|s| s >= at as u64));
        let mut rows: Vec<Row> = old.into_iter().chain(new).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0).then(b.2.cmp(&a.2)));
        let expected = run(&whole, &[], mode, Deletes::Drop);
        prop_assert_eq!(run(&of_rows(&rows, &whole), &cuts, mode, Deletes::Drop), expected);
    }
}

fn of_rows(rows: &[Row], like: &RecordBatch) -> RecordBatch {
    let tags: StringArray = rows.iter().map(|r| r.0.0.clone()).collect();
    let times: Int64Array = rows.iter().map(|r| Some(r.0.1)).collect();
    let a: Float64Array = rows.iter().map(|r| r.1.0).collect();
    let b: StringArray = rows.iter().map(|r| r.1.1.clone()).collect();
    let sequences: UInt64Array = rows.iter().map(|r| Some(r.2)).collect();
    let code = |delete: bool| if delete { RowOp::Delete } else { RowOp::Put }.code();
    let ops: UInt8Array = rows.iter().map(|r| Some(code(r.3))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(tags),
        Arc::new(times),
        Arc::new(a),
        Arc::new(b),
        Arc::new(sequences),
        Arc::new(ops),
    ];
    RecordBatch::try_new(like.schema(), columns).unwrap()
}
