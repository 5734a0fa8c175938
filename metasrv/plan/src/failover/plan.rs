//! All regions, within limits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_types::{NodeId, RegionId};

use super::decide::{decide, leader};
use super::{Attempt, Reason, RegionSeen, Step};
use crate::Policy;

/// All regions at one look. The verdicts in it, and the leases that are granted, must come from the same look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub regions: BTreeMap<RegionId, RegionSeen>,
}

/// What is to be sent now, in this order, and which leases are not to be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub campaigns: Vec<Campaign>,
    pub transfers: Vec<Transfer>,
    /// Regions on which no lease is granted until somebody leads in an epoch that is not known now.
    pub withheld: BTreeSet<RegionId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Campaign {
    pub region: RegionId,
    pub node: NodeId,
    pub raft_id: u64,
    /// The highest term that is known: who is above it knows more and refuses.
    pub seen_term: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub region: RegionId,
    pub from: NodeId,
    pub to: NodeId,
}

/// What the plan does not reach yet, and why.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Regions that nobody serves now, and what is done or waited for.
    pub unserved: BTreeMap<RegionId, Step>,
    /// Regions that are served by a leader that should not lead, and what is done or waited for.
    pub misplaced: BTreeMap<RegionId, Step>,
}

/// The order in which commands go out when not all may: what was tried least, so that nobody starves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// A log-only leader serves well enough to wait.
    can_wait: bool,
    tries: usize,
    region: RegionId,
}

/// The steps of all regions, as many as may be under way at once.
pub fn plan(snapshot: &Snapshot, policy: &Policy, now: Duration) -> (Plan, Report) {
    let mut steps: BTreeMap<RegionId, Step> = snapshot
        .regions
        .iter()
        .map(|(id, region)| (*id, decide(region, policy, now)))
        .collect();
    let withheld = steps
        .iter()
        .filter(|(_, step)| step.withholds_lease())
        .map(|(id, _)| *id)
        .collect();
    limit(snapshot, &mut steps, Attempt::Campaign, policy.campaigns_at_once);
    limit(snapshot, &mut steps, Attempt::Transfer, policy.transfers_at_once);
    let mut plan = Plan {
        withheld,
        ..Plan::default()
    };
    let mut report = Report::default();
    for (region, step) in steps {
        match step {
            Step::Campaign {
                node,
                raft_id,
                seen_term,
            } => plan.campaigns.push(Campaign {
                region,
                node,
                raft_id,
                seen_term,
            }),
            Step::Transfer { from, to } => plan.transfers.push(Transfer { region, from, to }),
            _ => {}
        }
        let led = leader(&snapshot.regions[&region]).is_some_and(|l| l.verdict.beats());
        match step {
            Step::Nothing { reason: Reason::Led } => {}
            step if step.is_served() || (led && matches!(step, Step::Nothing { .. })) => {
                report.misplaced.insert(region, step);
            }
            step => {
                report.unserved.insert(region, step);
            }
        }
    }
    (plan, report)
}

/// Puts off what is above the limit. What is under way counts.
fn limit(snapshot: &Snapshot, steps: &mut BTreeMap<RegionId, Step>, kind: Attempt, at_once: usize) {
    let under_way = steps.values().filter(|s| is_under_way(s, kind)).count();
    let mut turns: Vec<Turn> = steps
        .iter()
        .filter(|(_, step)| is_command(step, kind))
        .map(|(id, _)| turn(*id, &snapshot.regions[id], kind))
        .collect();
    turns.sort_unstable();
    for late in turns.iter().skip(at_once.saturating_sub(under_way)) {
        let reason = Reason::Limit { at_once };
        steps.insert(late.region, Step::Nothing { reason });
    }
}

fn turn(region: RegionId, seen: &RegionSeen, kind: Attempt) -> Turn {
    Turn {
        can_wait: leader(seen).is_some_and(|l| l.verdict.is_alive()),
        tries: seen.tried.iter().filter(|t| t.what == kind).count(),
        region,
    }
}

fn is_command(step: &Step, kind: Attempt) -> bool {
    match kind {
        Attempt::Campaign => matches!(step, Step::Campaign { .. }),
        Attempt::Transfer => matches!(step, Step::Transfer { .. }),
    }
}

fn is_under_way(step: &Step, kind: Attempt) -> bool {
    let Step::Nothing { reason } = step else {
        return false;
    };
    match kind {
        Attempt::Campaign => matches!(reason, Reason::CampaignUnderWay { .. }),
        Attempt::Transfer => matches!(reason, Reason::TransferUnderWay { .. }),
    }
}
