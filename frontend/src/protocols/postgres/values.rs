//! Values between Arrow and PostgreSQL.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::Value as Literal;
use greptime_types::{ColumnType, Error, Result};
use pgwire::api::Type;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::error::PgWireResult;
use pgwire::messages::data::DataRow;

/// What PostgreSQL calls a column's type. It has no unsigned ones: the next larger signed one, and text for the
/// largest.
pub fn type_of(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => Type::INT2,
        DataType::UInt16 | DataType::Int32 => Type::INT4,
        DataType::UInt32 | DataType::Int64 => Type::INT8,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Type::BYTEA,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Timestamp(_, _) => Type::TIMESTAMP,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Type::VARCHAR,
        DataType::Dictionary(_, values) => type_of(values),
        _ => Type::TEXT,
    }
}

pub fn type_of_column(column_type: ColumnType) -> Type {
    match column_type {
        // As a parameter, numbers of any size arrive as text.
        ColumnType::UInt64 => Type::NUMERIC,
        other => type_of(&other.to_arrow()),
    }
}

pub fn fields_of(schema: &Schema, format: &Format) -> Vec<FieldInfo> {
    let fields = schema.fields().iter().enumerate();
    fields
        .map(|(i, f)| {
            FieldInfo::new(
                f.name().clone(),
                None,
                None,
                type_of(f.data_type()),
                format.format_for(i),
            )
        })
        .collect()
}

pub fn rows_of(batch: &RecordBatch, fields: &Arc<Vec<FieldInfo>>) -> Result<Vec<DataRow>> {
    let columns = batch.columns().iter().map(normal).collect::<Result<Vec<_>>>()?;
    let mut encoder = DataRowEncoder::new(Arc::clone(fields));
    (0..batch.num_rows())
        .map(|row| {
            for (column, field) in columns.iter().zip(fields.iter()) {
                encode(&mut encoder, column.as_ref(), row, field)
                    .map_err(|e| Error::internal(format!("column `{}` cannot be sent: {e}", field.name())))?;
            }
            Ok(encoder.take_row())
        })
        .collect()
}

/// The array in the type that `type_of` announced.
fn normal(array: &ArrayRef) -> Result<ArrayRef> {
    let target = match array.data_type() {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Date64 => DataType::Date32,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, values) => return normal(&cast(array, values).map_err(internal)?),
        _ => return Ok(Arc::clone(array)),
    };
    cast(array, &target).map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::internal(error.to_string())
}

fn encode(
    encoder: &mut DataRowEncoder,
    array: &dyn Array,
    row: usize,
    field: &FieldInfo,
) -> PgWireResult<()> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return encoder.encode_field(&None::<i8>);
    }
    match array.data_type() {
        DataType::Boolean => encoder.encode_field(&array.as_boolean().value(row)),
        DataType::Int16 => encoder.encode_field(&array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => encoder.encode_field(&array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => encoder.encode_field(&array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => encoder.encode_field(&array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => encoder.encode_field(&array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => encoder.encode_field(&array.as_string::<i32>().value(row)),
        DataType::Binary => encoder.encode_field(&array.as_binary::<i32>().value(row)),
        DataType::Timestamp(..) => encoder.encode_field(
            &array
                .as_primitive::<TimestampMicrosecondType>()
                .value_as_datetime(row),
        ),
        DataType::Date32 => encoder.encode_field(&array.as_primitive::<Date32Type>().value_as_date(row)),
        _ => {
            let shown = ArrayFormatter::try_new(array, &FormatOptions::default());
            let text = shown.map(|s| s.value(row).to_string()).unwrap_or_default();
            let format = field.format();
            // Text is the same in both formats.
            encoder.encode_field_with_type_and_format(&text, &Type::TEXT, format, field.format_options())
        }
    }
}

/// Parameter `index` of a portal as a literal of SQL.
pub fn literal_of<S>(portal: &Portal<S>, index: usize, kind: &Type) -> Result<Literal>
where
    S: Clone,
{
    let Some(Some(bytes)) = portal.parameters.get(index) else {
        return Ok(Literal::Null);
    };
    if portal.parameter_format.format_for(index) == FieldFormat::Text {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Error::invalid(format!("parameter ${} is not UTF-8", index + 1)))?;
        return Ok(match *kind {
            Type::INT2 | Type::INT4 | Type::INT8 | Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => {
                Literal::Number(text.to_string(), false)
            }
            Type::BOOL => Literal::Boolean(matches!(text, "t" | "true" | "1" | "on" | "yes")),
            _ => Literal::SingleQuotedString(text.to_string()),
        });
    }
    binary(portal, index, kind)
        .map_err(|e| Error::invalid(format!("parameter ${} of type {kind}: {e}", index + 1)))
}

fn binary<S: Clone>(portal: &Portal<S>, index: usize, kind: &Type) -> PgWireResult<Literal> {
    fn literal<T>(value: Option<T>, make: impl Fn(T) -> Literal) -> Literal {
        value.map_or(Literal::Null, make)
    }
    let number = |text: String| Literal::Number(text, false);
    Ok(match *kind {
        Type::BOOL => literal(portal.parameter::<bool>(index, kind)?, Literal::Boolean),
        Type::INT2 => literal(portal.parameter::<i16>(index, kind)?, |v| number(v.to_string())),
        Type::INT4 => literal(portal.parameter::<i32>(index, kind)?, |v| number(v.to_string())),
        Type::INT8 => literal(portal.parameter::<i64>(index, kind)?, |v| number(v.to_string())),
        Type::FLOAT4 => literal(portal.parameter::<f32>(index, kind)?, |v| number(v.to_string())),
        Type::FLOAT8 => literal(portal.parameter::<f64>(index, kind)?, |v| number(v.to_string())),
        Type::TIMESTAMP => literal(portal.parameter::<chrono::NaiveDateTime>(index, kind)?, |v| {
            Literal::SingleQuotedString(v.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
        }),
        Type::TIMESTAMPTZ => literal(
            portal.parameter::<chrono::DateTime<chrono::FixedOffset>>(index, kind)?,
            |v| Literal::SingleQuotedString(v.to_utc().format("%Y-%m-%d %H:%M:%S%.6fZ").to_string()),
        ),
        Type::DATE => literal(portal.parameter::<chrono::NaiveDate>(index, kind)?, |v| {
            Literal::SingleQuotedString(v.to_string())
        }),
        Type::BYTEA => literal(portal.parameter::<Vec<u8>>(index, kind)?, |v| {
            Literal::HexStringLiteral(v.iter().map(|b| format!("{b:02x}")).collect())
        }),
        // What is left is text, also for drivers that do not say a type.
        _ => literal(
            portal.parameter::<String>(index, &Type::TEXT)?,
            Literal::SingleQuotedString,
        ),
    })
}
