//! A group that has lost its majority, as the person has to know it who decides what becomes of it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use greptime_types::{NodeId, RegionId};

use super::{LogEnd, RegionSeen, Voter, VoterRole};
use crate::majority;

/// Too few voters live to elect or to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub needed: usize,
    /// Those that live; first the one that could go on alone with the least loss.
    pub alive: Vec<Left>,
    /// Those that do not, and what they had when they were heard last.
    pub lost: Vec<Left>,
    /// Voters of which nothing is known.
    pub strangers: usize,
    /// What is there if the first of those that live goes on alone; `None` if it has not said how far its log reaches.
    pub kept: Option<Kept>,
}

/// What is there when a replica goes on alone. All of it takes its whole log for committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Everything that was acknowledged. It leads, so it has all of its epoch and of those before. In a later one nobody
    /// can have acknowledged anything: frontends write to leaders that metasrv has told them of, and a leader that is not
    /// heard of is not told of.
    Everything { epoch: u64 },
    /// Everything that was acknowledged in epochs up to that in which it leads. There was a later term, or there may have
    /// been one before this metasrv led.
    Through { epoch: u64 },
    /// Everything up to this entry. It does not lead, so the others may have committed more; and if there was a later term
    /// than that of its last entry, or there may have been one, also others in the place of its last entries, of which it
    /// knows that they are committed up to this one only.
    UpTo { entry: u64 },
}

/// A replica that is to go on alone, and what is known of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// The epoch in which it leads, if it does.
    pub leads: Option<u64>,
    /// Its own.
    pub log: LogEnd,
    /// The highest epoch in which anybody was seen to lead.
    pub led: u64,
    /// The terms in which the other voters were when this metasrv heard them last; `None` of those that it has never
    /// heard.
    pub others: Vec<Option<u64>>,
    /// Voters of which nothing is known.
    pub strangers: usize,
}

impl Remains {
    pub(super) fn of(region: &RegionSeen, survivor: &Voter, log: LogEnd) -> Self {
        let others = region.voters.iter().filter(|v| v.raft_id != survivor.raft_id);
        Self {
            leads: survivor.leads,
            log,
            led: region.led,
            others: others.map(Voter::newest_term).collect(),
            strangers: region.strangers,
        }
    }

    pub(super) fn kept(&self) -> Kept {
        match self.leads {
            Some(epoch) if self.none_is_later_than(epoch) => Kept::Everything { epoch },
            Some(epoch) => Kept::Through { epoch },
            // What the leader of this term has committed, or found committed, is the same in its log as far as that goes.
            None if self.none_is_later_than(self.log.last_term) => Kept::UpTo {
                entry: self.log.last_index,
            },
            None => Kept::UpTo {
                entry: self.log.applied_index.max(self.log.flushed_index),
            },
        }
    }

    /// Whether nobody was written to in a later term.
    fn none_is_later_than(&self, term: u64) -> bool {
        let said = self.others.iter().flatten().copied().max();
        let newest = said.unwrap_or(0).max(self.led).max(self.log.term);
        // A later leader that another metasrv has told of was elected without this one, and before any of its voters was
        // heard here.
        let unheard = self.others.iter().filter(|term| term.is_none()).count();
        newest <= term && self.strangers == 0 && unheard < majority(self.others.len() + 1)
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything { epoch } => write!(
                f,
                "everything that was acknowledged: it leads in epoch {epoch}, and nobody was ever written to in a later one"
            ),
            Self::Through { epoch } => write!(
                f,
                "everything that was acknowledged up to epoch {epoch}, in which it leads, and what is in files; what the \
                 others may have acknowledged in a later one is lost"
            ),
            Self::UpTo { entry } => write!(
                f,
                "everything up to entry {entry} and what is in files; what only the lost ones had after it is lost, \
                 acknowledged or not"
            ),
        }
    }
}

/// One replica of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub node: NodeId,
    /// `None` if it has not said, or does not have the region open.
    pub log: Option<LogEnd>,
}

impl Loss {
    pub(super) fn of(region: &RegionSeen, alive: &BTreeSet<NodeId>, needed: usize) -> Self {
        let (mut living, lost): (Vec<&Voter>, Vec<&Voter>) =
            region.voters.iter().partition(|v| alive.contains(&v.node));
        // As recovery compares them: term and index of the last entry.
        living.sort_by_key(|v| {
            let position = v.log.map(|log| log.position());
            (
                Reverse(position),
                Reverse(v.leads),
                v.role == VoterRole::LogOnly,
                v.node,
            )
        });
        let first = living.first().and_then(|v| Some((*v, v.log?)));
        let left = |v: &&Voter, log: Option<LogEnd>| Left { node: v.node, log };
        Self {
            needed,
            alive: living.iter().map(|v| left(v, v.log)).collect(),
            lost: lost.iter().map(|v| left(v, v.log.or(v.had))).collect(),
            strangers: region.strangers,
            kept: first.map(|(voter, log)| Remains::of(region, voter, log).kept()),
        }
    }

    /// The living replica that has most.
    pub fn survivor(&self) -> Option<(NodeId, LogEnd)> {
        let best = self.alive.first()?;
        Some((best.node, best.log?))
    }

    /// What there is to be done, to the word.
    pub(super) fn told(&self, region: RegionId) -> String {
        let (Some((node, _)), Some(kept)) = (self.survivor(), self.kept) else {
            return format!("{self}; nobody who lives has it open: bring one of the others back");
        };
        let instead = match kept {
            Kept::Everything { .. } => ", or",
            Kept::Through { .. } | Kept::UpTo { .. } => ", and nothing is lost. Only if that cannot be:",
        };
        format!(
            "{self}; bring one of the lost back with its disk{instead} `ADMIN force_recover_region('{region}', {node})` goes \
             on with datanode {node} alone. It keeps {kept}"
        )
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "too few of its voters live, {} are needed; lost: ",
            self.needed
        )?;
        list(f, &self.lost)?;
        if self.strangers > 0 {
            write!(f, " and {} unknown", self.strangers)?;
        }
        f.write_str("; left: ")?;
        list(f, &self.alive)
    }
}

fn list(f: &mut fmt::Formatter<'_>, replicas: &[Left]) -> fmt::Result {
    if replicas.is_empty() {
        return f.write_str("nobody");
    }
    for (i, replica) in replicas.iter().enumerate() {
        let between = if i == 0 { "" } else { ", " };
        write!(f, "{between}{replica}")?;
    }
    Ok(())
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "datanode {}", self.node)?;
        match self.log {
            None => f.write_str(" (unknown how far)"),
            Some(log) => write!(
                f,
                " (entry {} of term {}, in files up to {})",
                log.last_index, log.last_term, log.flushed_index
            ),
        }
    }
}
