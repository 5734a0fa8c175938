//! Column types by their SQL names.

use datafusion::sql::sqlparser::ast::DataType;
use greptime_types::{ColumnType, Error, Result, TimeUnit};

/// `TIMESTAMP` without a precision.
const DEFAULT_PRECISION: u64 = 3;

/// Types are recognised by how they are written: GreptimeDB's names, and the usual ones of MySQL and PostgreSQL.
pub fn column_type(data_type: &DataType) -> Result<ColumnType> {
    let text = data_type.to_string().to_uppercase();
    let (base, argument) = split_argument(&text);
    let found = match base.as_str() {
        "BOOLEAN" | "BOOL" => ColumnType::Boolean,
        "TINYINT" | "INT8" => ColumnType::Int8,
        "SMALLINT" | "INT16" | "INT2" => ColumnType::Int16,
        "INT" | "INTEGER" | "INT32" | "INT4" | "MEDIUMINT" => ColumnType::Int32,
        "BIGINT" | "INT64" => ColumnType::Int64,
        "TINYINT UNSIGNED" | "UINT8" | "UTINYINT" => ColumnType::UInt8,
        "SMALLINT UNSIGNED" | "UINT16" | "USMALLINT" => ColumnType::UInt16,
        "INT UNSIGNED" | "INTEGER UNSIGNED" | "UINT32" => ColumnType::UInt32,
        "BIGINT UNSIGNED" | "UINT64" | "UBIGINT" => ColumnType::UInt64,
        "FLOAT" | "FLOAT32" | "REAL" | "FLOAT4" => ColumnType::Float32,
        "DOUBLE" | "DOUBLE PRECISION" | "FLOAT64" | "FLOAT8" => ColumnType::Float64,
        "STRING" | "TEXT" | "VARCHAR" | "CHAR" | "CHARACTER VARYING" | "CHARACTER" | "CHAR VARYING"
        | "NVARCHAR" | "TINYTEXT" | "MEDIUMTEXT" | "LONGTEXT" => ColumnType::String,
        "BINARY" | "VARBINARY" | "BYTEA" | "BLOB" | "TINYBLOB" | "MEDIUMBLOB" | "LONGBLOB" | "BYTES" => {
            ColumnType::Binary
        }
        "DATE" => ColumnType::Date,
        "DECIMAL" | "NUMERIC" | "DEC" => decimal(&text)?,
        "JSON" | "JSONB" => ColumnType::Json,
        "VECTOR" => {
            let dimension = argument.and_then(|n| u32::try_from(n).ok());
            ColumnType::Vector(dimension.ok_or_else(|| Error::invalid("write VECTOR(n) with its dimension"))?)
        }
        "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" => timestamp(argument.unwrap_or(DEFAULT_PRECISION))?,
        "TIMESTAMP_S" | "TIMESTAMP_SEC" | "TIMESTAMPSECOND" => ColumnType::Timestamp(TimeUnit::Second),
        "TIMESTAMP_MS" | "TIMESTAMPMILLISECOND" => ColumnType::Timestamp(TimeUnit::Millisecond),
        "TIMESTAMP_US" | "TIMESTAMPMICROSECOND" => ColumnType::Timestamp(TimeUnit::Microsecond),
        "TIMESTAMP_NS" | "TIMESTAMPNANOSECOND" => ColumnType::Timestamp(TimeUnit::Nanosecond),
        "DATETIME" => timestamp(argument.unwrap_or(6))?,
        _ => return Err(Error::unsupported(format!("type {data_type} is not supported"))),
    };
    Ok(found)
}

/// `DECIMAL`, `DECIMAL(p)` and `DECIMAL(p, s)`; without parameters as in MySQL and GreptimeDB.
fn decimal(text: &str) -> Result<ColumnType> {
    let (_, rest) = text.split_once('(').unwrap_or((text, "38,10)"));
    let mut numbers = rest
        .trim_end_matches(')')
        .split(',')
        .map(|n| n.trim().parse::<i8>());
    let wrong = || Error::invalid(format!("{text}: write DECIMAL(precision, scale)"));
    let precision = numbers.next().and_then(|n| n.ok()).ok_or_else(wrong)?;
    let scale = match numbers.next() {
        None => 0,
        Some(scale) => scale.map_err(|_| wrong())?,
    };
    let decimal = ColumnType::Decimal(u8::try_from(precision).map_err(|_| wrong())?, scale);
    decimal.validate()?;
    Ok(decimal)
}

fn timestamp(precision: u64) -> Result<ColumnType> {
    Ok(ColumnType::Timestamp(TimeUnit::from_precision(precision)?))
}

/// `VARCHAR(20)` is `VARCHAR` and 20; lengths of strings are not enforced, as in GreptimeDB.
fn split_argument(text: &str) -> (String, Option<u64>) {
    let Some((before, rest)) = text.split_once('(') else {
        return (text.to_string(), None);
    };
    let (argument, after) = rest.split_once(')').unwrap_or((rest, ""));
    (
        format!("{before}{after}").trim().to_string(),
        argument.trim().parse().ok(),
    )
}
