//! What to do with a request that a region did not take: hold it, or give up. Pure; the router does it.
//!
//! | failure                         | then                                                        |
//! |---------------------------------|-------------------------------------------------------------|
//! | a newer route is known already  | again at once                                               |
//! | no leader, refused, old epoch   | wait for a newer route, at most one pause; then again        |
//! | the region is not there         | the same, as long as the table exists                       |
//! | a limit of the datanode         | again after a pause                                         |
//! | a query for columns of before   | give up: it has to be planned anew                          |
//! | anything else                   | give up: the same request would fail again                  |
//! | deadline or budget is used up   | give up, and say what was waited for                        |

use std::time::Duration;

use greptime_types::{Error, ErrorKind, RegionId};

use crate::defences::Defence;

#[derive(Clone, Copy, Debug)]
pub struct HoldPolicy {
    /// The first pause; each next one is twice as long, up to `last_pause`.
    pub first_pause: Duration,
    pub last_pause: Duration,
    /// Bytes that all held requests together may have.
    pub max_held_bytes: u64,
}

/// What is known when an attempt has failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub error: Error,
    /// Epoch of the route that was tried; `None` if there was no leader to try.
    pub tried_epoch: Option<u64>,
    /// Epoch of the route that is known now; `None` without a leader.
    pub known_epoch: Option<u64>,
    pub table_exists: bool,
    /// The request names columns that are known to have changed since; it has to be made anew.
    pub stale: bool,
    /// Bytes of all requests that are held, this one included.
    pub held_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Again {
        after: Duration,
    },
    /// Again as soon as a route newer than `than` is known, or after `at_most`.
    AwaitRoute {
        than: u64,
        at_most: Duration,
    },
    GiveUp(Error),
}

/// One request that could not be delivered yet.
#[derive(Debug)]
pub struct Hold {
    policy: HoldPolicy,
    region: RegionId,
    /// On the clock's scale.
    deadline: Duration,
    pause: Duration,
}

impl Hold {
    pub fn new(policy: HoldPolicy, region: RegionId, deadline: Duration) -> Self {
        Self {
            pause: policy.first_pause,
            policy,
            region,
            deadline,
        }
    }

    pub fn after(&mut self, now: Duration, failure: Failure) -> Next {
        if !is_passing(&failure) {
            return Next::GiveUp(failure.error);
        }
        let left = self.deadline.saturating_sub(now);
        if left.is_zero() && Defence::HeldTimeIsBounded.holds() {
            let waited = format!(
                "region {} did not take the request within the deadline",
                self.region
            );
            return Next::GiveUp(Error::deadline(format!("{waited}: {}", failure.error.message)));
        }
        if failure.held_bytes > self.policy.max_held_bytes && Defence::HeldBytesAreBounded.holds() {
            let budget = self.policy.max_held_bytes;
            return Next::GiveUp(Error::exhausted(format!(
                "region {} cannot be reached and requests of {budget} bytes are waiting already; \
                 try again later: {}",
                self.region, failure.error.message
            )));
        }
        if failure.error.kind != ErrorKind::ResourceExhausted && failure.known_epoch > failure.tried_epoch {
            return Next::Again {
                after: Duration::ZERO,
            };
        }
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(self.policy.last_pause);
        match failure.error.kind {
            ErrorKind::ResourceExhausted => Next::Again { after: pause },
            _ => Next::AwaitRoute {
                than: failure.tried_epoch.unwrap_or(0),
                at_most: pause,
            },
        }
    }
}

