//! When metasrv may promise a leader that nobody else leads, and when such a promise has surely ended.
//!
//! A lease is for reads: as long as a leader holds one it answers without asking its followers. It is granted in the
//! answer to a beat and counted from when that beat was *sent*, so no clock is compared, only durations measured.
//! Three things could make a second leader while the lease lasts, and each is kept out:
//!
//! * metasrv lets another replica campaign: it waits until [`surely_ends`];
//! * another metasrv leader does: the lease ends before this one's session in the store can;
//! * replicas elect by themselves, being without metasrv: a lease is granted only while a majority of the voters is
//!   known to have heard this metasrv so recently that their patience outlasts the lease. Else a leader on metasrv's
//!   side of a partition would go on reading what the other side has overwritten.
//!
//! Safety of writes depends on none of this.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use greptime_types::NodeId;

use crate::{Policy, majority};

/// Why no lease is granted now. Reads then take a round of the quorum; nothing is lost but time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too few voters have heard of metasrv recently: the others may be electing.
    OutOfTouch {
        in_touch: Vec<NodeId>,
        needed: usize,
        within: Duration,
    },
    /// The lease could outlive metasrv's own leadership.
    SessionEnds { at: Duration },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTouch {
                in_touch,
                needed,
                within,
            } => write!(
                f,
                "only {in_touch:?} of the voters were in touch within {within:?}, {needed} are needed: the others may \
                 be electing"
            ),
            Self::SessionEnds { at } => write!(
                f,
                "metasrv's own session may end at {at:?}, before the lease would; it must be renewed first"
            ),
        }
    }
}

/// Whether the leader of a region with these voters may be granted a lease in the answer to its beat.
///
/// `in_touch`: for each node, when the newest beat arrived here *whose answer the node has received*, as a later
/// beat says. The arrival of a beat alone proves nothing: where beats get through and answers do not, a voter loses
/// patience while it still beats. Beats to a former metasrv leader do not count.
///
/// `session_ends`: until when this metasrv surely leads.
pub fn may_lease(
    voters: &[NodeId],
    in_touch: &BTreeMap<NodeId, Duration>,
    session_ends: Duration,
    now: Duration,
    policy: &Policy,
) -> Result<(), Refusal> {
    if now + policy.lease + policy.clock_margin > session_ends {
        return Err(Refusal::SessionEnds { at: session_ends });
    }
    // A voter elects at the earliest `fallback_min` after it heard of us; the lease must have ended by then.
    let within = policy
        .fallback_min
        .saturating_sub(policy.lease + policy.clock_margin);
    let recently = |at: &Duration| now.saturating_sub(*at) < within;
    let patient: Vec<NodeId> = voters
        .iter()
        .filter(|v| in_touch.get(v).is_some_and(recently))
        .copied()
        .collect();
    let needed = majority(voters.len());
    if patient.len() < needed {
        return Err(Refusal::OutOfTouch {
            in_touch: patient,
            needed,
            within,
        });
    }
    Ok(())
}

/// When every lease of a region that one process may hold has ended for sure.
///
/// `granted`: the arrival of the newest beat that was answered with a lease, which is not before it was sent; `None`
/// if this metasrv granted none. `leading_since`: leases of the metasrv leader before end by themselves after this.
pub fn surely_ends(granted: Option<Duration>, leading_since: Duration, policy: &Policy) -> Duration {
    granted.map_or(leading_since, |at| at.max(leading_since)) + policy.lease + policy.clock_margin
}

/// Whether they have ended by now.
pub fn surely_ended(
    granted: Option<Duration>,
    leading_since: Duration,
    now: Duration,
    policy: &Policy,
) -> bool {
    surely_ends(granted, leading_since, policy) <= now
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    const NOW: Duration = ms(100_000);
    const LONG: Duration = ms(200_000);

    fn ask(ago: &[Option<u64>], session_ends: Duration) -> Result<(), Refusal> {
        let voters: Vec<NodeId> = (0..ago.len() as NodeId).collect();
        let heard = voters
            .iter()
            .zip(ago)
            .filter_map(|(v, ago)| Some((*v, NOW - ms((*ago)?))));
        may_lease(&voters, &heard.collect(), session_ends, NOW, &Policy::default())
    }

    #[test]
    fn a_majority_in_touch_is_needed() {
        // 4 s of patience, less a lease of 300 ms and 10 ms of margin.
        let table: &[(&[Option<u64>], bool)] = &[
            (&[Some(0)], true),
            (&[Some(3_690)], false),
            (&[None], false),
            (&[Some(0), Some(3_689), None], true),
            (&[Some(0), Some(3_690), None], false),
            (&[Some(0), None, Some(9_999)], false),
            (&[Some(0), Some(0)], true),
            (&[Some(0), None], false),
            (&[], false),
        ];
        for (ago, granted) in table {
            assert_eq!(ask(ago, LONG).is_ok(), *granted, "{ago:?}");
        }
    }

    #[test]
    fn a_refusal_says_who_was_in_touch() {
        let said = ask(&[Some(5), None, Some(4_000)], LONG).unwrap_err().to_string();
        assert!(
            said.starts_with("only [0] of the voters") && said.contains("2 are needed"),
            "{said}"
        );
    }

    #[test]
    fn a_lease_lies_inside_the_session_of_who_grants_it() {
        assert_eq!(ask(&[Some(0)], NOW + ms(310)), Ok(()));
        let at = NOW + ms(309);
        assert_eq!(ask(&[Some(0)], at), Err(Refusal::SessionEnds { at }));
    }

    #[test]
    fn a_lease_has_ended_after_its_length_and_the_margin() {
        let policy = Policy::default();
        let table = [
            (Some(1_000), 0, 1_310),
            (None, 0, 310),
            // Granted by the metasrv leader before: not known here.
            (None, 5_000, 5_310),
            (Some(1_000), 5_000, 5_310),
        ];
        for (granted, since, end) in table {
            let granted = granted.map(ms);
            assert_eq!(surely_ends(granted, ms(since), &policy), ms(end));
            assert!(!surely_ended(granted, ms(since), ms(end - 1), &policy));
            assert!(surely_ended(granted, ms(since), ms(end), &policy));
        }
    }

    proptest! {
        /// Whatever was in touch: while a granted lease lasts, those who may be electing are no majority.
        #[test]
        fn no_election_by_patience_ends_inside_a_lease(
            ago in prop::collection::vec(prop::option::of(0u64..6_000), 1..6),
        ) {
            let policy = Policy::default();
            let lease_ends = NOW + policy.lease;
            let electing = ago.iter().filter(|ago| match ago {
                None => true,
                Some(ago) => NOW - ms(*ago) + policy.fallback_min <= lease_ends,
            });
            // With the margin taken for drift, some that may not be electing are counted as such.
            let doubtful = ago.iter().filter(|ago| match ago {
                None => true,
                Some(ago) => NOW - ms(*ago) + policy.fallback_min <= lease_ends + policy.clock_margin,
            });
            match ask(&ago, LONG) {
                Ok(()) => prop_assert!(electing.count() < majority(ago.len())),
                Err(_) => prop_assert!(ago.len() - doubtful.count() < majority(ago.len())),
            }
        }
    }
}
