//! Values between Arrow and PostgreSQL.

use std::sync::Arc;

use chrono::{Datelike, NaiveDate, NaiveDateTime};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
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
        ColumnType::UInt64 | ColumnType::Decimal(..) => Type::NUMERIC,
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
    let values = cast(array, &target).map_err(internal)?;
    let calendar = |t: &TimestampMicrosecondArray| {
        (0..t.len()).all(|i| t.is_null(i) || t.value_as_datetime(i).is_some())
    };
    let shown = values
        .as_primitive_opt::<TimestampMicrosecondType>()
        .is_none_or(calendar);
    if values.null_count() > array.null_count() || !shown {
        return Err(Error::invalid(
            "a time lies outside of the years that PostgreSQL can show; select CAST(… AS BIGINT)",
        ));
    }
    Ok(values)
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
    if field.format() == FieldFormat::Text
        && let Some(text) = own_text(array, row)
    {
        return encode_text(encoder, &text, field);
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
            encode_text(encoder, &text, field)
        }
    }
}

/// The text of those values that the library writes in another way than PostgreSQL does.
fn own_text(array: &dyn Array, row: usize) -> Option<String> {
    match array.data_type() {
        DataType::Float32 => Some(float4_text(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Some(float8_text(array.as_primitive::<Float64Type>().value(row))),
        DataType::Timestamp(..) => array
            .as_primitive::<TimestampMicrosecondType>()
            .value_as_datetime(row)
            .map(timestamp_text),
        DataType::Date32 => array
            .as_primitive::<Date32Type>()
            .value_as_date(row)
            .map(date_text),
        _ => None,
    }
}

/// Text is the same in both formats.
fn encode_text(encoder: &mut DataRowEncoder, text: &str, field: &FieldInfo) -> PgWireResult<()> {
    encoder.encode_field_with_type_and_format(&text, &Type::TEXT, field.format(), field.format_options())
}

fn float8_text(value: f64) -> String {
    float_text(&format!("{value:e}"), 15)
}

fn float4_text(value: f32) -> String {
    float_text(&format!("{value:e}"), 6)
}

/// A float as PostgreSQL prints it (`float8out` and `float4out` with their default `extra_float_digits`): the
/// fewest digits that read back as the same number, with an exponent where the number is below 1e-4 or has more
/// than `digits` digits before its point. `shortest` is what Rust writes with `{:e}`.
fn float_text(shortest: &str, digits: i32) -> String {
    let Some((mantissa, exponent)) = shortest.split_once('e') else {
        let name = match shortest {
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            _ => "NaN",
        };
        return name.to_string();
    };
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(positive) => ("-", positive),
        None => ("", mantissa),
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..digits).contains(&exponent) {
        let direction = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{direction}{:02}", exponent.unsigned_abs());
    }
    let figures: String = mantissa.chars().filter(|c| *c != '.').collect();
    let before = usize::try_from(exponent + 1).unwrap_or(0);
    if before == 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{figures}");
    }
    match figures.split_at_checked(before) {
        Some((whole, "")) => format!("{sign}{whole}"),
        Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
        None => format!("{sign}{figures:0<before$}"),
    }
}

/// `2024-01-01 00:00:00`, with as many digits of the fraction as are not zero.
fn timestamp_text(time: NaiveDateTime) -> String {
    let text = format!("{} {}", day_text(time.date()), time.format("%H:%M:%S%.6f"));
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{}", era_text(time.date()))
}

fn date_text(date: NaiveDate) -> String {
    format!("{}{}", day_text(date), era_text(date))
}

fn day_text(date: NaiveDate) -> String {
    let (_, year) = date.year_ce();
    format!("{year:04}-{:02}-{:02}", date.month(), date.day())
}

