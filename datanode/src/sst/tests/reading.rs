use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use greptime_types::{ColumnSchema, ErrorKind, Semantic};
use object_store::ObjectStoreExt;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use proptest::prelude::*;

use super::*;
use crate::cache::OneOf;
use crate::sst::{TABLE_KEY, key_of};

const START: i64 = 1_700_000_000_000;

pub(super) fn compiled(expr: &Expr, schema: &SchemaRef) -> Arc<dyn PhysicalExpr> {
    let schema = DFSchema::try_from(Arc::clone(schema)).unwrap();
    create_physical_expr(expr, &schema, &ExecutionProps::new(), &Default::default()).unwrap()
}

/// Predicates that prune by each means: leading tag, other tag, field, nothing.
fn predicates() -> Vec<Option<Expr>> {
    let host = |name: &str| col("host").eq(lit(name));
    vec![
        None,
        Some(host("host-00007")),
        Some(host("nobody")),
        Some(col("rack").eq(lit("rack-07919"))),
        Some(col("rack").eq(lit("rack-00001"))),
        Some(col("rack").is_null()),
        Some(col("load").gt(lit(95.0))),
        Some(col("load").gt(lit(200.0))),
        Some(
            col("count")
                .lt(lit(70_000_i64))
                .and(col("host").gt_eq(lit("host-00003"))),
        ),
    ]
}

/// What a request must give, computed the simple way.
fn expected(
    rows: &RecordBatch,
    names: &[&str],
    predicate: Option<&Expr>,
    time: Option<(i64, i64)>,
) -> RecordBatch {
    let mut wanted = BooleanArray::from(vec![true; rows.num_rows()]);
    if let Some(predicate) = predicate {
        let value = compiled(predicate, &rows.schema()).evaluate(rows).unwrap();
        let value = value.into_array(rows.num_rows()).unwrap();
        wanted = value.as_boolean().iter().map(|v| Some(v == Some(true))).collect();
    }
    if let Some((first, last)) = time {
        let times = rows
            .column_by_name("ts")
            .unwrap()
            .as_primitive::<TimestampMillisecondType>();
        let within: BooleanArray = times.iter().map(|t| t.map(|t| first <= t && t <= last)).collect();
        wanted = arrow::compute::and(&wanted, &within).unwrap();
    }
    let kept = filter_record_batch(rows, &wanted).unwrap();
    let columns = names
        .iter()
        .map(|n| Arc::clone(kept.column_by_name(n).unwrap()))
        .collect();
    RecordBatch::try_new(columns_in_order(names), columns).unwrap()
}

fn columns_in_order(names: &[&str]) -> SchemaRef {
    let all = schema_of(&metrics_table());
    plain_schema(
        names
            .iter()
            .map(|n| all.field_with_name(n).unwrap().clone())
            .collect(),
    )
}

/// Dictionaries may differ where their texts do not.
fn texts(batch: &RecordBatch) -> Vec<ArrayRef> {
    let plain = |c: &ArrayRef| match c.data_type() {
        DataType::Dictionary(_, values) => cast(c, values).unwrap(),
        _ => Arc::clone(c),
    };
    batch.columns().iter().map(plain).collect()
}

