//! Rows with one key merged field by field: of each field the newest value that is not NULL.
//!
//! A group of rows with one key comes to at most two rows: the puts that are newer than the newest delete, merged,
//! and that delete. Merging is associative, so a group that goes on in the next batch is carried there as those two.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::UInt8Type;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};

use super::{Deletes, first_of_key, key_arrays};
use crate::defences::Defence;
use crate::memtable::KeyColumns;
use crate::region::RowOp;

pub(super) fn merge_fields(
    rows: SendableRecordBatchStream,
    key: KeyColumns,
    deletes: Deletes,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let merger = Merger {
        key,
        deletes,
        open: None,
    };
    let batches = rows.map(Some).chain(futures::stream::iter([None]));
    let merged = batches.scan(merger, |merger, batch| {
        let done = match batch {
            Some(Ok(batch)) => merger.add(batch),
            Some(Err(error)) => Err(error),
            None => merger.end(),
        };
        futures::future::ready(Some(done))
    });
    let batches = merged.flat_map(|done| {
        let batches = match done {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(batches)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

struct Merger {
    key: KeyColumns,
    deletes: Deletes,
    /// The last group seen, merged to one or two rows; it may go on in the next batch.
    open: Option<RecordBatch>,
}

impl Merger {
    /// Takes a batch; gives what is complete.
    fn add(&mut self, mut batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        let mut done = Vec::new();
        if let Some(open) = self.open.take() {
            let columns = key_arrays(&batch.slice(0, 1), &self.key)?;
            let before = key_arrays(&open.slice(0, 1), &self.key)?;
            if first_of_key(&columns, Some(&before))?.value(0) {
                done.extend(self.shown(open)?);
            } else {
                batch = concat_batches(&batch.schema(), [&open, &batch])?;
            }
        }
        let groups = Groups::of(&batch, &self.key)?;
        let (merged, last) = groups.merge(&batch, &self.key)?;
        self.open = Some(merged.slice(last, merged.num_rows() - last));
        done.extend(self.shown(merged.slice(0, last))?);
        Ok(done)
    }

    fn end(&mut self) -> Result<Vec<RecordBatch>> {
        match self.open.take() {
            Some(open) => Ok(self.shown(open)?.into_iter().collect()),
            None => Ok(vec![]),
        }
    }

    /// Without deletes, unless they are wanted; `None` if nothing is left.
    fn shown(&self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        let shown = match self.deletes {
            Deletes::Keep => batch,
            Deletes::Drop => {
                let puts = operations(&batch)?.iter().map(|op| *op == RowOp::Put.code());
                let puts: Vec<bool> = puts.collect();
                match puts.iter().all(|put| *put) {
                    true => batch,
                    false => arrow::compute::filter_record_batch(&batch, &puts.into())?,
                }
            }
        };
        Ok((shown.num_rows() > 0).then_some(shown))
    }
}

fn operations(batch: &RecordBatch) -> Result<&[u8]> {
    let op = batch.column_by_name(OP_COLUMN);
    let op = op.and_then(|op| op.as_primitive_opt::<UInt8Type>());
    Ok(op
        .ok_or_else(|| internal_datafusion_err!("rows without operation"))?
        .values())
}

/// What the rows of a batch come to.
struct Groups {
    /// Position of each row that remains.
    rows: Vec<u32>,
    /// Of those that are puts merged of several: which one of `rows`, and the positions they are merged of.
    merged: Vec<(usize, Range<usize>)>,
    /// In `rows`: where the last group begins.
    last: usize,
}

impl Groups {
    fn of(batch: &RecordBatch, key: &KeyColumns) -> Result<Self> {
        let first = first_of_key(&key_arrays(batch, key)?, None)?;
        let ops = operations(batch)?;
        let mut starts: Vec<usize> = first.values().set_indices().collect();
        let mut groups = Self {
            rows: Vec::with_capacity(starts.len()),
            merged: Vec::new(),
            last: 0,
        };
        starts.push(batch.num_rows());
        for bounds in starts.windows(2) {
            groups.last = groups.rows.len();
            let all = bounds[0]..bounds[1];
            let is_delete = |at: &usize| ops[*at] == RowOp::Delete.code();
            let delete = all.clone().find(is_delete);
            let puts = all.start..delete.unwrap_or(all.end);
            if puts.len() > 1 {
                groups.merged.push((groups.rows.len(), puts.clone()));
            }
            if !puts.is_empty() {
                groups.rows.push(puts.start as u32);
            }
            let delete = delete.filter(|_| puts.is_empty() || Defence::DeleteGoesOnCutting.holds());
            groups.rows.extend(delete.map(|at| at as u32));
        }
        Ok(groups)
    }

    /// The rows that remain, and where among them the last group begins.
    fn merge(&self, batch: &RecordBatch, key: &KeyColumns) -> Result<(RecordBatch, usize)> {
        if self.rows.len() == batch.num_rows() {
            return Ok((batch.clone(), self.last));
        }
        let newest = UInt32Array::from(self.rows.clone());
        let schema = batch.schema();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
        for (column, field) in batch.columns().iter().zip(schema.fields()) {
            let name = field.name();
            let whole = key.contains(name) || name == SEQUENCE_COLUMN || name == OP_COLUMN;
            let taken = match whole || column.null_count() == 0 {
                true => take(column, &newest, None)?,
                false => take(column, &self.newest_values(column), None)?,
            };
            columns.push(taken);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        Ok((
            RecordBatch::try_new_with_options(schema, columns, &options)?,
            self.last,
        ))
    }

    /// For each row that remains, the position of its value in a column that has NULLs.
    fn newest_values(&self, column: &ArrayRef) -> UInt32Array {
        let mut positions = self.rows.clone();
        for (row, puts) in &self.merged {
            if let Some(found) = puts.clone().find(|at| column.is_valid(*at)) {
                positions[*row] = found as u32;
            }
        }
        positions.into()
    }
}
