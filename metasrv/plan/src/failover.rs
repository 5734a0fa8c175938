//! Who leads a region next: from verdicts and reports to campaigns and transfers.
//!
//! A region is a Raft group. Its leader's term is its epoch. metasrv places leadership: it tells a replica that it
//! chose to campaign, or a leader to hand over. Whatever it says, Raft keeps writes safe; what is at stake here is
//! that reads under a lease stay true, that nobody is unseated without need, and that the gap is short.
//!
//! * The leader's process is gone for sure: a campaign at once.
//! * The leader is dead by silence: a campaign when its lease has surely ended, since it may live and answer reads.
//! * The leader is unwell: a transfer, which it does itself and gives up its lease before. If transfers have no
//!   effect, or if its disk hangs, so that it can do nothing, it is treated as a silent one: no lease any more, then a
//!   campaign.
//! * The leader lives and does not reach enough of its group to commit: a transfer could not succeed either, so it is
//!   treated as one whose disk hangs.
//! * Who is elected and does not serve yet is left in peace for a while: it has to read what it has not applied. A log-only
//!   one hands over at once to a hot follower that has almost all of it.
//! * Nobody leads: a campaign, as soon as every voter is either heard or dead. One that is not heard may lead.
//! * Without a majority of voters that beat and have the region open, nothing is sent: a campaign could not win. A person
//!   is told who is lost, what is left, and how to go on with it.
//! * A log-only leader hands back to a hot follower that keeps up.
//!
//! The candidate is the hot follower unless its log is behind another's, which would refuse it its vote; then the
//! most up-to-date replica. One that was made hot and has yet to apply most of its log counts as little better than a
//! log-only one: nobody hands over to it. Who reaches a majority comes before who does not. A campaign that had no effect
//! is repeated, by another replica in turn.

mod decide;
mod loss;
mod plan;
mod survivor;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use greptime_types::{NodeId, RegionId};

use crate::{Defence, Verdict};

pub use decide::decide;
pub use loss::{Kept, Left, Loss};
pub use plan::{Campaign, Plan, Report, Snapshot, Transfer, plan};
pub use survivor::{Bereaved, Refusal, Survivor, Why};

/// A region as metasrv sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSeen {
    pub voters: Vec<Voter>,
    /// The highest epoch in which somebody was seen to lead. Who still says so of an earlier one has not heard.
    pub led: u64,
    /// When the lease has surely ended that somebody was granted who is none of the voters that are known now.
    pub lease_ends: Duration,
    /// Others that have a vote and of which nothing is known: they are taken out of the group, but have not left yet.
    pub strangers: usize,
    /// What was sent about it since somebody last led in a new epoch, oldest first.
    pub tried: Vec<Tried>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    pub node: NodeId,
    pub raft_id: u64,
    pub role: VoterRole,
    /// Of its node.
    pub verdict: Verdict,
    /// What its process said last of the replica; `None` if it does not have the region open.
    pub log: Option<LogEnd>,
    /// Living datanodes with which its own has had no contact for a while.
    pub apart: BTreeSet<NodeId>,
    /// What it said last, or before it went away. Nothing that is done by itself follows from it: only what people are
    /// told, and what a survivor must be above.
    pub had: Option<LogEnd>,
    /// The epoch in which it leads, as it said last.
    pub leads: Option<u64>,
    /// The term in which the others have elected it, if it does not serve yet.
    pub elected: Option<u64>,
    /// When every lease that its process may hold on the region has ended for sure
    /// ([`Leases::surely_end`](crate::lease::Leases::surely_end)).
    pub lease_ends: Duration,
}

/// Which kind of voter metasrv made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoterRole {
    /// Applies what is committed, and takes over without replay once it has ([`LogEnd::applied_index`]).
    Hot,
    /// Keeps the log. It has to replay it before it serves.
    LogOnly,
}

/// How far a replica's log reaches, and when it said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Term of the last entry.
    pub last_term: u64,
    pub last_index: u64,
    /// The replica's current term.
    pub term: u64,
    /// Everything up to this entry is in what it answers queries from.
    pub applied_index: u64,
    /// Everything up to this entry is in files.
    pub flushed_index: u64,
    /// Arrival of the beat.
    pub at: Duration,
}

/// How soon a voter could serve, the soonest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    /// It is hot, and has applied nearly all of its log.
    Ready,
    /// It is hot, and has yet to apply much of it.
    Applying,
    /// It has yet to apply all of it.
    LogOnly,
}

impl Voter {
    /// It can do what a transfer takes, and the other can hear it.
    fn can_hand_over_to(&self, other: NodeId) -> bool {
        !self.verdict.hangs() && !self.apart.contains(&other)
    }

    /// `lag`: so many entries are applied at once.
    fn readiness(&self, lag: u64) -> Readiness {
        match self.role {
            VoterRole::Hot if self.log.is_some_and(|log| log.has_applied(lag)) => Readiness::Ready,
            VoterRole::Hot if Defence::HeirHasApplied.holds() => Readiness::Applying,
            VoterRole::Hot => Readiness::Ready,
            VoterRole::LogOnly => Readiness::LogOnly,
        }
    }

    fn is_ready(&self, lag: u64) -> bool {
        self.readiness(lag) == Readiness::Ready
    }

