//! Files as others see them: DuckDB and pyarrow, in the versions that `scripts/parquet-readers` pins, and DataFusion's own
//! reader.

use std::path::{Path as FsPath, PathBuf};
use std::process::Command;

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeListArray, Float32Array, Int8Array,
    Int16Array, Int32Array, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    UInt16Array, UInt32Array,
};
use arrow::compute::cast;
use arrow::datatypes::Float32Type;
use datafusion::prelude::{Expr, ParquetReadOptions, SessionConfig, SessionContext, col, lit};
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use super::*;
use crate::sst::key_of;

/// The columns of [`every_type`], as they are written: for pyarrow, and for DuckDB.
const TYPES: [(&str, &str, &str); 26] = [
    ("host", "string", "VARCHAR"),
    ("zone", "string", "VARCHAR"),
    ("ts", "timestamp[ms]", "TIMESTAMP"),
    ("bool", "bool", "BOOLEAN"),
    ("i8", "int8", "TINYINT"),
    ("i16", "int16", "SMALLINT"),
    ("i32", "int32", "INTEGER"),
    ("i64", "int64", "BIGINT"),
    ("u8", "uint8", "UTINYINT"),
    ("u16", "uint16", "USMALLINT"),
    ("u32", "uint32", "UINTEGER"),
    ("u64", "uint64", "UBIGINT"),
    ("f32", "float", "FLOAT"),
    ("f64", "double", "DOUBLE"),
    ("text", "string", "VARCHAR"),
    ("bytes", "binary", "BLOB"),
    ("day", "date32[day]", "DATE"),
    // Parquet has no seconds: they are numbers to both.
    ("t_s", "int64", "BIGINT"),
    ("t_us", "timestamp[us]", "TIMESTAMP"),
    ("t_ns", "timestamp[ns]", "TIMESTAMP_NS"),
    ("price", "decimal128(10, 2)", "DECIMAL(10,2)"),
    ("large", "decimal128(38, 10)", "DECIMAL(38,10)"),
    ("doc", "string", "VARCHAR"),
    ("vec", "fixed_size_list<item: float>[3]", "FLOAT[]"),
    (SEQUENCE_COLUMN, "uint64", "UBIGINT"),
    (OP_COLUMN, "uint8", "UTINYINT"),
];

fn every_type() -> TableInfo {
    use ColumnType as T;
    let field = |(name, kind): &(&str, ColumnType)| ColumnSchema::new(*name, *kind, Semantic::Field);
    let fields = [
        ("bool", T::Boolean),
        ("i8", T::Int8),
        ("i16", T::Int16),
        ("i32", T::Int32),
        ("i64", T::Int64),
        ("u8", T::UInt8),
        ("u16", T::UInt16),
        ("u32", T::UInt32),
        ("u64", T::UInt64),
        ("f32", T::Float32),
        ("f64", T::Float64),
        ("text", T::String),
        ("bytes", T::Binary),
        ("day", T::Date),
        ("t_s", T::Timestamp(TimeUnit::Second)),
        ("t_us", T::Timestamp(TimeUnit::Microsecond)),
        ("t_ns", T::Timestamp(TimeUnit::Nanosecond)),
        ("price", T::Decimal(10, 2)),
        ("large", T::Decimal(38, 10)),
        ("doc", T::Json),
        ("vec", T::Vector(3)),
    ];
    let mut columns = vec![
        ColumnSchema::new("host", T::String, Semantic::Tag),
        ColumnSchema::new("zone", T::String, Semantic::Tag),
        ColumnSchema::new("ts", T::Timestamp(TimeUnit::Millisecond), Semantic::Timestamp),
    ];
    columns.extend(fields.iter().map(field));
    TableInfo {
        schema: TableSchema::new(columns, vec!["host".into(), "zone".into()]).unwrap(),
        ..metrics_table()
    }
}

/// Of the row `i`: hundredths, about zero.
fn price(i: usize) -> i128 {
    i as i128 * 7 - 5000
}

/// All 38 digits.
fn large(i: usize) -> i128 {
    10_i128.pow(38) - 1 - i as i128
}