/// Years before the first are counted backwards.
fn era_text(date: NaiveDate) -> &'static str {
    match date.year_ce() {
        (true, _) => "",
        (false, _) => " BC",
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, TimestampMillisecondArray,
    };

    use super::*;

    #[test]
    fn a_float8_is_written_as_postgresql_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (5.0, "5"),
            (-5.0, "-5"),
            (0.1, "0.1"),
            (1.5, "1.5"),
            (-1234.5678, "-1234.5678"),
            (100.0, "100"),
            (120_000.0, "120000"),
            (0.0001, "0.0001"),
            (0.000_123, "0.000123"),
            (0.000_01, "1e-05"),
            (0.000_012_5, "1.25e-05"),
            (100_000_000_000_000.0, "100000000000000"),
            (123_456_789_012_345.0, "123456789012345"),
            (12_345_678_901_234.5, "12345678901234.5"),
            (1e15, "1e+15"),
            (1_234_567_890_123_456.0, "1.234567890123456e+15"),
            (1e20, "1e+20"),
            (1e100, "1e+100"),
            (-2.5e-100, "-2.5e-100"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (1.0 / 3.0, "0.3333333333333333"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float8_text(value), text);
        }
    }

    #[test]
    fn a_float4_has_its_own_digits_and_its_own_border() {
        for (value, text) in [
            (0.0, "0"),
            (5.0, "5"),
            (0.1, "0.1"),
            (1.1, "1.1"),
            (123_456.0, "123456"),
            (12_345.6, "12345.6"),
            (999_999.0, "999999"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (f32::MAX, "3.4028235e+38"),
            (f32::NAN, "NaN"),
            (f32::INFINITY, "Infinity"),
            (f32::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float4_text(value), text);
        }
    }

    #[test]
    fn a_time_has_no_zeros_at_its_end() {
        for (micros, text) in [
            (0, "1970-01-01 00:00:00"),
            (1_704_067_200_000_000, "2024-01-01 00:00:00"),
            (1_704_067_210_000_000, "2024-01-01 00:00:10"),
            (1_704_067_200_500_000, "2024-01-01 00:00:00.5"),
            (1_704_067_200_000_120, "2024-01-01 00:00:00.00012"),
            (1_704_067_200_123_456, "2024-01-01 00:00:00.123456"),
            (-1, "1969-12-31 23:59:59.999999"),
            (253_402_300_800_000_000, "10000-01-01 00:00:00"),
            (-62_135_596_800_000_000, "0001-01-01 00:00:00"),
            (-62_135_596_800_000_001, "0001-12-31 23:59:59.999999 BC"),
        ] {
            let time = chrono::DateTime::from_timestamp_micros(micros)
                .unwrap()
                .naive_utc();
            assert_eq!(timestamp_text(time), text);
        }
        let date = |year| date_text(NaiveDate::from_ymd_opt(year, 2, 3).unwrap());
        assert_eq!(
            [date(2024), date(12_024), date(0)],
            ["2024-02-03", "12024-02-03", "0001-02-03 BC"]
        );
    }

    /// The fields of the only row of a batch.
    fn sent(batch: &RecordBatch, format: FieldFormat) -> Vec<Vec<u8>> {
        let schema = batch.schema();
        let fields = schema.fields().iter().map(|f| {
            let kind = type_of(f.data_type());
            FieldInfo::new(f.name().clone(), None, None, kind, format)
        });
        let fields = Arc::new(fields.collect::<Vec<_>>());
        let rows = rows_of(batch, &fields).unwrap();
        let mut rest = &rows[0].data[..];
        let mut values = Vec::new();
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let (value, more) = more.split_at(i32::from_be_bytes(*length) as usize);
            values.push(value.to_vec());
            rest = more;
        }
        values
    }

    fn one_row() -> RecordBatch {
        let columns: [(&str, ArrayRef); 6] = [
            ("bool", Arc::new(BooleanArray::from(vec![true]))),
            ("float8", Arc::new(Float64Array::from(vec![5.0]))),
            ("float4", Arc::new(Float32Array::from(vec![0.1]))),
            ("time", Arc::new(TimestampMillisecondArray::from(vec![1_500]))),
            ("date", Arc::new(Date32Array::from(vec![1]))),
            ("bytes", Arc::new(BinaryArray::from_vec(vec![&b"\x00\xffa"[..]]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn values_are_text_in_the_text_format() {
        let texts: Vec<String> = sent(&one_row(), FieldFormat::Text)
            .into_iter()
            .map(|v| String::from_utf8(v).unwrap())
            .collect();
        assert_eq!(
            texts,
            [
                "t",
                "5",
                "0.1",
                "1970-01-01 00:00:01.5",
                "1970-01-02",
                r"\x00ff61"
            ]
        );
    }

    #[test]
    fn values_are_bytes_in_the_binary_format() {
        // Times count from 2000, in microseconds and in days.
        const EPOCH_DAYS: i32 = 10_957;
        let time = 1_500_000 - i64::from(EPOCH_DAYS) * 86_400_000_000;
        assert_eq!(
            sent(&one_row(), FieldFormat::Binary),
            [
                vec![1],
                5_f64.to_be_bytes().to_vec(),
                0.1_f32.to_be_bytes().to_vec(),
                time.to_be_bytes().to_vec(),
                (1 - EPOCH_DAYS).to_be_bytes().to_vec(),
                b"\x00\xffa".to_vec(),
            ]
        );
    }
}
