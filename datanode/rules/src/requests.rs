//! Which writes have been applied, so that a repeated one is applied once.
//!
//! All replicas must agree on this table, so it changes only by applying entries, and no clock is involved.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use greptime_types::{Error, Finished, RequestId, Result};
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
    /// Of those from `lowest` on: ranges of finished ones, from their first to their last, some of which were given up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    given_up: BTreeMap<u64, u64>,
}

impl Incarnation {
    fn mark(&self) -> Mark {
        Mark {
            lowest: self.lowest,
            applied: self.applied.len() as u64,
            newest: self.applied.last().copied().unwrap_or(0),
        }
    }

    fn has_finished(&self, number: u64) -> bool {
        let below = number < self.lowest && Defence::LateCopyIsRefused.holds();
        let range = self.given_up.range(..=number).next_back();
        let within = range.is_some_and(|(_, last)| number <= *last) && Defence::GivenUpIsRefused.holds();
        below || within
    }

    fn give_up(&mut self, numbers: &RangeInclusive<u64>) {
        let (mut first, mut last) = (*numbers.start(), *numbers.end());
        if first > last {
            return;
        }
        // With those that overlap it or touch it.
        while let Some((other_first, other_last)) = self.given_up.range(..=last.saturating_add(1)).next_back()
        {
            let (other_first, other_last) = (*other_first, *other_last);
            if other_last.saturating_add(1) < first {
                break;
            }
            (first, last) = (first.min(other_first), last.max(other_last));
            self.given_up.remove(&other_first);
        }
        self.given_up.insert(first, last);
    }
}

/// What the table says of an incarnation; each entry of it makes it another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub lowest: u64,
    /// Numbers that are known as applied.
    pub applied: u64,
    /// The greatest of them; 0 if there is none.
    pub newest: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestTable {
    incarnations: BTreeMap<u64, Incarnation>,
}

impl RequestTable {
    pub fn look_up(&self, id: RequestId) -> Seen {
        match self.incarnations.get(&id.incarnation) {
            Some(known) if known.applied.contains(&id.number) => Seen::Applied,
            Some(known) if known.has_finished(id.number) => Seen::Finished,
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
    pub fn apply(&mut self, id: RequestId, finished: &Finished) {
        let known = self.incarnations.entry(id.incarnation).or_default();
        if finished.lowest_unfinished > known.lowest || !Defence::LowMarkOnlyGrows.holds() {
            known.lowest = finished.lowest_unfinished;
        }
        known.applied.insert(id.number);
        known.applied = known.applied.split_off(&known.lowest);
        for numbers in &finished.given_up {
            known.give_up(numbers);
        }
        known.given_up.retain(|_, last| *last >= known.lowest);
    }

    /// Forgets all that was ever known of incarnations, unless they have written since they were seen so. A copy of what
    /// they wrote would be applied again, so none of their attempts may be under way any more.
    pub fn forget(&mut self, quiet: &[(u64, Mark)]) {
        for (incarnation, mark) in quiet {
            let now = self.incarnations.get(incarnation).map(Incarnation::mark);
            if now == Some(*mark) || !Defence::WhoWritesAgainIsKept.holds() {
                self.incarnations.remove(incarnation);
            }
        }
    }

    /// All incarnations, with what is said of each.
    pub fn marks(&self) -> impl Iterator<Item = (u64, Mark)> {
        let known = self.incarnations.iter();
        known.map(|(incarnation, known)| (*incarnation, known.mark()))
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
        table.apply(id(1), &Finished::below(1));
        table.apply(id(3), &Finished::below(1));
        assert_eq!(table.look_up(id(1)), Seen::Applied);
        assert_eq!(table.look_up(id(2)), Seen::New);
        table.apply(id(4), &Finished::below(3));
        assert_eq!(table.look_up(id(1)), Seen::Finished);
        assert_eq!(table.look_up(id(2)), Seen::Finished);
        assert_eq!(table.look_up(id(3)), Seen::Applied);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_late_low_mark_does_not_bring_back_what_was_forgotten() {
        let mut table = RequestTable::default();
        table.apply(id(9), &Finished::below(9));
        table.apply(id(10), &Finished::below(2));
        assert_eq!(table.look_up(id(5)), Seen::Finished);
    }

    fn given_up(lowest_unfinished: u64, given_up: &[RangeInclusive<u64>]) -> Finished {
        let given_up = given_up.to_vec();
        Finished {
            lowest_unfinished,
            given_up,
        }
    }

    #[test]
    fn what_was_given_up_is_finished_unless_it_was_applied() {
        let mut table = RequestTable::default();
        table.apply(id(3), &Finished::below(1));
        table.apply(id(6), &given_up(1, &[3..=4]));
        let seen = |table: &RequestTable| [1, 2, 3, 4, 5].map(|number| table.look_up(id(number)));
        let (new, applied, finished) = (Seen::New, Seen::Applied, Seen::Finished);
        assert_eq!(seen(&table), [new, new, applied, finished, new]);
        table.apply(id(7), &given_up(1, &[2..=5]));
        assert_eq!(seen(&table), [new, finished, applied, finished, finished]);
        // An older attempt's word comes later.
        table.apply(id(8), &given_up(1, &[3..=4]));
        assert_eq!(seen(&table), [new, finished, applied, finished, finished]);
        let kept = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<RequestTable>(&kept).unwrap(), table);
        table.apply(id(9), &Finished::below(9));
        let mut fresh = RequestTable::default();
        fresh.apply(id(9), &Finished::below(9));
        assert_eq!(table, fresh, "the mark has passed them all");
    }
}
