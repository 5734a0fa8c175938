//! Rows of a write: from Arrow IPC, checked against the table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use greptime_rows::{Encoded, SeriesBatch, decode};
use greptime_types::{ColumnSchema, Error, Result, Semantic, TableInfo};

use super::entry::RowOp;

/// The rows of a request, by the ids of their columns.
pub fn read_rows(rows: &Encoded, table: &TableInfo) -> Result<SeriesBatch> {
    if !rows.series.is_empty() {
        return SeriesBatch::decode(rows);
    }
    let batch = decode(&rows.rows)?;
    let schema = batch.schema();
    let unknown = schema
        .fields()
        .iter()
        .find(|f| table.schema.column(f.name()).is_none());
    if let Some(field) = unknown {
        let name = table.full_name();
        return Err(Error::invalid(format!(
            "table {name} has no column `{}`",
            field.name()
        )));
    }
    for field in schema.fields() {
        let column = table.schema.column(field.name());
        column.map_or(Ok(()), |column| check_type(table, column, field.data_type()))?;
    }
    SeriesBatch::from_named(&batch, &table.schema)
}

/// The same for rows of the log, which were checked before. A column that the table no longer has is left out.
pub fn replay_rows(rows: &Encoded, table: &TableInfo) -> Result<SeriesBatch> {
    let damaged = |e: Error| Error::corruption(e.message);
    if !rows.series.is_empty() {
        return SeriesBatch::decode(rows).map_err(damaged);
    }
    let batch = decode(&rows.rows).map_err(damaged)?;
    let schema = batch.schema();
    let known = |(i, field): (usize, &Arc<Field>)| table.schema.column(field.name()).map(|_| i);
    let known: Vec<usize> = schema.fields().iter().enumerate().filter_map(known).collect();
    let batch = batch
        .project(&known)
        .map_err(|e| Error::corruption(e.to_string()))?;
    SeriesBatch::from_named(&batch, &table.schema).map_err(damaged)
}

/// The rows with NULL in the columns that their writer did not name, if these have a default that rows of before show.
///
/// Where fields are merged NULL is "not said". Without it the rows would count as older than the column, and its
/// default would replace what is there; a writer that does not know a new column yet does not name it.
pub fn with_unsaid(batch: SeriesBatch, table: &TableInfo) -> Result<SeriesBatch> {
    let unsaid = |c: &&ColumnSchema| {
        c.absent.is_some() && c.semantic == Semantic::Field && batch.column(c.id).is_none()
    };
    let unsaid: Vec<&ColumnSchema> = table.schema.columns.iter().filter(unsaid).collect();
    if unsaid.is_empty() {
        return Ok(batch);
    }
    let rows = batch.rows();
    let (mut fields, mut arrays) = (rows.schema().fields().to_vec(), rows.columns().to_vec());
    for column in unsaid {
        let array = new_null_array(&column.column_type.to_arrow(), rows.num_rows());
        fields.push(Arc::new(Field::new(
            column.id.to_string(),
            array.data_type().clone(),
            true,
        )));
        arrays.push(array);
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
    let rows = rows.map_err(|e| Error::internal(format!("rows of a write: {e}")))?;
    SeriesBatch::try_new(batch.series().clone(), rows)
}

/// Whether the rows can be part of the table: every column exists with this very type, tags belong to series, the
/// time index is there and not null, no column that must have a value lacks one.
pub fn check_rows(batch: &SeriesBatch, table: &TableInfo, op: RowOp) -> Result<()> {
    let name = table.full_name();
    if op == RowOp::Delete && table.options.append_mode {
        return Err(Error::unsupported(format!(
            "table {name} is append-only, its rows cannot be deleted"
        )));
    }
    let by_id: HashMap<u32, &ColumnSchema> = table.schema.columns.iter().map(|c| (c.id, c)).collect();
    let mut present = HashSet::new();
    for column in batch.columns() {
        let known = by_id.get(&column.id).ok_or_else(|| {
            Error::invalid(format!(
                "table {name} has no column with the id {}; it was dropped",
                column.id
            ))
        })?;
        check_type(table, known, column.array.data_type())?;
        if !known.nullable && column.array.null_count() > 0 {
            return Err(Error::invalid(format!(
                "column `{}` of table {name} cannot be null",
                known.name
            )));
        }
        check_place(known, column.of_series)?;
        present.insert(column.id);
    }
    // A delete names identities only, so fields may be absent.
    let needed = table.schema.columns.iter().filter(|c| {
        c.semantic == Semantic::Timestamp
            || (!c.nullable && (op == RowOp::Put || c.semantic == Semantic::Tag))
    });
    for column in needed {
        if !present.contains(&column.id) {
            return Err(Error::invalid(format!(
                "the rows lack column `{}` of table {name}",
                column.name
            )));
        }
    }
    Ok(())
}

fn check_type(table: &TableInfo, column: &ColumnSchema, found: &DataType) -> Result<()> {
    if found != &column.column_type.to_arrow() {
        return Err(Error::invalid(format!(
            "column `{}` of table {} is {}, the rows have {found}",
            column.name,
            table.full_name(),
            column.column_type.sql_name(),
        )));
    }
    Ok(())
}

fn check_place(column: &ColumnSchema, of_series: bool) -> Result<()> {
    let wrong = match column.semantic {
        Semantic::Tag => !of_series,
        Semantic::Timestamp => of_series,
        Semantic::Field => false,
    };
    if wrong {
        return Err(Error::invalid(format!(
            "column `{}` must be {} of a write",
            column.name,
            if of_series { "in the rows" } else { "in the series" }
        )));
    }
    Ok(())
}
