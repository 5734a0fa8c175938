//! A leader's side of a lease: until when it answers reads without asking the other voters.
//!
//! metasrv grants it in the answer to a beat, while nobody else can come to lead; its side is `lease` of metasrv's plan.

use std::time::Duration;

use crate::defences::Defence;

/// What a beat and its answer say of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The term in which this replica led the region when the beat was sent.
    pub term: u64,
    /// By the monotonic clock of this process.
    pub sent: Duration,
    pub received: Duration,
    pub length: Duration,
}

/// The lease of a region that this process may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    term: u64,
    until: Duration,
    /// In this term no lease counts any more.
    given_up_in: u64,
    /// What was asked for until then counts no more.
    renounced: Option<Duration>,
}

impl Lease {
    /// It lasts from when the beat was sent: metasrv counts from when the beat arrived, which is later. A lease is of
    /// one term: in another, metasrv waits for the lease of another leader.
    pub fn granted(&mut self, grant: Grant) {
        let from = match Defence::LeaseCountsFromItsBeat.holds() {
            true => grant.sent,
            false => grant.received,
        };
        let is_void = self.renounced.is_some_and(|at| grant.sent <= at);
        if is_void && Defence::RenouncedLeaseStaysVoid.holds() {
            return;
        }
        let until = from + grant.length;
        if grant.term > self.term {
            (self.term, self.until) = (grant.term, until);
        } else if grant.term == self.term {
            self.until = self.until.max(until);
        }
    }

    /// Before a transfer is begun, and before a process closes its listener. What was begun may still happen after it
    /// was given up, so this holds for the whole term.
    pub fn give_up(&mut self, term: u64) {
        if Defence::LeaseIsGivenUpFirst.holds() {
            self.given_up_in = self.given_up_in.max(term);
        }
    }

    /// When a process sees that it cannot lead, and before it says so in a beat: metasrv waits for nothing that was
    /// given up. `now` is not before the beat is sent, whose answer and all earlier ones are void with it.
    pub fn renounce(&mut self, now: Duration) {
        if Defence::LeaseIsRenouncedFirst.holds() {
            self.until = Duration::ZERO;
        }
        self.renounced = Some(now);
    }

    /// Whether a read in `term` needs nobody's word.
    pub fn covers(&self, term: u64, now: Duration) -> bool {
        let is_of_term = self.term == term || !Defence::LeaseIsOfItsTerm.holds();
        is_of_term && term > self.given_up_in && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_of_its_term() {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let grant = |term, sent| Grant {
            term,
            sent: ms(sent),
            received: ms(sent + 5),
            length: ms(300),
        };
        let mut lease = Lease::default();
        lease.granted(grant(3, 100));
        assert!(lease.covers(3, ms(399)) && !lease.covers(3, ms(400)));
        assert!(!lease.covers(2, ms(200)) && !lease.covers(4, ms(200)));
        lease.granted(grant(2, 200));
        assert!(
            !lease.covers(3, ms(400)),
            "an answer in an earlier term came late"
        );
        lease.granted(grant(4, 200));
        assert!(lease.covers(4, ms(499)) && !lease.covers(3, ms(300)));
        lease.give_up(4);
        assert!(!lease.covers(4, ms(300)));
        lease.granted(grant(4, 300));
        assert!(!lease.covers(4, ms(400)));
    }

    #[test]
    fn what_was_renounced_does_not_come_back() {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let grant = |sent| Grant {
            term: 3,
            sent: ms(sent),
            received: ms(sent + 5),
            length: ms(300),
        };
        let mut lease = Lease::default();
        lease.granted(grant(100));
        lease.renounce(ms(250));
        assert!(!lease.covers(3, ms(260)));
        for late in [200, 250] {
            lease.granted(grant(late));
            assert!(!lease.covers(3, ms(260)), "of the beat of {late}");
        }
        lease.granted(grant(251));
        assert!(lease.covers(3, ms(550)) && !lease.covers(3, ms(551)));
    }
}
