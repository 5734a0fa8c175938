//! Rows of a write: from Arrow IPC, checked against the table.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamDecoder;
use bytes::Bytes;
use greptime_types::{Error, Result, Semantic, TableInfo};

use super::entry::RowOp;

/// Reads one Arrow IPC stream as one batch. Its buffers stay where they are.
pub fn decode_rows(bytes: &Bytes) -> Result<RecordBatch> {
    let invalid =
        |e: &dyn std::fmt::Display| Error::invalid(format!("rows are not an Arrow IPC stream: {e}"));
    let mut buffer = Buffer::from(bytes.clone());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        match decoder.decode(&mut buffer).map_err(|e| invalid(&e))? {
            Some(batch) => batches.push(batch),
            None => break,
        }
    }
    decoder.finish().map_err(|e| invalid(&e))?;
    let schema = decoder.schema().ok_or_else(|| invalid(&"it has no schema"))?;
    match batches.as_slice() {
        [one] => Ok(one.clone()),
        many => concat_batches(&schema, many).map_err(|e| invalid(&e)),
    }
}

/// Whether the rows can be part of the table: every column exists with this very type, the time index is there
/// and not null, no column that must have a value lacks one.
pub fn check_rows(batch: &RecordBatch, table: &TableInfo, op: RowOp) -> Result<()> {
    let name = table.full_name();
    if op == RowOp::Delete && table.options.append_mode {
        return Err(Error::unsupported(format!(
            "table {name} is append-only, its rows cannot be deleted"
        )));
    }
    let schema = batch.schema();
    for (i, field) in schema.fields().iter().enumerate() {
        let column = table
            .schema
            .column(field.name())
            .ok_or_else(|| Error::invalid(format!("table {name} has no column `{}`", field.name())))?;
        let expected = column.column_type.to_arrow();
        if field.data_type() != &expected {
            return Err(Error::invalid(format!(
                "column `{}` of table {name} is {}, the rows have {}",
                column.name,
                column.column_type.sql_name(),
                field.data_type()
            )));
        }
        if !column.nullable && batch.column(i).null_count() > 0 {
            return Err(Error::invalid(format!(
                "column `{}` of table {name} cannot be null",
                column.name
            )));
        }
        if schema
            .fields()
            .iter()
            .skip(i + 1)
            .any(|other| other.name() == field.name())
        {
            return Err(Error::invalid(format!(
                "the rows have column `{}` twice",
                field.name()
            )));
        }
    }
    // A delete names identities only, so fields may be absent.
    let needed = table.schema.columns.iter().filter(|c| {
        c.semantic == Semantic::Timestamp
            || (!c.nullable && (op == RowOp::Put || c.semantic == Semantic::Tag))
    });
    for column in needed {
        if schema.column_with_name(&column.name).is_none() {
            return Err(Error::invalid(format!(
                "the rows lack column `{}` of table {name}",
                column.name
            )));
        }
    }
    Ok(())
}