fn decimal(value: i128, scale: u32) -> String {
    let (sign, unit) = (if value < 0 { "-" } else { "" }, 10_u128.pow(scale));
    let (whole, part) = (value.unsigned_abs() / unit, value.unsigned_abs() % unit);
    format!("{sign}{whole}.{part:0width$}", width = scale as usize)
}

fn decimals(values: impl Iterator<Item = Option<i128>>, precision: u8, scale: i8) -> ArrayRef {
    let array = values.collect::<Decimal128Array>();
    Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
}

fn vector(i: usize) -> [f32; 3] {
    [i as f32, -0.5, 0.25 * i as f32]
}

/// `n` rows, and the same as the readers should say them.
fn rows_of_every_type(n: usize) -> (RecordBatch, Vec<Value>) {
    macro_rules! numbers {
        ($array:ty, $at:expr) => {
            Arc::new((0..n).map($at).collect::<$array>()) as ArrayRef
        };
    }
    // Now and then a NULL, each column at other rows.
    let some = |i: usize, every: usize| !i.is_multiple_of(every);
    let host = |i: usize| format!("host-{}", i / 100);
    let text = |i: usize| format!("grüße {}", i % 13);
    let doc = |i: usize| format!("{{\"i\": [{i}, null]}}");
    let hosts: Vec<String> = (0..n).map(host).collect();
    let docs: Vec<String> = (0..n).map(doc).collect();
    let vectors = (0..n).map(|i| some(i, 13).then(|| vector(i).map(Some)));
    let texts: Vec<String> = (0..n).map(text).collect();
    let tags = |values: Vec<Option<&str>>| -> ArrayRef {
        Arc::new(values.into_iter().collect::<DictionaryArray<Int32Type>>())
    };
    let zone = |i: usize| (!(i / 100).is_multiple_of(3)).then_some("west");
    let columns: Vec<ArrayRef> = vec![
        tags(hosts.iter().map(|h| Some(h.as_str())).collect()),
        tags((0..n).map(zone).collect()),
        numbers!(TimestampMillisecondArray, |i| Some(1_700_000_000_000 + i as i64)),
        numbers!(BooleanArray, |i| some(i, 3).then_some(i % 2 == 0)),
        numbers!(Int8Array, |i| some(i, 5).then_some((i % 256) as u8 as i8)),
        numbers!(Int16Array, |i| some(i, 7).then_some(-(i as i16))),
        numbers!(Int32Array, |i| some(i, 11).then_some(i as i32 * -1000)),
        numbers!(Int64Array, |i| some(i, 13).then_some(i64::MIN + i as i64)),
        numbers!(UInt8Array, |i| some(i, 3).then_some((i % 256) as u8)),
        numbers!(UInt16Array, |i| some(i, 5).then_some(u16::MAX - i as u16)),
        numbers!(UInt32Array, |i| some(i, 7).then_some(u32::MAX - i as u32)),
        numbers!(UInt64Array, |i| some(i, 11).then_some(u64::MAX - i as u64)),
        numbers!(Float32Array, |i| some(i, 13).then_some(i as f32 / 4.0)),
        numbers!(Float64Array, |i| some(i, 3).then_some(i as f64 / 8.0)),
        numbers!(StringArray, |i| some(i, 5).then_some(texts[i].as_str())),
        numbers!(BinaryArray, |i| some(i, 7).then_some(i.to_le_bytes())),
        numbers!(Date32Array, |i| some(i, 11).then_some(i as i32 - 100)),
        numbers!(TimestampSecondArray, |i| some(i, 13).then_some(i as i64 - 7)),
        numbers!(TimestampMicrosecondArray, |i| some(i, 3)
            .then_some(i as i64 * 1_000_003)),
        numbers!(TimestampNanosecondArray, |i| some(i, 5)
            .then_some(i as i64 * 1_000_000_007)),
        decimals((0..n).map(|i| some(i, 7).then(|| price(i))), 10, 2),
        decimals((0..n).map(|i| some(i, 11).then(|| large(i))), 38, 10),
        numbers!(StringArray, |i| some(i, 3).then_some(docs[i].as_str())),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
            vectors, 3,
        )),
        numbers!(UInt64Array, |_| Some(12)),
        numbers!(UInt8Array, |i| Some(u8::from(i % 50 == 1))),
    ];
    let row = |i: usize| {
        let when = |every: usize, value: Value| if some(i, every) { value } else { Value::Null };
        let hex: String = i.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
        json!([
            hosts[i],
            zone(i),
            1_700_000_000_000_i64 + i as i64,
            when(3, json!(i.is_multiple_of(2))),
            when(5, json!((i % 256) as u8 as i8)),
            when(7, json!(-(i as i16))),
            when(11, json!(i as i32 * -1000)),
            when(13, json!(i64::MIN + i as i64)),
            when(3, json!((i % 256) as u8)),
            when(5, json!(u16::MAX - i as u16)),
            when(7, json!(u32::MAX - i as u32)),
            when(11, json!(u64::MAX - i as u64)),
            when(13, json!(i as f64 / 4.0)),
            when(3, json!(i as f64 / 8.0)),
            when(5, json!(texts[i])),
            when(7, json!(hex)),
            when(11, json!(i as i32 - 100)),
            when(13, json!(i as i64 - 7)),
            when(3, json!(i as i64 * 1_000_003)),
            when(5, json!(i as i64 * 1_000_000_007)),
            when(7, json!(decimal(price(i), 2))),
            when(11, json!(decimal(large(i), 10))),
            when(3, json!(docs[i])),
            when(13, json!(vector(i))),
            12,
            u8::from(i % 50 == 1),
        ])
    };
    let rows = RecordBatch::try_new(schema_of(&every_type()), columns).unwrap();
    (rows, (0..n).map(row).collect())
}

