//! An immutable piece of a memtable: rows of one time window, as they came or sorted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt8Array, UInt64Array, make_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef, UInt32Type};
use greptime_rows::SeriesBatch;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{Error, Result};
use parking_lot::Mutex;

use super::dictionary::SeriesView;
use crate::region::RowOp;
use crate::schema::{FIELD_ID, absent, recast};

/// What the arrays of a small batch take beside their values, for each column and for the whole.
const BYTES_PER_COLUMN: usize = 160;
const BYTES_PER_CHUNK: usize = 400;
/// Of a row: its series.
const BYTES_PER_ROW: usize = 4;

pub(super) fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows in memory: {error}"))
}

/// A value for each row that is mostly the same for all.
#[derive(Clone, Debug)]
pub enum Each<T: arrow::datatypes::ArrowNativeType> {
    All(T),
    Row(ScalarBuffer<T>),
}

impl<T: arrow::datatypes::ArrowNativeType> Each<T> {
    pub fn get(&self, row: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::Row(values) => values[row],
        }
    }

    fn buffer(&self, rows: usize) -> ScalarBuffer<T> {
        match self {
            Self::All(value) => vec![*value; rows].into(),
            Self::Row(values) => values.clone(),
        }
    }
}

/// A column of the table that is neither tag nor time.
#[derive(Clone, Debug)]
pub struct FieldValues {
    pub array: ArrayRef,
    /// One row: what rows show that do not have the column. `None` is NULL.
    pub absent: Option<ArrayRef>,
    /// It has a value for each number in [`Chunk::keys`], not for each row.
    pub of_series: bool,
}

/// Rows of one or several whole entries, or of parts of them that lie in one time window.
#[derive(Debug)]
pub struct Chunk {
    /// The number of each row's series in the memtable's dictionary.
    pub series: Vec<u32>,
    pub times: ScalarBuffer<i64>,
    pub sequences: Each<u64>,
    pub ops: Each<u8>,
    /// By column id.
    pub fields: BTreeMap<u32, FieldValues>,
    /// The number of each row's series in its write, if a field needs it.
    pub keys: Vec<u32>,
    pub min_sequence: u64,
    pub max_sequence: u64,
    /// The order of rows: by these tags, time, and newest first.
    pub sorted_by: Option<Vec<u32>>,
    /// The lowest and the highest time; `None` without rows.
    span: Option<(i64, i64)>,
    bytes: usize,
    /// Tags as a reader wants them, by column id.
    tags: Mutex<BTreeMap<u32, ArrayRef>>,
    tag_bytes: AtomicUsize,
}

/// Bytes of the buffers of a write.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// With columns of rows.
    pub rows: usize,
    /// With columns of series, most of which go into the dictionary.
    pub series: usize,
}

/// What all rows of a write share.
#[derive(Clone, Copy, Debug)]
pub struct WriteKey<'a> {
    /// Ids of the table's tags and of its time index.
    pub tags: &'a [u32],
    pub time: u32,
    /// See [`FieldValues::absent`]; by column id.
    pub absent: &'a BTreeMap<u32, ArrayRef>,
    pub sequence: u64,
    /// As in `__op_type`.
    pub op: u8,
}

/// The time index as numbers in its unit.
pub fn times_of(array: &ArrayRef) -> Result<ScalarBuffer<i64>> {
    if !matches!(array.data_type(), DataType::Timestamp(..)) || array.null_count() > 0 {
        return Err(Error::internal("rows in memory whose time is none"));
    }
    let numbers = cast(array, &DataType::Int64).map_err(arrow_error)?;
    Ok(numbers
        .as_primitive::<arrow::datatypes::Int64Type>()
        .values()
        .clone())
}

impl Chunk {
    /// Rows of one write; `series` numbers the series of `batch`, `buffers` is what it takes.
    pub fn from_write(
        batch: &SeriesBatch,
        series: &[u32],
        key: &WriteKey<'_>,
        buffers: Buffers,
    ) -> Result<Self> {
        let times = batch
            .column(key.time)
            .ok_or_else(|| Error::internal("a write without times"))?;
        let times = times_of(times.array)?;
        let mut fields = BTreeMap::new();
        let is_field = |id: u32, of_series: bool| id != key.time && !(of_series && key.tags.contains(&id));
        for column in batch.columns().filter(|c| is_field(c.id, c.of_series)) {
            let field = FieldValues {
                array: Arc::clone(column.array),
                absent: key.absent.get(&column.id).cloned(),
                of_series: column.of_series,
            };
            fields.insert(column.id, field);
        }
        let keys = batch.keys();
        let keeps_series = fields.values().any(|f: &FieldValues| f.of_series);
        let bytes = buffers.rows + if keeps_series { buffers.series } else { 0 };
        Ok(Self::new(Parts {
            series: keys.iter().map(|key| series[*key as usize]).collect(),
            times,
            sequences: Each::All(key.sequence),
            ops: Each::All(key.op),
            keys: keys.to_vec(),
            fields,
            sorted_by: None,
            bytes,
            min_sequence: key.sequence,
            max_sequence: key.sequence,
        }))
    }

