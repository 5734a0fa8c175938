//! Rows to regions, by the partition rule, a column at a time.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, Scalar};
use datafusion::arrow::compute::kernels::{boolean, cmp};
use datafusion::arrow::compute::prep_null_mask_filter;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use greptime_rows::SeriesBatch;
use greptime_types::partition::Op;
use greptime_types::{Error, PartitionExpr, PartitionRule, Result, TableSchema, Value};

/// The parts of `batch` by region number; regions without rows are left out. A column that the batch does not
/// have is NULL.
///
/// Mostly a rule looks at tags only, and then each series is placed, not each row.
pub fn split(
    schema: &TableSchema,
    rule: &PartitionRule,
    batch: SeriesBatch,
) -> Result<Vec<(u32, SeriesBatch)>> {
    if batch.num_rows() == 0 {
        return Ok(vec![]);
    }
    if let [only] = rule.partitions.as_slice() {
        return Ok(vec![(only.region, batch)]);
    }
    let known = rule
        .columns
        .iter()
        .filter_map(|name| Some((name, batch.column(schema.column(name)?.id)?)));
    let by_series = known.clone().all(|(_, column)| column.of_series);
    let mut columns = Vec::new();
    for (name, column) in known {
        let array = match by_series {
            true => Some(Arc::clone(column.array)),
            false => batch.column_of_rows(column.id)?,
        };
        columns.extend(array.map(|array| (name.as_str(), array)));
    }
    let length = if by_series {
        batch.series().num_rows()
    } else {
        batch.num_rows()
    };
    let mut parts = Vec::new();
    for (region, mask) in assign(schema, rule, &named(columns, length)?)? {
        if mask.true_count() == length {
            return Ok(vec![(region, batch)]);
        }
        let part = match by_series {
            true => batch.filter_series(&mask)?,
            false => batch.filter(&mask)?,
        };
        if part.num_rows() > 0 {
            parts.push((region, part));
        }
    }
    Ok(parts)
}

fn named(columns: Vec<(&str, ArrayRef)>, length: usize) -> Result<RecordBatch> {
    let fields = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(length));
    RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|e| Error::internal(e.to_string()))
}

/// Which rows belong to which region; each belongs to one.
fn assign(
    schema: &TableSchema,
    rule: &PartitionRule,
    batch: &RecordBatch,
) -> Result<Vec<(u32, BooleanArray)>> {
    let mut masks = Vec::new();
    let mut placed = 0;
    for partition in &rule.partitions {
        let Some(expr) = &partition.expr else { continue };
        let mask = mask(schema, batch, expr).map_err(|e| Error::internal(format!("partition rule: {e}")))?;
        let rows = mask.true_count();
        if rows > 0 {
            masks.push((partition.region, mask));
        }
        placed += rows;
        if rows == batch.num_rows() {
            break;
        }
    }
    if placed != batch.num_rows() {
        return Err(Error::internal(
            "rows belong to no partition, or to two, although the rule was checked",
        ));
    }
    Ok(masks)
}

fn mask(schema: &TableSchema, batch: &RecordBatch, expr: &PartitionExpr) -> Result<BooleanArray, ArrowError> {
    match expr {
        PartitionExpr::And(a, b) => boolean::and(&mask(schema, batch, a)?, &mask(schema, batch, b)?),
        PartitionExpr::Or(a, b) => boolean::or(&mask(schema, batch, a)?, &mask(schema, batch, b)?),
        PartitionExpr::Compare { column, op, value } => match batch.column_by_name(column) {
            Some(array) => compare(schema, column, array, *op, value),
            None => Ok(BooleanArray::from(vec![null_matches(*op); batch.num_rows()])),
        },
    }
}

/// NULL is below every value.
fn null_matches(op: Op) -> bool {
    matches!(op, Op::Lt | Op::LtEq | Op::NotEq)
}

fn compare(
    schema: &TableSchema,
    column: &str,
    array: &ArrayRef,
    op: Op,
    value: &Value,
) -> Result<BooleanArray, ArrowError> {
    let known = schema
        .column(column)
        .ok_or_else(|| ArrowError::SchemaError(format!("no column `{column}`")))?;
    let constant = to_scalar(value)
        .cast_to(&known.column_type.to_arrow())
        .and_then(|s| s.to_array())
        .map_err(|e| ArrowError::from_external_error(Box::new(e)))?;
    let constant = Scalar::new(constant);
    let result = match op {
        Op::Eq => cmp::eq(array, &constant),
        Op::NotEq => cmp::neq(array, &constant),
        Op::Lt => cmp::lt(array, &constant),
        Op::LtEq => cmp::lt_eq(array, &constant),
        Op::Gt => cmp::gt(array, &constant),
        Op::GtEq => cmp::gt_eq(array, &constant),
    }?;
    if result.null_count() == 0 {
        return Ok(result);
    }
    if null_matches(op) {
        let nulls = boolean::is_null(&result)?;
        return boolean::or(&prep_null_mask_filter(&result), &nulls);
    }
    Ok(prep_null_mask_filter(&result))
}

