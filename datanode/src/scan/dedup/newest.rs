//! The newest row replaces all others.

use arrow::array::{ArrayRef, RecordBatch, UInt8Array};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and, filter_record_batch};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use greptime_types::schema::OP_COLUMN;

use super::{Deletes, first_of_key, key_arrays};
use crate::memtable::KeyColumns;
use crate::region::RowOp;

pub(super) fn keep_newest(
    rows: SendableRecordBatchStream,
    key: KeyColumns,
    deletes: Deletes,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    // The key of the last row seen, one row per column.
    let state: Option<Vec<ArrayRef>> = None;
    let stream = rows.scan(state, move |last, batch| {
        let kept = batch.and_then(|batch| filter(&batch, &key, last, deletes));
        futures::future::ready(Some(kept))
    });
    let stream = stream.filter(|batch| futures::future::ready(!matches!(batch, Ok(b) if b.num_rows() == 0)));
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

fn filter(
    batch: &RecordBatch,
    key: &KeyColumns,
    last: &mut Option<Vec<ArrayRef>>,
    deletes: Deletes,
) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Ok(batch.clone());
    }
    let columns = key_arrays(batch, key)?;
    let mut wanted = first_of_key(&columns, last.as_deref())?;
    *last = Some(columns.iter().map(|c| c.slice(rows - 1, 1)).collect());
    if deletes == Deletes::Drop {
        let op = batch
            .column_by_name(OP_COLUMN)
            .ok_or_else(|| internal_datafusion_err!("rows without operation"))?;
        wanted = and(&wanted, &eq(op, &UInt8Array::new_scalar(RowOp::Put.code()))?)?;
    }
    Ok(filter_record_batch(batch, &wanted)?)
}
