//! More than half vanished at once: metasrv is probably the one cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use greptime_types::NodeId;

use super::Observed;
use crate::Policy;

/// Why most are not judged by silence now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    /// Those that fell silent at once.
    pub vanished: BTreeSet<NodeId>,
    /// How many still beat.
    pub living: usize,
    /// What "at once" means.
    pub within: Duration,
    /// The silence after which somebody is judged nevertheless.
    pub lasts: Duration,
}

impl fmt::Display for Brake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} datanodes ({:?}) fell silent within {:?} and {} still beat: metasrv may be the one cut off, so nobody \
             is judged dead by silence until it has lasted for {:?}, or most of those that beat cannot reach it either; a \
             process that is known to be gone still is",
            self.vanished.len(),
            self.vanished,
            self.within,
            self.living,
            self.lasts
        )
    }
}

/// A datanode that does not beat.
pub(super) struct Away {
    /// When it was heard last.
    pub(super) heard: Duration,
    /// Its process is gone for sure, whatever the network does, or others cannot reach it either.
    pub(super) explained: bool,
}

/// Whether those that are away fell silent because metasrv was cut off. `living`: how many beat.
///
/// Those that fell silent together are compared with those that were heard longer, be they away by now. Whoever had
/// been away before, is gone for sure, or is away for others too, says nothing about metasrv's network.
pub(super) fn brake(away: &BTreeMap<NodeId, Away>, living: usize, policy: &Policy) -> Option<Brake> {
    let within = policy.brake_window;
    let together = |at: Duration| {
        let doubtful = away.iter().filter(|(_, other)| !other.explained);
        doubtful.filter(move |(_, other)| other.heard.abs_diff(at) <= within)
    };
    let heard_longer = |at: Duration| living + away.values().filter(|o| o.heard > at + within).count();
    let vanished: BTreeSet<NodeId> = away
        .values()
        .filter(|a| !a.explained && together(a.heard).count() > heard_longer(a.heard))
        .flat_map(|a| together(a.heard).map(|(node, _)| *node))
        .collect();
    (!vanished.is_empty()).then_some(Brake {
        vanished,
        living,
        within,
        lasts: policy.brake_for,
    })
}

/// Whether those that beat confirm that somebody is away: more than half of them cannot reach it. Who reaches it, and
/// who does not know it, says nothing, and counts against it.
pub(super) fn is_confirmed(node: NodeId, beating: &[&Observed]) -> bool {
    let complain = beating.iter().filter(|seen| seen.unreachable.contains(&node));
    complain.count() * 2 > beating.len()
}
