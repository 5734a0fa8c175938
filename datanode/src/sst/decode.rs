//! One row group, from bytes to batches.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::{DataFusionError, Result};
use greptime_query::into_datafusion;
use greptime_types::Error;

use crate::schema::{absent, recast};
use parking_lot::Mutex;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, RowFilter, RowSelection};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;

use super::footer::Footer;
use super::prune::Access;
use super::read::Work;
use super::{ReadMetrics, SstFile};

/// Of the rows of a row group one in so many must pass, or the other columns are decoded only where rows pass.
const FEW: usize = 8;

/// Gives the wanted rows of one row group.
pub(super) enum RowGroupReader {
    /// Columns that are decoded already, and rows of them that are still to be given out.
    Columns(Vec<ArrayRef>, VecDeque<Range<usize>>),
    Decoder(Box<Decoder>),
}

impl RowGroupReader {
    /// Decodes the columns as a whole if they are worth keeping; otherwise fetches what is decoded first.
    pub async fn open(work: &Work, access: Access) -> Result<Self> {
        if !work.request.keep {
            return Self::decoder(work, access).await;
        }
        let (file, fields) = (&work.file, work.schema.fields());
        match &access.selection {
            Some(selection) if file.are_cached(access.row_group, fields) => {
                let ranges = ranges_of(selection);
                Self::from_columns(work, &access, ranges).await
            }
            None if file.are_cacheable(access.row_group, fields) => Self::whole(work, access).await,
            _ => Self::decoder(work, access).await,
        }
    }

    /// The filter's columns first: where few rows pass, the others are decoded only there.
    async fn whole(work: &Work, access: Access) -> Result<Self> {
        let (file, metrics) = (&work.file, &work.request.metrics);
        let rows = access.rows;
        if !work.filter.passes_all(access.within_time)
            && !file.are_cached(access.row_group, work.schema.fields())
        {
            let columns = file
                .columns(access.row_group, work.filter.schema.fields(), metrics)
                .await;
            let mask = work
                .filter
                .mask(columns.map_err(into_datafusion)?, rows, access.within_time)?;
            let passing = mask.true_count();
            if passing == 0 {
                return Ok(Self::Columns(vec![], VecDeque::new()));
            }
            if passing * FEW <= rows {
                let access = Access {
                    selection: Some(RowSelection::from_filters(&[mask])),
                    ..access
                };
                return Self::decoder(work, access).await;
            }
        }
        Self::from_columns(work, &access, std::iter::once(0..rows).collect()).await
    }

    async fn from_columns(work: &Work, access: &Access, ranges: Vec<Range<usize>>) -> Result<Self> {
        let metrics = &work.request.metrics;
        let columns = work
            .file
            .columns(access.row_group, work.schema.fields(), metrics)
            .await;
        let columns = columns.map_err(into_datafusion)?;
        let wanted = work.request.schema.fields().len();
        if work.filter.passes_all(access.within_time) {
            let ranges = cut(ranges, work.request.batch_rows);
            return Ok(Self::Columns(columns[..wanted].to_vec(), ranges));
        }
        let mut parts = Vec::new();
        for range in ranges {
            let part: Vec<ArrayRef> = columns
                .iter()
                .map(|c| c.slice(range.start, range.len()))
                .collect();
            let mask =
                work.filter
                    .mask(pick(&part, &work.filter.columns), range.len(), access.within_time)?;
            parts.push((part, mask));
        }
        let (columns, rows) = passing(&parts, wanted)?;
        Ok(Self::Columns(
            columns,
            cut(std::iter::once(0..rows).collect(), work.request.batch_rows),
        ))
    }

    async fn decoder(work: &Work, access: Access) -> Result<Self> {
        let mut decoder = Box::new(Decoder::new(work, access)?);
        decoder.fetch_first(work).await?;
        Ok(Self::Decoder(decoder))
    }

    pub async fn next(&mut self, work: &Work) -> Result<Option<RecordBatch>> {
        match self {
            Self::Columns(columns, ranges) => {
                let Some(range) = ranges.pop_front() else {
                    return Ok(None);
                };
                let part = columns
                    .iter()
                    .map(|c| c.slice(range.start, range.len()))
                    .collect();
                batch_of(&work.request.schema, part, range.len()).map(Some)
            }
            Self::Decoder(decoder) => decoder.next(work).await,
        }
    }
}

