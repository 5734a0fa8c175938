//! Carries out a merge: reads the inputs as streams, merges them, and uploads what remains. Nothing refers to the
//! outputs until an edit names them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::kernels::cmp::{distinct, gt_eq, lt};
use arrow::compute::{and, cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use greptime_clock::SharedIds;
use greptime_types::schema::SEQUENCE_COLUMN;
use greptime_types::{Error, Result, TableInfo};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::picker::Merge;
use crate::defences::Defence;
use crate::manifest::FileMeta;
use crate::memtable::KeyColumns;
use crate::region::Region;
use crate::scan::{Deletes, newest};
use crate::schema::engine_schema;
use crate::sst::{FileSource, FileWriter, ReadMetrics, ReadRequest};

/// Of a file's greatest size, how much is aimed at: rows are not of equal size.
const FILL: f64 = 0.85;
/// Rows of a batch, and bytes of a batch as they are in memory.
const MOST_ROWS: u64 = 8192;
const BATCH_BYTES: u64 = 2 << 20;
/// How much larger rows are in memory than in a file.
const UNPACKED: u64 = 8;

/// What a merge is done with.
pub struct Work {
    pub files: FileSource,
    pub ids: SharedIds,
    pub region: Arc<Region>,
    pub epoch: u64,
    pub table: Arc<TableInfo>,
    pub plan: Merge,
    pub inputs: Vec<FileMeta>,
    /// Rows before it are left out; in the unit of the time index.
    pub ttl_cutoff: Option<i64>,
    pub max_file_bytes: u64,
    /// Names of all uploads that were begun, so that they can be deleted if nothing comes of them.
    pub uploads: Arc<Mutex<Vec<String>>>,
}

/// Reads, merges and uploads. The outputs of a window share no identity, and no file outside of the inputs lies
/// between them.
///
/// Errors: `Unavailable` if the bucket is, or when the region no longer serves.
pub async fn merge_files(work: Arc<Work>) -> Result<Vec<FileMeta>> {
    let rows = merged(&work).await?;
    let (mut senders, mut writers) = (Vec::new(), Vec::new());
    for _ in 0..=work.plan.cuts.len() {
        let (sender, receiver) = mpsc::channel(1);
        senders.push(sender);
        writers.push(write_piece(Arc::clone(&work), receiver));
    }
    let (fed, written) = tokio::join!(feed(&work, rows, senders), futures::future::join_all(writers));
    let mut outputs = Vec::new();
    for piece in written {
        outputs.extend(piece?);
    }
    // A writer's own error says more than that it takes no more rows.
    fed?;
    for output in &mut outputs {
        (output.min_sequence, output.max_sequence) = (work.plan.min_sequence, work.plan.max_sequence);
    }
    Ok(outputs)
}

/// The rows that remain, in order.
async fn merged(work: &Work) -> Result<SendableRecordBatchStream> {
    let key = KeyColumns::of(&work.table);
    let schema = engine_schema(&work.table.schema, |_| true, true);
    let batch_rows = batch_rows(&work.plan);
    let mut runs = Vec::new();
    for file in &work.inputs {
        let open = work.files.open(file, &ReadMetrics::default()).await?;
        let mut request = ReadRequest::new(Arc::clone(&schema));
        request.batch_rows = batch_rows;
        // Read once, and then deleted.
        request.keep = false;
        runs.push(without_expired(open.read(request), work));
    }
    let ctx = context(batch_rows);
    let deletes = if work.plan.drop_deletes {
        Deletes::Drop
    } else {
        Deletes::Keep
    };
    let rows = newest(runs, &schema, &key, deletes, &ctx).map_err(|e| greptime_query::from_datafusion(&e))?;
    Ok(with_one_sequence(rows, work))
}

/// Bytes of rows in memory are bounded by the batch, whatever a row is.
fn batch_rows(plan: &Merge) -> usize {
    if !Defence::MergedBatchesAreSmall.holds() {
        return MOST_ROWS as usize;
    }
    let row = (plan.bytes * UNPACKED / plan.rows.max(1)).max(1);
    (BATCH_BYTES / row).clamp(16, MOST_ROWS) as usize
}

fn context(batch_rows: usize) -> TaskContext {
    // What a merge holds is bounded by the number of its inputs and the size of a batch, and reserved as a whole
    // before it starts, so this pool has no limit of its own.
    TaskContext::default()
        .with_session_config(SessionConfig::new().with_batch_size(batch_rows))
        .with_runtime(Arc::new(RuntimeEnv::default()))
}

/// Whether rows may all have the sequence of the newest: not while deletes remain, since with them rows of one
/// identity may stay side by side where fields are merged, and their order counts.
fn may_renumber(work: &Work) -> bool {
    let deletes: u64 = work.inputs.iter().map(|f| f.deletes).sum();
    work.plan.drop_deletes || deletes == 0
}

fn with_one_sequence(rows: SendableRecordBatchStream, work: &Work) -> SendableRecordBatchStream {
    if !may_renumber(work) {
        return rows;
    }
    let (schema, sequence) = (rows.schema(), work.plan.max_sequence);
    let target = Arc::clone(&schema);
    let rows = rows.map(move |batch| {
        let batch = batch?;
        let mut columns = batch.columns().to_vec();
        columns[target.index_of(SEQUENCE_COLUMN)?] =
            Arc::new(UInt64Array::from_value(sequence, batch.num_rows()));
        Ok(RecordBatch::try_new(Arc::clone(&target), columns)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

fn without_expired(rows: SendableRecordBatchStream, work: &Work) -> SendableRecordBatchStream {
    let Some(cutoff) = work.ttl_cutoff else {
        return rows;
    };
    let (schema, time) = (rows.schema(), work.table.schema.time_index().name.clone());
    let rows = rows.map(move |batch| {
        let batch = batch?;
        let alive = gt_eq(&times(&batch, &time)?, &Int64Array::new_scalar(cutoff))?;
        Ok(filter_record_batch(&batch, &alive)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

fn times(batch: &RecordBatch, time: &str) -> Result<Int64Array, DataFusionError> {
    let column = batch
        .column_by_name(time)
        .ok_or_else(|| DataFusionError::Internal(format!("rows without `{time}`")))?;
    let numbers = cast(column, &DataType::Int64)?;
    let numbers = numbers.as_any().downcast_ref::<Int64Array>().cloned();
    numbers.ok_or_else(|| DataFusionError::Internal(format!("`{time}` is not a time")))
}

/// Gives each piece its rows.
async fn feed(
    work: &Work,
    mut rows: SendableRecordBatchStream,
    pieces: Vec<mpsc::Sender<RecordBatch>>,
) -> Result<()> {
    let time = work.table.schema.time_index().name.clone();
    let stopped = || Error::unavailable("a file of a compaction could not be written");
    while let Some(batch) = rows.next().await {
        // A region that was dropped or has failed needs no files.
        work.region.with_state(|s| s.leading_epoch())?;
        let batch = batch.map_err(|e| greptime_query::from_datafusion(&e))?;
        let parts =
            partition(batch, &work.plan.cuts, &time).map_err(|e| greptime_query::from_datafusion(&e))?;
        for (part, piece) in parts.into_iter().zip(&pieces) {
            if part.num_rows() > 0 {
                piece.send(part).await.map_err(|_| stopped())?;
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The rows of each piece.
fn partition(batch: RecordBatch, cuts: &[i64], time: &str) -> Result<Vec<RecordBatch>, DataFusionError> {
    if cuts.is_empty() {
        return Ok(vec![batch]);
    }
    let times = times(&batch, time)?;
    let mut parts = Vec::new();
    for i in 0..=cuts.len() {
        let from = i.checked_sub(1).map(|before| cuts[before]);
        let mut wanted = BooleanArray::from(vec![true; batch.num_rows()]);
        if let Some(from) = from {
            wanted = gt_eq(&times, &Int64Array::new_scalar(from))?;
        }
        if let Some(to) = cuts.get(i) {
            wanted = and(&wanted, &lt(&times, &Int64Array::new_scalar(*to))?)?;
        }
        parts.push(filter_record_batch(&batch, &wanted)?);
    }
    Ok(parts)
}

/// Writes the rows of one piece into as many files as they need.
async fn write_piece(work: Arc<Work>, rows: mpsc::Receiver<RecordBatch>) -> Result<Vec<FileMeta>> {
    let key = KeyColumns::of(&work.table);
    let bytes_per_row = work.plan.bytes as f64 / work.plan.rows.max(1) as f64;
    let quota = (work.max_file_bytes as f64 * FILL / bytes_per_row.max(0.001)) as u64;
    let rows = Arc::new(tokio::sync::Mutex::new(PieceRows {
        rows,
        held: None,
        last: None,
        in_file: 0,
        quota: quota.max(1),
        key: key.clone(),
    }));
    let mut written = Vec::new();
    while rows.lock().await.more().await {
        let name = format!("{}-{}", work.epoch, work.ids.uuid());
        work.uploads.lock().push(name.clone());
        let schema = engine_schema(&work.table.schema, |_| true, true);
        let file = FileWriter {
            bucket: work.files.bucket(),
            region: work.region.id(),
            epoch: work.epoch,
            name,
            table: &work.table,
            key: &key,
            level: work.plan.level,
        };
        written.extend(
            work.files
                .write_file(file, one_file(Arc::clone(&rows), schema))
                .await?,
        );
    }
    Ok(written)
}

fn one_file(rows: Arc<tokio::sync::Mutex<PieceRows>>, schema: SchemaRef) -> SendableRecordBatchStream {
    let batches = futures::stream::unfold(rows, |rows| async move {
        let next = rows.lock().await.next().await.transpose()?;
        Some((next, rows))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

/// Rows of a piece on their way into files.
struct PieceRows {
    rows: mpsc::Receiver<RecordBatch>,
    /// The first batch of the next file.
    held: Option<RecordBatch>,
    /// Identity of the last row, one row per column.
    last: Option<Vec<ArrayRef>>,
    in_file: u64,
    /// Rows of a file, about.
    quota: u64,
    key: KeyColumns,
}

impl PieceRows {
    /// Whether another file is to be begun.
    async fn more(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.rows.recv().await;
        }
        self.in_file = 0;
        self.held.is_some()
    }

    /// The next batch of this file. An identity is never in two files.
    async fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        let batch = match self.held.take() {
            Some(batch) => Some(batch),
            None => self.rows.recv().await,
        };
        let Some(batch) = batch else { return Ok(None) };
        let identity = |row: usize| -> Vec<ArrayRef> {
            let columns = self
                .key
                .columns
                .iter()
                .filter_map(|(name, _)| batch.column_by_name(name));
            columns.map(|c| c.slice(row, 1)).collect()
        };
        if self.in_file >= self.quota && !is_same(self.last.as_deref(), &identity(0))? {
            self.held = Some(batch);
            return Ok(None);
        }
        let room = self.quota.saturating_sub(self.in_file) as usize;
        let mut taken = batch.clone();
        if room > 0 && room < batch.num_rows() {
            self.held = Some(batch.slice(room, batch.num_rows() - room));
            taken = batch.slice(0, room);
        }
        self.last = Some(identity(taken.num_rows() - 1));
        self.in_file += taken.num_rows() as u64;
        Ok(Some(taken))
    }
}

fn is_same(last: Option<&[ArrayRef]>, next: &[ArrayRef]) -> Result<bool, DataFusionError> {
    let Some(last) = last else { return Ok(false) };
    for (a, b) in last.iter().zip(next) {
        if distinct(a, b)?.value(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::Why;

    #[test]
    fn a_batch_has_fewer_rows_the_larger_they_are() {
        let batch_of = |row_bytes: u64| {
            let plan = Merge {
                inputs: Vec::new(),
                cuts: Vec::new(),
                drop_deletes: false,
                level: 1,
                min_sequence: 1,
                max_sequence: 2,
                rows: 1000,
                bytes: 1000 * row_bytes,
                why: Why::Small { window: 0 },
            };
            batch_rows(&plan) as u64
        };
        assert_eq!(batch_of(10), MOST_ROWS);
        for row_bytes in [100, 1000, 10_000] {
            let bytes = batch_of(row_bytes) * row_bytes * UNPACKED;
            let range = BATCH_BYTES / 2..=BATCH_BYTES;
            assert!(range.contains(&bytes), "{bytes} of rows of {row_bytes}");
        }
    }
}
