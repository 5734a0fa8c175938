//! Of rows with one identity, the newest.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt8Array};
use arrow::compute::kernels::cmp::{distinct, eq};
use arrow::compute::{and, concat, filter_record_batch, or};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use greptime_types::schema::OP_COLUMN;

use crate::memtable::KeyColumns;
use crate::region::RowOp;

/// Whether deletes are shown to the reader (as rows for a file) or take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// The newest row of an identity is kept even if it is a delete: older rows may lie in older files.
    Keep,
    /// An identity whose newest row is a delete has no row.
    Drop,
}

/// Keeps the first row of each identity in a stream that is sorted by key and newest first.
pub fn dedup(
    rows: SendableRecordBatchStream,
    key: KeyColumns,
    deletes: Deletes,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    // The key of the last row seen, one row per column.
    let state: Option<Vec<ArrayRef>> = None;
    let stream = rows.scan(state, move |last, batch| {
        let kept = batch.and_then(|batch| keep_newest(&batch, &key, last, deletes));
        futures::future::ready(Some(kept))
    });
    let stream = stream.filter(|batch| futures::future::ready(!matches!(batch, Ok(b) if b.num_rows() == 0)));
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

fn keep_newest(
    batch: &RecordBatch,
    key: &KeyColumns,
    last: &mut Option<Vec<ArrayRef>>,
    deletes: Deletes,
) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Ok(batch.clone());
    }
    let mut columns = Vec::new();
    for (name, _) in &key.columns {
        let column = batch.column_by_name(name);
        columns.push(column.ok_or_else(|| internal_datafusion_err!("rows without key column `{name}`"))?);
    }
    let mut first_of_key: Option<BooleanArray> = None;
    for (i, column) in columns.iter().enumerate() {
        let changed = changes(column, last.as_ref().map(|l| &l[i]))?;
        first_of_key = Some(match first_of_key {
            None => changed,
            Some(others) => or(&others, &changed)?,
        });
    }
    *last = Some(columns.iter().map(|c| c.slice(rows - 1, 1)).collect());
    let mut wanted = first_of_key.ok_or_else(|| internal_datafusion_err!("a region without key columns"))?;
    if deletes == Deletes::Drop {
        let op = batch
            .column_by_name(OP_COLUMN)
            .ok_or_else(|| internal_datafusion_err!("rows without operation"))?;
        wanted = and(&wanted, &eq(op, &UInt8Array::new_scalar(RowOp::Put.code()))?)?;
    }
    Ok(filter_record_batch(batch, &wanted)?)
}

/// Where a column differs from the row before; the first row is compared with `last`, or counts as different.
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
