//! Short turns of queries on their threads.
//!
//! A query that nobody waits for any more ends where it gives way: between two polls of its task. Tokio lets a task go
//! on for 128 units of its budget, each of which may be a batch that is merged, or one that makes a hash table grow. That
//! is a second of work, in which nothing of the query can be freed, and other queries do not get the thread.

use std::task::{Context, Poll};

use futures::stream::{Stream, StreamExt, poll_fn};
use tokio::task::coop;

/// How many units a turn has. A unit takes milliseconds at most, and to give way takes a microsecond.
const UNITS: usize = 4;
/// More than any budget has.
const UNBOUNDED: usize = 256;

/// Leaves the task of `cx` no more of its budget than a short turn needs. To be called at the beginning of a poll.
pub fn shorten_turn(cx: &mut Context<'_>) {
    let left = budget(cx, 0);
    if left == UNBOUNDED {
        // This is no task.
        return;
    }
    for _ in UNITS..left {
        if let Poll::Ready(unit) = coop::poll_proceed(cx) {
            unit.made_progress();
        }
    }
}

/// A stream whose items are made in short turns, and each of which takes a unit: many operators go on as long as what
/// they read from is ready.
pub fn in_short_turns<S: Stream + Unpin>(mut items: S) -> impl Stream<Item = S::Item> {
    poll_fn(move |cx| {
        shorten_turn(cx);
        if !coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = items.poll_next_unpin(cx);
        // Taken afterwards: streams within each other would otherwise take the whole turn and get nowhere.
        if polled.is_ready()
            && let Poll::Ready(unit) = coop::poll_proceed(cx)
        {
            unit.made_progress();
        }
        polled
    })
}

/// Counts the units that are left, by taking them and giving them back.
fn budget(cx: &mut Context<'_>, taken: usize) -> usize {
    if taken == UNBOUNDED || !coop::has_budget_remaining() {
        return taken;
    }
    match coop::poll_proceed(cx) {
        Poll::Ready(_given_back) => budget(cx, taken + 1),
        Poll::Pending => taken,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// How many units a poll has.
    fn units(cx: &mut Context<'_>) -> usize {
        let mut units = 0;
        while coop::has_budget_remaining() && units < UNBOUNDED {
            if let Poll::Ready(unit) = coop::poll_proceed(cx) {
                unit.made_progress();
            }
            units += 1;
        }
        units
    }

    #[tokio::test]
    async fn a_turn_is_short_however_often_that_is_asked_for_and_the_next_one_too() {
        let turns = async {
            for _ in 0..3 {
                let whole = poll_fn(|cx| Poll::Ready(units(cx))).await;
                tokio::task::yield_now().await;
                let short = poll_fn(|cx| {
                    shorten_turn(cx);
                    shorten_turn(cx);
                    Poll::Ready(units(cx))
                });
                assert_eq!((whole > 100, short.await), (true, UNITS));
                tokio::task::yield_now().await;
            }
        };
        tokio::spawn(turns).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_task_goes_on() {
        let polled = poll_fn(|cx| {
            shorten_turn(cx);
            Poll::Ready(units(cx))
        });
        assert_eq!(coop::unconstrained(polled).await, UNBOUNDED);
    }
}
