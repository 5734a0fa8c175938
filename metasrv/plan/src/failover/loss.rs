//! A group that has lost its majority, as the person has to know it who decides what becomes of it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use greptime_types::{NodeId, RegionId};

use super::{LogEnd, RegionSeen, Voter, VoterRole};

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
            (Reverse(position), v.role == VoterRole::LogOnly, v.node)
        });
        let left = |v: &&Voter, log: Option<LogEnd>| Left { node: v.node, log };
        Self {
            needed,
            alive: living.iter().map(|v| left(v, v.log)).collect(),
            lost: lost.iter().map(|v| left(v, v.log.or(v.had))).collect(),
            strangers: region.strangers,
        }
    }

    /// The living replica that has most.
    pub fn survivor(&self) -> Option<(NodeId, LogEnd)> {
        let best = self.alive.first()?;
        Some((best.node, best.log?))
    }

    /// What there is to be done, to the word.
    pub(super) fn told(&self, region: RegionId) -> String {
        let Some((node, log)) = self.survivor() else {
            return format!("{self}; nobody who lives has it open: bring one of the others back");
        };
        format!(
            "{self}; bring one of the lost back with its disk, and nothing is lost. Only if that cannot be: `ADMIN \
             force_recover_region('{region}', {node})` goes on with datanode {node} alone. It keeps everything up to entry \
             {} and what is in files; what only the lost ones had after it is lost, acknowledged or not",
            log.last_index
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
