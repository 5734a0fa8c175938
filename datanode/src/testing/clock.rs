//! A clock whose wall time is what a test says, while durations go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use greptime_clock::{Clock, SharedClock, SystemClock};

pub struct SkewedClock {
    machine: SharedClock,
    wall_ms: AtomicI64,
}

impl SkewedClock {
    pub fn at(wall_ms: i64) -> Arc<Self> {
        Arc::new(Self {
            machine: SystemClock::shared(),
            wall_ms: AtomicI64::new(wall_ms),
        })
    }

    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Duration {
        self.machine.now()
    }

    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}