    pub(super) fn new(parts: Parts) -> Self {
        let rows = parts.series.len();
        let of_series = parts.fields.values().any(|f| f.of_series);
        let keys = if of_series { parts.keys } else { vec![] };
        let own =
            rows * BYTES_PER_ROW + keys.len() * 4 + BYTES_PER_CHUNK + parts.fields.len() * BYTES_PER_COLUMN;
        let span = parts
            .times
            .iter()
            .min()
            .copied()
            .zip(parts.times.iter().max().copied());
        Self {
            span,
            bytes: parts.bytes + own,
            series: parts.series,
            times: parts.times,
            sequences: parts.sequences,
            ops: parts.ops,
            fields: parts.fields,
            keys,
            min_sequence: parts.min_sequence,
            max_sequence: parts.max_sequence,
            sorted_by: parts.sorted_by,
            tags: Mutex::default(),
            tag_bytes: AtomicUsize::new(0),
        }
    }

    pub fn rows(&self) -> usize {
        self.series.len()
    }

    pub fn has_deletes(&self) -> bool {
        let delete = RowOp::Delete.code();
        match &self.ops {
            Each::All(op) => *op == delete,
            Each::Row(ops) => ops.contains(&delete),
        }
    }

    /// The lowest and the highest time; `None` without rows.
    pub fn times_span(&self) -> Option<(i64, i64)> {
        self.span
    }

    /// With everything that readers have made of it.
    pub fn bytes(&self) -> usize {
        self.bytes + self.tag_bytes.load(Ordering::Relaxed)
    }

    /// The rows with the columns of `schema`, which are found by their field ids; those that it lacks are NULL.
    pub fn batch(&self, series: &SeriesView, schema: &SchemaRef, time: u32) -> Result<RecordBatch> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| self.column(series, field, time));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
    }

    fn column(&self, series: &SeriesView, field: &Field, time: u32) -> Result<ArrayRef> {
        let rows = self.rows();
        match field.name().as_str() {
            SEQUENCE_COLUMN => return Ok(Arc::new(UInt64Array::new(self.sequences.buffer(rows), None))),
            OP_COLUMN => return Ok(Arc::new(UInt8Array::new(self.ops.buffer(rows), None))),
            _ => {}
        }
        let id = field_id(field)?;
        let array = if id == time {
            Some(self.time_column(field.data_type())?)
        } else if series.has_tag(id) {
            self.tag(series, id)?
        } else {
            self.field(id)?
        };
        shown(array, field, rows)
    }

    fn time_column(&self, data_type: &DataType) -> Result<ArrayRef> {
        let numbers = arrow::array::Int64Array::new(self.times.clone(), None);
        let data = numbers.into_data().into_builder().data_type(data_type.clone());
        data.build().map(make_array).map_err(arrow_error)
    }

    fn tag(&self, series: &SeriesView, id: u32) -> Result<Option<ArrayRef>> {
        if let Some(array) = self.tags.lock().get(&id) {
            return Ok(Some(Arc::clone(array)));
        }
        let Some(array) = series.column(id, &self.series)? else {
            return Ok(None);
        };
        if self.sorted_by.is_some() {
            let mut tags = self.tags.lock();
            if tags.insert(id, Arc::clone(&array)).is_none() {
                self.tag_bytes
                    .fetch_add(array.get_array_memory_size(), Ordering::Relaxed);
            }
        }
        Ok(Some(array))
    }

    /// A field with a value for each row.
    pub fn field(&self, id: u32) -> Result<Option<ArrayRef>> {
        match self.fields.get(&id) {
            None => Ok(None),
            Some(field) if !field.of_series => Ok(Some(Arc::clone(&field.array))),
            Some(field) => {
                let keys = arrow::array::PrimitiveArray::<UInt32Type>::from(self.keys.clone());
                arrow::compute::take(&field.array, &keys, None)
                    .map(Some)
                    .map_err(arrow_error)
            }
        }
    }
}

/// What a chunk is made of; see there.
pub(super) struct Parts {
    pub series: Vec<u32>,
    pub times: ScalarBuffer<i64>,
    pub sequences: Each<u64>,
    pub ops: Each<u8>,
    pub keys: Vec<u32>,
    pub fields: BTreeMap<u32, FieldValues>,
    pub sorted_by: Option<Vec<u32>>,
    pub bytes: usize,
    pub min_sequence: u64,
    pub max_sequence: u64,
}

/// A column as readers see it, who may know it in another type; `None`: no row has it.
pub(super) fn shown(array: Option<ArrayRef>, field: &Field, rows: usize) -> Result<ArrayRef> {
    match array {
        None => absent(field, rows).map_err(arrow_error),
        Some(array) => recast(&array, field.data_type()).map_err(arrow_error),
    }
}

pub(super) fn field_id(field: &Field) -> Result<u32> {
    let id = field.metadata().get(FIELD_ID).and_then(|id| id.parse().ok());
    id.ok_or_else(|| Error::internal(format!("column `{}` has no id", field.name())))
}
