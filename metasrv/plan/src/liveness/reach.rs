//! Datanodes that beat, and do not reach each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_types::NodeId;

use super::Observed;

/// Since when pairs of them have not reached each other; the lower id first.
#[derive(Clone, Debug, Default)]
pub(super) struct Apart(BTreeMap<(NodeId, NodeId), Duration>);

impl Apart {
    /// Takes in what `living` say; returns the pairs that are apart. One that complains is enough, after `for_`: what a
    /// group says goes both ways. If both do, it was no pause of one of them, and they are believed at once.
    pub(super) fn look(
        &mut self,
        living: &BTreeMap<NodeId, &Observed>,
        for_: Duration,
        now: Duration,
    ) -> BTreeSet<(NodeId, NodeId)> {
        let complains = |of: NodeId, by: NodeId| living[&by].unreachable.contains(&of);
        let complaints = living.iter().flat_map(|(node, seen)| {
            let others = seen.unreachable.iter().filter(|other| living.contains_key(other));
            others.map(|other| (*node.min(other), *node.max(other)))
        });
        let since = |pair| (pair, self.0.get(&pair).copied().unwrap_or(now));
        self.0 = complaints.filter(|(a, b)| a != b).map(since).collect();
        let is_apart = |((a, b), since): &(&(NodeId, NodeId), &Duration)| {
            let both = complains(*a, *b) && complains(*b, *a);
            both || now.saturating_sub(**since) >= for_
        };
        self.0.iter().filter(is_apart).map(|(pair, _)| *pair).collect()
    }
}

/// Whom a datanode is apart from.
pub(super) fn apart_from(node: NodeId, apart: &BTreeSet<(NodeId, NodeId)>) -> BTreeSet<NodeId> {
    let other = |(a, b): &(NodeId, NodeId)| match node {
        _ if node == *a => Some(*b),
        _ if node == *b => Some(*a),
        _ => None,
    };
    apart.iter().filter_map(other).collect()
}

/// The living datanodes that `node` is apart from, if they are most of the others; else none.
///
/// Of two datanodes that cannot reach each other nobody can say whose fault it is, so at least two others are needed.
pub(super) fn cut_off_from(node: NodeId, apart: &BTreeSet<(NodeId, NodeId)>, living: usize) -> Vec<NodeId> {
    let from = apart_from(node, apart);
    match living >= 3 && from.len() * 2 > living - 1 {
        true => from.into_iter().collect(),
        false => vec![],
    }
}
