//! How far the machine has been given what is committed. A replica that is not fed costs disk and nothing else; when it
//! is to be fed, it reads what it has missed from the store.

use std::ops::Range;

use greptime_types::RegionId;

use super::io::{Committed, CommittedEntry, Output};

/// Read at once when something was missed. Small, since a turn ends when all of it is applied, and a leader may be told
/// to hand over meanwhile.
pub(crate) const CHUNK_BYTES: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Feed {
    /// Fed also while it follows.
    pub is_hot: bool,
    /// What Raft has said is committed.
    committed: u64,
    /// Given to the machine.
    given: u64,
    /// The machine says that it has applied it.
    applied: u64,
}

impl Feed {
    pub fn new(index: u64) -> Self {
        Self {
            is_hot: false,
            committed: index,
            given: index,
            applied: index,
        }
    }

    pub fn committed(&mut self, index: u64) {
        self.committed = self.committed.max(index);
    }

    pub fn is_next(&self, index: u64) -> bool {
        self.given + 1 == index
    }

    pub fn is_behind(&self) -> bool {
        self.given < self.committed
    }

    /// What was missed.
    pub fn missing(&self) -> Range<u64> {
        self.given + 1..self.committed + 1
    }

    pub fn give(&mut self, region: RegionId, entries: Vec<CommittedEntry>, output: &mut Output) {
        if let Some(last) = entries.last() {
            self.given = last.index;
            output.committed.push(Committed { region, entries });
        }
    }

    /// The machine has applied the entries up to `index`.
    pub fn machine_applied(&mut self, index: u64) {
        self.applied = self.applied.max(index.min(self.given));
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The machine has yet to apply what it was given.
    pub fn is_out(&self) -> bool {
        self.applied < self.given
    }

    pub fn last_committed(&self) -> u64 {
        self.committed
    }

    /// Entries up to `index` are trimmed. Whether the machine has not been given all of them: it begins anew from what
    /// took their place.
    pub fn skip_to(&mut self, index: u64) -> bool {
        let missed = self.given < index;
        if missed {
            self.fall_back(index);
        }
        missed
    }

    /// A snapshot has replaced everything.
    pub fn restart(&mut self, index: u64) {
        *self = Self {
            is_hot: self.is_hot,
            ..Self::new(index)
        };
    }

    /// The machine goes back to the checkpoint at `index`.
    pub fn fall_back(&mut self, index: u64) {
        self.given = index;
        self.applied = index;
    }
}
