//! Of rows with one identity, the one that counts: the newest, or all of them merged field by field.
//!
//! The rows come sorted by key and newest first. A group of rows with one key may lie in several batches.

mod fields;
mod newest;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat, or};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use greptime_types::MergeMode;

use crate::memtable::KeyColumns;

#[cfg(test)]
mod tests;

/// Whether deletes are shown to the reader (as rows for a file) or take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// Deletes are kept where they may cut off older rows that lie in older files. Rows that are merged field by
    /// field then leave up to two for an identity: what was put after the delete, and the delete.
    Keep,
    /// An identity whose newest row is a delete has no row.
    Drop,
}

/// Keeps one row of each identity in a stream that is sorted by key and newest first.
pub fn dedup(
    rows: SendableRecordBatchStream,
    key: KeyColumns,
    deletes: Deletes,
) -> SendableRecordBatchStream {
    match key.merge_mode {
        MergeMode::LastRow => newest::keep_newest(rows, key, deletes),
        MergeMode::LastNonNull => fields::merge_fields(rows, key, deletes),
    }
}

/// The key columns of a batch, in the order of the key.
fn key_arrays(batch: &RecordBatch, key: &KeyColumns) -> Result<Vec<ArrayRef>> {
    let column = |name: &String| {
        batch
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| internal_datafusion_err!("rows without key column `{name}`"))
    };
    key.columns.iter().map(|(name, _)| column(name)).collect()
}

/// Where the key differs from the row before; the first row is compared with `last`, or counts as different.
/// There must be rows.
fn first_of_key(columns: &[ArrayRef], last: Option<&[ArrayRef]>) -> Result<BooleanArray> {
    let mut first: Option<BooleanArray> = None;
    for (i, column) in columns.iter().enumerate() {
        let changed = changes(column, last.map(|l| &l[i]))?;
        first = Some(match first {
            None => changed,
            Some(others) => or(&others, &changed)?,
        });
    }
    first.ok_or_else(|| internal_datafusion_err!("a region without key columns"))
}

fn changes(column: &ArrayRef, last: Option<&ArrayRef>) -> Result<BooleanArray> {
    let first = match last {
        Some(last) => distinct(&column.slice(0, 1), last)?,
        None => BooleanArray::from(vec![true]),
    };
    let rest = distinct(
        &column.slice(1, column.len() - 1),
        &column.slice(0, column.len() - 1),
    )?;
    let joined = concat(&[&first as &dyn Array, &rest])?;
    joined
        .as_any()
        .downcast_ref::<BooleanArray>()
        .cloned()
        .ok_or_else(|| internal_datafusion_err!("a comparison that is not boolean"))
}