/// The rows that passed, of all parts.
fn passing(parts: &[(Vec<ArrayRef>, BooleanArray)], wanted: usize) -> Result<(Vec<ArrayRef>, usize)> {
    let rows = parts.iter().map(|(_, mask)| mask.true_count()).sum();
    let mut columns = Vec::with_capacity(wanted);
    for i in 0..wanted {
        let kept = parts.iter().map(|(part, mask)| filter(&part[i], mask));
        let kept = kept.collect::<std::result::Result<Vec<_>, _>>()?;
        let kept: Vec<&dyn Array> = kept.iter().map(AsRef::as_ref).collect();
        columns.push(match kept[..] {
            [] => return Ok((vec![], 0)),
            [one] => one.slice(0, one.len()),
            _ => arrow::compute::concat(&kept)?,
        });
    }
    Ok((columns, rows))
}

fn cut(ranges: Vec<Range<usize>>, batch_rows: usize) -> VecDeque<Range<usize>> {
    let step = batch_rows.max(1);
    let pieces = ranges.into_iter().flat_map(|range| {
        let end = range.end;
        range.step_by(step).map(move |start| start..end.min(start + step))
    });
    pieces.collect()
}

fn ranges_of(selection: &RowSelection) -> Vec<Range<usize>> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for selector in selection.iter() {
        if !selector.skip {
            ranges.push(at..at + selector.row_count);
        }
        at += selector.row_count;
    }
    ranges
}

fn pick(columns: &[ArrayRef], positions: &[usize]) -> Vec<ArrayRef> {
    positions.iter().map(|&i| Arc::clone(&columns[i])).collect()
}

fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// How columns of a file become wanted ones.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    /// Columns of the file that are read, in its order.
    pub positions: Vec<usize>,
    /// Of each wanted column, where it is among those; `None`: the file does not have it.
    from: Vec<Option<usize>>,
    schema: SchemaRef,
}

impl Mapping {
    pub fn new(footer: &Footer, schema: &SchemaRef) -> Self {
        let found: Vec<Option<usize>> = schema.fields().iter().map(|f| footer.find(f)).collect();
        let mut positions: Vec<usize> = found.iter().flatten().copied().collect();
        positions.sort_unstable();
        positions.dedup();
        let place = |column: usize| positions.partition_point(|&p| p < column);
        Self {
            from: found.iter().map(|f| f.map(place)).collect(),
            schema: Arc::clone(schema),
            positions,
        }
    }

    /// Columns of the schema from those of the file.
    pub fn apply(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        let fields = self.schema.fields().iter();
        let columns = fields.zip(&self.from).map(|(field, from)| match from {
            None => absent(field, batch.num_rows()),
            Some(i) => recast(batch.column(*i), field.data_type()),
        });
        columns.collect()
    }

    pub fn mask(&self, footer: &Footer) -> ProjectionMask {
        let descriptor = footer.metadata().file_metadata().schema_descr();
        ProjectionMask::roots(descriptor, self.positions.iter().copied())
    }
}

/// The library's decoder of one row group, fed with checked bytes.
pub(super) struct Decoder {
    inner: ParquetPushDecoder,
    row_group: usize,
    mapping: Mapping,
    /// An error of the filter, which the library would turn into a text.
    failed: Arc<Mutex<Option<DataFusionError>>>,
}

impl Decoder {
    fn new(work: &Work, access: Access) -> Result<Self> {
        let footer = &work.file.footer;
        let schema = Arc::clone(&work.request.schema);
        let mapping = Mapping::new(footer, &schema);
        let mut builder = ParquetPushDecoderBuilder::new_with_metadata(footer.reader.clone())
            .with_row_groups(vec![access.row_group])
            .with_projection(mapping.mask(footer))
            .with_batch_size(work.request.batch_rows.max(1));
        if let Some(selection) = access.selection {
            builder = builder.with_row_selection(selection);
        }
        let failed = Arc::new(Mutex::new(None));
        if !work.filter.passes_all(access.within_time) {
            let (filter, failed) = (work.filter.clone(), Arc::clone(&failed));
            let narrow = Mapping::new(footer, &filter.schema);
            let mask = narrow.mask(footer);
            let predicate = ArrowPredicateFn::new(mask, move |batch: RecordBatch| {
                let rows = batch.num_rows();
                let columns = narrow.apply(&batch)?;
                filter.mask(columns, rows, access.within_time).map_err(|error| {
                    *failed.lock() = Some(error);
                    ArrowError::ComputeError("the filter failed".into())
                })
            });
            builder = builder.with_row_filter(RowFilter::new(vec![Box::new(predicate)]));
        }
        let inner = builder
            .build()
            .map_err(|e| damaged(&work.file, access.row_group, &e))?;
        Ok(Self {
            inner,
            row_group: access.row_group,
            mapping,
            failed,
        })
    }

