//! Rows that were made for one schema, made to fit a later one.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{Field, Schema};
use greptime_rows::SeriesBatch;
use greptime_types::{ColumnSchema, Error, Result, TableSchema};

/// The rows under the ids and types of `to`: columns are found by their id, so that a renamed one keeps its
/// values, one that was dropped loses them, and one that has another type is cast as the rows that are stored are.
pub fn adapt(rows: &SeriesBatch, from: &TableSchema, to: &TableSchema) -> Result<SeriesBatch> {
    let batch = &rows.to_named(from)?;
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let id = from.column(field.name()).map(|c| c.id);
        let Some(now) = to.columns.iter().find(|c| Some(c.id) == id) else {
            continue;
        };
        let data_type = now.column_type.to_arrow();
        let column = cast(column, &data_type).map_err(|e| {
            Error::invalid(format!(
                "column `{}` has become {}, and the rows do not fit: {e}",
                now.name,
                now.column_type.sql_name()
            ))
        })?;
        fields.push(Field::new(&now.name, data_type, true));
        columns.push(column);
    }
    SeriesBatch::from_named(&assemble(batch, fields, columns)?, to)
}

/// NULL for columns that rows of before show a default in, if the batch does not have them: where fields are merged,
/// a default that comes with every row would replace what is there.
pub fn explicit_nulls(schema: &TableSchema, rows: SeriesBatch) -> Result<SeriesBatch> {
    let absent = |c: &&ColumnSchema| c.absent.is_some() && rows.column(c.id).is_none();
    let missing: Vec<_> = schema.columns.iter().filter(absent).collect();
    if missing.is_empty() {
        return Ok(rows);
    }
    let batch = rows.to_named(schema)?;
    let fields = batch.schema();
    let mut fields: Vec<Field> = fields.fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = batch.columns().to_vec();
    for column in missing {
        let data_type = column.column_type.to_arrow();
        columns.push(new_null_array(&data_type, batch.num_rows()));
        fields.push(Field::new(&column.name, data_type, true));
    }
    SeriesBatch::from_named(&assemble(&batch, fields, columns)?, schema)
}

fn assemble(like: &RecordBatch, fields: Vec<Field>, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(like.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|e| Error::internal(format!("rows cannot be made to fit: {e}")))
}
