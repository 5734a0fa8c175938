//! A table whose rows are written to files and read back.

mod damage;
mod outside;
mod reading;
mod size;
mod writing;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt8Array, UInt64Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use futures::TryStreamExt;
use greptime_object_store::Bucket;
use greptime_types::{
    ColumnSchema, ColumnType, PartitionRule, RegionId, Result, Semantic, TableInfo, TableOptions,
    TableSchema, TableState, TimeUnit,
};
use object_store::memory::InMemory;
use object_store::path::Path;

use super::{FileSource, FileWriter, ReadMetrics, ReadRequest, SstFile, write_file};
use crate::cache::{CacheMetrics, CacheSizes, Caches};
use crate::manifest::FileMeta;
use crate::memtable::KeyColumns;
use crate::scan::stream_of;
use crate::schema::engine_schema;

pub(super) const SIZES: CacheSizes = CacheSizes {
    memory: 64 << 20,
    disk: 0,
    decoded: 256 << 20,
};

pub(super) fn in_memory() -> Caches {
    Caches::in_memory(SIZES, CacheMetrics::default())
}

/// `host` and `rack` are the tags, `ts` the time, `load` and `count` the fields.
pub(super) fn metrics_table() -> TableInfo {
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("rack", ColumnType::String, Semantic::Tag),
        ColumnSchema::new(
            "ts",
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
        ColumnSchema::new("load", ColumnType::Float64, Semantic::Field),
        ColumnSchema::new("count", ColumnType::Int64, Semantic::Field),
        ColumnSchema::new("note", ColumnType::String, Semantic::Field),
    ];
    TableInfo {
        format: 1,
        id: 7,
        database: "public".into(),
        name: "metrics".into(),
        schema: TableSchema::new(columns, vec!["host".into(), "rack".into()]).unwrap(),
        options: TableOptions::default(),
        partition: PartitionRule {
            columns: vec![],
            partitions: vec![],
        },
        state: TableState::Ready,
        database_ttl: None,
        created_ms: 0,
    }
}

pub(super) fn schema_of(table: &TableInfo) -> SchemaRef {
    engine_schema(&table.schema, |_| true, true)
}

/// `hosts` series with `points` rows each, ten seconds apart; every seventh value is NULL.
pub(super) fn metrics_rows(hosts: usize, points: usize) -> RecordBatch {
    let rows = hosts * points;
    let host = |i: usize| i / points;
    let hosts: DictionaryArray<Int32Type> = {
        let names: Vec<String> = (0..rows).map(|i| format!("host-{:05}", host(i))).collect();
        names.iter().map(|n| Some(n.as_str())).collect()
    };
    let racks: DictionaryArray<Int32Type> = {
        let names: Vec<String> = (0..rows)
            .map(|i| format!("rack-{:05}", host(i) * 7919 % 10_007))
            .collect();
        (0..rows)
            .map(|i| (host(i) % 5 != 4).then_some(names[i].as_str()))
            .collect()
    };
    let time = |i: usize| 1_700_000_000_000 + (i % points) as i64 * 10_000;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(hosts),
        Arc::new(racks),
        Arc::new(
            (0..rows)
                .map(|i| Some(time(i)))
                .collect::<TimestampMillisecondArray>(),
        ),
        Arc::new(
            (0..rows)
                .map(|i| (i % 7 != 0).then_some((i % 100) as f64))
                .collect::<Float64Array>(),
        ),
        Arc::new(
            (0..rows)
                .map(|i| (i % 7 != 1).then_some(i as i64))
                .collect::<Int64Array>(),
        ),
        Arc::new(
            (0..rows)
                .map(|i| (i % 3 == 0).then_some("something"))
                .collect::<StringArray>(),
        ),
        Arc::new(UInt64Array::from_value(9, rows)),
        Arc::new(UInt8Array::from_value(0, rows)),
    ];
    RecordBatch::try_new(schema_of(&metrics_table()), columns).unwrap()
}

/// A bucket in memory, a source over it, and one file.
pub(super) struct Written {
    pub store: Arc<InMemory>,
    pub source: FileSource,
    pub meta: FileMeta,
    pub rows: RecordBatch,
}

impl Written {
    pub async fn new(rows: RecordBatch) -> Self {
        Self::at_level(rows, 1).await
    }

    pub async fn at_level(rows: RecordBatch, level: u32) -> Self {
        let store = Arc::new(InMemory::new());
        let bucket = Bucket {
            store: store.clone(),
            root: Path::from("root"),
        };
        let table = metrics_table();
        let file = FileWriter {
            bucket: &bucket,
            region: RegionId::new(7, 0),
            epoch: 3,
            name: "3-a".into(),
            table: &table,
            key: &KeyColumns::of(&table),
            level,
        };
        let meta = write_file(file, stream_of(rows.clone(), 8192))
            .await
            .unwrap()
            .unwrap();
        let source = FileSource::new(bucket, in_memory());
        Self {
            store,
            source,
            meta,
            rows,
        }
    }

    pub async fn open(&self) -> Result<SstFile> {
        self.source.open(&self.meta, &ReadMetrics::default()).await
    }

    /// A source that has nothing in its caches.
    pub fn cold(&self) -> FileSource {
        FileSource::new(self.source.bucket().clone(), in_memory())
    }
}

pub(super) async fn read_all(file: &SstFile, request: ReadRequest) -> Result<RecordBatch> {
    let schema = Arc::clone(&request.schema);
    let batches: Vec<RecordBatch> = file
        .read(request)
        .try_collect()
        .await
        .map_err(|e| greptime_query::from_datafusion(&e))?;
    Ok(concat_batches(&schema, &batches).unwrap())
}

/// The columns of the table with these names, as the engine has them.
pub(super) fn columns(names: &[&str]) -> SchemaRef {
    engine_schema(
        &metrics_table().schema,
        |c| names.contains(&c.name.as_str()),
        false,
    )
}

pub(super) fn plain_schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}
