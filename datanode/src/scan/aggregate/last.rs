//! The newest row of each group.
//!
//! `first_value` and `last_value` by time of any number of columns ask the same of a group: which of its rows is the
//! newest. Here that is asked once, and not for each column with its values taken out one by one. The states are those of
//! DataFusion's functions, so whoever merges them need not know.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::plan::Function;
use crate::scan::block::{Block, Stretch};

/// Rows of no group any more that may be held.
const SLACK: usize = 8192;

/// The newest rows of all groups that one stream has seen.
pub struct LastRows {
    /// What functions take, each once.
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    functions: Vec<Taken>,
    /// Values of `exprs`, of rows that were the newest of a group when they came.
    parts: Vec<Vec<ArrayRef>>,
    newest: Vec<Place>,
    /// In all parts.
    rows: usize,
    bytes: usize,
}

/// What the states of a function are made of.
struct Taken {
    /// Positions among the expressions.
    args: Vec<usize>,
    /// `first_value` and `last_value` say whether there was a row.
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
    pub fn new(functions: &[Function]) -> Self {
        let mut exprs: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut place = |expr: &Arc<dyn PhysicalExpr>| {
            let known = exprs.iter().position(|e| e == expr);
            known.unwrap_or_else(|| {
                exprs.push(Arc::clone(expr));
                exprs.len() - 1
            })
        };
        let functions = functions
            .iter()
            .map(|function| Taken {
                args: function.args.iter().map(&mut place).collect(),
                says_so: function.says_whether_set(),
            })
            .collect();
        Self {
            exprs,
            functions,
            parts: Vec::new(),
            newest: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes + self.newest.len() * size_of::<Place>()
    }

    /// `groups`: that of each row of the stretches, one after the other; a new one is the next number.
    pub fn add(
        &mut self,
        block: &Block,
        values: &SchemaRef,
        stretches: &[Stretch],
        groups: &[usize],
    ) -> Result<()> {
        let (part, times) = (self.parts.len(), block.times());
        let mut wanted: Vec<u32> = Vec::new();
        let rows = stretches.iter().flat_map(|stretch| stretch.rows.clone());
        for (row, group) in rows.zip(groups) {
            let place = Place {
                time: times[row],
                part,
                row: wanted.len(),
            };
            match self.newest.get_mut(*group) {
                None => self.newest.push(place),
                Some(known) if known.time < place.time => *known = place,
                Some(_) => continue,
            }
            wanted.push(row as u32);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let batch = block.columns(values)?;
        let wanted = UInt32Array::from(wanted);
        let mut columns = Vec::with_capacity(self.exprs.len());
        for expr in &self.exprs {
            let column = expr.evaluate(&batch)?.into_array(batch.num_rows())?;
            columns.push(take(&column, &wanted, None)?);
        }
        self.rows += wanted.len();
        self.bytes += bytes_of(&columns);
        self.parts.push(columns);
        match self.rows > 2 * self.newest.len() + SLACK {
            true => self.compact(),
            false => Ok(()),
        }
    }

    /// Forgets rows that are the newest of no group.
    fn compact(&mut self) -> Result<()> {
        let columns = self.columns()?;
        self.rows = self.newest.len();
        self.bytes = bytes_of(&columns);
        self.parts = vec![columns];
        for (row, place) in self.newest.iter_mut().enumerate() {
            (place.part, place.row) = (0, row);
        }
        Ok(())
    }

    /// The values of the newest rows, in the order of the groups.
    fn columns(&self) -> Result<Vec<ArrayRef>> {
        let places: Vec<(usize, usize)> = self.newest.iter().map(|p| (p.part, p.row)).collect();
        (0..self.exprs.len())
            .map(|i| {
                let parts: Vec<&dyn Array> = self.parts.iter().map(|part| part[i].as_ref()).collect();
                Ok(interleave(&parts, &places)?)
            })
            .collect()
    }

    /// The states of all functions, a row for each group; afterwards there is no group.
    pub fn take(&mut self, fields: &[FieldRef]) -> Result<Vec<ArrayRef>> {
        if self.newest.is_empty() {
            return Ok(fields.iter().map(|f| new_empty_array(f.data_type())).collect());
        }
        let columns = self.columns()?;
        let is_set: ArrayRef = Arc::new(BooleanArray::from(vec![true; self.newest.len()]));
        let mut states = Vec::with_capacity(fields.len());
        for function in &self.functions {
            states.extend(function.args.iter().map(|i| Arc::clone(&columns[*i])));
            states.extend(function.says_so.then(|| Arc::clone(&is_set)));
        }
        if states.len() != fields.len() {
            let (made, wanted) = (states.len(), fields.len());
            return Err(internal_datafusion_err!("{made} states instead of {wanted}"));
        }
        self.newest.clear();
        self.parts.clear();
        (self.rows, self.bytes) = (0, 0);
        Ok(states)
    }
}

fn bytes_of(columns: &[ArrayRef]) -> usize {
    columns.iter().map(|c| c.get_array_memory_size()).sum()
}
