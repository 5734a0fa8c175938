//! The disk of a datanode's log: what was appended is there for the process at once, and after a loss of power only if
//! it was synced.

use std::sync::Arc;

use bytes::Bytes;
use greptime_log::{Batch, Entry, Fault, Full, Key, LogError, LogStore, MemoryLog};
use greptime_types::RegionId;
use parking_lot::Mutex;

#[derive(Default)]
struct State {
    /// Appended and not synced.
    pending: Option<Batch>,
    fault: Option<Fault>,
    is_full: bool,
}

/// As the process sees it, and as the next one will find it.
pub struct Disk {
    seen: MemoryLog,
    durable: MemoryLog,
    state: Mutex<State>,
}

impl Disk {
    /// With nothing on it.
    pub fn empty() -> Arc<Self> {
        Self::with(MemoryLog::default())
    }

    fn with(durable: MemoryLog) -> Arc<Self> {
        Arc::new(Self {
            seen: durable.copy(),
            durable,
            state: Mutex::default(),
        })
    }

    /// What the next process finds; this one can write no more. `keeps`: what was under way had reached the disk.
    pub fn after_crash(&self, keeps: bool) -> Arc<Self> {
        let pending = self.state.lock().pending.take();
        if let Some(batch) = pending.filter(|_| keeps) {
            // A disk in memory takes everything.
            let _ = self.durable.append(batch);
        }
        let _ = self.seen.reopen();
        Self::with(self.durable.reopen())
    }

    /// The sync under way has ended.
    pub fn synced(&self) {
        if let Some(batch) = self.state.lock().pending.take() {
            // A disk in memory takes everything.
            let _ = self.durable.append(batch);
        }
    }

    /// Whether something waits for a sync.
    pub fn has_pending(&self) -> bool {
        self.state.lock().pending.is_some()
    }

    /// The next append goes wrong.
    pub fn fail_next(&self, fault: Fault) {
        self.state.lock().fault = Some(fault);
    }

    /// Nothing goes wrong any more.
    pub fn forgive(&self) {
        let mut state = self.state.lock();
        state.fault = None;
        state.is_full = false;
    }

    pub fn set_full(&self, is_full: bool) {
        self.state.lock().is_full = is_full;
    }
}

impl LogStore for Disk {
    fn append(&self, batch: Batch) -> Result<(), LogError> {
        let mut state = self.state.lock();
        if let Some(fault) = state.fault.take() {
            if fault == Fault::SyncFailedButKept {
                self.durable.append(batch)?;
            }
            return Err(LogError::Write("the disk failed to sync".into()));
        }
        self.seen.append(batch.clone())?;
        state.pending = Some(batch);
        Ok(())
    }

    fn full(&self) -> Option<Full> {
        self.state.lock().is_full.then_some(Full::Disk)
    }

    fn regions(&self) -> Result<Vec<RegionId>, LogError> {
        self.seen.regions()
    }

    fn bounds(&self, region: RegionId) -> Option<(u64, u64)> {
        self.seen.bounds(region)
    }

    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.seen.entries(region, low, high, max_bytes)
    }

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError> {
        self.seen.get(region, key)
    }

    fn reclaim(&self) -> Result<Vec<RegionId>, LogError> {
        Ok(Vec::new())
    }
}
