//! What a scan wants, and what of it comes first.

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use super::filter::Filters;
use super::top::ByTime;
use super::units::{Span, Unit};
use crate::memtable::KeyColumns;

/// Which of the wanted rows matter.
#[derive(Clone, Debug)]
pub enum Interest {
    All,
    /// Only the newest row of each series; others may be left out.
    LastOfSeries,
    /// The first ones by time, until there are enough of them; then others may be left out.
    ByTime(Arc<ByTime>),
}

/// Which rows and columns are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Columns of runs that are read as they are.
    pub plain: SchemaRef,
    /// Columns of runs that are merged: also all tags, sequence and operation.
    pub merged: SchemaRef,
    pub filters: Filters,
    pub key: KeyColumns,
    pub interest: Interest,
}

impl Wanted {
    /// By what parts of runs that are read as they are may be left out.
    pub fn pruning(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.filters.pruning(&self.plain)
    }

    pub fn last_of_series(&self) -> bool {
        matches!(self.interest, Interest::LastOfSeries)
    }

    /// Whether rows between these times can still matter, when those were read that come first.
    pub fn wants(&self, times: Span) -> bool {
        match &self.interest {
            Interest::All | Interest::LastOfSeries => true,
            Interest::ByTime(by_time) => by_time.wants(times),
        }
    }

    /// Puts first what matters most.
    pub fn sort(&self, units: &mut [Unit]) {
        let first = |unit: &Unit| unit.times.first().map(|times| times.from);
        let last = |unit: &Unit| unit.times.last().map(|times| times.to);
        match &self.interest {
            Interest::All => {}
            Interest::ByTime(by_time) if !by_time.descending => units.sort_by_key(first),
            // Then little has to be read of what comes after.
            Interest::LastOfSeries | Interest::ByTime(_) => units.sort_by_key(|unit| Reverse(last(unit))),
        }
    }
}
