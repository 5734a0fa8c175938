//! Which rows of what was decoded are wanted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::kernels::cmp::{gt_eq, lt_eq};
use arrow::compute::{and, cast, prep_null_mask_filter};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};

/// A predicate and a range of time, over the few columns that they look at.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// Columns that it looks at, as positions in the schema that it was made for.
    pub columns: Vec<usize>,
    /// The same as a schema.
    pub schema: SchemaRef,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    /// First and last time, and the position of the time in `schema`.
    time: Option<((i64, i64), usize)>,
}

impl Filter {
    /// `time` has the position of the time in `schema`.
    pub fn new(
        schema: &SchemaRef,
        predicate: Option<&Arc<dyn PhysicalExpr>>,
        time: Option<((i64, i64), usize)>,
    ) -> Result<Self> {
        let mut columns = Vec::new();
        if let Some(predicate) = predicate {
            for column in collect_columns(predicate) {
                columns.push(schema.index_of(column.name())?);
            }
        }
        columns.extend(time.map(|(_, i)| i));
        columns.sort_unstable();
        columns.dedup();
        let fields: Vec<FieldRef> = columns.iter().map(|&i| Arc::clone(&schema.fields()[i])).collect();
        let narrow = Arc::new(Schema::new(fields));
        let compile = |p: &Arc<dyn PhysicalExpr>| reassign_expr_columns(Arc::clone(p), &narrow);
        let predicate = predicate.map(compile).transpose()?;
        let place = |i: usize| columns.partition_point(|&c| c < i);
        let time = time.map(|(range, i)| (range, place(i)));
        Ok(Self {
            columns,
            schema: narrow,
            predicate,
            time,
        })
    }

    /// Whether every row passes.
    pub fn passes_all(&self, within_time: bool) -> bool {
        self.predicate.is_none() && (within_time || self.time.is_none())
    }

    /// The rows that pass, from the columns of [`Filter::schema`]; without NULL.
    pub fn mask(&self, columns: Vec<ArrayRef>, rows: usize, within_time: bool) -> Result<BooleanArray> {
        let in_time = match self.time {
            Some((range, i)) if !within_time => Some(within(&columns[i], range)?),
            _ => None,
        };
        let passing = match &self.predicate {
            Some(predicate) => {
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
                let value = predicate.evaluate(&batch)?.into_array(rows)?;
                Some(without_nulls(as_boolean_array(&value)?))
            }
            None => None,
        };
        Ok(match (in_time, passing) {
            (Some(a), Some(b)) => and(&a, &b)?,
            (Some(mask), None) | (None, Some(mask)) => mask,
            (None, None) => BooleanArray::from(vec![true; rows]),
        })
    }
}

fn within(times: &ArrayRef, (first, last): (i64, i64)) -> Result<BooleanArray> {
    let times = cast(times, &DataType::Int64)?;
    let above = gt_eq(&times, &Int64Array::new_scalar(first))?;
    let below = lt_eq(&times, &Int64Array::new_scalar(last))?;
    Ok(without_nulls(&and(&above, &below)?))
}

/// NULL does not pass.
fn without_nulls(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() == 0 {
        return BooleanArray::new(mask.values().clone(), None);
    }
    prep_null_mask_filter(mask)
}
