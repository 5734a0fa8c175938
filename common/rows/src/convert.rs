//! From and to rows that carry their tags themselves, with columns by name.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::Field;
use arrow::row::{RowConverter, SortField};
use greptime_types::{Error, Result, Semantic, TableSchema};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use crate::batch::{SeriesBatch, batch_of, internal};

impl SeriesBatch {
    /// Numbers the sets of tags in `batch`, whose columns have the names that `schema` gives them.
    pub fn from_named(batch: &RecordBatch, schema: &TableSchema) -> Result<Self> {
        let fields = batch.schema();
        let (mut tags, mut others) = (Vec::new(), Vec::new());
        for (i, field) in fields.fields().iter().enumerate() {
            let column = schema
                .column(field.name())
                .ok_or_else(|| Error::invalid(format!("there is no column `{}`", field.name())))?;
            let array = Arc::clone(batch.column(i));
            match column.semantic {
                Semantic::Tag => tags.push((column.id, array)),
                _ => others.push((column.id, array)),
            }
        }
        let (keys, first) = number(&tags, batch.num_rows())?;
        let mut of_series = Vec::with_capacity(tags.len());
        for (id, array) in &tags {
            of_series.push((*id, take(array, &first, None).map_err(internal)?));
        }
        Self::of_columns(first.len(), of_series, keys, others)
    }

    /// The rows with all their columns, by the names that `schema` gives them now; columns that it does not have
    /// are left out.
    pub fn to_named(&self, schema: &TableSchema) -> Result<RecordBatch> {
        let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
        for column in &schema.columns {
            if let Some(array) = self.column_of_rows(column.id)? {
                fields.push(Field::new(&column.name, array.data_type().clone(), true));
                arrays.push(array);
            }
        }
        batch_of(fields, arrays, self.num_rows())
    }
}

/// Numbers equal rows of the columns; returns each row's number, and the first row that has each number.
fn number(columns: &[(u32, ArrayRef)], rows: usize) -> Result<(UInt32Array, UInt32Array)> {
    if columns.is_empty() {
        let first: Vec<u32> = (0..rows.min(1) as u32).collect();
        return Ok((vec![0; rows].into(), first.into()));
    }
    let fields = columns.iter().map(|(_, c)| SortField::new(c.data_type().clone()));
    let arrays: Vec<ArrayRef> = columns.iter().map(|(_, c)| Arc::clone(c)).collect();
    let converter = RowConverter::new(fields.collect()).map_err(internal)?;
    let values = converter.convert_columns(&arrays).map_err(internal)?;
    let hasher = DefaultHashBuilder::default();
    let mut known: HashTable<(u32, u32)> = HashTable::new();
    let (mut keys, mut first) = (Vec::with_capacity(rows), Vec::new());
    for (at, row) in values.iter().enumerate() {
        let hash = hasher.hash_one(row.as_ref());
        let rehash = |(_, at): &(u32, u32)| hasher.hash_one(values.row(*at as usize).as_ref());
        let equal = |(_, at): &(u32, u32)| values.row(*at as usize) == row;
        let (number, _) = *known
            .entry(hash, equal, rehash)
            .or_insert_with(|| {
                first.push(at as u32);
                (first.len() as u32 - 1, at as u32)
            })
            .get();
        keys.push(number);
    }
    Ok((keys.into(), first.into()))
}
