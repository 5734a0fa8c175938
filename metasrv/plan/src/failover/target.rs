//! Which replica is to lead.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use greptime_types::NodeId;

use super::{Attempt, LogEnd, Readiness, RegionSeen, Voter, VoterRole};

/// A replica that is behind another is tried when the others have been tried so often: they refuse it their votes,
/// but reports may be older than the truth.
const TRIES_BEFORE_ONE_BEHIND: usize = 2;

/// The order in which replicas are told to campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    /// It does not reach a majority.
    cut_off: bool,
    /// Whose turn it is.
    turn: usize,
    behind: bool,
    unwell: bool,
    readiness: Readiness,
    position: Reverse<(u64, u64)>,
    node: NodeId,
}

/// The best candidate among the voters that beat and have the region open, without `except`.
///
/// `gone_since`: when the leader ended. A hot follower that reported before that may have got more since; so it is
/// taken for behind only by a report made afterwards. `needed`: how many votes it takes. `lag`: so many
/// entries are applied at once.
pub(super) fn candidate(
    region: &RegionSeen,
    except: Option<NodeId>,
    gone_since: Duration,
    needed: usize,
    lag: u64,
) -> Option<(&Voter, LogEnd)> {
    let able: Vec<(&Voter, LogEnd)> = region
        .voters
        .iter()
        .filter(|v| v.verdict.beats() && Some(v.node) != except)
        .filter_map(|v| Some((v, v.log?)))
        .collect();
    let electors = able.iter().map(|(v, _)| v.node).collect();
    let furthest = able.iter().map(|(_, log)| log.position()).max()?;
    let preference = |(voter, log): &(&Voter, LogEnd)| {
        let log_only = voter.role == VoterRole::LogOnly;
        let behind = log.position() < furthest && (log_only || log.at >= gone_since);
        let tries = tries(region, Attempt::Campaign, voter.node);
        Preference {
            cut_off: reached(voter, &electors) < needed,
            turn: tries + if behind { TRIES_BEFORE_ONE_BEHIND } else { 0 },
            behind,
            unwell: !voter.verdict.could_lead(),
            readiness: voter.readiness(lag),
            position: Reverse(log.position()),
            node: voter.node,
        }
    };
    able.iter().min_by_key(|able| preference(able)).copied()
}

/// The order in which replicas are handed an unwell leader's region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Heir {
    /// The leader cannot hand over to it.
    out_of_reach: bool,
    tries: usize,
    lags: bool,
    readiness: Readiness,
    position: Reverse<(u64, u64)>,
    node: NodeId,
}

/// Who is to take over from a leader that is unwell: somebody alive, rather one that it reaches, rather hot, rather close
/// behind. From one that could lead itself, only a hot follower that keeps up: anybody else would serve later than that
/// one does. From one that cannot hand over anybody who could lead.
pub(super) fn heir<'a>(region: &'a RegionSeen, leader: &Voter, lag: u64) -> Option<&'a Voter> {
    region
        .voters
        .iter()
        .filter(|v| v.node != leader.node)
        .filter(|v| v.verdict.is_alive() || (!leader.can_hand_over_to(v.node) && v.verdict.could_lead()))
        .filter_map(|v| Some((v, v.log?)))
        .filter(|(v, log)| {
            let is_ready = v.is_ready(lag) && keeps_up(leader, log, lag);
            is_ready || !leader.verdict.could_lead()
        })
        .min_by_key(|(v, log)| Heir {
            out_of_reach: !leader.can_hand_over_to(v.node),
            tries: tries(region, Attempt::Transfer, v.node),
            lags: !keeps_up(leader, log, lag),
            readiness: v.readiness(lag),
            position: Reverse(log.position()),
            node: v.node,
        })
        .map(|(v, _)| v)
}

/// How many of `others` a voter reaches, with itself.
pub(super) fn reached(voter: &Voter, others: &BTreeSet<NodeId>) -> usize {
    others.difference(&voter.apart).count()
}

/// Whether a replica lacks so little of the leader's log that it can have it at once.
pub(super) fn keeps_up(leader: &Voter, log: &LogEnd, lag: u64) -> bool {
    leader.log.is_some_and(|leaders| {
        log.last_term == leaders.last_term && log.last_index.saturating_add(lag) >= leaders.last_index
    })
}

pub(super) fn tries(region: &RegionSeen, what: Attempt, to: NodeId) -> usize {
    let of_it = region.tried.iter().filter(|t| t.what == what && t.to == to);
    of_it.count()
}
