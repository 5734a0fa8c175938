//! Initial placement: regions spread evenly over the datanodes that can take them.

use std::collections::BTreeMap;
use std::fmt;

use greptime_types::NodeId;

/// A datanode as placement sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLoad {
    pub node: NodeId,
    /// Registered and beating.
    pub alive: bool,
    /// Regions that it holds or should hold.
    pub regions: usize,
}

/// Why no region can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoDatanode,
    NoneAlive { known: usize },
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
        }
    }
}

/// The order in which nodes are filled: fewest regions of this table, then fewest regions, then lowest id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    of_this_table: usize,
    regions: usize,
    node: NodeId,
}

/// Chooses a datanode for each of `count` new regions of one table.
///
/// Afterwards, no node has more than one region of the table above any other that is alive.
pub fn place(count: usize, nodes: &[NodeLoad]) -> Result<Vec<NodeId>, Refusal> {
    if nodes.is_empty() {
        return Err(Refusal::NoDatanode);
    }
    let mut scores: BTreeMap<NodeId, Score> = nodes
        .iter()
        .filter(|n| n.alive)
        .map(|n| {
            (
                n.node,
                Score {
                    of_this_table: 0,
                    regions: n.regions,
                    node: n.node,
                },
            )
        })
        .collect();
    let mut chosen = Vec::with_capacity(count);
    for _ in 0..count {
        let best = scores
            .values_mut()
            .min()
            .ok_or(Refusal::NoneAlive { known: nodes.len() })?;
        best.of_this_table += 1;
        best.regions += 1;
        chosen.push(best.node);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(node: NodeId, regions: usize) -> NodeLoad {
        NodeLoad {
            node,
            alive: true,
            regions,
        }
    }

    #[test]
    fn three_regions_go_to_three_nodes() {
        let chosen = place(3, &[node(0, 5), node(1, 0), node(2, 2)]).unwrap();
        assert_eq!(chosen, [1, 2, 0]);
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        assert_eq!(place(1, &[]), Err(Refusal::NoDatanode));
        let dead = NodeLoad {
            alive: false,
            ..node(0, 0)
        };
        assert_eq!(place(1, &[dead]), Err(Refusal::NoneAlive { known: 1 }));
    }

    proptest! {
        #[test]
        fn a_table_is_spread_evenly_over_the_living(
            loads in prop::collection::vec((0usize..50, any::<bool>()), 1..20),
            count in 0usize..100,
        ) {
            let nodes: Vec<NodeLoad> = loads
                .iter()
                .enumerate()
                .map(|(i, (regions, alive))| NodeLoad { node: i as NodeId, alive: *alive, regions: *regions })
                .collect();
            let living: Vec<_> = nodes.iter().filter(|n| n.alive).collect();
            match place(count, &nodes) {
                Err(refusal) => prop_assert!(count > 0 && living.is_empty(), "{refusal}"),
                Ok(chosen) => {
                    prop_assert_eq!(chosen.len(), count);
                    let of = |n: &NodeLoad| chosen.iter().filter(|c| **c == n.node).count();
                    prop_assert!(nodes.iter().filter(|n| !n.alive).all(|n| of(n) == 0));
                    if let (Some(most), Some(least)) =
                        (living.iter().map(|n| of(n)).max(), living.iter().map(|n| of(n)).min())
                    {
                        prop_assert!(most - least <= 1);
                    }
                    prop_assert_eq!(place(count, &nodes).unwrap(), chosen);
                }
            }
        }
    }
}
