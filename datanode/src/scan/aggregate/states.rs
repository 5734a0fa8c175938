//! The states of the aggregates of all groups that one stream has seen.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::groups::Groups;
use super::last::LastRows;
use super::plan::{Aggregation, Scope};
use crate::scan::block::{Block, Stretch, truth};
use crate::scan::work::{Glance, Selected};

/// Stretches shorter than this on average are gathered first: a call for each would cost more than its rows.
const SHORT_STRETCH: usize = 64;

/// What is kept of the rows of groups.
pub enum States {
    Accumulated(Accumulated),
    LastRows(LastRows),
}

impl States {
    pub fn new(aggregation: Arc<Aggregation>) -> Result<Self> {
        Ok(match aggregation.scope {
            Scope::LastOfSeries => Self::LastRows(LastRows::new(aggregation)?),
            Scope::All | Scope::NewestBuckets(_) => Self::Accumulated(Accumulated::new(aggregation)?),
        })
    }

    /// What the groups and their states take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Accumulated(states) => states.bytes(),
            Self::LastRows(rows) => rows.bytes(),
        }
    }

    pub fn is_empty(&self) -> bool {
        let groups = match self {
            Self::Accumulated(states) => states.len(),
            Self::LastRows(rows) => rows.len(),
        };
        groups == 0
    }

    pub async fn add(&mut self, glance: Glance) -> Result<()> {
        match self {
            Self::Accumulated(states) => states.add(glance.complete().await?),
            Self::LastRows(rows) => rows.add(glance).await,
        }
    }

    /// One row for each group; afterwards there is no group.
    pub fn take(&mut self) -> Result<RecordBatch> {
        match self {
            Self::Accumulated(states) => states.take(),
            Self::LastRows(rows) => rows.take(),
        }
    }
}

/// States of DataFusion's own functions.
pub struct Accumulated {
    aggregation: Arc<Aggregation>,
    groups: Groups,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Accumulated {
    pub fn new(aggregation: Arc<Aggregation>) -> Result<Self> {
        let functions = aggregation.functions.iter();
        let accumulators = functions.map(|f| f.expr.create_groups_accumulator());
        Ok(Self {
            groups: Groups::new(&aggregation.keys, aggregation.output.fields())?,
            accumulators: accumulators.collect::<Result<_>>()?,
            aggregation,
        })
    }

    /// What the groups and their states take.
    pub fn bytes(&self) -> usize {
        self.groups.bytes() + self.accumulators.iter().map(|a| a.size()).sum::<usize>()
    }

    /// Groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn add(&mut self, selected: Selected) -> Result<()> {
        let Some(Selected { block, stretches }) = self.filtered(selected)? else {
            return Ok(());
        };
        let groups = self.groups.assign(&block, &stretches)?;
        let values = Values::of(&self.aggregation, &block)?;
        let total = self.groups.len();
        let mut first = 0;
        for range in neighbours(&stretches) {
            let groups = &groups[first..first + range.len()];
            first += range.len();
            for (function, accumulator) in self.accumulators.iter_mut().enumerate() {
                let (args, filter) = values.of_function(function, &range);
                accumulator.update_batch(&args, groups, filter.as_ref(), total)?;
            }
        }
        Ok(())
    }

    /// The rows that filters on rows leave, in stretches that are worth a call each.
    fn filtered(&self, selected: Selected) -> Result<Option<Selected>> {
        let Selected { block, stretches } = selected;
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
        let none = self.groups.sibling();
        let groups = std::mem::replace(&mut self.groups, none);
        let output = &self.aggregation.output;
        let mut columns = groups.columns(0..groups.len(), output.fields())?;
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(groups.len()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(output),
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
