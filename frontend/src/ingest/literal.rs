//! Values as clients write them, as a column of the table's type.

use std::sync::Arc;

use chrono::Utc;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, FixedSizeListBuilder, Float32Builder,
    PrimitiveBuilder, StringArray, StringBuilder, TimestampMicrosecondBuilder, TimestampMillisecondBuilder,
    TimestampNanosecondBuilder, TimestampSecondBuilder,
};
use datafusion::arrow::compute::kernels::cast_utils::string_to_datetime;
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::common::ScalarValue;
use greptime_types::{ColumnSchema, ColumnType, Error, Result, TimeUnit};

/// One value that is not typed yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    /// Digits as written, perhaps with sign, point and exponent.
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    /// What an expression came to.
    Scalar(ScalarValue),
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Null => "NULL".into(),
            Self::Bool(value) => value.to_string(),
            Self::Number(digits) => digits.clone(),
            Self::Text(text) => format!("'{}'", text.chars().take(40).collect::<String>()),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Scalar(value) => format!("{value} ({})", value.data_type()),
        }
    }
}

/// A point in time as text, in `unit` since 1970: RFC 3339 and its usual shortenings, UTC unless it says.
pub fn timestamp_from_text(text: &str, unit: TimeUnit) -> Result<i64> {
    let invalid = || {
        Error::invalid(format!(
            "'{text}' is not a timestamp; write e.g. '2026-01-31 12:00:00.000'"
        ))
    };
    let time = string_to_datetime(&Utc, text.trim()).map_err(|_| invalid())?;
    match unit {
        TimeUnit::Second => Ok(time.timestamp()),
        TimeUnit::Millisecond => Ok(time.timestamp_millis()),
        TimeUnit::Microsecond => Ok(time.timestamp_micros()),
        TimeUnit::Nanosecond => time.timestamp_nanos_opt().ok_or_else(invalid),
    }
}

/// Makes the column; an error names the column, the row (from 1) and the value.
pub fn column_from_cells<'a>(
    column: &ColumnSchema,
    cells: impl ExactSizeIterator<Item = &'a Cell>,
) -> Result<ArrayRef> {
    match column.column_type {
        ColumnType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(cells.len());
            each(column, cells, boolean, |value| builder.append_option(value))?;
            Ok(Arc::new(builder.finish()))
        }
        ColumnType::Int8 => primitive::<Int8Type>(column, cells, parse_number),
        ColumnType::Int16 => primitive::<Int16Type>(column, cells, parse_number),
        ColumnType::Int32 => primitive::<Int32Type>(column, cells, parse_number),
        ColumnType::Int64 => primitive::<Int64Type>(column, cells, parse_number),
        ColumnType::UInt8 => primitive::<UInt8Type>(column, cells, parse_number),
        ColumnType::UInt16 => primitive::<UInt16Type>(column, cells, parse_number),
        ColumnType::UInt32 => primitive::<UInt32Type>(column, cells, parse_number),
        ColumnType::UInt64 => primitive::<UInt64Type>(column, cells, parse_number),
        ColumnType::Float32 => primitive::<Float32Type>(column, cells, parse_number),
        ColumnType::Float64 => primitive::<Float64Type>(column, cells, parse_number),
        ColumnType::Date => primitive::<Date32Type>(column, cells, date),
        ColumnType::String => {
            let mut builder = StringBuilder::with_capacity(cells.len(), cells.len() * 16);
            each(column, cells, text, |value| builder.append_option(value))?;
            Ok(Arc::new(builder.finish()))
        }
        ColumnType::Binary => {
            let mut builder = BinaryBuilder::new();
            each(column, cells, binary, |value| builder.append_option(value))?;
            Ok(Arc::new(builder.finish()))
        }
        ColumnType::Timestamp(unit) => timestamps(column, cells, unit),
        ColumnType::Decimal(..) => decimals(column, cells),
        ColumnType::Json => {
            let mut builder = StringBuilder::with_capacity(cells.len(), cells.len() * 64);
            each(column, cells, json, |value| builder.append_option(value))?;
            Ok(Arc::new(builder.finish()))
        }
        ColumnType::Vector(dimension) => vectors(column, cells, dimension),
    }
}

