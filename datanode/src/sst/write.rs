//! Writes one file.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use greptime_object_store::{Bucket, store_error};
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{Error, RegionId, Result, TableInfo, format};
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::{EPOCH_KEY, FORMAT_KEY, REGION_KEY, TABLE_KEY};
use crate::manifest::{FileMeta, RegionPath};
use crate::memtable::KeyColumns;
use crate::region::RowOp;

/// Rows of a row group: the unit that statistics skip and that a reader holds in memory.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Where the file `name` of `home` lies.
pub fn key_of(bucket: &Bucket, home: RegionId, name: &str) -> Path {
    let RegionPath(prefix) = RegionPath::of(home);
    bucket.key(&format!("{prefix}/sst/{name}.parquet"))
}

/// What a file is made with.
pub struct FileWriter<'a> {
    pub bucket: &'a Bucket,
    pub region: RegionId,
    pub epoch: u64,
    /// `{epoch}-{uuid}`.
    pub name: String,
    pub table: &'a TableInfo,
    pub key: &'a KeyColumns,
    /// See [`FileMeta::level`].
    pub level: u32,
}

/// Minima and maxima over what was written.
#[derive(Default)]
struct Ranges {
    rows: u64,
    sequence: Option<(u64, u64)>,
    time: Option<(i64, i64)>,
    deletes: u64,
}

/// Uploads the stream as one file; `None` if it had no rows. The file means nothing until an edit names it.
pub async fn write_file(
    file: FileWriter<'_>,
    mut rows: SendableRecordBatchStream,
) -> Result<Option<FileMeta>> {
    let schema = rows.schema();
    let key = key_of(file.bucket, file.region, &file.name);
    let target = BufWriter::new(Arc::clone(&file.bucket.store), key.clone());
    let mut writer = AsyncArrowWriter::try_new(target, Arc::clone(&schema), Some(file.properties(&schema)?))
        .map_err(|e| parquet_error(&key, &e))?;
    let mut ranges = Ranges::default();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|e| greptime_query::from_datafusion(&e))?;
        ranges.add(&batch, &file.table.schema.time_index().name)?;
        writer.write(&batch).await.map_err(|e| parquet_error(&key, &e))?;
    }
    let (Some(sequence), Some(time)) = (ranges.sequence, ranges.time) else {
        return Ok(None);
    };
    writer.close().await.map_err(|e| parquet_error(&key, &e))?;
    let head = file
        .bucket
        .store
        .head(&key)
        .await
        .map_err(|e| store_error(&format!("checking {key}"), &e))?;
    Ok(Some(FileMeta {
        name: file.name,
        home: file.region,
        rows: ranges.rows,
        bytes: head.size,
        min_sequence: sequence.0,
        max_sequence: sequence.1,
        min_time: time.0,
        max_time: time.1,
        schema_version: file.table.schema.version,
        deletes: ranges.deletes,
        level: file.level,
    }))
}

impl FileWriter<'_> {
    fn properties(&self, schema: &SchemaRef) -> Result<WriterProperties> {
        let table = serde_json::to_string(self.table).map_err(|e| Error::internal(e.to_string()))?;
        let pair = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        let position = |name: &str| schema.index_of(name).ok().map(|i| i as i32);
        let ascending = |i| SortingColumn {
            column_idx: i,
            descending: false,
            nulls_first: true,
        };
        let mut sorting: Vec<SortingColumn> = self
            .key
            .columns
            .iter()
            .filter_map(|(name, _)| position(name))
            .map(ascending)
            .collect();
        sorting.extend(position(SEQUENCE_COLUMN).map(|i| SortingColumn {
            column_idx: i,
            descending: true,
            nulls_first: true,
        }));
        Ok(WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_sorting_columns(Some(sorting))
            .set_key_value_metadata(Some(vec![
                pair(FORMAT_KEY, format::FORMAT_VERSION.to_string()),
                pair(REGION_KEY, self.region.to_string()),
                pair(EPOCH_KEY, self.epoch.to_string()),
                pair(TABLE_KEY, table),
            ]))
            .build())
    }
}

impl Ranges {
    fn add(&mut self, batch: &RecordBatch, time: &str) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| Error::internal(format!("rows without `{name}`")))
        };
        let sequence = column(SEQUENCE_COLUMN)?.as_any().downcast_ref::<UInt64Array>();
        let sequence = sequence.and_then(|s| Some((min(s)?, max(s)?)));
        let times = cast(column(time)?, &DataType::Int64).map_err(|e| Error::internal(e.to_string()))?;
        let times = times.as_any().downcast_ref::<Int64Array>();
        let times = times.and_then(|t| Some((min(t)?, max(t)?)));
        let deletes = column(OP_COLUMN)?.as_any().downcast_ref::<UInt8Array>();
        let is_delete = |op: &&u8| **op == RowOp::Delete.code();
        self.rows += batch.num_rows() as u64;
        self.deletes += deletes.map_or(0, |ops| ops.values().iter().filter(is_delete).count()) as u64;
        self.sequence = widen(self.sequence, sequence);
        self.time = widen(self.time, times);
        Ok(())
    }
}

fn widen<T: Ord + Copy>(a: Option<(T, T)>, b: Option<(T, T)>) -> Option<(T, T)> {
    match (a, b) {
        (Some((low, high)), Some((other_low, other_high))) => {
            Some((low.min(other_low), high.max(other_high)))
        }
        (a, b) => a.or(b),
    }
}

fn parquet_error(key: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::unavailable(format!("writing {key}: {error}"))
}
