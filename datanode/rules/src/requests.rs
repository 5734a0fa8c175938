//! Which writes have been applied, so that a repeated one is applied once.
//!
//! All replicas must agree on this table, so it changes only by applying entries, and no clock is involved.

use std::collections::{BTreeMap, BTreeSet};

use greptime_types::{Error, RequestId, Result};
use serde::{Deserialize, Serialize};

use crate::defences::Defence;

/// What the table says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    New,
    Applied,
    /// Its frontend has finished with it long ago; a late copy must not be applied over newer rows.
    Finished,
}

impl Seen {
    /// Whether the request need not be done any more; an error if it must not be.
    pub fn was_applied(self) -> Result<bool> {
        match self {
            Self::New => Ok(false),
            Self::Applied => Ok(true),
            Self::Finished => Err(Error::conflict(
                "the request was finished before; this copy is late",
            )),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Incarnation {
    /// The lowest number that the frontend had not finished; grows only.
    lowest: u64,
    /// Applied numbers from `lowest` on.
    applied: BTreeSet<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestTable {
    incarnations: BTreeMap<u64, Incarnation>,
}

impl RequestTable {
    pub fn look_up(&self, id: RequestId) -> Seen {
        match self.incarnations.get(&id.incarnation) {
            Some(known) if known.applied.contains(&id.number) => Seen::Applied,
            Some(known) if id.number < known.lowest && Defence::LateCopyIsRefused.holds() => Seen::Finished,
            _ => Seen::New,
        }
    }

    /// What an entry finds that comes to be applied; one that was looked up before may have come twice.
    pub fn first_time(&self, id: RequestId) -> Seen {
        match self.look_up(id) {
            Seen::Applied if !Defence::AppliedIdsAreKnown.holds() => Seen::New,
            seen => seen,
        }
    }

    /// Records an applied entry, and forgets what its frontend has finished.
    pub fn apply(&mut self, id: RequestId, lowest_unfinished: u64) {
        let known = self.incarnations.entry(id.incarnation).or_default();
        if lowest_unfinished > known.lowest || !Defence::LowMarkOnlyGrows.holds() {
            known.lowest = lowest_unfinished;
        }
        known.applied.insert(id.number);
        known.applied = known.applied.split_off(&known.lowest);
    }

    /// Remembered numbers, for limits and tests.
    pub fn len(&self) -> usize {
        self.incarnations.values().map(|known| known.applied.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RequestId {
        RequestId {
            incarnation: 7,
            number,
        }
    }

    #[test]
    fn an_applied_request_is_known_until_its_frontend_finishes_it() {
        let mut table = RequestTable::default();
        table.apply(id(1), 1);
        table.apply(id(3), 1);
        assert_eq!(table.look_up(id(1)), Seen::Applied);
        assert_eq!(table.look_up(id(2)), Seen::New);
        table.apply(id(4), 3);
        assert_eq!(table.look_up(id(1)), Seen::Finished);
        assert_eq!(table.look_up(id(2)), Seen::Finished);
        assert_eq!(table.look_up(id(3)), Seen::Applied);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_late_low_mark_does_not_bring_back_what_was_forgotten() {
        let mut table = RequestTable::default();
        table.apply(id(9), 9);
        table.apply(id(10), 2);
        assert_eq!(table.look_up(id(5)), Seen::Finished);
    }
}
