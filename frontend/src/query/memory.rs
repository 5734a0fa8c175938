//! What takes memory of queries besides their operators: answers that are held, and texts of statements.

use datafusion::common::human_readable_size;
use datafusion::execution::memory_pool::MemoryReservation;
use greptime_types::Error;

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

    use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
    use greptime_query::QueryPool;

    use super::*;

    fn consumer(pool: &Arc<dyn MemoryPool>, name: &str) -> MemoryReservation {
        MemoryConsumer::new(name).register(pool)
    }

    fn pool(limit: u64) -> Arc<dyn MemoryPool> {
        Arc::new(QueryPool::new(limit, "frontend.query_memory"))
    }

    #[test]
    fn a_long_statement_needs_room_before_it_is_parsed() {
        let pool = pool(4 << 20);
        let held = hold_statement(consumer(&pool, "a statement"), 40 << 10).unwrap();
        assert_eq!(pool.reserved(), 64 * (40 << 10));
        let refused = hold_statement(consumer(&pool, "a statement"), 40 << 10).unwrap_err();
        assert!(refused.message.contains("frontend.query_memory"), "{refused}");
        hold_statement(consumer(&pool, "a statement"), 100).unwrap();
        drop(held);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn a_small_answer_is_always_given() {
        let pool = pool(1 << 20);
        let join = consumer(&pool, "join");
        join.try_grow(1 << 20).unwrap();
        let answer = AnswerSpace::new(consumer(&pool, "answer"), 1 << 30);
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
}