/// An array of a query's result as values of the column. What does not fit is an error, not NULL.
pub fn column_from_array(column: &ColumnSchema, array: &ArrayRef) -> Result<ArrayRef> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::invalid(format!(
            "column `{}` is {}: {why}",
            column.name,
            column.column_type.sql_name()
        ))
    };
    let texts = matches!(
        array.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    match column.column_type {
        // Their texts have a form that a cast does not look at.
        ColumnType::Json | ColumnType::Vector(_) if texts => {
            let texts = cast(array, &DataType::Utf8).map_err(|e| wrong(&e))?;
            let cells: Vec<Cell> = texts
                .as_string::<i32>()
                .iter()
                .map(|text| text.map_or(Cell::Null, |text| Cell::Text(text.to_owned())))
                .collect();
            let nullable = ColumnSchema {
                nullable: true,
                ..column.clone()
            };
            column_from_cells(&nullable, cells.iter())
        }
        other => {
            let strict = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(array, &other.to_arrow(), &strict).map_err(|e| wrong(&e))
        }
    }
}

/// Digits beyond the scale are rounded, as in MySQL and PostgreSQL.
fn decimals<'a>(column: &ColumnSchema, cells: impl ExactSizeIterator<Item = &'a Cell>) -> Result<ArrayRef> {
    let mut texts: Vec<Option<String>> = Vec::with_capacity(cells.len());
    each(column, cells, decimal_text, |value| texts.push(value))?;
    let texts = StringArray::from(texts);
    let target = column.column_type.to_arrow();
    let values = cast(&texts, &target).map_err(|e| Error::internal(e.to_string()))?;
    match (0..texts.len()).find(|row| texts.is_valid(*row) && values.is_null(*row)) {
        None => Ok(values),
        Some(row) => Err(Error::invalid(format!(
            "column `{}`, row {}: {} is not {}",
            column.name,
            row + 1,
            texts.value(row),
            column.column_type.sql_name()
        ))),
    }
}

fn decimal_text(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Number(text) | Cell::Text(text) => Some(text.trim().to_owned()),
        Cell::Scalar(value) if value.data_type().is_numeric() || value.try_as_str().is_some() => {
            let text = value.cast_to(&DataType::Utf8).ok()?;
            text.try_as_str().flatten().map(str::to_owned)
        }
        _ => None,
    }
}

fn json(cell: &Cell) -> Option<&str> {
    text(cell).filter(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

fn vectors<'a>(
    column: &ColumnSchema,
    cells: impl ExactSizeIterator<Item = &'a Cell>,
    dimension: u32,
) -> Result<ArrayRef> {
    let width = dimension as usize;
    let builder = Float32Builder::with_capacity(cells.len() * width);
    let mut builder = FixedSizeListBuilder::new(builder, i32::try_from(dimension).unwrap_or(i32::MAX));
    each(
        column,
        cells,
        |cell| vector(cell, width),
        |value| {
            let valid = value.is_some();
            let numbers = value.unwrap_or_else(|| vec![0.0; width]);
            builder.values().append_slice(&numbers);
            builder.append(valid);
        },
    )?;
    Ok(Arc::new(builder.finish()))
}

/// `[1, 2.5, 3]`, with as many numbers as the column has.
fn vector(cell: &Cell, width: usize) -> Option<Vec<f32>> {
    let inner = text(cell)?.trim().strip_prefix('[')?.strip_suffix(']')?;
    let numbers: Option<Vec<f32>> = inner.split(',').map(|n| n.trim().parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() == width && numbers.iter().all(|n| n.is_finite()))
}

fn each<'a, T>(
    column: &ColumnSchema,
    cells: impl Iterator<Item = &'a Cell>,
    read: impl Fn(&'a Cell) -> Option<T>,
    mut append: impl FnMut(Option<T>),
) -> Result<()> {
    for (row, cell) in cells.enumerate() {
        let null = match cell {
            Cell::Null => true,
            Cell::Scalar(value) => value.is_null(),
            _ => false,
        };
        if null {
            if !column.nullable {
                return Err(Error::invalid(format!(
                    "column `{}`, row {}: cannot be NULL",
                    column.name,
                    row + 1
                )));
            }
            append(None);
            continue;
        }
        let value = read(cell).ok_or_else(|| {
            let (name, expected) = (&column.name, column.column_type.sql_name());
            Error::invalid(format!(
                "column `{name}`, row {}: {} is not {expected}",
                row + 1,
                cell.shown()
            ))
        })?;
        append(Some(value));
    }
    Ok(())
}

fn primitive<'a, T: ArrowPrimitiveType>(
    column: &ColumnSchema,
    cells: impl ExactSizeIterator<Item = &'a Cell>,
    read: impl Fn(&'a Cell) -> Option<T::Native>,
) -> Result<ArrayRef> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(cells.len());
    each(column, cells, read, |value| builder.append_option(value))?;
    Ok(Arc::new(builder.finish()))
}

