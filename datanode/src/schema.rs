//! The columns of a region's rows inside a datanode: in memory, in files, and on the way between them.
//!
//! They are the table's, but for two things: a tag that is a string is a dictionary, since few values repeat in many
//! rows, and each column carries its id, by which files know it whatever its name is today.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{ColumnSchema, ColumnType, Error, Result, Semantic, TableSchema};

/// Key of a field's metadata that Parquet keeps as the id of the column.
pub const FIELD_ID: &str = "PARQUET:field_id";

/// Key of a field's metadata with what rows show that do not have the column.
pub const ABSENT: &str = "greptime.absent";

/// A string tag: keys into its distinct values.
pub fn tag_dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The type of a column in rows of the engine.
pub fn engine_type(column: &ColumnSchema) -> DataType {
    match (column.semantic, column.column_type) {
        (Semantic::Tag, ColumnType::String) => tag_dictionary(),
        (_, other) => other.to_arrow(),
    }
}

/// A column of the table as rows of the engine have it.
pub fn engine_field(column: &ColumnSchema) -> Field {
    Field::new(&column.name, engine_type(column), true).with_metadata(marks(column))
}

/// What travels with a column wherever its name and type may change.
pub fn marks(column: &ColumnSchema) -> HashMap<String, String> {
    let id = (FIELD_ID.to_owned(), column.id.to_string());
    // A tag says which row is which, so rows of before keep having none.
    let absent = column.absent.clone().filter(|_| column.semantic != Semantic::Tag);
    let absent = absent.map(|text| (ABSENT.to_owned(), text));
    std::iter::once(id).chain(absent).collect()
}

/// The rows under another schema. A column is found by its id, or by its name if one of both has no id. One that is
/// absent has the value that [`ColumnSchema::absent`] says, else NULL; one of another type is cast, and what cannot
/// be cast is NULL.
pub fn conform(batch: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == to {
        return Ok(batch.clone());
    }
    let rows = batch.num_rows();
    let schema = batch.schema();
    let column = |field: &FieldRef| match position(&schema, field) {
        Some(at) if batch.column(at).data_type() == field.data_type() => Ok(Arc::clone(batch.column(at))),
        Some(at) => recast(batch.column(at), field.data_type()),
        None => absent(field, rows),
    };
    let columns: Result<Vec<ArrayRef>, _> = to.fields().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(to), columns.map_err(arrow_error)?, &options)
        .map_err(arrow_error)
}

/// Values that were written as one type, as another shows them; what it does not have is NULL.
///
/// A column comes to a type that its own does not widen to only through STRING, so its values go that way too: a row
/// that was rewritten while the column was a STRING must not differ from one that was not.
pub fn recast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        from if from == to => Ok(Arc::clone(array)),
        from if is_direct(from, to) => convert(array, to),
        _ => cast(&convert(array, &DataType::Utf8)?, to),
    }
}

/// A time may have no date that could be written; arrow then refuses all values with it.
fn convert(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let is_time = matches!(array.data_type(), DataType::Timestamp(..) | DataType::Date32);
    match cast(array, to) {
        Err(_) if is_time && *to == DataType::Utf8 => {
            let text = |at: usize| {
                let one = cast(&array.slice(at, 1), to).ok()?;
                let one = one.as_string::<i32>();
                one.is_valid(0).then(|| one.value(0).to_owned())
            };
            Ok(Arc::new((0..array.len()).map(text).collect::<StringArray>()))
        }
        converted => converted,
    }
}

/// Whether the way through a text makes no difference, or there is none.
fn is_direct(from: &DataType, to: &DataType) -> bool {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::Binary | DataType::Dictionary(..));
    let is_decimal = |t: &DataType| matches!(t, DataType::Decimal128(..));
    is_text(from)
        || is_text(to)
        || from.is_integer() && to.is_numeric()
        || from.is_floating() && to.is_floating()
        || is_decimal(from) && is_decimal(to)
        || matches!((from, to), (DataType::Timestamp(..), DataType::Timestamp(..)))
}

/// Where a schema has the column that `field` means.
pub fn position(schema: &Schema, field: &Field) -> Option<usize> {
    let id = field.metadata().get(FIELD_ID);
    let same = |other: &FieldRef| match (id, other.metadata().get(FIELD_ID)) {
        (Some(id), Some(other)) => id == other,
        _ => field.name() == other.name(),
    };
    schema.fields().iter().position(same)
}

/// What rows show that do not have the column.
pub fn absent(field: &Field, rows: usize) -> Result<ArrayRef, ArrowError> {
    let Some(text) = field.metadata().get(ABSENT) else {
        return Ok(new_null_array(field.data_type(), rows));
    };
    let value = cast(&StringArray::from(vec![text.as_str()]), field.data_type())?;
    take(&value, &UInt32Array::from(vec![0; rows]), None)
}

fn arrow_error(error: ArrowError) -> Error {
    Error::internal(format!("rows under another schema: {error}"))
}

/// The wanted columns in the table's order, and sequence and operation if `internal`.
pub fn engine_schema(
    table: &TableSchema,
    wanted: impl Fn(&ColumnSchema) -> bool,
    internal: bool,
) -> SchemaRef {
    let columns = table.columns.iter().filter(|c| wanted(c));
    let mut fields: Vec<Field> = columns.map(engine_field).collect();
    if internal {
        fields.push(Field::new(SEQUENCE_COLUMN, DataType::UInt64, true));
        fields.push(Field::new(OP_COLUMN, DataType::UInt8, true));
    }
    Arc::new(Schema::new(fields))
}
