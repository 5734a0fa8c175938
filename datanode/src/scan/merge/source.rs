//! One sorted run that is being merged, seen as series and their rows.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, UInt64Array,
};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::Positions;
use super::sizes::RowSizes;
use crate::memtable::ASCENDING;

/// A loaded batch, with what merging looks at.
#[derive(Debug)]
pub struct Loaded {
    pub batch: RecordBatch,
    times: Int64Array,
    sequences: UInt64Array,
    ops: UInt8Array,
    any_delete: bool,
    sizes: RowSizes,
    /// Counted for as long as any piece has rows of it.
    _memory: Arc<Memory>,
}

/// Memory of a batch, or of several that are slices of the same columns: it is counted once.
#[derive(Debug)]
struct Memory {
    /// Where it lies.
    buffers: Vec<usize>,
    _held: MemoryReservation,
}

/// Rows of one series that lie behind each other in one batch.
#[derive(Clone, Debug)]
pub struct Piece {
    pub loaded: Arc<Loaded>,
    pub start: usize,
    pub end: usize,
}

impl Piece {
    pub fn part(&self, start: usize, end: usize) -> Self {
        Self {
            loaded: Arc::clone(&self.loaded),
            start,
            end,
        }
    }

    pub fn time(&self, at: usize) -> i64 {
        self.loaded.times.value(at)
    }

    pub fn sequence(&self, at: usize) -> u64 {
        self.loaded.sequences.value(at)
    }

    pub fn op(&self, at: usize) -> u8 {
        self.loaded.ops.value(at)
    }

    pub fn rows(&self) -> usize {
        self.end - self.start
    }

    /// What the rows take in a batch of their own, about.
    pub fn bytes(&self) -> usize {
        self.loaded.sizes.bytes(self.start..self.end)
    }

    /// How many of the first rows are no more than so many, and take no more than so many bytes.
    pub fn fitting(&self, rows: usize, bytes: usize) -> usize {
        let end = self.end.min(self.start.saturating_add(rows));
        self.loaded.sizes.fitting(self.start..end, bytes)
    }

    pub fn first_time(&self) -> i64 {
        self.time(self.start)
    }

    pub fn last_time(&self) -> i64 {
        self.time(self.end - 1)
    }

    pub fn has_deletes(&self) -> bool {
        self.loaded.any_delete
    }

    pub fn is_strictly_increasing(&self) -> bool {
        let times = &self.loaded.times.values()[self.start..self.end];
        times.windows(2).all(|two| two[0] < two[1])
    }
}

/// Rows `start..end` of a batch, all of one series.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    end: usize,
}

/// A batch whose rows are not all taken.
struct Segment {
    loaded: Arc<Loaded>,
    /// The series of each run, comparable as bytes.
    series: Rows,
    runs: Vec<Run>,
    /// The run that is next; its start moves as rows are taken.
    next: usize,
    /// For the series and runs; what is loaded counts itself.
    _held: MemoryReservation,
}

impl Segment {
    fn is_drained(&self) -> bool {
        self.next == self.runs.len()
    }
}

pub struct Source {
    rows: SendableRecordBatchStream,
    ended: bool,
    positions: Positions,
    converter: Option<RowConverter>,
    /// In the order of their rows; only the last one has rows of more than the first series.
    segments: VecDeque<Segment>,
    /// Of the batch that was loaded last.
    memory: Weak<Memory>,
    held: MemoryReservation,
}

