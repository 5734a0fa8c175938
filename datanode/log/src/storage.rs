//! One region's log as the Raft library reads it.

use std::collections::VecDeque;
use std::sync::Arc;

use greptime_types::RegionId;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::record::{GroupRecord, Position, load_hard_state};
use super::snapshot::SnapshotData;
use super::{Key, LogError, LogStore};

/// Reads through to the store, but keeps what was appended and not yet applied in memory: it is needed again
/// a moment later, when it is committed.
pub struct RegionStorage {
    region: RegionId,
    store: Arc<dyn LogStore>,
    pub record: GroupRecord,
    pub hard_state: HardState,
    last: Position,
    recent: VecDeque<Entry>,
}

impl RegionStorage {
    /// `flushed` is the index up to which rows are in files: it was committed, whatever the hard state says.
    pub fn open(store: Arc<dyn LogStore>, region: RegionId, flushed: u64) -> Result<Self, LogError> {
        let record = GroupRecord::load(store.as_ref(), region)?;
        let mut hard_state = load_hard_state(store.as_ref(), region)?;
        hard_state.commit = hard_state.commit.max(record.trimmed.index).max(flushed);
        hard_state.term = hard_state.term.max(record.trimmed.term);
        let mut storage = Self {
            region,
            store,
            last: record.trimmed,
            record,
            hard_state,
            recent: VecDeque::new(),
        };
        if let Some((first, last)) = storage
            .store
            .bounds(region)
            .filter(|(_, last)| *last > storage.last.index && !storage.record.void_tail)
        {
            if first > storage.record.trimmed.index + 1 {
                return Err(LogError::Corruption(format!(
                    "region {region} is trimmed through {}, but its log begins at {first}",
                    storage.record.trimmed.index
                )));
            }
            let entry = storage.read(last, last + 1, u64::MAX)?;
            storage.last = Position {
                index: last,
                term: entry[0].term,
            };
        }
        // A change of members is in the record only after it was committed. Those of a snapshot may be of entries that
        // follow it, and that had yet to come.
        let changed = storage.record.members_index.min(storage.last.index);
        storage.hard_state.commit = storage.hard_state.commit.max(changed);
        if storage.hard_state.commit > storage.last.index {
            return Err(LogError::Corruption(format!(
                "region {region} had committed through {}, but its log ends at {}",
                storage.hard_state.commit, storage.last.index
            )));
        }
        Ok(storage)
    }

    /// After the entries are in the store.
    pub fn appended(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        while self.recent.back().is_some_and(|e| e.index >= first.index) {
            self.recent.pop_back();
        }
        if let Some(last) = entries.last() {
            self.last = Position {
                index: last.index,
                term: last.term,
            };
        }
        self.recent.extend(entries);
    }

    /// Entries up to `index` will not be asked for soon.
    pub fn applied(&mut self, index: u64) {
        while self.recent.front().is_some_and(|e| e.index <= index) {
            self.recent.pop_front();
        }
    }

    /// After the store has trimmed.
    pub fn trimmed(&mut self, position: Position) {
        self.record.trimmed = position;
    }

    /// After a snapshot has replaced everything.
    pub fn restored(&mut self, record: GroupRecord, hard_state: HardState) {
        self.last = record.trimmed;
        self.record = record;
        self.hard_state = hard_state;
        self.recent.clear();
    }

    /// Index of the last entry that is on disk.
    pub fn last(&self) -> u64 {
        self.last.index
    }

    /// Whether the store has entries behind `index`.
    pub fn has_tail(&self, index: u64) -> bool {
        self.store
            .bounds(self.region)
            .is_some_and(|(_, last)| last > index)
    }

    /// What a restart begins from, at the trimmed position.
    pub fn checkpoint(&self) -> Result<bytes::Bytes, LogError> {
        let bytes = self.store.get(self.region, Key::Checkpoint)?;
        bytes.ok_or_else(|| LogError::Corruption(format!("region {} has no checkpoint", self.region)))
    }

    pub fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let entries = self.store.entries(self.region, low, high, max_bytes)?;
        match entries.first() {
            Some(entry) if entry.index == low => Ok(entries),
            _ => Err(LogError::Corruption(format!(
                "region {}: entry {low} is missing",
                self.region
            ))),
        }
    }

    fn recent(&self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let front = self.recent.front()?.index;
        if low < front {
            return None;
        }
        let (mut bytes, mut taken) = (0, Vec::new());
        for entry in self.recent.range((low - front) as usize..(high - front) as usize) {
            bytes += u64::from(entry.compute_size());
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Some(taken)
    }
}

fn other(error: LogError) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl Storage for RegionStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.record.members.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.record.trimmed.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last.index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        match self.recent(low, high, max_bytes) {
            Some(entries) => Ok(entries),
            None => self.read(low, high, max_bytes).map_err(other),
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.record.trimmed.index {
            return Ok(self.record.trimmed.term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index < self.record.trimmed.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last.index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        if let Some(entries) = self.recent(index, index + 1, u64::MAX) {
            return Ok(entries[0].term);
        }
        self.read(index, index + 1, u64::MAX)
            .map(|entries| entries[0].term)
            .map_err(other)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.record.trimmed.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    /// Where the region stands in files; see [`SnapshotData`].
    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        let data = SnapshotData {
            checkpoint: self.checkpoint().map_err(other)?,
            members_index: self.record.members_index,
            nodes: self.record.nodes.clone(),
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.record.trimmed.index;
        metadata.term = self.record.trimmed.term;
        metadata.set_conf_state(self.record.members.clone());
        snapshot.data = data.encode();
        Ok(snapshot)
    }
}
