//! Time, randomness and ids, injected, so that logic can run under a simulated clock.
//!
//! This is the only crate that may ask the operating system for them; clippy forbids it everywhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock. `now` never goes back and is what durations are measured with; `wall_ms` is for people and records.
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary start; monotonic.
    fn now(&self) -> Duration;
    /// Milliseconds since 1970; may jump.
    fn wall_ms(&self) -> i64;
}

/// Randomness and unique names.
pub trait Ids: Send + Sync + 'static {
    fn random_u64(&self) -> u64;
    /// A random UUID in its usual text form.
    fn uuid(&self) -> String;
}

pub type SharedClock = Arc<dyn Clock>;
pub type SharedIds = Arc<dyn Ids>;

/// Between half of `wait` and all of it, so that those who wait for the same thing do not come back all at once.
pub fn jittered(wait: Duration, random: u64) -> Duration {
    let half = wait / 2;
    // So many steps are plenty.
    half + half.mul_f64((random % 1000) as f64 / 1000.0)
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods)]
    pub fn shared() -> SharedClock {
        Arc::new(Self {
            start: std::time::Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(clippy::disallowed_methods)]
    fn wall_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map(|d| d.as_millis() as i64).unwrap_or(0)
    }
}

/// The machine's randomness.
#[derive(Debug, Default)]
pub struct SystemIds;

impl SystemIds {
    pub fn shared() -> SharedIds {
        Arc::new(Self)
    }
}

impl Ids for SystemIds {
    #[allow(clippy::disallowed_methods)]
    fn random_u64(&self) -> u64 {
        rand::random()
    }

    #[allow(clippy::disallowed_methods)]
    fn uuid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }
}

/// A clock that moves when it is told to, for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst) as i64
    }
}

/// Ids that count up from a seed, for tests.
#[derive(Debug, Default)]
pub struct SequentialIds {
    next: AtomicU64,
}

impl SequentialIds {
    pub fn starting_at(first: u64) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(first),
        })
    }
}

impl Ids for SequentialIds {
    fn random_u64(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn uuid(&self) -> String {
        let n = self.random_u64();
        format!("00000000-0000-4000-8000-{n:012x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_half_of_the_wait() {
        let wait = Duration::from_millis(10);
        assert_eq!(jittered(wait, 0), Duration::from_millis(5));
        assert_eq!(jittered(wait, 500), Duration::from_micros(7500));
        assert!((0..5000).all(|random| jittered(wait, random) < wait));
        assert_eq!(jittered(Duration::ZERO, 7), Duration::ZERO);
    }
}