impl Source {
    /// What is loaded is counted as `held` is, and given back when no piece has rows of it.
    pub fn new(
        rows: SendableRecordBatchStream,
        positions: &Positions,
        schema: &SchemaRef,
        held: MemoryReservation,
    ) -> Result<Self> {
        let field = |i: &usize| SortField::new_with_options(schema.field(*i).data_type().clone(), ASCENDING);
        let fields: Vec<SortField> = positions.tags.iter().map(field).collect();
        let converter = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields)?),
        };
        Ok(Self {
            rows,
            ended: false,
            positions: positions.clone(),
            converter,
            segments: VecDeque::new(),
            memory: Weak::new(),
            held,
        })
    }

    /// No row is loaded that is not taken.
    pub fn is_drained(&self) -> bool {
        self.segments.is_empty()
    }

    /// The series of the next row, as bytes that compare like its tags.
    pub fn series(&self) -> Option<&[u8]> {
        let segment = self.segments.front()?;
        Some(match &self.converter {
            Some(_) => segment.series.row(segment.next).data(),
            None => &[],
        })
    }

    /// Loads one more batch, if there is one.
    pub async fn load(&mut self) -> Result<()> {
        while !self.ended {
            match self.rows.next().await.transpose()? {
                None => self.ended = true,
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => {
                    let segment = self.segment(batch)?;
                    self.segments.push_back(segment);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes the memory of a batch, unless it is that of the one before.
    fn count(&mut self, batch: &RecordBatch) -> Result<Arc<Memory>> {
        let mut buffers = Vec::new();
        for column in batch.columns() {
            add_buffers(&column.to_data(), &mut buffers);
        }
        // While the one before is held, nothing else can lie where it does.
        if let Some(same) = self.memory.upgrade().filter(|known| known.buffers == buffers) {
            return Ok(same);
        }
        let held = self.held.new_empty();
        held.try_grow(batch.get_array_memory_size())?;
        let memory = Arc::new(Memory { buffers, _held: held });
        self.memory = Arc::downgrade(&memory);
        Ok(memory)
    }

    fn segment(&mut self, batch: RecordBatch) -> Result<Segment> {
        let memory = self.count(&batch)?;
        let tags: Vec<&ArrayRef> = self.positions.tags.iter().map(|i| batch.column(*i)).collect();
        let runs = runs(&tags, batch.num_rows())?;
        let series = match &self.converter {
            Some(converter) => {
                let starts = UInt32Array::from_iter_values(runs.iter().map(|r| r.start as u32));
                let firsts = tags.iter().map(|tag| take(tag, &starts, None));
                converter.convert_columns(&firsts.collect::<Result<Vec<_>, _>>()?)?
            }
            None => RowConverter::new(vec![])?.empty_rows(0, 0),
        };
        let wrong = || {
            internal_datafusion_err!("rows of a region with a time, sequence or operation of another type")
        };
        let times = cast(batch.column(self.positions.time), &DataType::Int64)?;
        let sequences = batch
            .column(self.positions.sequence)
            .as_any()
            .downcast_ref::<UInt64Array>();
        let ops = batch
            .column(self.positions.op)
            .as_any()
            .downcast_ref::<UInt8Array>();
        let (sequences, ops) = (
            sequences.ok_or_else(wrong)?.clone(),
            ops.ok_or_else(wrong)?.clone(),
        );
        let loaded = Loaded {
            times: times
                .as_any()
                .downcast_ref::<Int64Array>()
                .ok_or_else(wrong)?
                .clone(),
            sequences,
            any_delete: ops.values().iter().any(|op| *op != 0),
            ops,
            sizes: RowSizes::of(&batch),
            _memory: memory,
            batch,
        };
        let held = self.held.new_empty();
        held.try_grow(series.size() + runs.capacity() * size_of::<Run>())?;
        Ok(Segment {
            loaded: Arc::new(loaded),
            series,
            runs,
            next: 0,
            _held: held,
        })
    }

    /// If the first series may go on beyond what is loaded: its last time that is loaded.
    pub fn open_until(&self) -> Option<i64> {
        let last = self.segments.back()?;
        let run = last.runs.last()?;
        // Compared by the last run, since several in a row may be of one series.
        let is_first = match &self.converter {
            Some(_) => self.series() == Some(last.series.row(last.runs.len() - 1).data()),
            None => true,
        };
        (!self.ended && is_first).then(|| last.loaded.times.value(run.end - 1))
    }

    /// Takes the rows of the first series before `horizon`, or all that are loaded.
    pub fn take(&mut self, horizon: Option<i64>, pieces: &mut Vec<Piece>) {
        let Some(series) = self.series().map(<[u8]>::to_vec) else {
            return;
        };
        while self.series() == Some(series.as_slice()) {
            let Some(segment) = self.segments.front_mut() else {
                return;
            };
            let run = segment.runs[segment.next];
            let times = &segment.loaded.times.values()[run.start..run.end];
            let before = horizon.map_or(times.len(), |horizon| times.partition_point(|t| *t < horizon));
            if before > 0 {
                pieces.push(Piece {
                    loaded: Arc::clone(&segment.loaded),
                    start: run.start,
                    end: run.start + before,
                });
            }
            if before < times.len() {
                segment.runs[segment.next].start += before;
                return;
            }
            segment.next += 1;
            if segment.is_drained() {
                self.segments.pop_front();
            }
        }
    }
}

/// The allocations that an array lies in; slices of one array have the same.
fn add_buffers(data: &ArrayData, buffers: &mut Vec<usize>) {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    buffers.extend(
        data.buffers()
            .iter()
            .chain(nulls)
            .map(|b| b.data_ptr().as_ptr() as usize),
    );
    for child in data.child_data() {
        add_buffers(child, buffers);
    }
}

/// Where the tags change. Two neighbouring runs may be of one series, if a dictionary has a value twice.
fn runs(tags: &[&ArrayRef], rows: usize) -> Result<Vec<Run>> {
    let mut starts = vec![false; rows];
    starts[0] = true;
    for tag in tags {
        mark_changes(tag, &mut starts)?;
    }
    let mut runs: Vec<Run> = Vec::new();
    for (start, _) in starts.iter().enumerate().filter(|(_, starts)| **starts) {
        if let Some(last) = runs.last_mut() {
            last.end = start;
        }
        runs.push(Run { start, end: rows });
    }
    Ok(runs)
}

/// Marks the rows whose value is not that of the row before.
pub fn mark_changes(column: &ArrayRef, starts: &mut [bool]) -> Result<()> {
    let rows = column.len();
    let dictionary = column.as_dictionary_opt::<Int32Type>();
    if let Some(keys) = dictionary.map(|d| d.keys()).filter(|keys| keys.null_count() == 0) {
        for (start, two) in starts[1..].iter_mut().zip(keys.values().windows(2)) {
            *start |= two[0] != two[1];
        }
        return Ok(());
    }
    let changed = distinct(&column.slice(1, rows - 1), &column.slice(0, rows - 1))?;
    for (start, changed) in starts[1..].iter_mut().zip(changed.values().iter()) {
        *start |= changed;
    }
    Ok(())
}
