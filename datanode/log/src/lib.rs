//! The region log: one Raft group per region, all of them in one store, hence one fsync for all of them.
//!
//! * [`LogStore`] keeps bytes: `engine` on disk, `memory` for tests and simulation.
//! * `core` steps the groups; it does no I/O of its own and knows no clock, task or random number.
//! * `driver` is the one thread that feeds the core and applies what it commits.

mod core;
mod damage;
mod defences;
mod disk;
mod driver;
mod engine;
mod feed;
mod files;
mod group;
mod io;
mod mailbox;
mod members;
mod memory;
mod reads;
mod record;
mod reserve;
mod snapshot;
mod storage;
#[cfg(debug_assertions)]
pub mod testing;
mod timed;
mod trim;

pub use self::core::LogCore;
pub use defences::Defence;
pub use driver::{Applied, Apply, LogHandle, Proposal, start};
pub use engine::{EngineLog, EngineOptions, LogDamage, LogSync, room};
pub use files::Cut;
pub use io::{
    Authority, Checkpointed, Committed, CommittedEntry, Full, GroupStatus, InFiles, Initialise, Input,
    LogOptions, Network, Outgoing, Output,
};
pub use mailbox::{NoPeers, Peers};
pub use members::{Change, Member, Membership};
pub use memory::{Fault, MemoryLog};
pub use raft::eraftpb::Entry;
pub use record::GroupRecord;
pub use timed::TimedLog;

use std::collections::BTreeMap;

use bytes::Bytes;
use greptime_types::RegionId;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Whether the batch is on disk is unknown. Nothing may be acknowledged by this process any more.
    #[error("the log could not be written: {0}; restart the node to go on from what is on disk")]
    Write(String),
    /// The batch is not on disk: there was no room for it, and nobody waits for room any more.
    #[error("the disk of the log is full, and the node stops; what was to be written is not in the log")]
    Full,
    #[error("the log could not be read: {0}")]
    Read(String),
    #[error("the log is damaged: {0}")]
    Corruption(String),
}

/// What is kept for a region beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// [`GroupRecord`]: the Raft id, the members, the trimmed position.
    Group,
    /// Raft's term, vote and commit index.
    HardState,
    /// What the region needs to take writes without reading the bucket; opaque here.
    Checkpoint,
}

impl Key {
    pub const ALL: [Self; 3] = [Self::Group, Self::HardState, Self::Checkpoint];
}

/// Changes of one region in a batch.
#[derive(Clone, Debug, Default)]
pub struct RegionBatch {
    /// Consecutive; an entry at or below the last index replaces what was there and behind it.
    pub entries: Vec<Entry>,
    pub put: BTreeMap<Key, Bytes>,
    /// Entries up to this index are forgotten. After a start some of them may be there again, before others that are left.
    pub trim_through: Option<u64>,
    /// Everything of the region is forgotten; nothing else may be in its batch.
    pub delete: bool,
}

/// Changes of many regions that become durable together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub regions: BTreeMap<RegionId, RegionBatch>,
}

impl Batch {
    pub fn region(&mut self, id: RegionId) -> &mut RegionBatch {
        self.regions.entry(id).or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }
}

/// Keeps the logs of all regions of a datanode.
pub trait LogStore: Send + Sync + 'static {
    /// Writes a batch, all of it or nothing, with one fsync; returns when it is on disk. A store that syncs by
    /// interval returns before, if the batch has nothing but entries.
    fn append(&self, batch: Batch) -> Result<(), LogError>;

    /// Returns when everything that was appended is on disk.
    fn sync(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Why there is no space for rows, if there is none: what makes room is appended all the same.
    fn full(&self) -> Option<Full> {
        None
    }

    fn is_full(&self) -> bool {
        self.full().is_some()
    }

    /// Bytes on disk, as they are reserved for files.
    fn size(&self) -> u64 {
        0
    }

    /// The node stops: an append that waits for space fails with [`LogError::Full`].
    fn stop_waiting(&self) {}

    /// Regions that have a [`Key::Group`].
    fn regions(&self) -> Result<Vec<RegionId>, LogError>;

    /// First and last index of the entries; `None` if there are none.
    fn bounds(&self, region: RegionId) -> Option<(u64, u64)>;

    /// Entries from `low` up to, without, `high`; fewer when they exceed `max_bytes`, but at least one.
    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError>;

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError>;

    /// Gives back disk space of trimmed entries, and looks whether a full disk has room again; names the regions whose
    /// old entries stand in the way.
    fn reclaim(&self) -> Result<Vec<RegionId>, LogError>;
}

#[cfg(test)]
mod tests;