#[tokio::test]
async fn every_predicate_and_time_gives_exactly_the_rows_that_pass_it_cold_and_warm() {
    let written = Written::new(metrics_rows(60, 5000)).await;
    let names = ["host", "rack", "ts", "load", "count"];
    for predicate in predicates() {
        for time in [None, Some((START + 1_000_000, START + 2_000_000)), Some((0, 5))] {
            let source = written.cold();
            for keep in [false, true, true] {
                let file = source.open(&written.meta, &ReadMetrics::default()).await.unwrap();
                let schema = columns_in_order(&names);
                let compiled = predicate.as_ref().map(|p| compiled(p, &schema));
                let mut request = ReadRequest::new(schema).with_predicate(compiled).with_time(time);
                request.keep = keep;
                let got = read_all(&file, request.clone()).await.unwrap();
                let want = expected(&written.rows, &names, predicate.as_ref(), time);
                assert_eq!(texts(&got), texts(&want), "{predicate:?} {time:?} keep={keep}");
                let returned = request.metrics.counts().rows_returned;
                assert_eq!(returned, want.num_rows() as u64);
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_have_wanted_rows_is_not_read_and_counted_as_pruned() {
    let written = Written::new(metrics_rows(60, 5000)).await;
    let schema = columns(&["host", "rack", "ts", "load"]);
    let counts = async |predicate: Option<Expr>, time| {
        let source = written.cold();
        let file = source.open(&written.meta, &ReadMetrics::default()).await.unwrap();
        let compiled = predicate.as_ref().map(|p| compiled(p, &schema));
        let request = ReadRequest::new(Arc::clone(&schema))
            .with_predicate(compiled)
            .with_time(time);
        read_all(&file, request.clone()).await.unwrap();
        request.metrics.counts()
    };
    // 300,000 rows are three row groups.
    let all = counts(None, None).await;
    assert_eq!(
        (all.row_groups, all.rows, all.rows_pruned, all.pages_pruned),
        (3, 300_000, 0, 0)
    );
    let by_host = counts(Some(col("host").eq(lit("host-00007"))), None).await;
    assert_eq!(by_host.row_groups_pruned_by_statistics, 2);
    assert!(
        by_host.rows_pruned > 90_000 && by_host.pages_pruned > 10,
        "{by_host:?}"
    );
    assert!(
        by_host.bytes_from_store < all.bytes_from_store,
        "{by_host:?} {all:?}"
    );
    let by_time = counts(None, Some((0, 5))).await;
    assert_eq!(
        (by_time.row_groups_pruned_by_time, by_time.bytes_from_store),
        (3, 0)
    );
}

#[tokio::test]
async fn a_value_that_is_not_there_is_ruled_out_by_the_bloom_filter_of_its_tag() {
    // Every row group has racks from all over their range.
    let written = Written::new(metrics_rows(3000, 100)).await;
    let schema = columns(&["rack", "ts"]);
    let predicate = compiled(&col("rack").eq(lit("rack-05000x")), &schema);
    let file = written.open().await.unwrap();
    let request = ReadRequest::new(schema).with_predicate(Some(predicate));
    let got = read_all(&file, request.clone()).await.unwrap();
    assert_eq!(got.num_rows(), 0);
    let counts = request.metrics.counts();
    assert_eq!(
        (
            counts.row_groups_pruned_by_statistics,
            counts.row_groups_pruned_by_bloom_filter
        ),
        (0, 3)
    );
}

/// Row numbers whose `load` is NaN, of either sign, among rows of three row groups.
const NANS: [(usize, f64); 2] = [(3, f64::NAN), (140_000, -f64::NAN)];

fn rows_with_nan() -> RecordBatch {
    let rows = metrics_rows(60, 5000);
    let mut loads: Vec<Option<f64>> = rows.column(3).as_primitive::<Float64Type>().iter().collect();
    for (at, nan) in NANS {
        loads[at] = Some(nan);
    }
    let mut columns = rows.columns().to_vec();
    columns[3] = Arc::new(arrow::array::Float64Array::from(loads));
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

/// Numbers of rows that are given out, and row groups that were not read.
async fn pruned_by(file: &SstFile, expr: &Expr) -> (Vec<i64>, u64) {
    let schema = columns(&["ts", "load", "count"]);
    let pruning = compiled(expr, &schema);
    let request = ReadRequest::new(schema).with_pruning(Some(pruning));
    let got = read_all(file, request.clone()).await.unwrap();
    let counts = got.column_by_name("count").unwrap().as_primitive::<Int64Type>();
    let counts = counts.iter().flatten().collect();
    (counts, request.metrics.counts().row_groups_pruned_by_statistics)
}

#[tokio::test]
async fn a_row_group_with_a_nan_is_not_left_out_by_minima_and_maxima_that_do_not_count_it() {
    let written = Written::new(rows_with_nan()).await;
    let file = written.open().await.unwrap();
    // NaN is above all numbers, or below them.
    for (expr, row, is_given, pruned) in [
        (col("load").gt(lit(1000.0)), 3, true, 1),
        (col("load").lt(lit(-1000.0)), 140_000, true, 1),
        (
            col("load").gt(lit(1000.0)).and(col("count").gt(lit(200_000_i64))),
            3,
            false,
            2,
        ),
        // Nor is it known that such a row group has no NULL.
        (col("load").is_null(), 7, true, 0),
        (col("load").is_not_null(), 3, true, 0),
    ] {
        let (given, left_out) = pruned_by(&file, &expr).await;
        assert_eq!((given.contains(&row), left_out), (is_given, pruned), "{expr}");
    }
}

#[tokio::test]
async fn minima_and_maxima_of_numbers_in_a_file_of_before_may_have_left_out_a_nan() {
    let rows = rows_with_nan();
    let engine = rows.schema();
    let fields = engine.fields().iter().map(|f| match f.data_type() {
        DataType::Dictionary(..) => Field::new(f.name(), DataType::Utf8, true),
        other => Field::new(f.name(), other.clone(), true),
    });
    let schema = plain_schema(fields.collect());
    let old = RecordBatch::try_new(Arc::clone(&schema), texts(&rows)).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&old).unwrap();
    let table = serde_json::to_string(&metrics_table()).unwrap();
    writer.append_key_value_metadata(KeyValue::new(TABLE_KEY.to_owned(), table));
    writer.close().unwrap();
    let written = Written::new(metrics_rows(1, 1)).await;
    let meta = FileMeta {
        bytes: bytes.len() as u64,
        ..written.meta.clone()
    };
    let key = key_of(written.source.bucket(), meta.home, &meta.name);
    written.store.put(&key, bytes.into()).await.unwrap();
    let file = written.cold().open(&meta, &ReadMetrics::default()).await.unwrap();
    let (given, pruned) = pruned_by(&file, &col("load").gt(lit(1000.0))).await;
    assert!(given.contains(&3) && pruned == 0, "{pruned}");
    // Other columns have no such values.
    let (given, pruned) = pruned_by(&file, &col("count").lt(lit(-1_i64))).await;
    assert!(given.is_empty() && pruned > 0, "{pruned}");
}

#[tokio::test]
async fn columns_are_found_by_id_whatever_they_are_called_and_cast_to_the_wanted_type() {
    let written = Written::new(metrics_rows(3, 10)).await;
    let file = written.open().await.unwrap();
    let mut table = metrics_table();
    table.schema.columns[3].name = "renamed".into();
    table.schema.columns[4].column_type = ColumnType::Float64;
    let mut added = ColumnSchema::new("load", ColumnType::Float64, Semantic::Field);
    added.id = 99;
    table.schema.columns.push(added);
    let schema = engine_schema(
        &table.schema,
        |c| ["renamed", "count", "load"].contains(&c.name.as_str()),
        false,
    );
    let got = read_all(&file, ReadRequest::new(schema)).await.unwrap();
    let old = |name: &str| Arc::clone(written.rows.column_by_name(name).unwrap());
    assert_eq!(got.column_by_name("renamed").unwrap(), &old("load"));
    let counts = got.column_by_name("count").unwrap().as_primitive::<Float64Type>();
    let before = old("count");
    let before = before.as_primitive::<Int64Type>();
    assert!(
        counts
            .iter()
            .zip(before.iter())
            .all(|(a, b)| a == b.map(|b| b as f64))
    );
    assert_eq!(got.column_by_name("load").unwrap().null_count(), 30);
}

#[tokio::test]
async fn a_predicate_on_a_column_that_the_file_lacks_or_has_in_another_type_prunes_nothing_wrongly() {
    let written = Written::new(metrics_rows(3, 100)).await;
    let file = written.open().await.unwrap();
    let mut table = metrics_table();
    // Numbers of before are texts now, and are ordered otherwise.
    table.schema.columns[4].column_type = ColumnType::String;
    let mut added = ColumnSchema::new("extra", ColumnType::Int64, Semantic::Field);
    added.id = 99;
    table.schema.columns.push(added);
    let schema = engine_schema(&table.schema, |_| true, false);
    let count = async |expr: Expr| {
        let predicate = compiled(&expr, &schema);
        let request = ReadRequest::new(Arc::clone(&schema)).with_predicate(Some(predicate));
        read_all(&file, request).await.unwrap().num_rows()
    };
    assert_eq!(count(col("count").eq(lit("95"))).await, 1);
    assert_eq!(count(col("extra").is_null()).await, 300);
    assert_eq!(count(col("extra").eq(lit(5_i64))).await, 0);
}

#[tokio::test]
async fn a_file_of_before_without_ids_checksums_and_dictionaries_is_read_by_names() {
    let rows = metrics_rows(3, 100);
    let engine = rows.schema();
    let fields = engine.fields().iter().map(|f| match f.data_type() {
        DataType::Dictionary(..) => Field::new(f.name(), DataType::Utf8, true),
        other => Field::new(f.name(), other.clone(), true),
    });
    let schema = plain_schema(fields.collect());
    let old = RecordBatch::try_new(Arc::clone(&schema), texts(&rows)).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&old).unwrap();
    let table = serde_json::to_string(&metrics_table()).unwrap();
    writer.append_key_value_metadata(KeyValue::new(TABLE_KEY.to_owned(), table));
    writer.close().unwrap();
    let written = Written::new(metrics_rows(1, 1)).await;
    let meta = FileMeta {
        bytes: bytes.len() as u64,
        ..written.meta.clone()
    };
    let key = key_of(written.source.bucket(), meta.home, &meta.name);
    written.store.put(&key, bytes.into()).await.unwrap();
    let source = written.cold();
    let file = source.open(&meta, &ReadMetrics::default()).await.unwrap();
    let got = read_all(&file, ReadRequest::new(schema_of(&metrics_table())))
        .await
        .unwrap();
    assert_eq!(texts(&got), texts(&rows));
    assert!(matches!(
        got.schema().field(0).data_type(),
        DataType::Dictionary(..)
    ));
}

#[tokio::test]
async fn a_file_that_is_gone_is_not_found() {
    let written = Written::new(metrics_rows(1, 10)).await;
    let key = key_of(written.source.bucket(), written.meta.home, &written.meta.name);
    written.store.delete(&key).await.unwrap();
    let error = written.open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn columns_decoded_once_are_not_decoded_again_and_series_begin_where_tags_change() {
    let written = Written::new(metrics_rows(60, 5000)).await;
    let file = written.open().await.unwrap();
    let metrics = ReadMetrics::default();
    let schema = columns(&["ts", "load"]);
    let first = file.columns(1, schema.fields(), &metrics).await.unwrap();
    let decoded = metrics.counts().bytes_decoded;
    let second = file.columns(1, schema.fields(), &metrics).await.unwrap();
    assert_eq!(first, second);
    let counts = metrics.counts();
    assert_eq!(
        (counts.bytes_decoded, counts.bytes_decoded_before > 0),
        (decoded, true)
    );
    let offset = 128 * 1024;
    assert_eq!(
        first[0].as_ref(),
        written
            .rows
            .column_by_name("ts")
            .unwrap()
            .slice(offset, offset)
            .as_ref()
    );
    let series = file.series(1, &metrics).await.unwrap();
    let inner: Vec<u32> = (27..=52).map(|i| i * 5000 - offset as u32).collect();
    assert_eq!(series.starts()[1..series.len()], inner);
    assert_eq!(series.rows(), offset);
    assert!(file.knows_series(1));
    let hosts = columns(&["host"]);
    let hosts = file
        .of_series(1, &series, hosts.fields(), OneOf::First, &metrics)
        .await
        .unwrap();
    let hosts = cast(&hosts[0], &DataType::Utf8).unwrap();
    assert_eq!(
        (hosts.as_string::<i32>().value(0), hosts.len()),
        ("host-00026", series.len())
    );
}

#[tokio::test]
async fn many_series_are_found_by_their_tags() {
    let written = Written::new(metrics_rows(1000, 200)).await;
    let file = written.open().await.unwrap();
    assert!(!file.knows_series(0));
    let metrics = ReadMetrics::default();
    let series = file.series(0, &metrics).await.unwrap();
    let starts: Vec<u32> = (0..128 * 1024).step_by(200).collect();
    assert_eq!(series.starts()[..series.len()], starts);
    let decoded = metrics.counts().bytes_decoded;
    let tags = columns(&["rack", "host"]);
    let tags = file
        .of_series(0, &series, tags.fields(), OneOf::First, &metrics)
        .await
        .unwrap();
    assert_eq!(
        metrics.counts().bytes_decoded,
        decoded,
        "they were decoded with the series"
    );
    assert_eq!(
        tags.iter().map(|t| t.len()).collect::<Vec<_>>(),
        [series.len(); 2]
    );
}

#[tokio::test]
async fn the_time_filters_also_where_it_is_not_asked_for() {
    let written = Written::new(metrics_rows(2, 100)).await;
    let file = written.open().await.unwrap();
    for keep in [false, true] {
        let mut request = ReadRequest::new(columns(&["load"])).with_time(Some((START, START + 90_000)));
        request.keep = keep;
        let got = read_all(&file, request).await.unwrap();
        assert_eq!((got.num_rows(), got.num_columns()), (20, 1));
    }
}

#[tokio::test]
async fn an_error_of_the_predicate_is_not_taken_for_damage() {
    let written = Written::new(metrics_rows(2, 100)).await;
    let file = written.open().await.unwrap();
    let schema = columns(&["count", "load"]);
    let fails = compiled(
        &(lit(1_i64) / (col("count") - col("count"))).gt(lit(0_i64)),
        &schema,
    );
    for keep in [false, true] {
        let mut request = ReadRequest::new(Arc::clone(&schema)).with_predicate(Some(Arc::clone(&fails)));
        request.keep = keep;
        let error = read_all(&file, request).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    }
}

/// A condition on fields, and on a tag beside them.
fn conditions() -> impl Strategy<Value = Expr> {
    let compared = |name: &'static str, value: Expr, op: u8| match op {
        0 => col(name).gt(value),
        1 => col(name).lt_eq(value),
        2 => col(name).eq(value),
        _ => col(name).not_eq(value),
    };
    let one = prop_oneof![
        (0..110_i64, 0..4u8).prop_map(move |(v, op)| compared("load", lit(v as f64), op)),
        (0..160_000_i64, 0..4u8).prop_map(move |(v, op)| compared("count", lit(v), op)),
        (0..160_000_i64, 1..3000_i64).prop_map(|(v, n)| col("count").between(lit(v), lit(v + n))),
        (0..320u32, 0..4u8).prop_map(move |(v, op)| compared("host", lit(format!("host-{v:05}")), op)),
        Just(col("note").eq(lit("something"))),
        Just(col("note").is_null()),
        Just(col("load").is_not_null()),
    ];
    (one.clone(), one, 0..3u8).prop_map(|(a, b, join)| match join {
        0 => a,
        1 => a.and(b),
        _ => a.or(b),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_left_out_by_any_condition_has_no_row_that_passes_it(
        conditions in prop::collection::vec(conditions(), 1..8), keep: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let written = Written::at_level(metrics_rows(300, 500), 0).await;
            let file = written.open().await.unwrap();
            let names = ["host", "ts", "load", "count", "note"];
            for condition in conditions {
                let schema = columns_in_order(&names);
                let pruning = compiled(&condition, &schema);
                let mut request = ReadRequest::new(schema).with_pruning(Some(pruning));
                request.keep = keep;
                let got = read_all(&file, request).await.unwrap();
                let passing = expected(&got, &names, Some(&condition), None);
                let want = expected(&written.rows, &names, Some(&condition), None);
                assert_eq!(texts(&passing), texts(&want), "{condition}");
            }
        });
    }

    #[test]
    fn any_range_of_time_in_any_row_groups_gives_exactly_its_rows(
        first in -10i64..600, length in 0i64..600, batch_rows in 1usize..5000, keep: bool, subset in 0usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let written = Written::at_level(metrics_rows(300, 500), 0).await;
            let file = written.open().await.unwrap();
            let time = (START + first * 10_000, START + (first + length) * 10_000);
            let mut request = ReadRequest::new(columns_in_order(&["host", "ts"])).with_time(Some(time));
            (request.batch_rows, request.keep) = (batch_rows, keep);
            let mut rows = written.rows.clone();
            if subset < 2 {
                let left = file.row_groups(&request).await.unwrap().into_iter();
                request = request.with_row_groups(left.filter(|group| group.row_group == subset).collect());
                let start = subset * 128 * 1024;
                rows = rows.slice(start, (rows.num_rows() - start).min(128 * 1024));
            }
            let got = read_all(&file, request).await.unwrap();
            let want = expected(&rows, &["host", "ts"], None, Some(time));
            assert_eq!(texts(&got), texts(&want));
        });
    }
}
