//! A log store whose appends are timed: for the histogram, and so that a stuck disk is seen from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use greptime_clock::SharedClock;
use greptime_types::RegionId;
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use raft::eraftpb::Entry;

use super::{Batch, Full, Key, LogError, LogStore};

pub struct TimedLog {
    inner: Arc<dyn LogStore>,
    clock: SharedClock,
    seconds: Histogram,
    /// Start of the append under way, in microseconds of the clock plus one; 0 is none.
    started: AtomicU64,
    watch: Mutex<Watch>,
}

/// How much of two looks' distance counts: whoever looks less often was stopped, or nobody asked.
const LOOK: Duration = Duration::from_millis(150);

/// What was seen of the append under way by those who looked.
#[derive(Debug, Default)]
struct Watch {
    started: u64,
    looked: Duration,
    waited: Duration,
}

impl Watch {
    /// How long the append that began at `started` has been seen to wait. A process that was stopped has not waited for
    /// its disk.
    fn look(&mut self, started: u64, now: Duration) -> Duration {
        if started != self.started {
            *self = Self {
                started,
                looked: self.looked.max(Duration::from_micros(started - 1)),
                waited: Duration::ZERO,
            };
        }
        self.waited += now.saturating_sub(self.looked).min(LOOK);
        self.looked = now;
        self.waited
    }
}

impl TimedLog {
    pub fn new(inner: Arc<dyn LogStore>, clock: SharedClock, seconds: Histogram) -> Self {
        Self {
            inner,
            clock,
            seconds,
            started: AtomicU64::new(0),
            watch: Mutex::default(),
        }
    }

    /// How long the append under way has waited for its disk, as far as somebody looked: to be asked with every beat.
    pub fn oldest_append(&self) -> Duration {
        let now = self.clock.now();
        let mut watch = self.watch.lock();
        match self.started.load(Ordering::SeqCst) {
            0 => {
                watch.looked = now;
                Duration::ZERO
            }
            started => watch.look(started, now),
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

    fn full(&self) -> Option<Full> {
        self.inner.full()
    }

    fn size(&self) -> u64 {
        self.inner.size()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_the_process_is_no_slow_disk() {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let started = |at: Duration| at.as_micros() as u64 + 1;
        let mut watch = Watch {
            looked: ms(1_000),
            ..Watch::default()
        };
        assert_eq!(watch.look(started(ms(1_050)), ms(1_100)), ms(50));
        assert_eq!(watch.look(started(ms(1_050)), ms(1_200)), ms(150));
        // Stopped for three seconds.
        assert_eq!(watch.look(started(ms(1_050)), ms(4_200)), ms(300));
        // Another append.
        assert_eq!(watch.look(started(ms(4_210)), ms(4_300)), ms(90));
        assert_eq!(watch.look(started(ms(4_310)), ms(9_000)), ms(150));
    }
}
