//! A log store in memory that can fail in the ways of a disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use greptime_types::RegionId;
use parking_lot::Mutex;
use raft::eraftpb::Entry;

use super::{Batch, Full, Key, LogError, LogStore};

/// What goes wrong at an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes before the batch is on disk; after a reopen it is not there.
    Lost,
    /// The fsync answers an error, but the batch reached the disk.
    SyncFailedButKept,
    /// A part of the batch reached the disk: its checksum is wrong, so a reopen cuts it.
    Torn,
}

#[derive(Clone, Debug, Default)]
struct RegionLog {
    entries: BTreeMap<u64, Entry>,
    keys: BTreeMap<Key, Bytes>,
}

#[derive(Debug, Default)]
struct Disk {
    regions: BTreeMap<RegionId, RegionLog>,
    /// The append at which something goes wrong, counted from now; 1 is the next.
    fault: Option<(u64, Fault)>,
    /// After a fault the store answers nothing until it is reopened.
    failed: bool,
    /// Appends wait.
    full: bool,
    /// Appends do not wait any more.
    stopping: bool,
    torn_tails: u64,
}

/// Keeps everything in memory. What is cloned from it is the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    disk: Arc<Mutex<Disk>>,
    syncs: Arc<AtomicU64>,
}

impl MemoryLog {
    /// How often something was made durable.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Batches that a reopen found torn and cut.
    pub fn torn_tails(&self) -> u64 {
        self.disk.lock().torn_tails
    }

    /// Lets the `nth` append from now go wrong (1 is the next).
    pub fn fail_at(&self, nth: u64, fault: Fault) {
        self.disk.lock().fault = Some((nth, fault));
    }

    /// Whether there is no space for more.
    pub fn set_full(&self, full: bool) {
        self.disk.lock().full = full;
    }

    /// First and last index of the entries of the region with the lowest id, if it has any.
    pub fn bounds_of_first(&self) -> Option<(u64, u64)> {
        let region = self.regions().ok()?.first().copied()?;
        self.bounds(region)
    }

    /// The disk as another process finds it: only what was synced, and this one can write no more.
    pub fn reopen(&self) -> Self {
        self.disk.lock().failed = true;
        self.copy()
    }

    /// Another disk with what is on this one now.
    pub fn copy(&self) -> Self {
        let old = self.disk.lock();
        let disk = Disk {
            regions: old.regions.clone(),
            torn_tails: old.torn_tails,
            ..Disk::default()
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
            syncs: Arc::new(AtomicU64::new(0)),
        }
    }
}

impl Disk {
    fn apply(&mut self, batch: Batch) {
        for (region, changes) in batch.regions {
            if changes.delete {
                self.regions.remove(&region);
                continue;
            }
            let log = self.regions.entry(region).or_default();
            if let Some(through) = changes.trim_through {
                log.entries = log.entries.split_off(&(through + 1));
            }
            if let Some(first) = changes.entries.first() {
                log.entries.split_off(&first.index);
            }
            log.entries
                .extend(changes.entries.into_iter().map(|e| (e.index, e)));
            log.keys.extend(changes.put);
        }
    }

    fn next_fault(&mut self) -> Option<Fault> {
        let (nth, fault) = self.fault.as_mut()?;
        *nth -= 1;
        let due = (*nth == 0).then_some(*fault);
        if due.is_some() {
            self.fault = None;
        }
        due
    }
}

impl LogStore for MemoryLog {
    fn append(&self, batch: Batch) -> Result<(), LogError> {
        while self.is_full() {
            if self.disk.lock().stopping {
                return Err(LogError::Full);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let mut disk = self.disk.lock();
        if disk.failed {
            return Err(LogError::Write("the disk has failed".into()));
        }
        match disk.next_fault() {
            None => {
                disk.apply(batch);
                self.syncs.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            Some(Fault::Lost) => {}
            Some(Fault::SyncFailedButKept) => disk.apply(batch),
            Some(Fault::Torn) => disk.torn_tails += 1,
        }
        disk.failed = true;
        Err(LogError::Write("the disk failed to sync".into()))
    }

    fn full(&self) -> Option<Full> {
        self.disk.lock().full.then_some(Full::Disk)
    }

    fn stop_waiting(&self) {
        self.disk.lock().stopping = true;
    }

    fn regions(&self) -> Result<Vec<RegionId>, LogError> {
        let disk = self.disk.lock();
        Ok(disk
            .regions
            .iter()
            .filter(|(_, r)| r.keys.contains_key(&Key::Group))
            .map(|(id, _)| *id)
            .collect())
    }

    fn bounds(&self, region: RegionId) -> Option<(u64, u64)> {
        let disk = self.disk.lock();
        let entries = &disk.regions.get(&region)?.entries;
        Some((*entries.first_key_value()?.0, *entries.last_key_value()?.0))
    }

    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let disk = self.disk.lock();
        let Some(log) = disk.regions.get(&region) else {
            return Ok(Vec::new());
        };
        let (mut bytes, mut taken) = (0, Vec::new());
        for entry in log.entries.range(low..high).map(|(_, e)| e) {
            bytes += entry.data.len() as u64;
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError> {
        Ok(self
            .disk
            .lock()
            .regions
            .get(&region)
            .and_then(|r| r.keys.get(&key).cloned()))
    }

    fn reclaim(&self) -> Result<Vec<RegionId>, LogError> {
        Ok(Vec::new())
    }
}
