//! Rows as GreptimeDB's JSON.

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray,
};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use greptime_query::from_datafusion;
use greptime_types::{Error, Result};
use serde::Serialize;

use crate::query::memory::AnswerSpace;

/// Drawing a table takes about so much for a cell on top of its text, and the text several times.
const DRAWN_CELL: usize = 256;
const DRAWN_COPIES: usize = 4;

/// Batches whose text is made at the same time.
const SIDE_BY_SIDE: usize = 2;
/// Fewer cells than this are not worth a thread.
const FEW_CELLS: usize = 8 << 10;

/// `{"records":{"schema":…,"rows":[[…],…],"total_rows":n}}`, as long as there is space for what is in `out`.
pub async fn write_records(
    out: &mut Vec<u8>,
    rows: SendableRecordBatchStream,
    space: &AnswerSpace,
) -> Result<()> {
    out.extend_from_slice(b"{\"records\":{\"schema\":");
    write_schema(out, &rows.schema());
    out.extend_from_slice(b",\"rows\":[");
    let limit = space.max();
    let texts = rows.map_err(|e| from_datafusion(&e)).map_ok(|batch| async move {
        let rows = batch.num_rows();
        let text = if rows * batch.num_columns() < FEW_CELLS {
            text_of(&batch, limit)?
        } else {
            let made = tokio::task::spawn_blocking(move || text_of(&batch, limit)).await;
            made.map_err(|e| Error::internal(format!("writing rows as JSON: {e}")))??
        };
        Ok((rows, text))
    });
    let mut texts = std::pin::pin!(texts.try_buffered(SIDE_BY_SIDE));
    let mut total = 0;
    while let Some((rows, text)) = texts.try_next().await? {
        space.hold(
            out.len() + text.len(),
            out.capacity() + SIDE_BY_SIDE * text.capacity(),
        )?;
        if total > 0 && rows > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&text);
        total += rows;
    }
    out.extend(format!("],\"total_rows\":{total}}}}}").bytes());
    Ok(())
}

/// `[…],[…]`; no further than `limit` bytes and a row.
fn text_of(batch: &RecordBatch, limit: usize) -> Result<Vec<u8>> {
    let columns = batch.columns().iter();
    let columns = columns.map(|column| Ok((column.logical_nulls(), cells(column)?)));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let mut text = Vec::new();
    for row in 0..batch.num_rows() {
        text.extend_from_slice(if row == 0 { b"[" } else { b",[" });
        for (number, (nulls, column)) in columns.iter().enumerate() {
            if number > 0 {
                text.push(b',');
            }
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                text.extend_from_slice(b"null");
            } else {
                column.write(&mut text, row);
            }
        }
        text.push(b']');
        if text.len() > limit {
            break;
        }
    }
    Ok(text)
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
trait Cells {
    /// A value that is not NULL.
    fn write(&self, out: &mut Vec<u8>, row: usize);
}

struct Numbers<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> Cells for Numbers<'_, T>
where
    T::Native: Serialize,
{
    fn write(&self, out: &mut Vec<u8>, row: usize) {
        // JSON has no NaN and no infinity: they are null, as in GreptimeDB.
        put(out, &self.0.value(row));
    }
}

impl Cells for &BooleanArray {
    fn write(&self, out: &mut Vec<u8>, row: usize) {
        put(out, &self.value(row));
    }
}

impl Cells for &StringArray {
    fn write(&self, out: &mut Vec<u8>, row: usize) {
        put(out, self.value(row));
    }
}

/// Anything else, by its text.
struct Shown<'a>(ArrayFormatter<'a>);

impl Cells for Shown<'_> {
    fn write(&self, out: &mut Vec<u8>, row: usize) {
        put(out, &self.0.value(row).to_string());
    }
}

fn cells(array: &ArrayRef) -> Result<Box<dyn Cells + '_>> {
    macro_rules! numbers {
        ($type:ty) => {
            Box::new(Numbers::<$type>(array.as_primitive()))
        };
    }
    Ok(match array.data_type() {
        DataType::Boolean => Box::new(array.as_boolean()),
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Timestamp(TimeUnit::Second, _) => numbers!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => numbers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => numbers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => numbers!(TimestampNanosecondType),
        DataType::Float32 => numbers!(Float32Type),
        DataType::Float64 => numbers!(Float64Type),
        DataType::Utf8 => Box::new(array.as_string::<i32>()),
        _ => {
            const OPTIONS: FormatOptions<'static> = FormatOptions::new();
            let shown = ArrayFormatter::try_new(array, &OPTIONS);
            Box::new(Shown(shown.map_err(|e| Error::internal(e.to_string()))?))
        }
    })
}

fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("numbers and texts are written, and memory takes them");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Float32Array, Float64Array, Int64Array, NullArray};

    use super::*;

    #[test]
    fn values_are_json_and_what_json_lacks_is_null() {
        let columns: [(&str, ArrayRef); 5] = [
            (
                "i",
                Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0)])),
            ),
            ("d", Arc::new(Float64Array::from(vec![0.1, f64::NAN, 1e300]))),
            ("f", Arc::new(Float32Array::from(vec![0.1, f32::INFINITY, 5.0]))),
            (
                "t",
                Arc::new(StringArray::from(vec![Some("a\"b\n"), Some("ü"), None])),
            ),
            ("n", Arc::new(NullArray::new(3))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let text = String::from_utf8(text_of(&batch, 1 << 20).unwrap()).unwrap();
        assert_eq!(
            text,
            r#"[-9223372036854775808,0.1,0.1,"a\"b\n",null],[null,null,null,"ü",null],[0,1e+300,5.0,null,null]"#
        );
        assert_eq!(
            text_of(&batch, 10)
                .unwrap()
                .iter()
                .filter(|b| **b == b']')
                .count(),
            1
        );
    }
}
