//! Rows that are read at once, as series and their rows.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBufferBuilder, Int64Array, RecordBatch, RecordBatchOptions,
    UInt32Array,
};
use arrow::compute::{cast, filter_record_batch, prep_null_mask_filter, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};

use super::filter::TimeRange;
use super::merge::mark_changes;

/// Rows of a region, each identity once, sorted by series and time.
#[derive(Clone, Debug)]
pub struct Block {
    /// One row for each series: its tags. Two neighbours may be of one series.
    tags: RecordBatch,
    /// Where the rows of each series begin, and at the end the number of rows.
    starts: Arc<[u32]>,
    /// All other columns.
    rows: RecordBatch,
    times: Int64Array,
}

/// Rows of a block that are wanted: of one series, ascending in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Position among the series of the block.
    pub series: u32,
    pub rows: Range<usize>,
}

impl Block {
    /// `time` names the time index among the columns of `rows`.
    pub fn new(tags: RecordBatch, starts: Arc<[u32]>, rows: RecordBatch, time: &str) -> Result<Self> {
        let wrong = || internal_datafusion_err!("rows without the time index `{time}`");
        let times = cast(rows.column_by_name(time).ok_or_else(wrong)?, &DataType::Int64)?;
        let times = times
            .as_any()
            .downcast_ref::<Int64Array>()
            .ok_or_else(wrong)?
            .clone();
        Ok(Self {
            tags,
            starts,
            rows,
            times,
        })
    }

    /// From rows that have their tags, at the positions `tags`.
    pub fn from_rows(batch: &RecordBatch, tags: &[usize], time: &str) -> Result<Self> {
        let mut changes = vec![false; batch.num_rows()];
        if let Some(first) = changes.first_mut() {
            *first = true;
        }
        for tag in tags {
            mark_changes(batch.column(*tag), &mut changes)?;
        }
        let changed = changes.iter().enumerate().filter(|(_, changed)| **changed);
        let mut starts: Vec<u32> = changed.map(|(row, _)| row as u32).collect();
        let firsts = UInt32Array::from(starts.clone());
        let others: Vec<usize> = (0..batch.num_columns()).filter(|i| !tags.contains(i)).collect();
        let columns = tags.iter().map(|tag| take(batch.column(*tag), &firsts, None));
        let fields = tags.iter().map(|tag| batch.schema_ref().field(*tag).clone());
        // A table may have no tags, and then one series.
        let tags = RecordBatch::try_new_with_options(
            Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            columns.collect::<Result<_, _>>()?,
            &RecordBatchOptions::new().with_row_count(Some(firsts.len())),
        )?;
        starts.push(batch.num_rows() as u32);
        Self::new(tags, starts.into(), batch.project(&others)?, time)
    }

    pub fn times(&self) -> &[i64] {
        self.times.values()
    }

    /// What the rows take in memory.
    pub fn bytes(&self) -> usize {
        self.rows.get_array_memory_size()
            + self.tags.get_array_memory_size()
            + self.starts.len() * size_of::<u32>()
    }

    /// The rows of the series for which `filter` holds, cut to the wanted times, which are disjoint and ascending.
    pub fn select(
        &self,
        filter: Option<&Arc<dyn PhysicalExpr>>,
        times: &[TimeRange],
    ) -> Result<Vec<Stretch>> {
        let wanted = filter.map(|filter| holds_for(&self.tags, filter)).transpose()?;
        let mut selected = Vec::new();
        for (series, bounds) in self.starts.windows(2).enumerate() {
            if wanted.as_ref().is_some_and(|wanted| !wanted.value(series)) {
                continue;
            }
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let own = &self.times()[start..end];
            for range in times {
                let from = own.partition_point(|t| *t < range.from);
                let to = own.partition_point(|t| *t <= range.to);
                if from < to {
                    selected.push(Stretch {
                        series: series as u32,
                        rows: start + from..start + to,
                    });
                }
            }
        }
        Ok(selected)
    }

    /// The values of a tag for the series of each stretch.
    pub fn tag_of(&self, name: &str, stretches: &[Stretch]) -> Result<ArrayRef> {
        let series = UInt32Array::from_iter_values(stretches.iter().map(|s| s.series));
        let tag = self.tags.column_by_name(name);
        let tag = tag.ok_or_else(|| internal_datafusion_err!("a block without the tag `{name}`"))?;
        plain_column(&take(tag, &series, None)?)
    }