pub fn to_scalar(value: &Value) -> ScalarValue {
    match value {
        Value::Null => ScalarValue::Null,
        Value::Int(v) => ScalarValue::Int64(Some(*v)),
        Value::UInt(v) => ScalarValue::UInt64(Some(*v)),
        Value::Float(v) => ScalarValue::Float64(Some(*v)),
        Value::String(v) => ScalarValue::Utf8(Some(v.clone())),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{StringArray, UInt64Array};
    use greptime_types::{ColumnSchema, ColumnType, Semantic, TimeUnit};

    use super::*;

    fn schema() -> TableSchema {
        TableSchema::new(
            vec![
                ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
                ColumnSchema::new("n", ColumnType::UInt64, Semantic::Tag),
                ColumnSchema::new(
                    "ts",
                    ColumnType::Timestamp(TimeUnit::Millisecond),
                    Semantic::Timestamp,
                ),
            ],
            vec!["host".into(), "n".into()],
        )
        .unwrap()
    }

    fn ranges(column: &str, values: &[Value]) -> PartitionRule {
        let cmp = |op, v: &Value| PartitionExpr::compare(column, op, v.clone());
        let mut exprs = vec![cmp(Op::Lt, &values[0])];
        for pair in values.windows(2) {
            let (low, high) = (cmp(Op::GtEq, &pair[0]), cmp(Op::Lt, &pair[1]));
            exprs.push(PartitionExpr::And(Box::new(low), Box::new(high)));
        }
        exprs.push(cmp(Op::GtEq, values.last().unwrap()));
        PartitionRule::new(vec![column.into()], exprs).unwrap()
    }

    /// The vectorised split agrees with the rule's own, row by row.
    fn check(rule: &PartitionRule, batch: &RecordBatch, lookup: impl Fn(usize, &str) -> Value) {
        let mut expected = std::collections::BTreeMap::<u32, usize>::new();
        for row in 0..batch.num_rows() {
            *expected
                .entry(rule.route(&|c| lookup(row, c)).unwrap())
                .or_default() += 1;
        }
        let expected: Vec<_> = expected.into_iter().collect();
        let parts = assign(&schema(), rule, batch).unwrap();
        let found: Vec<_> = parts
            .iter()
            .map(|(region, mask)| (*region, mask.true_count()))
            .collect();
        assert_eq!(found, expected);
        let series = SeriesBatch::from_named(batch, &schema()).unwrap();
        let parts = split(&schema(), rule, series).unwrap();
        let found: Vec<_> = parts
            .iter()
            .map(|(region, part)| (*region, part.num_rows()))
            .collect();
        assert_eq!(found, expected, "placed by series");
    }

    #[test]
    fn strings_and_nulls_go_where_the_rule_says() {
        let hosts = [
            Some("host_0"),
            None,
            Some("host_3"),
            Some("host_9"),
            Some("host_10"),
            Some(""),
        ];
        let array: ArrayRef = Arc::new(StringArray::from(hosts.to_vec()));
        let batch = RecordBatch::try_from_iter([("host", array)]).unwrap();
        let text = |v: &str| Value::String(v.into());
        let rule = ranges("host", &[text("host_3"), text("host_6")]);
        check(&rule, &batch, |row, _| hosts[row].map_or(Value::Null, text));
    }

    #[test]
    fn the_whole_range_of_u64_is_compared_unsigned() {
        let numbers = [0, 1, u64::MAX / 3, u64::MAX / 3 + 1, u64::MAX];
        let array: ArrayRef = Arc::new(UInt64Array::from(numbers.to_vec()));
        let batch = RecordBatch::try_from_iter([("n", array)]).unwrap();
        let rule = ranges("n", &[Value::UInt(u64::MAX / 3), Value::UInt(u64::MAX / 3 * 2)]);
        check(&rule, &batch, |row, _| Value::UInt(numbers[row]));
    }

    #[test]
    fn an_absent_column_is_null() {
        let array: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2]));
        let batch = RecordBatch::try_from_iter([("n", array)]).unwrap();
        let rule = ranges("host", &[Value::String("m".into())]);
        check(&rule, &batch, |_, _| Value::Null);
    }
}
