//! Datanodes that beat, and do not reach each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_types::NodeId;

use super::Observed;

/// Since when pairs of them have not reached each other; the lower id first.
#[derive(Clone, Debug, Default)]
pub(super) struct Apart(BTreeMap<(NodeId, NodeId), Duration>);

impl Apart {
    /// Takes in what `living` say; returns the pairs that have been apart for `for_`. One that complains is enough: what a
    /// group says goes both ways.
    pub(super) fn look(
        &mut self,
        living: &BTreeMap<NodeId, &Observed>,
        for_: Duration,
        now: Duration,
    ) -> BTreeSet<(NodeId, NodeId)> {
        let complaints = living.iter().flat_map(|(node, seen)| {
            let others = seen.unreachable.iter().filter(|other| living.contains_key(other));
            others.map(|other| (*node.min(other), *node.max(other)))
        });
        let since = |pair| (pair, self.0.get(&pair).copied().unwrap_or(now));
        self.0 = complaints.filter(|(a, b)| a != b).map(since).collect();
        let long = self
            .0
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) >= for_);
        long.map(|(pair, _)| *pair).collect()
    }
}
