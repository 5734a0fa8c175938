//! What is lost when a replica goes on alone, and whether it is no more than was said.

use std::collections::BTreeMap;

use greptime_metasrv_plan::failover::Kept;
use greptime_types::RegionId;

use super::{Applied, Broken, Truth};
use crate::message::{Row, Written};
use crate::process::Address;
use crate::sim::Sim;
use crate::trace::Branch;

/// A region whose majority is lost.
#[derive(Default)]
pub(super) struct GivenUp {
    /// Which it is, until one replica goes on.
    is_open: bool,
    /// What metasrv has said is kept.
    kept: Option<Kept>,
    /// How often one has gone on.
    pub lineage: u64,
    /// Entries that were committed and are lost, by index and term.
    entries: BTreeMap<(u64, u64), Applied>,
    /// Rows of them, and where they were.
    rows: BTreeMap<u64, (u64, u64)>,
}

impl GivenUp {
    pub fn has_entry(&self, index: u64, term: u64) -> bool {
        self.entries.contains_key(&(index, term))
    }

    pub fn has_row(&self, value: u64) -> bool {
        self.rows.contains_key(&value)
    }

    /// What is wrong if something is lost that was acknowledged there.
    fn broken(&self, what: &str, (index, term): (u64, u64)) -> Option<String> {
        let is_kept = match self.kept {
            None => true,
            Some(Kept::Everything { .. }) => true,
            Some(Kept::Through { epoch }) => term <= epoch,
            Some(Kept::UpTo { entry }) => index <= entry,
        };
        is_kept.then(|| {
            let kept = self
                .kept
                .map_or("nothing was said".into(), |kept| kept.to_string());
            format!("{what} at {index} of term {term} is lost; said to be kept: {kept}")
        })
    }

    /// A row that was acknowledged, if it is lost.
    pub fn acknowledged(&self, row: Row) -> Option<String> {
        self.broken(&format!("{row:?}"), *self.rows.get(&row.value)?)
    }

    /// The same of a truncation.
    pub fn truncated(&self, number: u64) -> Option<Option<String>> {
        let found = self
            .entries
            .iter()
            .find(|(_, a)| **a == Applied::Truncated(number));
        found.map(|(place, _)| self.broken("a truncation", *place))
    }
}

impl Sim {
    /// The majority of a region is lost for good.
    pub fn gives_up(&self, region: RegionId) {
        self.truth(region, |truth| truth.given_up.is_open = true);
    }

    /// Whether one of its replicas is still to go on alone.
    pub fn is_given_up(&self, region: RegionId) -> bool {
        self.truth(region, |truth| truth.given_up.is_open)
    }

    /// metasrv says what is kept of a region.
    pub fn promise(&self, region: RegionId, kept: Kept) {
        self.truth(region, |truth| truth.given_up.kept = Some(kept));
    }

    /// A replica goes on alone, with a log up to `last`; `terms` of its entries.
    pub fn saw_alone(&self, at: Address, region: RegionId, last: u64, terms: &BTreeMap<u64, u64>) {
        let (lost, broken) = self.truth(region, |truth| truth.lose(last, terms));
        self.hit(Branch::RegionGoesOnAlone);
        if lost > 0 {
            self.hit(Branch::CommittedEntriesAreLost);
        }
        self.note(|| {
            format!("{at} goes on alone with {region} up to {last}; {lost} committed entries are lost")
        });
        for (name, what) in broken {
            self.violation(name, || format!("{region}: {what}"));
        }
    }

    /// Whether a row whose write was acknowledged is lost with a majority; that it may be is looked at.
    pub(super) fn is_lost(&self, region: RegionId, row: Row, written: Written) -> bool {
        let (is_lost, broken) = self.truth(region, |truth| {
            let is_there = truth.places.contains_key(&row.value);
            let is_lost = truth.given_up.has_row(row.value) && !is_there;
            let broken = is_lost.then(|| truth.given_up.acknowledged(row)).flatten();
            (is_lost, broken)
        });
        if let Some(what) = broken {
            self.violation("what is said to be kept is kept", || {
                format!("{region}: {what}, acknowledged as {written:?}")
            });
        }
        is_lost
    }
}

impl Truth {
    /// Committed entries that the survivor does not have are void from now on; how many, and what is wrong with that.
    fn lose(&mut self, last: u64, terms: &BTreeMap<u64, u64>) -> (usize, Broken) {
        let mut broken = Broken::new();
        self.given_up.is_open = false;
        self.given_up.lineage += 1;
        let is_void = |index: &u64, term: u64| *index > last || terms.get(index).is_some_and(|t| *t != term);
        let first = self
            .entries
            .iter()
            .find(|(index, (term, ..))| is_void(index, *term));
        let Some(first) = first.map(|(index, _)| *index) else {
            return (0, broken);
        };
        if self.view.flushed_seq >= first {
            let through = self.view.flushed_seq;
            broken.push((
                "what is in files is kept",
                format!("entries are lost from {first} on, files have rows through {through}"),
            ));
        }
        let void = self.entries.split_off(&first);
        let count = void.len();
        for (index, (term, _, applied)) in void {
            self.forget(index, term, applied);
        }
        let acknowledged = self.acknowledged.iter();
        let lost = acknowledged.filter_map(|(value, key)| {
            let row = Row {
                key: *key,
                value: *value,
            };
            let is_gone = !self.places.contains_key(value);
            is_gone.then(|| self.given_up.acknowledged(row)).flatten()
        });
        broken.extend(lost.map(|what| ("what is said to be kept is kept", what)));
        if self.truncated >= first {
            self.truncated = self.truncation_at(first - 1);
        }
        self.floor = self.floor_without_the_lost();
        (count, broken)
    }

    fn forget(&mut self, index: u64, term: u64, applied: Applied) {
        match applied {
            Applied::Row(row) => {
                self.rows.remove(&index);
                self.places.remove(&row.value);
                self.given_up.rows.insert(row.value, (index, term));
            }
            Applied::Truncated(_) => {
                self.truncations.remove(&index);
            }
            Applied::Altered { .. } => {
                self.schemas.remove(&index);
            }
            Applied::Nothing | Applied::Stale | Applied::Duplicate | Applied::Late => {}
        }
        self.given_up.entries.insert((index, term), applied);
    }

    fn floor_without_the_lost(&self) -> BTreeMap<u32, u64> {
        let mut floor = BTreeMap::new();
        for (value, key) in &self.is_required {
            if !self.given_up.has_row(*value) {
                let newest = floor.entry(*key).or_insert(*value);
                *newest = (*newest).max(*value);
            }
        }
        floor
    }
}