fn scripts() -> PathBuf {
    FsPath::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}

/// What a program printed; its failure is the test's, with what it said.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Columns with types, and rows, as both readers found them.
fn read_outside(file: &FsPath) -> Value {
    let python = output_of(&mut Command::new(scripts().join("parquet-readers")));
    let script = scripts().join("read-parquet.py");
    let found = output_of(Command::new(python.trim()).arg(script).arg(file));
    serde_json::from_str(&found).unwrap()
}

fn types(found: &Value) -> Vec<(&str, &str)> {
    let columns = found["columns"].as_array().unwrap().iter();
    columns
        .map(|c| (c[0].as_str().unwrap(), c[1].as_str().unwrap()))
        .collect()
}

/// What DataFusion's own reader finds, in the order of the file.
async fn read_by_datafusion(file: &FsPath, only: Option<Expr>) -> RecordBatch {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let options = ParquetReadOptions::default();
    let mut table = context
        .read_parquet(file.to_str().unwrap(), options)
        .await
        .unwrap();
    if let Some(only) = only {
        table = table.filter(only).unwrap();
    }
    let batches = table.collect().await.unwrap();
    concat_batches(batches[0].schema_ref(), &batches).unwrap()
}

/// Texts and bytes are views there.
fn in_datafusion(kind: &DataType) -> DataType {
    match kind {
        DataType::Dictionary(..) | DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        other => other.clone(),
    }
}

/// Whether names, types and values that DataFusion has found are those of the rows.
fn assert_found(what: &str, found: &RecordBatch, rows: &RecordBatch) {
    let size = |batch: &RecordBatch| (batch.num_columns(), batch.num_rows());
    assert_eq!(size(found), size(rows), "{what}");
    for (at, field) in found.schema_ref().fields().iter().enumerate() {
        let written = rows.schema_ref().field(at);
        let what = format!("{what}, column {}", written.name());
        assert_eq!(field.name(), written.name(), "{what}");
        let kind = in_datafusion(written.data_type());
        assert!(field.data_type().equals_datatype(&kind), "{what}: {field:?}");
        let values = cast(rows.column(at), field.data_type()).unwrap();
        assert_eq!(found.column(at), &values, "{what}");
    }
}

