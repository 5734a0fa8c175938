//! The batch itself: what it promises, and parts of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use greptime_types::{Error, Result};

/// Name of the column of [`SeriesBatch::rows`] that has the number of a row's series. All others are decimal ids.
pub const SERIES_KEY: &str = "__series";

/// Rows whose columns are named by id. What all rows of a series share is in `series`, the rest in `rows`.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesBatch {
    series: RecordBatch,
    rows: RecordBatch,
}

/// A column of either part.
#[derive(Clone, Debug)]
pub struct Column<'a> {
    pub id: u32,
    /// It has one value for each series, not for each row.
    pub of_series: bool,
    pub array: &'a ArrayRef,
}

/// The id that a column's name in a batch stands for.
pub fn id_of(name: &str) -> Option<u32> {
    name.parse().ok().filter(|id: &u32| id.to_string() == name)
}

pub(crate) fn internal(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows of a write: {error}"))
}

impl SeriesBatch {
    /// `rows` begins with [`SERIES_KEY`], whose numbers are rows of `series`.
    ///
    /// An error says in which way the two do not belong together.
    pub fn try_new(series: RecordBatch, rows: RecordBatch) -> Result<Self> {
        let wrong = |what: &str| Err(Error::invalid(format!("rows of a write: {what}")));
        let schema = rows.schema();
        match schema.fields().first() {
            Some(field) if field.name() == SERIES_KEY && field.data_type() == &DataType::UInt32 => {}
            _ => return wrong("the first column must be `__series`, of unsigned 32-bit numbers"),
        }
        let keys = rows.column(0).as_primitive::<UInt32Type>();
        if keys.null_count() > 0 {
            return wrong("a row has no series");
        }
        let last = keys.values().iter().copied().max();
        if last.is_some_and(|last| last as usize >= series.num_rows()) {
            return wrong("a row has a series that the write does not describe");
        }
        let mut ids = BTreeSet::new();
        let of_series = series.schema();
        for field in of_series.fields().iter().chain(schema.fields().iter().skip(1)) {
            if !id_of(field.name()).is_some_and(|id| ids.insert(id)) {
                return wrong(&format!(
                    "`{}` is no id of a column, or is there twice",
                    field.name()
                ));
            }
        }
        Ok(Self { series, rows })
    }

    /// From columns by id; `keys` numbers the series of each row, and `series` is how many there are.
    pub fn of_columns(
        series: usize,
        of_series: Vec<(u32, ArrayRef)>,
        keys: UInt32Array,
        of_rows: Vec<(u32, ArrayRef)>,
    ) -> Result<Self> {
        let rows = keys.len();
        let by_id = |(id, array): (u32, ArrayRef)| {
            let field = Field::new(id.to_string(), array.data_type().clone(), true);
            (field, array)
        };
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = of_series.into_iter().map(by_id).unzip();
        let series = batch_of(fields, arrays, series)?;
        let key = Field::new(SERIES_KEY, DataType::UInt32, false);
        let all = std::iter::once((key, Arc::new(keys) as ArrayRef)).chain(of_rows.into_iter().map(by_id));
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = all.unzip();
        Self::try_new(series, batch_of(fields, arrays, rows)?)
    }

    /// One row for each series.
    pub fn series(&self) -> &RecordBatch {
        &self.series
    }

    /// [`SERIES_KEY`] and the columns of rows.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// The number of each row's series.
    pub fn keys(&self) -> &[u32] {
        self.rows.column(0).as_primitive::<UInt32Type>().values()
    }

    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn columns(&self) -> impl Iterator<Item = Column<'_>> {
        let of = |batch: &'_ RecordBatch, of_series: bool| {
            let fields = batch.schema();
            (0..batch.num_columns())
                .filter_map(move |i| Some((id_of(fields.field(i).name())?, i, of_series)))
                .collect::<Vec<_>>()
        };
        let positions = of(&self.series, true).into_iter().chain(of(&self.rows, false));
        positions.map(|(id, i, of_series)| Column {
            id,
            of_series,
            array: if of_series {
                self.series.column(i)
            } else {
                self.rows.column(i)
            },
        })
    }

    pub fn column(&self, id: u32) -> Option<Column<'_>> {
        self.columns().find(|c| c.id == id)
    }

    /// A column with one value for each row.
    pub fn column_of_rows(&self, id: u32) -> Result<Option<ArrayRef>> {
        match self.column(id) {
            None => Ok(None),
            Some(column) if !column.of_series => Ok(Some(Arc::clone(column.array))),
            Some(column) => take(
                column.array,
                self.rows.column(0).as_primitive::<UInt32Type>(),
                None,
            )
            .map(Some)
            .map_err(internal),
        }
    }

    /// Bytes of the values, wherever they lie.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.series) + bytes_of(&self.rows)
    }

    /// Some of the rows, with only those series that they have.
    pub fn slice(&self, start: usize, rows: usize) -> Result<Self> {
        self.compact(self.rows.slice(start, rows))
    }

    /// The rows for which `wanted` is true, with only those series that they have.
    pub fn filter(&self, wanted: &BooleanArray) -> Result<Self> {
        self.compact(filter_record_batch(&self.rows, wanted).map_err(internal)?)
    }

    /// The rows of those series for which `wanted` is true.
    pub fn filter_series(&self, wanted: &BooleanArray) -> Result<Self> {
        let mask: BooleanArray = self
            .keys()
            .iter()
            .map(|key| Some(wanted.value(*key as usize)))
            .collect();
        self.filter(&mask)
    }

    /// Numbers the series anew in the order in which `rows` have them.
    fn compact(&self, rows: RecordBatch) -> Result<Self> {
        let mut numbers = vec![u32::MAX; self.series.num_rows()];
        let mut kept = Vec::new();
        let keys = rows.column(0).as_primitive::<UInt32Type>().values();
        let keys: UInt32Array = keys
            .iter()
            .map(|key| {
                let number = &mut numbers[*key as usize];
                if *number == u32::MAX {
                    *number = kept.len() as u32;
                    kept.push(*key);
                }
                *number
            })
            .collect();
        if kept.len() == self.series.num_rows() && kept.is_sorted() {
            return Ok(Self {
                series: self.series.clone(),
                rows,
            });
        }
        let series = if self.series.num_columns() == 0 {
            batch_of(vec![], vec![], kept.len())?
        } else {
            take_record_batch(&self.series, &UInt32Array::from(kept)).map_err(internal)?
        };
        let mut columns = rows.columns().to_vec();
        columns[0] = Arc::new(keys);
        let rows = RecordBatch::try_new(rows.schema(), columns).map_err(internal)?;
        Ok(Self { series, rows })
    }
}

/// A batch that may be without columns.
pub(crate) fn batch_of(fields: Vec<Field>, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).map_err(internal)
}

/// Bytes of the values, without what else lies in the same buffers.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let size = |c: &ArrayRef| {
        c.to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| c.get_array_memory_size())
    };
    batch.columns().iter().map(size).sum()
}
