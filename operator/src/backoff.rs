//! How long to wait before an object that failed is tried again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use greptime_clock::{SharedIds, jittered};

/// Namespace and name of a cluster.
pub type Key = (String, String);

const FIRST: Duration = Duration::from_millis(500);
/// Long enough not to press an API server in trouble, short enough that a mended cluster goes on while one looks.
const LONGEST: Duration = Duration::from_secs(60);

/// Failures in a row of each object. An object that never fails takes no memory.
pub struct Backoff {
    failures: Mutex<BTreeMap<Key, u32>>,
    ids: SharedIds,
}

impl Backoff {
    pub fn new(ids: SharedIds) -> Self {
        Self {
            failures: Mutex::default(),
            ids,
        }
    }

    /// Doubles with every failure, and differs by up to a half so that many objects do not come back together.
    pub fn after_failure(&self, key: &Key) -> Duration {
        let mut failures = self.lock();
        let count = failures.entry(key.clone()).or_insert(0);
        *count = count.saturating_add(1);
        let doubled = FIRST.saturating_mul(1u32 << (*count - 1).min(16)).min(LONGEST);
        jittered(doubled, self.ids.random_u64())
    }

    /// Of an object that is well, or gone.
    pub fn succeeded(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use greptime_clock::SequentialIds;

    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_start_again_after_a_success() {
        let backoff = Backoff::new(SequentialIds::starting_at(1023));
        let key = ("ns".to_owned(), "demo".to_owned());
        let waits: Vec<_> = (0..12).map(|_| backoff.after_failure(&key)).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits.iter().all(|w| *w <= LONGEST));
        assert!(waits[11] >= LONGEST / 2);
        backoff.succeeded(&key);
        assert!(backoff.after_failure(&key) <= FIRST);
    }
}
