//! Initial placement: the replicas of new regions, spread over datanodes and zones.
//!
//! Three things are spread evenly, in this order: replicas (disk and log traffic), leaders (memory and all of the
//! work), hot followers (memory again). Every region first gets its set of datanodes (`sets`); within a set anybody
//! can lead, so leaders and then hot followers are dealt out over the sets as evenly as the sets allow (`deal`).

mod deal;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use greptime_types::NodeId;

use deal::deal;
use sets::{Ground, sets};

/// A datanode as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    /// Registered and beating.
    pub alive: bool,
    /// Where it fails together with others. Datanodes without one count as one zone.
    pub zone: Option<String>,
    /// Replicas that it holds or should hold.
    pub replicas: usize,
    /// Those of them that lead.
    pub leaders: usize,
}

/// Where new regions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// For each region its voters: the first leads, the second is hot, the third is log-only.
    pub regions: Vec<Vec<NodeId>>,
    /// Why they are fewer than were wanted.
    pub shortfall: Option<Shortfall>,
}

/// Fewer voters than wanted. A group of two is never made: it needs both of them, so it fails twice as often as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub wanted: usize,
    /// Voters of each region as placed.
    pub given: usize,
    pub alive: usize,
    pub known: usize,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            wanted,
            given,
            alive,
            known,
        } = self;
        write!(f, "{given} voter instead of {wanted}: ")?;
        if known < wanted {
            write!(f, "there are only {known} datanodes; add others")
        } else {
            write!(
                f,
                "only {alive} of {known} datanodes are alive; wait until others are back"
            )
        }
    }
}

/// Why no region can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoDatanode,
    NoneAlive {
        known: usize,
    },
    /// A region has one voter or three.
    Replicas {
        wanted: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDatanode => f.write_str("no datanode has registered yet"),
            Self::NoneAlive { known } => {
                write!(
                    f,
                    "none of the {known} known datanodes is alive; wait until one is back"
                )
            }
            Self::Replicas { wanted } => {
                write!(f, "a region has 1 or 3 replicas, not {wanted}")
            }
        }
    }
}

/// Chooses datanodes for `count` new regions of one table, with `replicas` (1 or 3) voters each.
///
/// The voters of a region are on distinct datanodes. With three zones or more they are in distinct zones, with two
/// zones in both. Within what that allows, no datanode has more than one replica of the table above another, nor more
/// than one leader. With fewer than three living datanodes every region gets one voter, and the placement says so.
pub fn place_replicated(
    count: usize,
    replicas: usize,
    candidates: &[Candidate],
) -> Result<Placement, Refusal> {
    let known = candidates.len();
    let alive: Vec<&Candidate> = candidates
        .iter()
        .filter(|c| c.alive)
        .map(|c| (c.node, c))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect();
    match replicas {
        1 | 3 => {}
        wanted => return Err(Refusal::Replicas { wanted }),
    }
    if known == 0 {
        return Err(Refusal::NoDatanode);
    }
    if alive.is_empty() && count > 0 {
        return Err(Refusal::NoneAlive { known });
    }
    let given = if alive.len() < replicas { 1 } else { replicas };
    let ground = Ground {
        zones: zones(&alive),
        replicas: alive.iter().map(|c| c.replicas).collect(),
    };
    let sets = sets(count, given, &ground);
    let leaders: Vec<usize> = alive.iter().map(|c| c.leaders).collect();
    let regions = with_roles(sets, &leaders, &ground.replicas);
    let ids = |region: Vec<usize>| region.into_iter().map(|ordinal| alive[ordinal].node).collect();
    Ok(Placement {
        regions: regions.into_iter().map(ids).collect(),
        shortfall: (given < replicas).then_some(Shortfall {
            wanted: replicas,
            given,
            alive: alive.len(),
            known,
        }),
    })
}

/// The zone of each datanode as a number.
fn zones(alive: &[&Candidate]) -> Vec<usize> {
    let names: BTreeSet<&Option<String>> = alive.iter().map(|c| &c.zone).collect();
    let number = |c: &&Candidate| names.iter().position(|name| **name == c.zone).unwrap_or(0);
    alive.iter().map(number).collect()
}

/// Orders each set: leader, hot follower, log-only.
fn with_roles(mut sets: Vec<Vec<usize>>, leaders: &[usize], replicas: &[usize]) -> Vec<Vec<usize>> {
    let first = |sets: &mut Vec<Vec<usize>>, from: usize, load: &[usize]| {
        let options: Vec<&[usize]> = sets.iter().map(|set| set.get(from..).unwrap_or(&[])).collect();
        let dealt = deal(&options, load);
        for (set, node) in sets.iter_mut().zip(dealt) {
            if let Some(at) = set.iter().position(|n| Some(*n) == node) {
                set.swap(from, at);
            }
        }
    };
    first(&mut sets, 0, leaders);
    first(&mut sets, 1, replicas);
    sets
}
