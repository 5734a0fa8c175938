//! The newest row of each group.
//!
//! `first_value` and `last_value` by time of any number of columns ask the same of a group: which of its rows is the
//! newest. Here that is asked once, and not for each column with its values taken out one by one.
//!
//! What one stream has found is given out as states, which are those of DataFusion's functions, so that whoever merges
//! them need not know. Or what all streams have found is merged here, by the times of rows, and given out as values.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{interleave, take};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::groups::Groups;
use super::plan::{Aggregation, Function, Gives};
use crate::scan::block::{Block, Stretch};
use crate::scan::work::{Glance, Selected};

/// Rows of no group any more that may be held.
const SLACK: usize = 8192;

/// The newest rows of all groups that were seen.
pub struct LastRows {
    aggregation: Arc<Aggregation>,
    groups: Groups,
    /// What functions take, each once.
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    functions: Vec<Taken>,
    /// Values of `exprs`, of rows that were the newest of a group when they came.
    parts: Vec<Vec<ArrayRef>>,
    /// By group.
    newest: Vec<Place>,
    /// In all parts.
    rows: usize,
    /// Of all parts.
    bytes: usize,
}

/// What is given out of a function.
#[derive(Clone)]
struct Taken {
    /// Positions among the expressions.
    args: Vec<usize>,
    /// The states of `first_value` and `last_value` say whether there was a row.
    says_so: bool,
}

/// Where the newest row of a group is.
#[derive(Clone, Copy)]
struct Place {
    time: i64,
    part: usize,
    row: usize,
}

impl LastRows {
    pub fn new(aggregation: Arc<Aggregation>) -> Result<Self> {
        let mut exprs: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut place = |expr: &Arc<dyn PhysicalExpr>| {
            let known = exprs.iter().position(|e| e == expr);
            known.unwrap_or_else(|| {
                exprs.push(Arc::clone(expr));
                exprs.len() - 1
            })
        };
        let gives_states = matches!(aggregation.gives, Gives::States);
        let taken = |function: &Function| Taken {
            args: function.args.iter().map(&mut place).collect(),
            says_so: gives_states && function.says_whether_set(),
        };
        let functions = aggregation.functions.iter().map(taken).collect();
        let groups = Groups::new(&aggregation.keys, aggregation.output.fields())?;
        Ok(Self::of(aggregation, groups, exprs, functions))
    }

