//! The memory of queries: one pool for all of a node, which holds what it promises.
//!
//! DataFusion's operators ask a pool before they keep rows. Some can write theirs to disk when they are refused
//! (sorts, aggregates, exchanges), the others make their query fail. DataFusion's own pool gives each of those that
//! can spill an equal share of the whole, but does not take back what was given when there were fewer of them, so
//! that together they may hold a multiple of it. This one counts.

use std::fmt;

use datafusion::common::human_readable_size;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use greptime_settings::size;
use greptime_types::Error;
use parking_lot::Mutex;

use crate::into_datafusion;

#[derive(Debug, Default)]
struct Reserved {
    /// How many of those that use the pool can spill.
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

impl Reserved {
    fn of(&mut self, consumer: &MemoryConsumer) -> &mut usize {
        match consumer.can_spill() {
            true => &mut self.spillable,
            false => &mut self.unspillable,
        }
    }
}

/// Whoever can spill may have an equal share of what the others leave, with one share free for the next that
/// comes; who cannot spill may have all that is left.
#[derive(Debug)]
pub struct QueryPool {
    limit: usize,
    /// What the limit is called where users set it.
    setting: &'static str,
    reserved: Mutex<Reserved>,
}

impl QueryPool {
    pub fn new(limit: u64, setting: &'static str) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            setting,
            reserved: Mutex::default(),
        }
    }

    /// In DataFusion's kind of error, by which operators know that they have to spill.
    fn refusal(&self, reservation: &MemoryReservation, additional: usize) -> DataFusionError {
        let consumer = reservation.consumer();
        let verdict = match consumer.can_spill() {
            true => "more, which is over its share",
            false => "more and cannot spill to disk",
        };
        DataFusionError::ResourcesExhausted(format!(
            "the query needs more memory than is left of {} ({}): {} holds {} and wants {} {verdict}; select fewer \
             rows or columns, or raise the setting",
            size::format(self.limit as u64),
            self.setting,
            consumer.name(),
            human_readable_size(reservation.size()),
            human_readable_size(additional),
        ))
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryPool({})", size::format(self.limit as u64))
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.reserved.lock().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.reserved.lock().spillers -= 1;
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.reserved.lock().of(reservation.consumer()) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        *self.reserved.lock().of(reservation.consumer()) -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let mut reserved = self.reserved.lock();
        let left = self
            .limit
            .saturating_sub(reserved.spillable + reserved.unspillable);
        let allowed = match consumer.can_spill() {
            false => left,
            true => {
                let shared = self.limit.saturating_sub(reserved.unspillable);
                let share = shared / (reserved.spillers + 1);
                left.min(share.saturating_sub(reservation.size()))
            }
        };
        if additional > allowed {
            return Err(self.refusal(reservation, additional));
        }
        *reserved.of(consumer) += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let reserved = self.reserved.lock();
        reserved.spillable + reserved.unspillable
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

/// What each of `streams` that sort keeps for merging what it has spilled: as much as DataFusion has it, but small pools
/// must be able to sort too.
pub fn sort_reserve(query_memory: u64, streams: usize) -> usize {
    const USUAL: usize = 10 << 20;
    (query_memory as usize / (8 * streams.max(1))).min(USUAL)
}

/// How much may be spilled.
#[derive(Clone, Copy, Debug)]
pub struct SpillLimit {
    pub bytes: u64,
    /// What the limit is called where users set it.
    pub setting: &'static str,
    /// Whether it is less than what was set, since the disk has no more.
    pub is_cut: bool,
}

impl SpillLimit {
    /// An error about this limit under the name that it has here: DataFusion says it in words only, with a setting of
    /// its own.
    pub fn explain(self, error: DataFusionError) -> DataFusionError {
        if !error.to_string().contains("max_temp_directory_size") {
            return error;
        }
        let advice = match self.is_cut {
            false => "raise the setting",
            true => "make room on the node's disk, which has less than the setting says",
        };
        into_datafusion(Error::exhausted(format!(
            "the query has to spill more to disk than is left of {} ({}); select fewer rows or columns, or {advice}",
            size::format(self.bytes),
            self.setting
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use greptime_types::ErrorKind;

    use super::*;
    use crate::from_datafusion;

    fn consumer(pool: &Arc<dyn MemoryPool>, name: &str, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new(name).with_can_spill(can_spill).register(pool)
    }

    fn pool(limit: u64) -> Arc<dyn MemoryPool> {
        Arc::new(QueryPool::new(limit, "frontend.query_memory"))
    }

    #[test]
    fn those_that_spill_leave_a_share_for_the_next_and_never_hold_more_than_all() {
        let pool = pool(1200);
        let mut held = Vec::new();
        for number in 0..10 {
            let one = consumer(&pool, "sort", true);
            while one.try_grow(10).is_ok() {}
            assert!(one.size() > 0 || number > 2, "{number} got nothing");
            assert!(pool.reserved() <= 1200);
            held.push(one);
        }
        assert_eq!([held[0].size(), held[1].size()], [600, 400]);
        held.clear();
        assert_eq!(pool.reserved(), 0);
        consumer(&pool, "sort", true).try_grow(600).unwrap();
    }

    #[test]
    fn one_that_cannot_spill_may_have_what_is_left() {
        let pool = pool(8 << 20);
        let sort = consumer(&pool, "sort", true);
        sort.try_grow(3 << 20).unwrap();
        let join = consumer(&pool, "HashJoinInput", false);
        join.try_grow(5 << 20).unwrap();
        let refused = join.try_grow(3 << 20).unwrap_err();
        assert!(matches!(refused, DataFusionError::ResourcesExhausted(_)));
        assert_eq!(
            refused.message(),
            "the query needs more memory than is left of 8MiB (frontend.query_memory): HashJoinInput holds 5.0 MB \
             and wants 3.0 MB more and cannot spill to disk; select fewer rows or columns, or raise the setting"
        );
        // What could be had before is over the share now that the join took its part.
        assert!(sort.try_grow(1 << 20).is_err());
    }

    #[test]
    fn the_limit_on_disk_is_named_as_users_know_it() {
        let theirs = || {
            let text = "increasing the config: `datafusion.runtime.max_temp_directory_size`.";
            DataFusionError::IoError(std::io::Error::other(text))
        };
        let limit = SpillLimit {
            bytes: 1 << 30,
            setting: "frontend.spill_limit",
            is_cut: false,
        };
        let ours = from_datafusion(&limit.explain(theirs()));
        assert_eq!(ours.kind, ErrorKind::ResourceExhausted);
        assert!(ours.message.contains("1GiB (frontend.spill_limit)"), "{ours}");
        assert!(ours.message.ends_with("or raise the setting"), "{ours}");
        let cut = SpillLimit {
            is_cut: true,
            ..limit
        };
        let cut = from_datafusion(&cut.explain(theirs()));
        assert!(cut.message.contains("make room on the node's disk"), "{cut}");
        let other = limit.explain(DataFusionError::Execution("else".into()));
        assert!(matches!(other, DataFusionError::Execution(_)));
    }
}
