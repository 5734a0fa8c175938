//! Rows as GreptimeDB's JSON.

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use greptime_query::from_datafusion;
use greptime_types::{Error, Result};

use crate::query::memory::AnswerSpace;

/// Drawing a table takes about so much for a cell on top of its text, and the text several times.
const DRAWN_CELL: usize = 256;
const DRAWN_COPIES: usize = 4;

/// `{"records":{"schema":…,"rows":[[…],…],"total_rows":n}}`, as long as there is space for what is in `out`.
pub async fn write_records(
    out: &mut Vec<u8>,
    mut rows: SendableRecordBatchStream,
    space: &AnswerSpace,
) -> Result<()> {
    out.extend(b"{\"records\":{\"schema\":");
    write_schema(out, &rows.schema());
    out.extend(b",\"rows\":[");
    let mut total = 0;
    while let Some(batch) = rows.try_next().await.map_err(|e| from_datafusion(&e))? {
        let columns = batch
            .columns()
            .iter()
            .map(|c| Cells::new(c))
            .collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            out.extend(if total == 0 { &b"["[..] } else { &b",["[..] });
            for (number, column) in columns.iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                column.write(out, row);
            }
            out.push(b']');
            total += 1;
            space.hold(out.len(), out.capacity())?;
        }
    }
    out.extend(format!("],\"total_rows\":{total}}}}}").bytes());
    Ok(())
}

/// All rows of a table that is to be drawn, as long as there is space for it.
pub async fn collect(mut rows: SendableRecordBatchStream, space: &AnswerSpace) -> Result<Vec<RecordBatch>> {
    let (mut batches, mut counter) = (Vec::new(), RecordBatchMemoryCounter::new());
    let mut cells = 0;
    while let Some(batch) = rows.try_next().await.map_err(|e| from_datafusion(&e))? {
        counter.count_batch(&batch);
        cells += batch.num_rows() * batch.num_columns();
        let length = counter.memory_usage();
        space.hold(length, length * DRAWN_COPIES + cells * DRAWN_CELL)?;
        batches.push(batch);
    }
    Ok(batches)
}

fn write_schema(out: &mut Vec<u8>, schema: &SchemaRef) {
    let columns = schema.fields().iter();
    let columns: Vec<_> = columns
        .map(|f| serde_json::json!({"name": f.name(), "data_type": type_name(f.data_type())}))
        .collect();
    out.extend(
        serde_json::json!({ "column_schemas": columns })
            .to_string()
            .bytes(),
    );
}

/// GreptimeDB's names of types.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "String".into(),
        DataType::LargeBinary | DataType::BinaryView => "Binary".into(),
        DataType::Date32 | DataType::Date64 => "Date".into(),
        DataType::Timestamp(TimeUnit::Second, _) => "TimestampSecond".into(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => "TimestampMillisecond".into(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "TimestampMicrosecond".into(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "TimestampNanosecond".into(),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::Decimal128(precision, scale) => format!("Decimal({precision}, {scale})"),
        DataType::FixedSizeList(item, dimension) if *item.data_type() == DataType::Float32 => {
            format!("Vector({dimension})")
        }
        other => other.to_string(),
    }
}

/// One column, ready to write its values: numbers and times as numbers, the rest as text.
enum Cells<'a> {
    Null,
    Bool(&'a datafusion::arrow::array::BooleanArray),
    Integer(Box<dyn Fn(usize) -> i128 + 'a>, &'a dyn Array),
    Float(Box<dyn Fn(usize) -> f64 + 'a>, &'a dyn Array),
    Text(&'a datafusion::arrow::array::StringArray),
    Shown(ArrayFormatter<'a>, &'a dyn Array),
}

impl<'a> Cells<'a> {
    fn new(array: &'a dyn Array) -> Result<Self> {
        macro_rules! integer {
            ($type:ty) => {{
                let values = array.as_primitive::<$type>();
                Self::Integer(Box::new(move |row| i128::from(values.value(row))), array)
            }};
        }
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Int8 => integer!(Int8Type),
            DataType::Int16 => integer!(Int16Type),
            DataType::Int32 => integer!(Int32Type),
            DataType::Int64 => integer!(Int64Type),
            DataType::UInt8 => integer!(UInt8Type),
            DataType::UInt16 => integer!(UInt16Type),
            DataType::UInt32 => integer!(UInt32Type),
            DataType::UInt64 => integer!(UInt64Type),
            DataType::Timestamp(TimeUnit::Second, _) => integer!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => integer!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => integer!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => integer!(TimestampNanosecondType),
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                // Through text, so that 0.1 stays 0.1.
                Self::Float(
                    Box::new(|row| values.value(row).to_string().parse().unwrap_or(f64::NAN)),
                    array,
                )
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                Self::Float(Box::new(|row| values.value(row)), array)
            }
            DataType::Utf8 => Self::Text(array.as_string()),
            _ => {
                const OPTIONS: FormatOptions<'static> = FormatOptions::new();
                let shown = ArrayFormatter::try_new(array, &OPTIONS);
                Self::Shown(shown.map_err(|e| Error::internal(e.to_string()))?, array)
            }
        })
    }

    fn write(&self, out: &mut Vec<u8>, row: usize) {
        let null = match self {
            Self::Null => true,
            Self::Bool(array) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::Integer(_, array) | Self::Float(_, array) | Self::Shown(_, array) => array.is_null(row),
        };
        match self {
            _ if null => out.extend(b"null"),
            Self::Null => out.extend(b"null"),
            Self::Bool(array) => out.extend(array.value(row).to_string().bytes()),
            Self::Integer(value, _) => out.extend(value(row).to_string().bytes()),
            // JSON has no NaN and no infinity; this is what serde_json and GreptimeDB write for them.
            Self::Float(value, _) => out.extend(serde_json::json!(value(row)).to_string().bytes()),
            Self::Text(array) => out.extend(serde_json::json!(array.value(row)).to_string().bytes()),
            Self::Shown(shown, _) => {
                out.extend(
                    serde_json::json!(shown.value(row).to_string())
                        .to_string()
                        .bytes(),
                );
            }
        }
    }
}
