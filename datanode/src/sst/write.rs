//! Writes one file.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use greptime_object_store::Bucket;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{Error, RegionId, Result, TableInfo, format};
use object_store::path::Path;
use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::checksum::{PAGES_KEY, TAIL_KEY, encode_numbers, seal_tail, tail_placeholder};
use super::encode::{Effort, Encoder, base_properties};
use super::layout::Layout;
use super::series::{self, SERIES_KEY, Series};
use super::upload::Upload;
use super::{CREATED_BY, EPOCH_KEY, FLOATS_KEY, FORMAT_KEY, FileSource, REGION_KEY, TABLE_KEY};
use crate::cache::{RangeCache, RangeKey};
use crate::manifest::{FileMeta, RegionPath};
use crate::memtable::KeyColumns;
use crate::region::RowOp;

/// Rows of a row group: the unit that statistics skip and that a reader decodes as a whole.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Rows that are held for a row group take at most about so many bytes; long rows make shorter row groups.
const ROW_GROUP_BYTES: usize = 32 << 20;

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
pub async fn write_file(file: FileWriter<'_>, rows: SendableRecordBatchStream) -> Result<Option<FileMeta>> {
    write(file, rows, None).await
}

impl FileSource {
    /// As [`write_file`], and what is written is kept in the caches, so that it is not downloaded again.
    pub async fn write_file(
        &self,
        file: FileWriter<'_>,
        rows: SendableRecordBatchStream,
    ) -> Result<Option<FileMeta>> {
        write(file, rows, Some(&self.caches().ranges)).await
    }
}

async fn write(
    file: FileWriter<'_>,
    mut rows: SendableRecordBatchStream,
    keep: Option<&RangeCache>,
) -> Result<Option<FileMeta>> {
    let time = file.table.schema.time_index().name.clone();
    let mut ranges = Ranges::default();
    let mut output = Output::new(&file, &rows.schema(), keep)?;
    let mut held = Held::default();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|e| greptime_query::from_datafusion(&e))?;
        ranges.add(&batch, &time)?;
        held.push(batch);
        while let Some(row_group) = held.take_full() {
            output.row_group(row_group).await?;
        }
    }
    let (Some(sequence), Some(times)) = (ranges.sequence, ranges.time) else {
        return Ok(None);
    };
    if let Some(row_group) = held.take_rest() {
        output.row_group(row_group).await?;
    }
    let bytes = output.finish().await?;
    Ok(Some(FileMeta {
        name: file.name,
        home: file.region,
        rows: ranges.rows,
        bytes,
        min_sequence: sequence.0,
        max_sequence: sequence.1,
        min_time: times.0,
        max_time: times.1,
        schema_version: file.table.schema.version,
        deletes: ranges.deletes,
        level: file.level,
    }))
}

/// Rows that are waiting for their row group to be full.
#[derive(Default)]
struct Held {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Held {
    fn push(&mut self, batch: RecordBatch) {
        let mut rest = batch;
        // Each piece alone fits into a row group, so that long rows do not make long ones.
        while rest.num_rows() > 0 {
            let row_bytes = size_of_rows(&rest).div_ceil(rest.num_rows()).max(1);
            let fit = (ROW_GROUP_BYTES / 4 / row_bytes).clamp(1, ROW_GROUP_ROWS);
            let piece = rest.slice(0, fit.min(rest.num_rows()));
            rest = rest.slice(piece.num_rows(), rest.num_rows() - piece.num_rows());
            self.rows += piece.num_rows();
            self.bytes += piece.num_rows() * row_bytes;
            self.batches.push(piece);
        }
    }

