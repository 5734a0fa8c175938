//! Whether a peer can be reached, judged from when it last answered and from how late this process itself was.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Pings without an answer whose times are kept; older ones are not measured.
const MEASURED: usize = 64;

/// One peer, as the loop that pings sees it.
///
/// The judgement moves on with [`Self::look`] only. A process that was stopped for seconds and goes on finds every peer
/// as it was before, whoever asks first.
#[derive(Debug)]
pub struct Reach {
    after: Duration,
    /// When it last answered; moved on by the time in which this process could not have heard it.
    answered: Instant,
    /// When it was last looked at.
    looked: Instant,
}

impl Reach {
    /// A peer that has just become known, and has `after` to answer.
    pub fn new(after: Duration, now: Instant) -> Self {
        Self {
            after,
            answered: now,
            looked: now,
        }
    }

    pub fn heard(&mut self, now: Instant) {
        self.answered = self.answered.max(now);
    }

    /// `late` is how much later this look is than it was meant to be.
    pub fn look(&mut self, now: Instant, late: Duration) {
        self.answered = (self.answered + late).min(now.max(self.answered));
        self.looked = now;
    }

    /// It has not answered for longer than it may.
    pub fn is_unreachable(&self) -> bool {
        self.looked.saturating_duration_since(self.answered) > self.after
    }
}

/// Pings of one stream that are under way.
#[derive(Debug, Default)]
pub struct Pings {
    number: u64,
    sent: VecDeque<(u64, Instant)>,
}

impl Pings {
    /// The number of the next one.
    pub fn send(&mut self, now: Instant) -> u64 {
        self.number += 1;
        if self.sent.len() == MEASURED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.number, now));
        self.number
    }

    /// How long the answer took, unless it is one that was heard before.
    pub fn answered(&mut self, number: u64, now: Instant) -> Option<Duration> {
        while let Some((sent, at)) = self.sent.front().copied() {
            if sent > number {
                return None;
            }
            self.sent.pop_front();
            if sent == number {
                return Some(now.saturating_duration_since(at));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_millis(400);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_silent_peer_is_unreachable_after_its_time_and_not_before() {
        let start = Instant::now();
        let mut reach = Reach::new(AFTER, start);
        reach.heard(start + ms(90));
        for at in [100, 200, 300, 400, 490] {
            reach.look(start + ms(at), Duration::ZERO);
            assert!(!reach.is_unreachable(), "at {at} ms");
        }
        reach.look(start + ms(491), Duration::ZERO);
        assert!(reach.is_unreachable());
    }

    #[test]
    fn an_answer_clears_it_at_once() {
        let start = Instant::now();
        let mut reach = Reach::new(AFTER, start);
        reach.look(start + ms(500), Duration::ZERO);
        assert!(reach.is_unreachable());
        reach.heard(start + ms(510));
        assert!(!reach.is_unreachable());
    }

    #[test]
    fn own_lateness_accuses_nobody() {
        let start = Instant::now();
        let mut reach = Reach::new(AFTER, start);
        // The look at 100 ms came ten seconds late.
        reach.look(start + ms(10_100), ms(10_000));
        assert!(!reach.is_unreachable());
        // From there on the peer has what was left of its time.
        reach.look(start + ms(10_400), Duration::ZERO);
        assert!(!reach.is_unreachable());
        reach.look(start + ms(10_401), Duration::ZERO);
        assert!(reach.is_unreachable());
    }

    #[test]
    fn lateness_is_no_answer_from_the_future() {
        let start = Instant::now();
        let mut reach = Reach::new(AFTER, start);
        reach.heard(start + ms(5000));
        reach.look(start + ms(5100), ms(5000));
        reach.look(start + ms(5500), Duration::ZERO);
        assert!(!reach.is_unreachable());
        reach.look(start + ms(5501), Duration::ZERO);
        assert!(reach.is_unreachable());
    }

    #[test]
    fn answers_are_measured_once_each() {
        let start = Instant::now();
        let mut pings = Pings::default();
        let first = pings.send(start);
        let second = pings.send(start + ms(100));
        assert_eq!(pings.answered(second, start + ms(130)), Some(ms(30)));
        assert_eq!(pings.answered(first, start + ms(131)), None);
        assert_eq!(pings.answered(second, start + ms(230)), None);
        for _ in 0..1000 {
            pings.send(start);
        }
        assert!(pings.sent.len() <= MEASURED);
    }
}