    async fn fetch_first(&mut self, work: &Work) -> Result<()> {
        // Without data the decoder only says what it needs.
        match self.inner.try_decode() {
            Ok(DecodeResult::NeedsData(ranges)) => self.feed(work, ranges).await,
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(work, &error)),
        }
    }

    async fn next(&mut self, work: &Work) -> Result<Option<RecordBatch>> {
        loop {
            match self.inner.try_decode() {
                Ok(DecodeResult::NeedsData(ranges)) => self.feed(work, ranges).await?,
                Ok(DecodeResult::Finished) => return Ok(None),
                Ok(DecodeResult::Data(batch)) if batch.num_rows() == 0 => {}
                Ok(DecodeResult::Data(batch)) => {
                    ReadMetrics::add(&work.request.metrics.bytes_decoded, batch.get_array_memory_size());
                    let columns = self.mapping.apply(&batch)?;
                    return batch_of(&work.request.schema, columns, batch.num_rows()).map(Some);
                }
                Err(error) => return Err(self.explain(work, &error)),
            }
        }
    }

    async fn feed(&mut self, work: &Work, ranges: Vec<Range<u64>>) -> Result<()> {
        let request = &work.request;
        let bytes = work.file.bytes_of(&ranges, request.keep, &request.metrics).await;
        let bytes = bytes.map_err(into_datafusion)?;
        self.inner
            .push_ranges(ranges, bytes)
            .map_err(|e| damaged(&work.file, self.row_group, &e))
    }

    fn explain(&self, work: &Work, error: &ParquetError) -> DataFusionError {
        match self.failed.lock().take() {
            Some(failed) => failed,
            None => damaged(&work.file, self.row_group, error),
        }
    }
}

fn damaged(file: &SstFile, row_group: usize, error: &ParquetError) -> DataFusionError {
    into_datafusion(undecodable(file, row_group, error))
}

pub(super) fn undecodable(file: &SstFile, row_group: usize, error: &dyn std::fmt::Display) -> Error {
    Error::corruption(format!("{}, row group {row_group}: {error}", file.name))
}

/// All of `positions` of a row group, or the selected rows of them, as one batch, of the file's own types.
pub(super) async fn decode_columns(
    file: &SstFile,
    row_group: usize,
    positions: &[usize],
    selection: Option<RowSelection>,
    metrics: &ReadMetrics,
) -> greptime_types::Result<RecordBatch> {
    let footer = &file.footer;
    let group = footer.metadata().row_group(row_group);
    let all = group.num_rows() as usize;
    let rows = selection.as_ref().map_or(all, RowSelection::row_count);
    let fields: Vec<_> = positions
        .iter()
        .map(|&i| Arc::clone(&footer.columns[i].field))
        .collect();
    let descriptor = footer.metadata().file_metadata().schema_descr();
    let failed = |e: ParquetError| undecodable(file, row_group, &e);
    if let Some(index) = footer.metadata().offset_index().and_then(|i| i.get(row_group)) {
        for pages in positions.iter().filter_map(|&column| index.get(column)) {
            let all = pages.page_locations.len();
            let read = selection
                .as_ref()
                .map(|s| s.scan_ranges(&pages.page_locations).len());
            ReadMetrics::add(&metrics.pages, all);
            ReadMetrics::add(&metrics.pages_pruned, all - read.unwrap_or(all));
        }
    }
    let mut builder = ParquetPushDecoderBuilder::new_with_metadata(footer.reader.clone())
        .with_row_groups(vec![row_group])
        .with_projection(ProjectionMask::roots(descriptor, positions.iter().copied()))
        .with_batch_size(rows.max(1));
    if let Some(selection) = selection {
        builder = builder.with_row_selection(selection);
    }
    let mut decoder = builder.build().map_err(failed)?;
    loop {
        match decoder.try_decode().map_err(failed)? {
            DecodeResult::NeedsData(ranges) => {
                let bytes = file.bytes_of(&ranges, true, metrics).await?;
                decoder.push_ranges(ranges, bytes).map_err(failed)?;
            }
            DecodeResult::Data(batch) if batch.num_rows() == rows => {
                ReadMetrics::add(&metrics.bytes_decoded, batch.get_array_memory_size());
                return Ok(batch);
            }
            DecodeResult::Data(batch) => {
                let got = batch.num_rows();
                return Err(undecodable(
                    file,
                    row_group,
                    &format!("{got} rows of {rows} in one batch"),
                ));
            }
            DecodeResult::Finished => return Ok(RecordBatch::new_empty(Arc::new(Schema::new(fields)))),
        }
    }
}
