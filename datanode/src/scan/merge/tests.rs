//! Merging against sorting everything.

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, StringArray, TimestampMillisecondArray, UInt8Array, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMillisecondType};
use futures::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::schema::tag_dictionary;

/// host, zone, ts, sequence, op, value
type Row = (Option<u8>, u8, i64, u64, u8, i64);

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![
        Field::new("host", tag_dictionary(), true),
        Field::new("ts", time, true),
        Field::new("value", DataType::Int64, true),
        Field::new("zone", DataType::Int64, true),
        Field::new(SEQUENCE_COLUMN, DataType::UInt64, true),
        Field::new(OP_COLUMN, DataType::UInt8, true),
    ]))
}

fn key() -> KeyColumns {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    KeyColumns {
        columns: vec![
            ("host".into(), tag_dictionary()),
            ("zone".into(), DataType::Int64),
            ("ts".into(), time),
        ],
        append_mode: false,
        merge_mode: greptime_types::MergeMode::LastRow,
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let hosts: StringArray = rows.iter().map(|r| r.0.map(|h| format!("host-{h}"))).collect();
    let columns: Vec<ArrayRef> = vec![
        cast(&hosts, &tag_dictionary()).unwrap(),
        Arc::new(TimestampMillisecondArray::from_iter_values(
            rows.iter().map(|r| r.2),
        )),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.5))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| i64::from(r.1)))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.3))),
        Arc::new(UInt8Array::from_iter_values(rows.iter().map(|r| r.4))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let hosts = cast(batch.column(0), &DataType::Utf8).unwrap();
    let hosts = hosts.as_string::<i32>();
    let host = |i| {
        hosts
            .is_valid(i)
            .then(|| hosts.value(i)["host-".len()..].parse().unwrap())
    };
    let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
    let (values, zones) = (
        batch.column(2).as_primitive::<Int64Type>(),
        batch.column(3).as_primitive::<Int64Type>(),
    );
    let sequences = batch.column(4).as_primitive::<arrow::datatypes::UInt64Type>();
    let ops = batch.column(5).as_primitive::<arrow::datatypes::UInt8Type>();
    let row = |i| {
        let zone = zones.value(i) as u8;
        (
            host(i),
            zone,
            times.value(i),
            sequences.value(i),
            ops.value(i),
            values.value(i),
        )
    };
    (0..batch.num_rows()).map(row).collect()
}

fn order(row: &Row) -> (Option<u8>, u8, i64, std::cmp::Reverse<u64>) {
    (row.0, row.1, row.2, std::cmp::Reverse(row.3))
}

fn expected(mut rows: Vec<Row>, duplicates: Duplicates) -> Vec<Row> {
    rows.sort_by_key(order);
    if let Duplicates::Newest(deletes) = duplicates {
        rows.dedup_by_key(|r| (r.0, r.1, r.2));
        rows.retain(|r| deletes == Deletes::Keep || r.4 == RowOp::Put.code());
    }
    rows
}

async fn merged(runs: &[Vec<Row>], batch_rows: usize, out_rows: usize, duplicates: Duplicates) -> Vec<Row> {
    let streams = runs.iter().map(|run| stream_of(batch(run), batch_rows)).collect();
    let config = datafusion::prelude::SessionConfig::new().with_batch_size(out_rows);
    let ctx = TaskContext::default().with_session_config(config);
    let rows = merge(streams, &schema(), &key(), duplicates, &ctx).unwrap();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    assert!(batches.iter().all(|b| (1..=out_rows).contains(&b.num_rows())));
    batches.iter().flat_map(rows_of).collect()
}

#[tokio::test]
async fn a_newer_row_wins_wherever_it_lies() {
    let old = vec![
        (Some(1), 0, 10, 5, 0, 1),
        (Some(1), 0, 20, 5, 0, 2),
        (Some(1), 0, 30, 5, 0, 3),
    ];
    let new = vec![(Some(1), 0, 20, 9, 0, 4), (Some(1), 0, 30, 9, 1, 0)];
    let newest = Duplicates::Newest(Deletes::Drop);
    let found = merged(&[old, new], 2, 10, newest).await;
    assert_eq!(found, [(Some(1), 0, 10, 5, 0, 1), (Some(1), 0, 20, 9, 0, 4)]);
}

#[tokio::test]
async fn one_time_that_fills_several_batches_is_merged() {
    let run: Vec<Row> = (0..10).rev().map(|s| (Some(1), 0, 7, s, 0, s as i64)).collect();
    let found = merged(
        &[run.clone(), vec![(Some(1), 0, 8, 3, 0, 0)]],
        2,
        3,
        Duplicates::Newest(Deletes::Keep),
    )
    .await;
    assert_eq!(found, [(Some(1), 0, 7, 9, 0, 9), (Some(1), 0, 8, 3, 0, 0)]);
}

fn runs() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let row = (
        prop::option::weighted(0.9, 0..4_u8),
        0..2_u8,
        0..12_i64,
        prop::bool::weighted(0.2),
    );
    let run = prop::collection::vec(row, 0..30);
    prop::collection::vec(run, 1..5).prop_map(|runs| {
        let mut sequence = 0;
        let mut number = |(host, zone, ts, delete): (Option<u8>, u8, i64, bool)| {
            sequence += 1;
            (host, zone, ts, sequence, u8::from(delete), sequence as i64)
        };
        let sorted = |run: Vec<_>, number: &mut dyn FnMut(_) -> Row| {
            let mut run: Vec<Row> = run.into_iter().map(number).collect();
            run.sort_by_key(order);
            run
        };
        runs.into_iter().map(|run| sorted(run, &mut number)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_gives_what_sorting_gives(
        runs in runs(),
        batch_rows in 1..8_usize,
        out_rows in 1..9_usize,
        kind in 0..3_usize,
    ) {
        let kinds = [Duplicates::Keep, Duplicates::Newest(Deletes::Keep), Duplicates::Newest(Deletes::Drop)];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(merged(&runs, batch_rows, out_rows, kinds[kind]));
        prop_assert_eq!(found, expected(runs.concat(), kinds[kind]));
    }
}
