//! An immutable piece of a memtable.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch, kernels::cmp};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{Error, Result, TableSchema};
use parking_lot::Mutex;

use super::sort::{KeyColumns, align, sort_batch};
use crate::region::RowOp;
use crate::schema;

/// What the arrays of a small batch take beside their values.
const BYTES_PER_CHUNK: usize = 512;
/// Sequence and operation.
const BYTES_PER_ROW: usize = 9;

/// Rows of one or several whole entries, with only those columns that the entries had, and `__sequence` and
/// `__op_type`.
#[derive(Debug)]
pub struct Chunk {
    rows: usize,
    bytes: usize,
    min_sequence: u64,
    max_sequence: u64,
    batch: Mutex<Rows>,
}

#[derive(Debug)]
struct Rows {
    batch: RecordBatch,
    /// For these columns; sorting is done once, by the first reader.
    sorted: Option<KeyColumns>,
}

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows in memory: {error}"))
}

impl Chunk {
    pub fn from_entry(rows: &RecordBatch, sequence: u64, op: RowOp, bytes: usize) -> Result<Self> {
        let n = rows.num_rows();
        let mut fields: Vec<FieldRef> = nullable(rows.schema().fields());
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        fields.push(Arc::new(Field::new(SEQUENCE_COLUMN, DataType::UInt64, true)));
        columns.push(Arc::new(UInt64Array::from_value(sequence, n)));
        fields.push(Arc::new(Field::new(OP_COLUMN, DataType::UInt8, true)));
        columns.push(Arc::new(UInt8Array::from_value(op.code(), n)));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)?;
        let bytes = bytes + n * BYTES_PER_ROW + BYTES_PER_CHUNK;
        Ok(Self::new(batch, bytes, sequence, sequence))
    }

    fn new(batch: RecordBatch, bytes: usize, min_sequence: u64, max_sequence: u64) -> Self {
        let rows = batch.num_rows();
        Self {
            rows,
            bytes,
            min_sequence,
            max_sequence,
            batch: Mutex::new(Rows { batch, sorted: None }),
        }
    }

    /// Two neighbours as one. A sorted one loses its order, so only small ones are joined.
    pub fn join(first: &Self, second: &Self) -> Result<Self> {
        let (a, b) = (first.batch(), second.batch());
        let schema = if a.schema() == b.schema() {
            a.schema()
        } else {
            let mut fields: Vec<FieldRef> = a.schema().fields().to_vec();
            let more = b.schema();
            fields.extend(
                more.fields()
                    .iter()
                    .filter(|f| schema::position(&a.schema(), f).is_none())
                    .cloned(),
            );
            Arc::new(Schema::new(fields))
        };
        let parts = [align(&a, &schema)?, align(&b, &schema)?];
        let batch = concat_batches(&schema, &parts).map_err(arrow_error)?;
        let bytes = batch.get_array_memory_size() + BYTES_PER_CHUNK;
        let min = first.min_sequence.min(second.min_sequence);
        Ok(Self::new(
            batch,
            bytes,
            min,
            first.max_sequence.max(second.max_sequence),
        ))
    }

    /// Columns are found by their ids; those that the schema does not have any more are left out.
    pub fn under(&self, table: &TableSchema) -> Result<Self> {
        let batch = self.batch();
        let field = |f: &FieldRef| {
            let Some(id) = f.metadata().get(schema::FIELD_ID) else {
                return Some(Arc::clone(f));
            };
            let column = table.columns.iter().find(|c| c.id.to_string() == *id)?;
            let data_type = column.column_type.to_arrow();
            Some(Arc::new(
                Field::new(&column.name, data_type, true).with_metadata(schema::marks(column)),
            ))
        };
        let fields: Vec<FieldRef> = batch.schema().fields().iter().filter_map(field).collect();
        let batch = schema::conform(&batch, &Arc::new(Schema::new(fields)))?;
        Ok(Self::new(batch, self.bytes, self.min_sequence, self.max_sequence))
    }

    /// Only the rows with a sequence above `through`.
    pub fn after(&self, through: u64) -> Result<Self> {
        let batch = rows_after(&self.batch(), through)?;
        let bytes = batch.get_array_memory_size() + BYTES_PER_CHUNK;
        Ok(Self::new(
            batch,
            bytes,
            self.min_sequence.max(through + 1),
            self.max_sequence,
        ))
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn min_sequence(&self) -> u64 {
        self.min_sequence
    }

    pub fn max_sequence(&self) -> u64 {
        self.max_sequence
    }

    fn batch(&self) -> RecordBatch {
        self.batch.lock().batch.clone()
    }

    /// The columns that the rows have.
    pub fn schema(&self) -> Arc<Schema> {
        self.batch.lock().batch.schema()
    }

    /// The rows that are above `after`, sorted by key and newest first; of rows with one identity and one
    /// sequence only the last remains, unless the table appends.
    pub fn sorted(&self, key: &KeyColumns, after: u64) -> Result<RecordBatch> {
        let batch = {
            let mut rows = self.batch.lock();
            if rows.sorted.as_ref() != Some(key) {
                rows.batch = sort_batch(&rows.batch, key)?;
                rows.sorted = Some(key.clone());
            }
            rows.batch.clone()
        };
        if after < self.min_sequence {
            Ok(batch)
        } else {
            rows_after(&batch, after)
        }
    }
}

fn nullable(fields: &arrow::datatypes::Fields) -> Vec<FieldRef> {
    let field = |f: &FieldRef| Arc::new(f.as_ref().clone().with_nullable(true));
    fields.iter().map(field).collect()
}

fn rows_after(batch: &RecordBatch, through: u64) -> Result<RecordBatch> {
    let sequence = batch
        .column_by_name(SEQUENCE_COLUMN)
        .ok_or_else(|| Error::internal("rows in memory without a sequence"))?;
    let wanted = cmp::gt(sequence, &UInt64Array::new_scalar(through)).map_err(arrow_error)?;
    debug_assert_eq!(wanted.null_count(), 0);
    filter_record_batch(batch, &wanted).map_err(arrow_error)
}