    /// The batches of one full row group, if there are so many rows.
    fn take_full(&mut self) -> Option<Vec<RecordBatch>> {
        if self.rows < ROW_GROUP_ROWS && self.bytes < ROW_GROUP_BYTES {
            return None;
        }
        let share = |batch: &RecordBatch| self.bytes * batch.num_rows() / self.rows.max(1);
        let (mut rows, mut bytes, mut whole) = (0, 0, 0);
        while let Some(batch) = self.batches.get(whole)
            && rows + batch.num_rows() <= ROW_GROUP_ROWS
            && bytes < ROW_GROUP_BYTES
        {
            rows += batch.num_rows();
            bytes += share(batch);
            whole += 1;
        }
        let mut taken: Vec<RecordBatch> = self.batches.drain(..whole).collect();
        if bytes < ROW_GROUP_BYTES && rows < ROW_GROUP_ROWS && !self.batches.is_empty() {
            let cut = ROW_GROUP_ROWS - rows;
            let batch = &mut self.batches[0];
            taken.push(batch.slice(0, cut));
            bytes += self.bytes * cut / self.rows.max(1);
            *batch = batch.slice(cut, batch.num_rows() - cut);
            rows += cut;
        }
        self.rows -= rows;
        self.bytes -= bytes.min(self.bytes);
        Some(taken)
    }

    fn take_rest(&mut self) -> Option<Vec<RecordBatch>> {
        (self.rows > 0).then(|| std::mem::take(self).batches)
    }
}

/// Bytes that the rows of a batch take, without those that other batches share with it.
fn size_of_rows(batch: &RecordBatch) -> usize {
    let size = |column: &Arc<dyn Array>| match column.as_any_dictionary_opt() {
        Some(dictionary) => {
            let values = dictionary.values();
            let average = values.to_data().get_slice_memory_size().unwrap_or(0) / values.len().max(1);
            (size_of::<i32>() + average.min(1024)) * column.len()
        }
        None => column.to_data().get_slice_memory_size().unwrap_or(0),
    };
    batch.columns().iter().map(size).sum()
}

/// A file that is being written.
struct Output<'a> {
    name: Arc<str>,
    encoder: Encoder,
    file: SerializedFileWriter<Vec<u8>>,
    layout: Layout,
    /// Of each row group.
    series: Vec<Option<Series>>,
    upload: Upload,
    keep: Option<&'a RangeCache>,
}

