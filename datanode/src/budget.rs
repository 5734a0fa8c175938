//! How much memory rows may take on this node, before they are in files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use greptime_types::{Error, Result};

use crate::defences::Defence;

/// A write close to the hard limit waits for so long: writers are then slower than any object store.
const LONGEST_DELAY: Duration = Duration::from_millis(500);

/// Counts what all regions hold, and what is on its way to them.
#[derive(Debug)]
pub struct Budget {
    /// Above it the largest regions are flushed, and writes slowed down.
    soft: u64,
    /// Above it writes are refused.
    hard: u64,
    used: AtomicU64,
    arriving: AtomicU64,
}

impl Budget {
    pub fn new(soft: u64, hard: u64) -> Arc<Self> {
        Arc::new(Self {
            soft,
            hard,
            used: AtomicU64::new(0),
            arriving: AtomicU64::new(0),
        })
    }

    /// Room for a write of `bytes`; to be taken before the write waits for anything.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let mut reservation = Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// How long a write that has taken room should wait before it is read: nothing below the soft limit, and the more the
    /// nearer the hard one is, so that flushes keep up before anything is refused.
    pub fn delay(&self) -> Duration {
        let used = self.used() + self.arriving.load(Ordering::SeqCst);
        if !Defence::SoftLimitSlows.holds() {
            return Duration::ZERO;
        }
        let above = used.saturating_sub(self.soft) as f64;
        let share = (above / (self.hard - self.soft).max(1) as f64).min(1.0);
        LONGEST_DELAY.mul_f64(share * share)
    }

    /// A region's memtable changed from `before` to `after` bytes.
    pub fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add((after - before) as u64, Ordering::SeqCst);
        } else {
            self.used.fetch_sub((before - after) as u64, Ordering::SeqCst);
        }
    }

    /// Bytes in memtables.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// How far the memtables are above the soft limit.
    pub fn excess(&self) -> u64 {
        self.used().saturating_sub(self.soft)
    }
}

/// Bytes of a write that is not applied yet.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// The write takes so many bytes, as is known now that it was read.
    pub fn correct(&mut self, bytes: u64) -> Result<()> {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            return self.grow(more);
        }
        self.budget
            .arriving
            .fetch_sub(self.bytes - bytes, Ordering::SeqCst);
        self.bytes = bytes;
        Ok(())
    }

    fn grow(&mut self, more: u64) -> Result<()> {
        let arriving = self.budget.arriving.fetch_add(more, Ordering::SeqCst) + more;
        self.bytes += more;
        let (wanted, hard) = (self.budget.used() + arriving, self.budget.hard);
        if more > 0 && wanted > hard && Defence::HardLimitRefuses.holds() {
            return Err(Error::exhausted(format!(
                "rows that are not in files yet take {wanted} bytes, the limit is {hard} \
                 (datanode.memtable_hard_limit); retry later, and see whether flushes reach the object store"
            )));
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.arriving.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_over_the_hard_limit_is_refused_until_there_is_room() {
        let budget = Budget::new(50, 100);
        let first = budget.reserve(60).unwrap();
        let error = budget.reserve(60).unwrap_err();
        assert!(
            error.is_retryable() && error.message.contains("memtable_hard_limit"),
            "{error}"
        );
        drop(first);
        budget.changed(0, 40);
        budget.reserve(60).unwrap();
        assert_eq!(budget.excess(), 0);
        budget.changed(40, 70);
        assert_eq!(budget.excess(), 20);
    }

    #[test]
    fn room_that_was_taken_is_corrected_when_the_write_was_read() {
        let budget = Budget::new(50, 100);
        let mut write = budget.reserve(40).unwrap();
        write.correct(60).unwrap();
        budget.reserve(60).unwrap_err();
        write.correct(20).unwrap();
        let other = budget.reserve(80).unwrap();
        let error = write.correct(30).unwrap_err();
        assert!(error.message.contains("memtable_hard_limit"), "{error}");
        drop((write, other));
        budget.reserve(100).unwrap();
    }

    #[test]
    fn writes_are_slowed_down_before_they_are_refused() {
        let budget = Budget::new(50, 100);
        budget.changed(0, 50);
        assert_eq!(budget.delay(), Duration::ZERO);
        let mut last = Duration::ZERO;
        for used in [60, 75, 90, 100] {
            budget.changed(budget.used() as usize, used);
            assert!(budget.delay() > last, "{used}");
            last = budget.delay();
        }
        assert_eq!(last, LONGEST_DELAY);
        let on_its_way = Budget::new(50, 100);
        let _arriving = on_its_way.reserve(80).unwrap();
        assert!(on_its_way.delay() > Duration::ZERO);
    }
}
