//! Who goes on alone, of a group whose majority is lost for good.
//!
//! A person names the replica and consents to what is lost with the others ([`Kept`]). It is refused where it need not
//! be, where another one has more, and while somebody may only be late.

use std::collections::BTreeSet;
use std::fmt;

use greptime_types::{NodeId, RegionId};

use super::loss::Remains;
use super::{Kept, LogEnd, RegionSeen, Voter};
use crate::{Defence, Verdict, majority};

/// By how much the survivor's term is above every one that is known. Terms that nobody is left to tell of (of an
/// election that only the lost ones saw, in routes of frontends, in the manifest) are above the known ones by the number
/// of those elections at most. So everything of theirs is older for ever: frontends take the new route, files of theirs
/// replace nobody, and they are fenced if they come back and lead among themselves.
const ABOVE_ALL_KNOWN: u64 = 1 << 20;

/// A group of which somebody wants one replica to go on without the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bereaved {
    pub region: RegionId,
    pub seen: RegionSeen,
    /// Members that are recorded and have no vote.
    pub learners: Vec<Voter>,
    /// Nodes that beat, and were heard a moment ago ([`Watch::hears`](crate::watch::Watch::hears)).
    pub heard: BTreeSet<NodeId>,
}

/// The replica that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survivor {
    pub node: NodeId,
    pub raft_id: u64,
    /// It leads in a later one.
    pub seen_term: u64,
    pub log: LogEnd,
    pub kept: Kept,
}

/// Why a replica does not go on alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub region: RegionId,
    pub node: NodeId,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The datanode is none of those that have the region.
    NotThere {
        members: Vec<NodeId>,
    },
    /// It is not heard, or does not have its replica open.
    Away,
    /// So many live that the group can go on as it is.
    MajorityLives {
        alive: Vec<NodeId>,
    },
    /// It has no vote, and one that has lives.
    NoVote {
        voter: NodeId,
    },
    HasLess {
        better: NodeId,
    },
    /// One of the others may only be late.
    NotDead {
        other: NodeId,
        verdict: Verdict,
    },
}

impl Bereaved {
    /// The replica on `node`, if it may go on alone.
    ///
    /// # Errors
    /// [`Refusal`], with what to do instead.
    pub fn leave_to(&self, node: NodeId) -> Result<Survivor, Refusal> {
        let refused = |why| Refusal {
            region: self.region,
            node,
            why,
        };
        let voters = &self.seen.voters;
        let members = || voters.iter().chain(&self.learners);
        let Some(own) = members().find(|v| v.node == node) else {
            let members = members().map(|v| v.node).collect();
            return Err(refused(Why::NotThere { members }));
        };
        let Some(log) = self.says(own) else {
            return Err(refused(Why::Away));
        };
        let alive: Vec<&Voter> = voters.iter().filter(|v| self.says(v).is_some()).collect();
        let needed = majority(voters.len() + self.seen.strangers);
        if alive.len() >= needed && Defence::MajorityGoesOn.holds() {
            let alive = alive.iter().map(|v| v.node).collect();
            return Err(refused(Why::MajorityLives { alive }));
        }
        let has_vote = voters.iter().any(|v| v.raft_id == own.raft_id);
        if let Some(voter) = alive.first().filter(|_| !has_vote) {
            return Err(refused(Why::NoVote { voter: voter.node }));
        }
        let has_more = |v: &&&Voter| {
            self.says(v)
                .is_some_and(|other| other.position() > log.position())
        };
        if let Some(better) = alive.iter().find(has_more)
            && Defence::SurvivorHasMost.holds()
        {
            return Err(refused(Why::HasLess { better: better.node }));
        }
        let is_lost = |v: &&Voter| self.heard.contains(&v.node) || v.verdict.is_dead();
        let mut silent = voters.iter().filter(|v| self.says(v).is_none());
        if let Some(late) = silent.find(|v| !is_lost(v))
            && Defence::LateIsNotLost.holds()
        {
            return Err(refused(Why::NotDead {
                other: late.node,
                verdict: late.verdict.clone(),
            }));
        }
        Ok(Survivor {
            node,
            raft_id: own.raft_id,
            seen_term: self.newest_term() + above(),
            log,
            kept: Remains::of(&self.seen, own, log).kept(),
        })
    }

    /// What is heard of a replica now; `None` if it is away or not open.
    fn says(&self, voter: &Voter) -> Option<LogEnd> {
        let is_heard = self.heard.contains(&voter.node) || !Defence::OnlyTheHeardSurvive.holds();
        voter.log.filter(|_| is_heard)
    }

    /// The newest term that anybody has told of.
    fn newest_term(&self) -> u64 {
        let members = self.seen.voters.iter().chain(&self.learners);
        let said = members.filter_map(Voter::newest_term).max();
        said.unwrap_or(0).max(self.seen.led)
    }
}

fn above() -> u64 {
    match Defence::SurvivorIsAboveAllTerms.holds() {
        true => ABOVE_ALL_KNOWN,
        false => 0,
    }
}

impl Refusal {
    /// Whether it will not be refused any more when everybody is judged.
    pub fn is_for_a_moment(&self) -> bool {
        matches!(self.why, Why::NotDead { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, node, why } = self;
        match why {
            Why::NotThere { members } => {
                write!(
                    f,
                    "region {region} is not on datanode {node}; it is on {members:?}"
                )
            }
            Why::Away => write!(
                f,
                "datanode {node} is away, has not been heard for a moment, or has no replica of region {region} any more"
            ),
            Why::MajorityLives { alive } => write!(
                f,
                "a majority of region {region} is there (datanodes {alive:?}); it needs no recovery"
            ),
            Why::NoVote { voter } => write!(
                f,
                "the replica on datanode {node} has no vote yet and may lack much; let datanode {voter} survive"
            ),
            Why::HasLess { better } => {
                write!(
                    f,
                    "datanode {better} has more of region {region}; let that one survive"
                )
            }
            Why::NotDead { other, verdict } => write!(
                f,
                "datanode {other} has not been found to be dead yet ({verdict}); try again in a moment"
            ),
        }
    }
}
