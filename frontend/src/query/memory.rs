//! The memory of queries: one pool for all of them, which holds what it promises.
//!
//! DataFusion's operators ask a pool before they keep rows. Some can write theirs to disk when they are refused
//! (sorts, aggregates, exchanges), the others make their query fail. DataFusion's own pool gives each of those that
//! can spill an equal share of the whole, but does not take back what was given when there were fewer of them, so
//! that together they may hold a multiple of it. This one counts.

use std::fmt;

use datafusion::common::human_readable_size;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use greptime_query::into_datafusion;
use greptime_settings::size;
use greptime_types::Error;
use parking_lot::Mutex;

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
    reserved: Mutex<Reserved>,
}

impl QueryPool {
    pub fn new(limit: u64) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
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
            "the query needs more memory than is left of {} (frontend.query_memory): {} holds {} and wants {} \
             {verdict}; select fewer rows or columns, or raise the setting",
            size::format(self.limit as u64),
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

/// The limit on what is spilled, under the name that it has here: DataFusion says it in words only, with a setting
/// of its own.
pub fn explain(error: DataFusionError, spill_limit: u64) -> DataFusionError {
    if !error.to_string().contains("max_temp_directory_size") {
        return error;
    }
    into_datafusion(Error::exhausted(format!(
        "the query has to spill more to disk than is left of {} (frontend.spill_limit); select fewer rows or \
         columns, or raise the setting",
        size::format(spill_limit)
    )))
}

/// An answer smaller than this is not counted, so that a full pool does not keep anybody from `SELECT 1`.
const UNCOUNTED_ANSWER: usize = 64 << 10;

/// Room for an answer that has to be held as a whole before it is sent.
#[derive(Debug)]
pub struct AnswerSpace {
    reservation: MemoryReservation,
    max: usize,
}

impl AnswerSpace {
    /// `reservation` is empty; `max` is `frontend.max_result`.
    pub fn new(reservation: MemoryReservation, max: u64) -> Self {
        Self {
            reservation,
            max: usize::try_from(max).unwrap_or(usize::MAX),
        }
    }

    /// Bytes that the answer may have at most.
    pub fn max(&self) -> usize {
        self.max
    }

    /// To be called as the answer grows, with its length and what it takes in memory.
    pub fn hold(&self, length: usize, taken: usize) -> greptime_types::Result<()> {
        const ADVICE: &str = "use LIMIT, or format=csv, MySQL's or PostgreSQL's protocol, which stream";
        if length > self.max {
            return Err(Error::exhausted(format!(
                "the answer is larger than {} bytes (frontend.max_result); {ADVICE}",
                self.max
            )));
        }
        let counted = taken.saturating_sub(UNCOUNTED_ANSWER);
        let more = counted.saturating_sub(self.reservation.size());
        if more > 0 && self.reservation.try_grow(more).is_err() {
            return Err(Error::exhausted(format!(
                "the answer does not fit in the memory that other queries leave (frontend.query_memory); {ADVICE}"
            )));
        }
        Ok(())
    }
}

/// What a statement takes once it is parsed and planned, for each byte of its text: tokens, syntax tree and plan
/// exist at the same time. An estimate on the safe side.
const PARSED: usize = 64;
/// A text shorter than this is not counted, for the same reason.
const UNCOUNTED_TEXT: usize = 16 << 10;

/// Takes the memory that a statement of this length will need, before it is parsed.
///
/// Errors: `Exhausted` if it is not there, so that a long text cannot take more than there is.
pub fn hold_statement(
    reservation: MemoryReservation,
    length: usize,
) -> greptime_types::Result<MemoryReservation> {
    if length >= UNCOUNTED_TEXT && reservation.try_grow(length.saturating_mul(PARSED)).is_err() {
        return Err(Error::exhausted(format!(
            "a statement of {} takes about {PARSED} times as much when it is parsed, which is more than is left of \
             the memory of queries (frontend.query_memory); send fewer rows at once, or use line protocol",
            human_readable_size(length)
        )));
    }
    Ok(reservation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn consumer(pool: &Arc<dyn MemoryPool>, name: &str, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new(name).with_can_spill(can_spill).register(pool)
    }

    fn pool(limit: u64) -> Arc<dyn MemoryPool> {
        Arc::new(QueryPool::new(limit))
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
    fn a_long_statement_needs_room_before_it_is_parsed() {
        let pool = pool(4 << 20);
        let held = hold_statement(consumer(&pool, "a statement", false), 40 << 10).unwrap();
        assert_eq!(pool.reserved(), 64 * (40 << 10));
        let refused = hold_statement(consumer(&pool, "a statement", false), 40 << 10).unwrap_err();
        assert!(refused.message.contains("frontend.query_memory"), "{refused}");
        hold_statement(consumer(&pool, "a statement", false), 100).unwrap();
        drop(held);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn a_small_answer_is_always_given() {
        let pool = pool(1 << 20);
        let join = consumer(&pool, "join", false);
        join.try_grow(1 << 20).unwrap();
        let answer = AnswerSpace::new(consumer(&pool, "answer", false), 1 << 30);
        answer.hold(10, UNCOUNTED_ANSWER).unwrap();
        let message = answer.hold(10, UNCOUNTED_ANSWER + 1).unwrap_err().message;
        assert!(message.contains("frontend.query_memory"), "{message}");
        drop(join);
        answer.hold(10, UNCOUNTED_ANSWER + 1000).unwrap();
        assert_eq!(pool.reserved(), 1000);
        let message = answer.hold((1 << 30) + 1, 0).unwrap_err().message;
        assert!(message.contains("frontend.max_result"), "{message}");
        drop(answer);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn the_limit_on_disk_is_named_as_users_know_it() {
        let theirs =
            std::io::Error::other("increasing the config: `datafusion.runtime.max_temp_directory_size`.");
        let ours = explain(DataFusionError::IoError(theirs), 1 << 30);
        let ours = greptime_query::from_datafusion(&ours);
        assert_eq!(ours.kind, greptime_types::ErrorKind::ResourceExhausted);
        assert!(ours.message.contains("1GiB (frontend.spill_limit)"), "{ours}");
        let other = explain(DataFusionError::Execution("else".into()), 1);
        assert!(matches!(other, DataFusionError::Execution(_)));
    }
}
