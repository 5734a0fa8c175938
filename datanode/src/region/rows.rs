//! Rows of a write: from Arrow IPC, checked against the table.

use std::collections::BTreeSet;

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
    let known = |(i, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
        table.schema.column(field.name()).map(|_| i)
    };
    let known: Vec<usize> = schema.fields().iter().enumerate().filter_map(known).collect();
    let batch = batch
        .project(&known)
        .map_err(|e| Error::corruption(e.to_string()))?;
    SeriesBatch::from_named(&batch, &table.schema).map_err(damaged)
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
    let mut present = BTreeSet::new();
    for column in batch.columns() {
        let known = table.schema.columns.iter().find(|c| c.id == column.id);
        let known = known.ok_or_else(|| {
            Error::invalid(format!(
                "table {name} has no column with the id {}; it was dropped",
                column.id
            ))
        })?;
        let expected = known.column_type.to_arrow();
        if column.array.data_type() != &expected {
            return Err(Error::invalid(format!(
                "column `{}` of table {name} is {}, the rows have {}",
                known.name,
                known.column_type.sql_name(),
                column.array.data_type()
            )));
        }
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