/// Numbers, and texts that are numbers: drivers that bind parameters themselves quote everything.
fn parse_number<T: std::str::FromStr>(cell: &Cell) -> Option<T> {
    match cell {
        Cell::Number(digits) => digits.parse().ok(),
        Cell::Text(text) => text.trim().parse().ok(),
        // Only numbers: a boolean or a time must not become one silently.
        Cell::Scalar(value) if value.data_type().is_numeric() => {
            let text = value.to_string();
            text.parse()
                .ok()
                .or_else(|| text.strip_suffix(".0")?.parse().ok())
        }
        _ => None,
    }
}

fn boolean(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Bool(value) | Cell::Scalar(ScalarValue::Boolean(Some(value))) => Some(*value),
        Cell::Number(text) | Cell::Text(text) => match text.trim().to_lowercase().as_str() {
            "true" | "t" | "1" => Some(true),
            "false" | "f" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn text(cell: &Cell) -> Option<&str> {
    match cell {
        Cell::Text(text) => Some(text),
        Cell::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        Cell::Scalar(value) => value.try_as_str().flatten(),
        _ => None,
    }
}

fn binary(cell: &Cell) -> Option<&[u8]> {
    match cell {
        Cell::Bytes(bytes) | Cell::Scalar(ScalarValue::Binary(Some(bytes))) => Some(bytes),
        other => text(other).map(str::as_bytes),
    }
}

fn date(cell: &Cell) -> Option<i32> {
    match cell {
        Cell::Text(text) => {
            let day = text.trim().parse::<chrono::NaiveDate>().ok()?;
            i32::try_from(day.signed_duration_since(chrono::NaiveDate::default()).num_days()).ok()
        }
        Cell::Scalar(ScalarValue::Date32(value)) => *value,
        _ => None,
    }
}

/// In the unit of the column: a number counts in it, a text is a point in time.
fn timestamp(cell: &Cell, unit: TimeUnit) -> Option<i64> {
    match cell {
        Cell::Number(digits) => digits.parse().ok(),
        Cell::Text(text) => timestamp_from_text(text, unit)
            .ok()
            .or_else(|| text.trim().parse().ok()),
        Cell::Scalar(value) if value.data_type().is_integer() => value.to_string().parse().ok(),
        Cell::Scalar(value) if value.data_type().is_temporal() => {
            let target = ColumnType::Timestamp(unit).to_arrow();
            match value.cast_to(&target).ok()? {
                ScalarValue::TimestampSecond(v, _)
                | ScalarValue::TimestampMillisecond(v, _)
                | ScalarValue::TimestampMicrosecond(v, _)
                | ScalarValue::TimestampNanosecond(v, _) => v,
                _ => None,
            }
        }
        Cell::Scalar(value) => timestamp_from_text(value.try_as_str().flatten()?, unit).ok(),
        _ => None,
    }
}

fn timestamps<'a>(
    column: &ColumnSchema,
    cells: impl ExactSizeIterator<Item = &'a Cell>,
    unit: TimeUnit,
) -> Result<ArrayRef> {
    macro_rules! build {
        ($builder:ty) => {{
            let mut builder = <$builder>::with_capacity(cells.len());
            each(
                column,
                cells,
                |cell| timestamp(cell, unit),
                |value| builder.append_option(value),
            )?;
            Ok(Arc::new(builder.finish()))
        }};
    }
    match unit {
        TimeUnit::Second => build!(TimestampSecondBuilder),
        TimeUnit::Millisecond => build!(TimestampMillisecondBuilder),
        TimeUnit::Microsecond => build!(TimestampMicrosecondBuilder),
        TimeUnit::Nanosecond => build!(TimestampNanosecondBuilder),
    }
}