async fn written_to_disk(level: u32, table: &TableInfo, rows: &RecordBatch, dir: &FsPath) -> PathBuf {
    let store = Arc::new(InMemory::new());
    let bucket = Bucket {
        store: store.clone(),
        root: Path::from("root"),
    };
    let file = FileWriter {
        bucket: &bucket,
        region: RegionId::new(7, 0),
        epoch: 3,
        name: "3-o".into(),
        table,
        key: &KeyColumns::of(table),
        level,
    };
    write_file(file, stream_of(rows.clone(), 1000))
        .await
        .unwrap()
        .unwrap();
    let key = key_of(&bucket, RegionId::new(7, 0), "3-o");
    let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
    let path = dir.join(format!("level-{level}.parquet"));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn duckdb_and_pyarrow_read_every_type_with_the_names_types_and_values_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, expected) = rows_of_every_type(3000);
    for level in [0, 1] {
        let path = written_to_disk(level, &every_type(), &rows, dir.path()).await;
        let found = read_outside(&path);
        for reader in ["pyarrow", "duckdb"] {
            let got = found[reader]["rows"].as_array().unwrap();
            assert_eq!(got.len(), expected.len(), "{reader}");
            for (i, (got, wanted)) in got.iter().zip(&expected).enumerate() {
                assert_eq!(got, wanted, "{reader}, level {level}, row {i}");
            }
        }
        let arrow = TYPES.map(|(name, arrow, _)| (name, arrow));
        let duck = TYPES.map(|(name, _, duck)| (name, duck));
        assert_eq!(types(&found["pyarrow"]), arrow, "pyarrow, level {level}");
        assert_eq!(types(&found["duckdb"]), duck, "duckdb, level {level}");
    }
}

#[tokio::test]
async fn datafusion_reads_every_type_with_the_names_types_and_values_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, _) = rows_of_every_type(3000);
    for level in [0, 1] {
        let path = written_to_disk(level, &every_type(), &rows, dir.path()).await;
        assert_found(
            &format!("level {level}"),
            &read_by_datafusion(&path, None).await,
            &rows,
        );
    }
}

/// Whoever prunes by what a file says of its rows must not miss any.
#[tokio::test]
async fn datafusion_finds_rows_by_statistics_pages_and_bloom_filters() {
    let dir = tempfile::tempdir().unwrap();
    const POINTS: usize = 1500;
    // Two row groups, with enough racks in the first for a bloom filter.
    let rows = metrics_rows(100, POINTS);
    let path = written_to_disk(1, &metrics_table(), &rows, dir.path()).await;
    // The rows of number 87 are in both.
    for host in [0, 7, 41, 87, 98] {
        let wanted = rows.slice(host * POINTS, POINTS);
        let of = |tag: usize| {
            let tags = cast(wanted.column(tag), &DataType::Utf8).unwrap();
            let tags = tags.as_any().downcast_ref::<StringArray>().unwrap();
            tags.value(0).to_owned()
        };
        for (tag, name) in ["host", "rack"].into_iter().enumerate() {
            let found = read_by_datafusion(&path, Some(col(name).eq(lit(of(tag))))).await;
            assert_found(&format!("{name} of number {host}"), &found, &wanted);
        }
    }
}

#[tokio::test]
async fn all_chosen_encodings_are_read_outside_with_equal_values() {
    let dir = tempfile::tempdir().unwrap();
    // Two row groups, long enough for every encoding to be somewhere the best.
    let rows = metrics_rows(30, 5000);
    let path = written_to_disk(1, &metrics_table(), &rows, dir.path()).await;
    assert_found("datafusion", &read_by_datafusion(&path, None).await, &rows);
    let found = read_outside(&path);
    for reader in ["pyarrow", "duckdb"] {
        let got = found[reader]["rows"].as_array().unwrap();
        assert_eq!(got.len(), rows.num_rows());
        for (i, row) in got.iter().enumerate() {
            let load = (i % 7 != 0).then_some((i % 100) as f64);
            let count = (i % 7 != 1).then_some(i as i64);
            let note = (i % 3 == 0).then_some("something");
            assert_eq!(
                row[0],
                json!(format!("host-{:05}", i / 5000)),
                "{reader}, row {i}"
            );
            assert_eq!(
                (&row[3], &row[4], &row[5]),
                (&json!(load), &json!(count), &json!(note)),
                "{reader}, row {i}"
            );
        }
    }
}