/// Whether the failure is of the moment and not of the request.
fn is_passing(failure: &Failure) -> bool {
    match failure.error.kind {
        _ if !Defence::PassingFailureIsHeld.holds() => false,
        ErrorKind::Conflict if failure.stale && Defence::StaleQueryIsPlannedAnew.holds() => false,
        ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::NotFound => failure.table_exists,
        ErrorKind::ResourceExhausted | ErrorKind::DeadlineExceeded => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: HoldPolicy = HoldPolicy {
        first_pause: Duration::from_millis(10),
        last_pause: Duration::from_millis(40),
        max_held_bytes: 1000,
    };

    fn failure(kind: ErrorKind) -> Failure {
        Failure {
            error: Error::new(kind, "why"),
            tried_epoch: Some(3),
            known_epoch: Some(3),
            table_exists: true,
            stale: false,
            held_bytes: 10,
        }
    }

    fn hold() -> Hold {
        Hold::new(POLICY, RegionId::new(1, 2), Duration::from_secs(30))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_query_that_has_to_be_planned_anew_is_not_sent_again() {
        let stale = Failure {
            stale: true,
            ..failure(ErrorKind::Conflict)
        };
        let next = hold().after(Duration::ZERO, stale);
        assert!(matches!(next, Next::GiveUp(e) if e.kind == ErrorKind::Conflict));
        // Away for another reason: when it is back, the answer may be another.
        let away = Failure {
            stale: true,
            ..failure(ErrorKind::Unavailable)
        };
        assert!(!matches!(hold().after(Duration::ZERO, away), Next::GiveUp(_)));
    }

    #[test]
    fn each_kind_of_failure_has_its_answer() {
        use ErrorKind::*;
        for kind in ErrorKind::ALL {
            let next = hold().after(ms(0), failure(kind));
            let expected = match kind {
                Unavailable | Conflict | NotFound | DeadlineExceeded => Next::AwaitRoute {
                    than: 3,
                    at_most: ms(10),
                },
                ResourceExhausted => Next::Again { after: ms(10) },
                _ => Next::GiveUp(Error::new(kind, "why")),
            };
            assert_eq!(next, expected, "{kind:?}");
        }
    }

    #[test]
    fn a_newer_route_is_tried_at_once() {
        let newer = Failure {
            known_epoch: Some(4),
            ..failure(ErrorKind::Unavailable)
        };
        assert_eq!(hold().after(ms(0), newer), Next::Again { after: ms(0) });
        let first = Failure {
            tried_epoch: None,
            known_epoch: Some(1),
            ..failure(ErrorKind::Unavailable)
        };
        assert_eq!(hold().after(ms(0), first), Next::Again { after: ms(0) });
    }

    #[test]
    fn without_a_leader_it_waits_for_any_route() {
        let nobody = Failure {
            tried_epoch: None,
            known_epoch: None,
            ..failure(ErrorKind::Unavailable)
        };
        assert_eq!(
            hold().after(ms(0), nobody),
            Next::AwaitRoute {
                than: 0,
                at_most: ms(10)
            }
        );
    }

    #[test]
    fn pauses_double_up_to_the_last_and_never_pass_the_deadline() {
        let mut hold = hold();
        let mut pause = |now| match hold.after(ms(now), failure(ErrorKind::Unavailable)) {
            Next::AwaitRoute { at_most, .. } => at_most,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [pause(0), pause(0), pause(0), pause(0)],
            [ms(10), ms(20), ms(40), ms(40)]
        );
        assert_eq!(pause(29_999), ms(1));
    }

    #[test]
    fn it_gives_up_at_the_deadline_beyond_the_budget_and_without_the_table() {
        let late = hold().after(ms(30_000), failure(ErrorKind::Unavailable));
        assert!(
            matches!(late, Next::GiveUp(e) if e.kind == ErrorKind::DeadlineExceeded && e.message.contains("why"))
        );
        let full = Failure {
            held_bytes: 1001,
            ..failure(ErrorKind::Unavailable)
        };
        let full = hold().after(ms(0), full);
        assert!(matches!(full, Next::GiveUp(e) if e.kind == ErrorKind::ResourceExhausted));
        let gone = Failure {
            table_exists: false,
            ..failure(ErrorKind::NotFound)
        };
        assert_eq!(hold().after(ms(0), gone), Next::GiveUp(Error::not_found("why")));
    }
}