    /// The newest term that it has told of; `None` if it was never heard.
    fn newest_term(&self) -> Option<u64> {
        let logs = [self.log, self.had].into_iter().flatten();
        let terms = logs.map(|log| log.term.max(log.last_term));
        terms.max().max(self.leads)
    }
}

impl LogEnd {
    /// Raft's measure of who is more up-to-date.
    pub fn position(&self) -> (u64, u64) {
        (self.last_term, self.last_index)
    }

    /// Whether at most `lag` entries are yet to be applied, so that it could serve at once.
    fn has_applied(&self, lag: u64) -> bool {
        self.applied_index.saturating_add(lag) >= self.last_index
    }
}

/// One command that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    pub what: Attempt,
    /// The replica that shall lead.
    pub to: NodeId,
    pub at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Campaign,
    Transfer,
}

/// What to do about a region now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing {
        reason: Reason,
    },
    /// Another leader may be made from then on. Until then, no lease on the region is granted.
    WaitForLease {
        until: Duration,
    },
    /// Tell the replica to campaign, if its term is not above `seen_term`. No lease on the region is granted until
    /// somebody leads in a higher one.
    Campaign {
        node: NodeId,
        raft_id: u64,
        seen_term: u64,
    },
    /// Tell the leader to hand over.
    Transfer {
        from: NodeId,
        to: NodeId,
    },
    /// Too few voters live to elect or to commit.
    MajorityLost(Loss),
}

/// Why nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A living leader leads.
    Led,
    /// A group of one elects itself when it is opened.
    ElectsItself,
    LeaderSuspect {
        node: NodeId,
    },
    /// Nobody is known to lead, and these may.
    Unheard {
        nodes: BTreeSet<NodeId>,
    },
    /// With these there is a majority, without them there is none.
    Undecided {
        nodes: BTreeSet<NodeId>,
    },
    CampaignUnderWay {
        node: NodeId,
        until: Duration,
    },
    TransferUnderWay {
        to: NodeId,
        until: Duration,
    },
    /// It is elected and has yet to serve; others are tried from then on.
    Opening {
        node: NodeId,
        until: Duration,
    },
    /// The leader is unwell, or cut off from its group, and nobody is better.
    NobodyBetter {
        leader: NodeId,
    },
    /// So many commands of the kind are under way as are allowed.
    Limit {
        at_once: usize,
    },
}

impl Step {
    /// Somebody leads and is there.
    pub fn is_served(&self) -> bool {
        match self {
            Self::Transfer { .. } => true,
            Self::Nothing { reason } => matches!(
                reason,
                Reason::Led | Reason::TransferUnderWay { .. } | Reason::NobodyBetter { .. }
            ),
            Self::WaitForLease { .. } | Self::Campaign { .. } | Self::MajorityLost(_) => false,
        }
    }

    /// What a person is told of it.
    pub fn told(&self, region: RegionId) -> String {
        match self {
            Self::MajorityLost(loss) => loss.told(region),
            step => step.to_string(),
        }
    }

    /// No lease on the region may be granted to whoever leads in an epoch known now: another leader is being made.
    pub fn withholds_lease(&self) -> bool {
        match self {
            Self::WaitForLease { .. } | Self::Campaign { .. } => true,
            Self::Nothing { reason } => {
                matches!(reason, Reason::CampaignUnderWay { .. } | Reason::Opening { .. })
            }
            Self::Transfer { .. } | Self::MajorityLost(_) => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing { reason } => reason.fmt(f),
            Self::WaitForLease { until } => {
                write!(f, "its leader is given up, whose lease may last until {until:?}")
            }
            Self::Campaign { node, seen_term, .. } => {
                write!(f, "datanode {node} is told to campaign above term {seen_term}")
            }
            Self::Transfer { from, to } => {
                write!(f, "datanode {from} is told to hand over to datanode {to}")
            }
            Self::MajorityLost(loss) => loss.fmt(f),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Led => f.write_str("led"),
            Self::ElectsItself => f.write_str("its only voter elects itself"),
            Self::LeaderSuspect { node } => {
                write!(f, "its leader, datanode {node}, is suspect and not judged yet")
            }
            Self::Unheard { nodes } => {
                write!(
                    f,
                    "nobody is known to lead, and datanodes {nodes:?}, not heard, may"
                )
            }
            Self::Undecided { nodes } => write!(
                f,
                "no majority without datanodes {nodes:?}, which are suspect or do not have it open yet"
            ),
            Self::CampaignUnderWay { node, until } => {
                write!(f, "datanode {node} campaigns; the next one is told at {until:?}")
            }
            Self::TransferUnderWay { to, until } => {
                write!(f, "it is handed over to datanode {to}; repeated at {until:?}")
            }
            Self::Opening { node, until } => {
                write!(
                    f,
                    "datanode {node} is elected and opens it; others are tried at {until:?}"
                )
            }
            Self::NobodyBetter { leader } => {
                write!(
                    f,
                    "its leader, datanode {leader}, is unwell or cut off from the others, and nobody is better"
                )
            }
            Self::Limit { at_once } => {
                write!(f, "waits for its turn: {at_once} at once are under way")
            }
        }
    }
}