impl<'a> Output<'a> {
    fn new(file: &FileWriter<'_>, schema: &SchemaRef, keep: Option<&'a RangeCache>) -> Result<Self> {
        let key = key_of(file.bucket, file.region, &file.name);
        let effort = Effort::of_level(file.level);
        let failed = |e: ParquetError| Error::internal(format!("writing {key}: {e}"));
        let descriptor = ArrowSchemaConverter::new().convert(schema).map_err(failed)?;
        let properties = file.properties(schema, effort.zstd_level)?;
        let root = descriptor.root_schema_ptr();
        let writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&root), Arc::new(properties));
        let leading = file.key.columns.first().map(|(name, _)| name.clone());
        let (_, tags) = file.key.columns.split_last().unzip();
        let tags = tags.unwrap_or(&[]).iter();
        Ok(Self {
            name: file.name.as_str().into(),
            encoder: Encoder {
                arrow: Arc::clone(schema),
                parquet: root,
                effort,
                leading,
                tags: tags.filter_map(|(name, _)| schema.index_of(name).ok()).collect(),
            },
            file: writer.map_err(failed)?,
            layout: Layout::default(),
            series: Vec::new(),
            upload: Upload::new(Arc::clone(&file.bucket.store), key),
            keep,
        })
    }

    async fn row_group(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let encoder = self.encoder.clone();
        let encoded = tokio::task::spawn_blocking(move || encoder.encode(&batches)).await;
        let encoded = encoded.map_err(|e| Error::internal(e.to_string()))?;
        let (chunks, series) = encoded.map_err(|e| self.failed(&e))?;
        self.series.push(series);
        let locations = self.append(chunks).map_err(|e| self.failed(&e))?;
        let start = self.upload.bytes();
        let bytes = self.drain()?;
        let groups = self.file.flushed_row_groups();
        let position = groups.len() - 1;
        let first = self.layout.segments().len();
        self.layout
            .add_row_group(position, &groups[position], |column| &locations[column]);
        self.layout.set_checksums(first, &bytes, start);
        if let Some(cache) = self.keep {
            for segment in &self.layout.segments()[first..] {
                let range = &segment.range;
                let part = &bytes[(range.start - start) as usize..(range.end - start) as usize];
                cache.insert(
                    RangeKey::new(&self.name, range.start),
                    Bytes::copy_from_slice(part),
                );
            }
        }
        self.upload.put(&bytes).await
    }

    /// Adds a row group; gives the pages of its columns.
    fn append(&mut self, chunks: Vec<ArrowColumnChunk>) -> Result<Vec<Vec<PageLocation>>, ParquetError> {
        let mut group = self.file.next_row_group()?;
        let mut locations = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let index = chunk.close().offset_index.as_ref();
            locations.push(index.map_or(vec![], |i| i.page_locations.clone()));
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        Ok(locations)
    }

    /// Writes the tail; gives the bytes of the whole file.
    async fn finish(mut self) -> Result<u64> {
        let start = self.upload.bytes();
        let pair = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        let checksums = encode_numbers(&self.layout.checksums());
        self.file.append_key_value_metadata(pair(PAGES_KEY, checksums));
        if let Some(list) = series::encode(&self.series) {
            self.file.append_key_value_metadata(pair(SERIES_KEY, list));
        }
        self.file
            .append_key_value_metadata(pair(TAIL_KEY, tail_placeholder(start)));
        self.file.finish().map_err(|e| self.failed(&e))?;
        let mut tail = self.drain()?;
        seal_tail(&mut tail)?;
        self.upload.put(&tail).await?;
        let bytes = self.upload.bytes();
        self.upload.finish().await?;
        if let Some(cache) = self.keep {
            cache.insert(RangeKey::tail(&self.name), tail.into());
        }
        Ok(bytes)
    }

    /// What was written since the last time.
    fn drain(&mut self) -> Result<Vec<u8>> {
        self.file.flush().map_err(|e| self.failed(&e.into()))?;
        Ok(std::mem::take(self.file.inner_mut()))
    }

    fn failed(&self, error: &ParquetError) -> Error {
        Error::internal(format!("encoding {}: {error}", self.name))
    }
}

impl FileWriter<'_> {
    fn properties(&self, schema: &SchemaRef, zstd_level: i32) -> Result<WriterProperties> {
        let table = serde_json::to_string(self.table).map_err(|e| Error::internal(e.to_string()))?;
        let pair = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        let mut properties = base_properties(zstd_level)
            .set_created_by(format!("{CREATED_BY} version {}", env!("CARGO_PKG_VERSION")))
            .set_sorting_columns(Some(self.sorting(schema)))
            .set_key_value_metadata(Some(vec![
                pair(FORMAT_KEY, format::FORMAT_VERSION.to_string()),
                pair(REGION_KEY, self.region.to_string()),
                pair(EPOCH_KEY, self.epoch.to_string()),
                pair(TABLE_KEY, table),
                pair(FLOATS_KEY, "ordered".to_owned()),
            ]))
            .build();
        add_encoded_arrow_schema_to_metadata(&plain(schema), &mut properties);
        Ok(properties)
    }

    fn sorting(&self, schema: &SchemaRef) -> Vec<SortingColumn> {
        let position = |name: &str| schema.index_of(name).ok().map(|i| i as i32);
        let sorted = |column_idx, descending| SortingColumn {
            column_idx,
            descending,
            nulls_first: true,
        };
        let key = self.key.columns.iter().filter_map(|(name, _)| position(name));
        let mut sorting: Vec<SortingColumn> = key.map(|i| sorted(i, false)).collect();
        sorting.extend(position(SEQUENCE_COLUMN).map(|i| sorted(i, true)));
        sorting
    }
}

/// What other readers are told of the types: texts, not dictionaries.
fn plain(schema: &Schema) -> Schema {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Dictionary(_, values) => field.as_ref().clone().with_data_type(values.as_ref().clone()),
        _ => field.as_ref().clone(),
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
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