    fn of(
        aggregation: Arc<Aggregation>,
        groups: Groups,
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        functions: Vec<Taken>,
    ) -> Self {
        Self {
            aggregation,
            groups,
            exprs,
            functions,
            parts: Vec::new(),
            newest: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// No rows yet, with which those here can be merged.
    pub fn sibling(&self) -> Self {
        Self::of(
            Arc::clone(&self.aggregation),
            self.groups.sibling(),
            self.exprs.clone(),
            self.functions.clone(),
        )
    }

    /// Groups.
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    pub fn bytes(&self) -> usize {
        self.groups.bytes() + self.newest.capacity() * size_of::<Place>() + self.bytes
    }

    /// Looks at times first: of a part without a row that is the newest of its group, nothing else is read.
    pub async fn add(&mut self, glance: Glance) -> Result<()> {
        let wanted = self.newer(glance.rows())?;
        if wanted.is_empty() {
            return Ok(());
        }
        let Selected { block, .. } = glance.complete().await?;
        self.keep(&block, &wanted)
    }

    /// The rows that are the newest of their groups so far; they become the next part.
    fn newer(&mut self, selected: &Selected) -> Result<Vec<Stretch>> {
        let Selected { block, stretches } = selected;
        let stretches = stretches.iter().filter(|s| !s.rows.is_empty());
        let last = stretches.map(|s| Stretch {
            series: s.series,
            rows: s.rows.end - 1..s.rows.end,
        });
        let last: Vec<Stretch> = last.collect();
        let groups = self.groups.assign(block, &last)?;
        let mut wanted = Vec::new();
        for (stretch, group) in last.into_iter().zip(groups) {
            let place = Place {
                time: block.times()[stretch.rows.start],
                part: self.parts.len(),
                row: wanted.len(),
            };
            if self.offer(group, place) {
                wanted.push(stretch);
            }
        }
        Ok(wanted)
    }

    /// Whether the row is the newest of its group so far; it is one of the groups, or the next.
    fn offer(&mut self, group: usize, place: Place) -> bool {
        match self.newest.get_mut(group) {
            None => self.newest.push(place),
            Some(known) if known.time < place.time => *known = place,
            Some(_) => return false,
        }
        true
    }

    /// Keeps what functions take of the rows, which are ascending.
    fn keep(&mut self, block: &Block, wanted: &[Stretch]) -> Result<()> {
        let rows = block.gather(wanted)?.columns(&self.aggregation.values)?;
        // Rows that follow each other are a slice, which would keep all that it lies in.
        let is_part = wanted.len() < block.times().len();
        let copied = is_part.then(|| UInt32Array::from_iter_values(0..wanted.len() as u32));
        let mut part = Vec::with_capacity(self.exprs.len());
        for expr in &self.exprs {
            let column = expr.evaluate(&rows)?.into_array(wanted.len())?;
            part.push(match &copied {
                Some(all) => take(&column, all, None)?,
                None => column,
            });
        }
        self.rows += wanted.len();
        self.bytes += bytes_of(&part);
        self.parts.push(part);
        match self.rows > 2 * self.newest.len() + SLACK {
            true => self.compact(),
            false => Ok(()),
        }
    }

    /// Forgets rows that are the newest of no group.
    fn compact(&mut self) -> Result<()> {
        let columns = self.columns(0..self.len())?;
        self.rows = self.newest.len();
        self.bytes = bytes_of(&columns);
        self.parts = vec![columns];
        for (row, place) in self.newest.iter_mut().enumerate() {
            (place.part, place.row) = (0, row);
        }
        Ok(())
    }

    /// Of each group that a sibling has too, only the newer row is kept; rows are not copied.
    pub fn merge(&mut self, sibling: Self) {
        let before = self.parts.len();
        let groups = self.groups.adopt(&sibling.groups);
        for (group, mut place) in groups.into_iter().zip(sibling.newest) {
            place.part += before;
            self.offer(group, place);
        }
        self.parts.extend(sibling.parts);
        self.rows += sibling.rows;
        self.bytes += sibling.bytes;
    }

    /// The values of the newest rows of some groups; there are some.
    fn columns(&self, groups: Range<usize>) -> Result<Vec<ArrayRef>> {
        let newest = &self.newest[groups];
        let places: Vec<(usize, usize)> = newest.iter().map(|p| (p.part, p.row)).collect();
        (0..self.exprs.len())
            .map(|i| {
                let parts: Vec<&dyn Array> = self.parts.iter().map(|part| part[i].as_ref()).collect();
                Ok(interleave(&parts, &places)?)
            })
            .collect()
    }

    /// One row for each of some groups.
    fn batch(&self, groups: Range<usize>) -> Result<RecordBatch> {
        let output = &self.aggregation.output;
        let options = RecordBatchOptions::new().with_row_count(Some(groups.len()));
        let is_set: ArrayRef = Arc::new(BooleanArray::from(vec![true; groups.len()]));
        let mut columns = self.groups.columns(groups.clone(), output.fields())?;
        let values = self.columns(groups)?;
        for function in &self.functions {
            columns.extend(function.args.iter().map(|i| Arc::clone(&values[*i])));
            columns.extend(function.says_so.then(|| Arc::clone(&is_set)));
        }
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(output),
            columns,
            &options,
        )?)
    }

    /// One row for each group; afterwards there is no group.
    pub fn take(&mut self) -> Result<RecordBatch> {
        let none = self.sibling();
        let all = std::mem::replace(self, none);
        match all.len() {
            0 => Ok(RecordBatch::new_empty(Arc::clone(&all.aggregation.output))),
            groups => all.batch(0..groups),
        }
    }

    /// One row for each group, so many at a time: an operator that keeps batches counts all that each of them lies in.
    pub fn into_batches(self, rows: usize) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let rows = rows.max(1);
        let starts = (0..self.len()).step_by(rows);
        starts.map(move |start| self.batch(start..self.len().min(start + rows)))
    }
}

fn bytes_of(columns: &[ArrayRef]) -> usize {
    columns.iter().map(|c| c.get_array_memory_size()).sum()
}