    /// The columns of `schema` for all rows of the block, as plans see them.
    pub fn columns(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut series: Option<UInt32Array> = None;
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for field in schema.fields() {
            let column = match (
                self.rows.column_by_name(field.name()),
                self.tags.column_by_name(field.name()),
            ) {
                (Some(column), _) => plain_column(column)?,
                (None, Some(tag)) => {
                    let series = series.get_or_insert_with(|| self.series_of_rows());
                    take(&plain_column(tag)?, series, None)?
                }
                // A column that the region does not have, or not yet.
                (None, None) => arrow::array::new_null_array(field.data_type(), self.times.len()),
            };
            fields.push(Field::new(field.name(), column.data_type().clone(), true));
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.times.len()));
        let schema = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    fn series_of_rows(&self) -> UInt32Array {
        let mut series = Vec::with_capacity(self.times.len());
        for (number, bounds) in self.starts.windows(2).enumerate() {
            series.resize(bounds[1] as usize, number as u32);
        }
        UInt32Array::from(series)
    }

    /// The block with only the rows of the stretches.
    pub fn gather(&self, stretches: &[Stretch]) -> Result<Self> {
        let wanted = mask(self.times.len(), stretches.iter().map(|s| &s.rows));
        self.keep(&wanted)
    }

    /// The block with only the rows that are `wanted`.
    pub fn keep(&self, wanted: &BooleanArray) -> Result<Self> {
        let rows = match contiguous(wanted) {
            Some(range) => self.rows.slice(range.start, range.len()),
            None => filter_record_batch(&self.rows, wanted)?,
        };
        let mut starts = Vec::with_capacity(self.starts.len());
        let mut kept = 0;
        for bounds in self.starts.windows(2) {
            starts.push(kept);
            let (start, length) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
            kept += wanted.values().slice(start, length).count_set_bits() as u32;
        }
        starts.push(kept);
        let times = match contiguous(wanted) {
            Some(range) => self.times.slice(range.start, range.len()),
            None => arrow::compute::filter(&self.times, wanted)?
                .as_any()
                .downcast_ref::<Int64Array>()
                .ok_or_else(|| internal_datafusion_err!("times that are no numbers"))?
                .clone(),
        };
        Ok(Self {
            tags: self.tags.clone(),
            starts: starts.into(),
            rows,
            times,
        })
    }

    /// All rows.
    pub fn stretches(&self) -> Vec<Stretch> {
        let bounds = self.starts.windows(2).enumerate();
        let all = bounds.map(|(series, b)| Stretch {
            series: series as u32,
            rows: b[0] as usize..b[1] as usize,
        });
        all.filter(|stretch| !stretch.rows.is_empty()).collect()
    }
}

/// For which series, one row each, a filter on tags holds.
pub fn holds_for(tags: &RecordBatch, filter: &Arc<dyn PhysicalExpr>) -> Result<BooleanArray> {
    let schema = tags.schema();
    let names: BTreeSet<String> = collect_columns(filter)
        .iter()
        .map(|c| c.name().to_owned())
        .collect();
    let positions = names.iter().map(|name| schema.index_of(name));
    let tags = plain(&tags.project(&positions.collect::<Result<Vec<_>, _>>()?)?)?;
    truth(&reassign_expr_columns(Arc::clone(filter), &tags.schema())?, &tags)
}

/// True for the rows of the ranges, which are ascending.
pub fn mask<'a>(rows: usize, ranges: impl Iterator<Item = &'a Range<usize>>) -> BooleanArray {
    let mut wanted = BooleanBufferBuilder::new(rows);
    for range in ranges {
        wanted.append_n(range.start - wanted.len(), false);
        wanted.append_n(range.len(), true);
    }
    wanted.append_n(rows - wanted.len(), false);
    BooleanArray::new(wanted.finish(), None)
}

/// The rows that are true, if they follow each other.
fn contiguous(wanted: &BooleanArray) -> Option<Range<usize>> {
    let mut slices = wanted.values().set_slices();
    match (slices.next(), slices.next()) {
        (None, _) => Some(0..0),
        (Some((start, end)), None) => Some(start..end),
        _ => None,
    }
}

/// Where a condition is true, and not NULL.
pub fn truth(condition: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray> {
    let held = condition.evaluate(rows)?.into_array(rows.num_rows())?;
    let held = as_boolean_array(&held)?;
    Ok(match held.null_count() {
        0 => held.clone(),
        _ => prep_null_mask_filter(held),
    })
}

/// Dictionaries as the values that they stand for.
fn plain(batch: &RecordBatch) -> Result<RecordBatch> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let column = plain_column(column)?;
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// The values that a dictionary stands for; any other column as it is.
pub fn plain_column(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Dictionary(_, value) => cast(column, value)?,
        _ => Arc::clone(column),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMillisecondArray;

    use super::*;

    #[test]
    fn rows_without_tags_are_one_series() {
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1, 2, 5]));
        let rows = RecordBatch::try_from_iter([("ts", times)]).unwrap();
        let block = Block::from_rows(&rows, &[], "ts").unwrap();
        let wanted = [TimeRange { from: 2, to: 9 }];
        let rows = 1..3;
        assert_eq!(
            block.select(None, &wanted).unwrap(),
            [Stretch { series: 0, rows }]
        );
    }
}
