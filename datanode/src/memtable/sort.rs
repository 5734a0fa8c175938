//! The order of rows inside a region: tags, time, newest first.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::schema::conform;
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{SortOptions, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use greptime_types::schema::SEQUENCE_COLUMN;
use greptime_types::{Error, MergeMode, Result, TableInfo};

/// NULL sorts first and equals NULL.
pub const ASCENDING: SortOptions = SortOptions {
    descending: false,
    nulls_first: true,
};
pub const DESCENDING: SortOptions = SortOptions {
    descending: true,
    nulls_first: true,
};

/// The columns that say which row is which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumns {
    /// Tags in the order of the primary key, then the time index.
    pub columns: Vec<(String, DataType)>,
    /// Rows with equal keys stay side by side.
    pub append_mode: bool,
    /// Of rows with equal keys, what remains.
    pub merge_mode: MergeMode,
}

impl KeyColumns {
    pub fn of(table: &TableInfo) -> Self {
        let schema = &table.schema;
        let time = schema.time_index().name.as_str();
        let names = schema.primary_key.iter().map(String::as_str).chain([time]);
        let column = |name: &str| {
            schema
                .column(name)
                .map(|c| (c.name.clone(), c.column_type.to_arrow()))
        };
        Self {
            columns: names.filter_map(column).collect(),
            append_mode: table.options.append_mode,
            merge_mode: table.options.merge_mode,
        }
    }

    /// Whether of rows with equal keys only the newest counts, so that any other may be dropped at once.
    pub fn newest_row_wins(&self) -> bool {
        !self.append_mode && self.merge_mode == MergeMode::LastRow
    }

    pub fn contains(&self, name: &str) -> bool {
        self.columns.iter().any(|(column, _)| column == name)
    }
}

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("sorting rows: {error}"))
}

/// The batch with exactly the columns of `schema`; see [`conform`].
pub fn align(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    conform(batch, schema)
}

/// Sorts by key and newest first. In one entry the later row wins, so of rows with equal key and sequence only
/// the last one is kept, unless the table appends or merges rows field by field.
pub fn sort_batch(batch: &RecordBatch, key: &KeyColumns) -> Result<RecordBatch> {
    let sequence = batch
        .column_by_name(SEQUENCE_COLUMN)
        .and_then(|c| c.as_any().downcast_ref::<UInt64Array>())
        .ok_or_else(|| Error::internal("rows in memory without a sequence"))?;
    // A column that the rows lack is the same for all of them.
    let present: Vec<&ArrayRef> = key
        .columns
        .iter()
        .filter_map(|(name, _)| batch.column_by_name(name))
        .collect();
    let fields = present
        .iter()
        .map(|c| SortField::new_with_options(c.data_type().clone(), ASCENDING));
    let converter = RowConverter::new(fields.collect()).map_err(arrow_error)?;
    let arrays: Vec<ArrayRef> = present.into_iter().map(Arc::clone).collect();
    let rows = converter.convert_columns(&arrays).map_err(arrow_error)?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_unstable_by(|a, b| {
        let rank = |i: u32| (Reverse(sequence.value(i as usize)), Reverse(i));
        rows.row(*a as usize)
            .cmp(&rows.row(*b as usize))
            .then_with(|| rank(*a).cmp(&rank(*b)))
    });
    if key.newest_row_wins() {
        order.dedup_by(|b, a| {
            let (a, b) = (*a as usize, *b as usize);
            sequence.value(a) == sequence.value(b) && rows.row(a) == rows.row(b)
        });
    }
    take_record_batch(batch, &UInt32Array::from(order)).map_err(arrow_error)
}
