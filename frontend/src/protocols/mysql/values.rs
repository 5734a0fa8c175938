//! Values between Arrow and MySQL.

use std::io;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::Value as Literal;
use greptime_types::{Error, Result};
use opensrv_mysql::{Column, ColumnFlags, ColumnType, RowWriter, Value, ValueInner, to_naive_datetime};
use tokio::io::AsyncWrite;

pub fn columns_of(schema: &Schema) -> Vec<Column> {
    let column = |name: &String, coltype, colflags| Column {
        table: String::new(),
        column: name.clone(),
        coltype,
        colflags,
    };
    schema
        .fields()
        .iter()
        .map(|field| {
            let (coltype, flags) = match field.data_type() {
                DataType::Boolean => (ColumnType::MYSQL_TYPE_TINY, ColumnFlags::empty()),
                t if t.is_signed_integer() => (ColumnType::MYSQL_TYPE_LONGLONG, ColumnFlags::empty()),
                t if t.is_unsigned_integer() => (ColumnType::MYSQL_TYPE_LONGLONG, ColumnFlags::UNSIGNED_FLAG),
                DataType::Float32 => (ColumnType::MYSQL_TYPE_FLOAT, ColumnFlags::empty()),
                DataType::Float64 => (ColumnType::MYSQL_TYPE_DOUBLE, ColumnFlags::empty()),
                DataType::Timestamp(..) => (ColumnType::MYSQL_TYPE_DATETIME, ColumnFlags::empty()),
                DataType::Date32 | DataType::Date64 => (ColumnType::MYSQL_TYPE_DATE, ColumnFlags::empty()),
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                    (ColumnType::MYSQL_TYPE_BLOB, ColumnFlags::BINARY_FLAG)
                }
                _ => (ColumnType::MYSQL_TYPE_VAR_STRING, ColumnFlags::empty()),
            };
            column(field.name(), coltype, flags)
        })
        .collect()
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

pub async fn write_batch<W: AsyncWrite + Send + Unpin>(
    writer: &mut RowWriter<'_, W>,
    batch: &RecordBatch,
) -> io::Result<()> {
    let columns = batch
        .columns()
        .iter()
        .map(|c| normal(c))
        .collect::<io::Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        for column in &columns {
            write_value(writer, column.as_ref(), row)?;
        }
        writer.end_row().await?;
    }
    Ok(())
}

/// The widest array of the same kind, as `columns_of` announces it.
fn normal(array: &dyn Array) -> io::Result<datafusion::arrow::array::ArrayRef> {
    let target = match array.data_type() {
        t if t.is_signed_integer() => DataType::Int64,
        t if t.is_unsigned_integer() => DataType::UInt64,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Date64 => DataType::Date32,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => DataType::Utf8,
        same => same.clone(),
    };
    let values = cast(array, &target).map_err(failed)?;
    if values.null_count() > array.null_count() && *array.data_type() != DataType::Null {
        return Err(no_time());
    }
    Ok(values)
}

/// Times are kept in the whole range of 64 bits, of which a calendar has a part.
fn no_time() -> io::Error {
    failed("a time lies outside of the years that MySQL can show; select CAST(… AS BIGINT)")
}

fn write_value<W: AsyncWrite + Send + Unpin>(
    writer: &mut RowWriter<'_, W>,
    array: &dyn Array,
    row: usize,
) -> io::Result<()> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return writer.write_col(None::<&str>);
    }
    match array.data_type() {
        DataType::Boolean => writer.write_col(i8::from(array.as_boolean().value(row))),
        DataType::Int64 => writer.write_col(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt64 => writer.write_col(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => writer.write_col(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => writer.write_col(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => writer.write_col(array.as_string::<i32>().value(row)),
        DataType::Binary => writer.write_col(array.as_binary::<i32>().value(row)),
        DataType::Timestamp(..) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>();
            writer.write_col(micros.value_as_datetime(row).ok_or_else(no_time)?)
        }
        DataType::Date32 => {
            let days = array.as_primitive::<datafusion::arrow::datatypes::Date32Type>();
            writer.write_col(days.value_as_date(row))
        }
        _ => {
            let shown = ArrayFormatter::try_new(array, &FormatOptions::default()).map_err(failed)?;
            writer.write_col(shown.value(row).to_string())
        }
    }
}

/// A bound parameter as a literal of SQL.
pub fn literal_of(value: Value<'_>) -> Result<Literal> {
    Ok(match value.into_inner() {
        ValueInner::NULL => Literal::Null,
        ValueInner::Int(v) => Literal::Number(v.to_string(), false),
        ValueInner::UInt(v) => Literal::Number(v.to_string(), false),
        ValueInner::Double(v) => Literal::Number(v.to_string(), false),
        ValueInner::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Literal::SingleQuotedString(text.to_string()),
            Err(_) => Literal::HexStringLiteral(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        },
        // Year in two bytes, month, day.
        ValueInner::Date([low, high, month, day, ..]) => {
            let year = u16::from_le_bytes([*low, *high]);
            Literal::SingleQuotedString(format!("{year:04}-{month:02}-{day:02}"))
        }
        ValueInner::Date(_) => return Err(Error::invalid("a bound DATE is empty")),
        ValueInner::Datetime(_) => {
            let time = to_naive_datetime(value)
                .map_err(|e| Error::invalid(format!("a bound time cannot be read: {e:?}")))?;
            Literal::SingleQuotedString(time.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
        }
        ValueInner::Time(_) => {
            return Err(Error::unsupported(
                "a bound TIME is not supported; bind a DATETIME",
            ));
        }
    })
}
