//! When to dial a peer again.

use std::time::Duration;

/// A stream that lived shorter than this was no success: two processes that claim to be the same node would otherwise
/// take the stream from each other without a pause.
const STEADY: Duration = Duration::from_millis(100);

/// Waits between attempts, doubled with each failure.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            next: first,
        }
    }

    /// The peer could not be reached.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.last);
        wait
    }

    /// A stream broke after it had `lived` this long. The process at the other end may well be there: at once.
    pub fn lost(&mut self, lived: Duration) -> Duration {
        if lived < STEADY {
            return self.failed();
        }
        self.next = self.first;
        Duration::ZERO
    }

    /// The peer does not want this node. That will not change soon, and when it does, metasrv says so.
    pub fn refused(&mut self) -> Duration {
        self.next = self.last;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(10), Duration::from_secs(1))
    }

    #[test]
    fn waits_double_up_to_the_last() {
        let mut backoff = backoff();
        let waits: Vec<_> = (0..9).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn after_a_loss_the_first_attempt_is_at_once_and_the_waits_start_anew() {
        let mut backoff = backoff();
        for _ in 0..9 {
            backoff.failed();
        }
        assert_eq!(backoff.lost(Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(backoff.failed(), Duration::from_millis(10));
        assert_eq!(backoff.failed(), Duration::from_millis(20));
    }

    #[test]
    fn streams_that_break_at_once_are_failures() {
        let mut backoff = backoff();
        let waits: Vec<_> = (0..3)
            .map(|_| backoff.lost(Duration::from_millis(1)).as_millis())
            .collect();
        assert_eq!(waits, [10, 20, 40]);
    }

    #[test]
    fn a_refused_node_does_not_hurry() {
        let mut backoff = backoff();
        assert_eq!(backoff.refused(), Duration::from_secs(1));
        assert_eq!(backoff.failed(), Duration::from_secs(1));
    }
}
