//! Merging against sorting everything.

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, StringArray, TimestampMillisecondArray, UInt8Array, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMillisecondType};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use futures::{StreamExt, TryStreamExt};
use greptime_query::QueryPool;
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
        merge_mode: MergeMode::LastRow,
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

const TEXT_BYTES: usize = 64 << 10;

/// ts, text, sequence, op
fn long_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![
        Field::new("ts", time, true),
        Field::new("text", DataType::Utf8, true),
        Field::new(SEQUENCE_COLUMN, DataType::UInt64, true),
        Field::new(OP_COLUMN, DataType::UInt8, true),
    ]))
}

fn long_key() -> KeyColumns {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    KeyColumns {
        columns: vec![("ts".into(), time)],
        append_mode: false,
        merge_mode: MergeMode::LastRow,
    }
}

/// Rows with long texts, four to a batch, which come into being as they are asked for: of `runs` runs the one with
/// this number has every `runs`th time.
fn long_run(number: usize, runs: usize, rows: usize) -> SendableRecordBatchStream {
    let batch = move |first: usize| {
        let times = (first..first + 4).map(|row| (row * runs + number) as i64);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from_iter_values(times)),
            Arc::new(StringArray::from_iter_values(vec!["x".repeat(TEXT_BYTES); 4])),
            Arc::new(UInt64Array::from_value(number as u64, 4)),
            Arc::new(UInt8Array::from_value(0, 4)),
        ];
        Ok(RecordBatch::try_new(long_schema(), columns)?)
    };
    let batches = futures::stream::iter((0..rows).step_by(4).map(batch));
    Box::pin(RecordBatchStreamAdapter::new(long_schema(), batches))
}

fn in_pool(bytes: u64) -> (Arc<dyn MemoryPool>, TaskContext) {
    let pool: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(bytes, "datanode.query_memory"));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool));
    let ctx = TaskContext::default().with_runtime(runtime.build_arc().unwrap());
    (pool, ctx)
}

fn merged_long(runs: usize, rows: usize, ctx: &TaskContext) -> SendableRecordBatchStream {
    let streams = (0..runs).map(|number| long_run(number, runs, rows)).collect();
    let newest = Duplicates::Newest(Deletes::Drop);
    merge(streams, &long_schema(), &long_key(), newest, ctx).unwrap()
}

#[tokio::test]
async fn long_rows_that_overlap_are_given_out_in_batches_of_few_bytes_from_little_memory() {
    // As one batch they would be 256 MiB.
    let (runs, rows) = (4, 1024);
    let (pool, ctx) = in_pool(24 << 20);
    let mut merged = merged_long(runs, rows, &ctx);
    let (mut times, mut held) = (Vec::new(), 0);
    while let Some(batch) = merged.try_next().await.unwrap() {
        let texts = batch.column(1).as_string::<i32>();
        let bytes: usize = texts.iter().flatten().map(str::len).sum();
        assert!(bytes <= 4 << 20, "{bytes}");
        times.extend_from_slice(
            batch
                .column(0)
                .as_primitive::<TimestampMillisecondType>()
                .values(),
        );
        held = held.max(pool.reserved());
    }
    assert!(times.iter().copied().eq(0..(runs * rows) as i64));
    // Each run has a batch that is not given out as a whole.
    assert!(held >= runs * 2 * TEXT_BYTES, "{held}");
    drop(merged);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn what_rows_on_their_way_out_lie_in_is_counted_and_refused_beyond_the_pool() {
    let (pool, ctx) = in_pool(3 << 20);
    let mut merged = merged_long(4, 1024, &ctx);
    let error = merged.next().await.unwrap().unwrap_err();
    assert!(matches!(error, DataFusionError::ResourcesExhausted(_)), "{error}");
    assert!(error.to_string().contains("region merge"), "{error}");
    drop(merged);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn slices_of_the_same_columns_are_counted_once() {
    let rows: Vec<Row> = (0..4096).map(|i| (Some(1), 0, 2 * i, 5, 0, i)).collect();
    let others: Vec<Row> = (0..4096).map(|i| (Some(1), 0, 2 * i + 1, 5, 0, i)).collect();
    let whole = batch(&rows).get_array_memory_size();
    // Each of the 128 slices holds all of its run.
    let (_, ctx) = in_pool(8 * whole as u64);
    let streams = [rows, others].map(|run| stream_of(batch(&run), 64)).into();
    let newest = Duplicates::Newest(Deletes::Drop);
    let mut merged = merge(streams, &schema(), &key(), newest, &ctx).unwrap();
    let first = merged.try_next().await.unwrap().unwrap();
    assert_eq!(first.num_rows(), 8192);
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
