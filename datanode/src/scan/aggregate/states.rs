//! The states of the aggregates of all groups that one stream has seen.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::groups::{GroupKey, Groups};
use super::last::LastRows;
use super::plan::{Aggregation, Scope};
use crate::scan::block::{Block, Stretch, truth};
use crate::scan::work::Selected;

/// Stretches shorter than this on average are gathered first: a call for each would cost more than its rows.
const SHORT_STRETCH: usize = 64;

pub struct States {
    aggregation: Arc<Aggregation>,
    groups: Groups,
    kept: Kept,
}

/// What is kept of the rows of groups.
enum Kept {
    Accumulators(Vec<Box<dyn GroupsAccumulator>>),
    LastRows(LastRows),
}

impl States {
    pub fn new(aggregation: Arc<Aggregation>) -> Result<Self> {
        let mut types = Vec::new();
        for (key, field) in aggregation.keys.iter().zip(aggregation.output.fields()) {
            if let GroupKey::Tag(_) = key {
                types.push(field.data_type().clone());
            }
        }
        let functions = &aggregation.functions;
        let kept = match aggregation.scope {
            Scope::LastOfSeries => Kept::LastRows(LastRows::new(functions)),
            _ => {
                let accumulators = functions.iter().map(|f| f.expr.create_groups_accumulator());
                Kept::Accumulators(accumulators.collect::<Result<_>>()?)
            }
        };
        Ok(Self {
            groups: Groups::new(&aggregation.keys, types)?,
            kept,
            aggregation,
        })
    }

    /// What the groups and their states take.
    pub fn bytes(&self) -> usize {
        let kept: usize = match &self.kept {
            Kept::Accumulators(accumulators) => accumulators.iter().map(|a| a.size()).sum(),
            Kept::LastRows(rows) => rows.bytes(),
        };
        self.groups.bytes() + kept
    }

    /// Groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn add(&mut self, selected: Selected) -> Result<()> {
        let Some(Selected { block, stretches }) = self.filtered(selected)? else {
            return Ok(());
        };
        let groups = self.groups.assign(&block, &stretches)?;
        let accumulators = match &mut self.kept {
            Kept::Accumulators(accumulators) => accumulators,
            Kept::LastRows(rows) => return rows.add(&block, &self.aggregation.values, &stretches, &groups),
        };
        let values = Values::of(&self.aggregation, &block)?;
        let total = self.groups.len();
        let mut first = 0;
        for range in neighbours(&stretches) {
            let groups = &groups[first..first + range.len()];
            first += range.len();
            for (function, accumulator) in accumulators.iter_mut().enumerate() {
                let (args, filter) = values.of_function(function, &range);
                accumulator.update_batch(&args, groups, filter.as_ref(), total)?;
            }
        }
        Ok(())
    }

    /// The rows that filters on rows leave, in stretches that are worth a call each.
    fn filtered(&self, selected: Selected) -> Result<Option<Selected>> {
        let Selected { block, mut stretches } = selected;
        if self.aggregation.scope == Scope::LastOfSeries {
            stretches.iter_mut().for_each(|s| s.rows.start = s.rows.end - 1);
        }
        let rows: usize = stretches.iter().map(|s| s.rows.len()).sum();
        if rows == 0 {
            return Ok(None);
        }
        let filter = self.aggregation.filters.rows.as_ref();
        if filter.is_none() && rows >= SHORT_STRETCH * neighbours(&stretches).len() {
            return Ok(Some(Selected { block, stretches }));
        }
        let mut block = block.gather(&stretches)?;
        if let Some(filter) = filter {
            let wanted = truth(filter, &block.columns(&self.aggregation.values)?)?;
            block = block.keep(&wanted)?;
        }
        let stretches = block.stretches();
        Ok((!stretches.is_empty()).then_some(Selected { block, stretches }))
    }

    /// One row for each group; afterwards there is no group.
    pub fn take(&mut self) -> Result<RecordBatch> {
        let rows = self.groups.len();
        let (tags, starts) = self.groups.take()?;
        let mut tags = tags.into_iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.aggregation.output.fields().len());
        for (key, field) in self.aggregation.keys.iter().zip(self.aggregation.output.fields()) {
            columns.push(match key {
                GroupKey::Tag(_) => tags
                    .next()
                    .ok_or_else(|| internal_datafusion_err!("a tag without values"))?,
                GroupKey::Bucket(_) => cast(
                    &(Arc::new(Int64Array::from(starts.clone())) as ArrayRef),
                    field.data_type(),
                )?,
            });
        }
        match &mut self.kept {
            Kept::Accumulators(accumulators) => {
                for accumulator in accumulators {
                    columns.extend(accumulator.state(EmitTo::All)?);
                }
            }
            Kept::LastRows(rows) => {
                columns.extend(rows.take(&self.aggregation.output.fields()[columns.len()..])?)
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.aggregation.output),
            columns,
            &options,
        )?)
    }
}

/// Rows of stretches that follow each other, as one range.
fn neighbours(stretches: &[Stretch]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(last) if last.end == stretch.rows.start => last.end = stretch.rows.end,
            _ => joined.push(stretch.rows.clone()),
        }
    }
    joined
}

/// Arguments and filters of all functions, for all rows of a block.
struct Values {
    functions: Vec<(Vec<ArrayRef>, Option<BooleanArray>)>,
}

impl Values {
    fn of(aggregation: &Aggregation, block: &Block) -> Result<Self> {
        let batch = block.columns(&aggregation.values)?;
        let rows = batch.num_rows();
        let mut functions = Vec::with_capacity(aggregation.functions.len());
        for function in &aggregation.functions {
            let args = function
                .args
                .iter()
                .map(|arg| arg.evaluate(&batch)?.into_array(rows));
            let filter = function.filter.as_ref().map(|f| truth(f, &batch)).transpose()?;
            functions.push((args.collect::<Result<_>>()?, filter));
        }
        Ok(Self { functions })
    }

    fn of_function(&self, function: usize, range: &Range<usize>) -> (Vec<ArrayRef>, Option<BooleanArray>) {
        let (args, filter) = &self.functions[function];
        let args = args.iter().map(|arg| arg.slice(range.start, range.len()));
        (
            args.collect(),
            filter.as_ref().map(|f| f.slice(range.start, range.len())),
        )
    }
}
