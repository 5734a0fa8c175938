//! A log store whose appends are timed: for the histogram, and so that a stuck disk is seen from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use greptime_clock::SharedClock;
use greptime_types::RegionId;
use prometheus_client::metrics::histogram::Histogram;
use raft::eraftpb::Entry;

use super::{Batch, Key, LogError, LogStore};

pub struct TimedLog {
    inner: Arc<dyn LogStore>,
    clock: SharedClock,
    seconds: Histogram,
    /// Start of the append under way, in microseconds of the clock plus one; 0 is none.
    started: AtomicU64,
}

impl TimedLog {
    pub fn new(inner: Arc<dyn LogStore>, clock: SharedClock, seconds: Histogram) -> Self {
        Self {
            inner,
            clock,
            seconds,
            started: AtomicU64::new(0),
        }
    }

    /// How long the append under way has taken.
    pub fn oldest_append(&self) -> Duration {
        match self.started.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            started => self
                .clock
                .now()
                .saturating_sub(Duration::from_micros(started - 1)),
        }
    }
}

impl LogStore for TimedLog {
    fn append(&self, batch: Batch) -> Result<(), LogError> {
        let started = self.clock.now();
        self.started
            .store(started.as_micros() as u64 + 1, Ordering::SeqCst);
        let result = self.inner.append(batch);
        self.started.store(0, Ordering::SeqCst);
        self.seconds
            .observe(self.clock.now().saturating_sub(started).as_secs_f64());
        result
    }

    fn sync(&self) -> Result<(), LogError> {
        self.inner.sync()
    }

    fn is_full(&self) -> bool {
        self.inner.is_full()
    }

    fn stop_waiting(&self) {
        self.inner.stop_waiting();
    }

    fn regions(&self) -> Result<Vec<RegionId>, LogError> {
        self.inner.regions()
    }

    fn bounds(&self, region: RegionId) -> Option<(u64, u64)> {
        self.inner.bounds(region)
    }

    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.inner.entries(region, low, high, max_bytes)
    }

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError> {
        self.inner.get(region, key)
    }

    fn reclaim(&self) -> Result<Vec<RegionId>, LogError> {
        self.inner.reclaim()
    }
}
