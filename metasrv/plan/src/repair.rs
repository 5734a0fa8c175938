//! Who should be members of a group that has too few, or that has lost one for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use greptime_types::{NodeId, RegionId};

use crate::Defence;
use crate::assignment::Member;
use crate::members::{MemberStep, Membership, Waiting, step};
use crate::placement::Candidate;

/// A region whose members could be others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// As recorded, in the order of preference for leading.
    pub members: Vec<Member>,
    /// Raft ids of members that will not come back: their datanode has been dead for long, or came with another disk.
    pub lost: BTreeSet<u64>,
    /// Somebody leads, and no change of members is under way that could come to an end.
    pub is_settled: bool,
}

impl Replicas {
    /// `lag`: see [`members::step`](crate::members::step).
    pub fn of(membership: Membership, lost: BTreeSet<u64>, lag: u64) -> Self {
        let lost_nodes = membership.recorded.iter().filter(|m| lost.contains(&m.raft_id));
        let lost_nodes: BTreeSet<NodeId> = lost_nodes.map(|m| m.node).collect();
        let is_settled = match step(&membership, lag) {
            MemberStep::Nothing(Waiting::Settled) => true,
            // Who is waited for does not come; others have to be found.
            MemberStep::Nothing(Waiting::ToJoin(nodes) | Waiting::ToCatchUp(nodes)) => {
                let is_lost = |node| lost_nodes.contains(node);
                nodes.iter().any(is_lost) && Defence::LostNewcomerIsReplaced.holds()
            }
            _ => false,
        };
        Self {
            members: membership.recorded,
            lost,
            is_settled,
        }
    }
}

/// What goes for all regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairPolicy {
    /// Voters that a region should have: 1 or 3.
    pub replicas: usize,
    /// Regions whose members change at the same time.
    pub at_once: usize,
}

/// Other members for a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retarget {
    pub region: RegionId,
    pub keep: Vec<Member>,
    /// Datanodes that get a replica.
    pub add: Vec<NodeId>,
}

/// Why a region stays as it is though it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// All its replicas are lost: there is nobody to learn from.
    NobodyLeft,
    /// There are not so many other living datanodes.
    NoRoom { needed: usize },
    /// Nobody leads, or its members are changing.
    Unsettled,
    /// So many are under way as may be.
    Limit { at_once: usize },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyLeft => {
                f.write_str("all its replicas are lost; only a datanode that comes back has it")
            }
            Self::NoRoom { needed } => write!(
                f,
                "it needs {needed} more living datanodes without a replica of it"
            ),
            Self::Unsettled => f.write_str("nobody leads it, or its members are changing"),
            Self::Limit { at_once } => write!(
                f,
                "waits for its turn: the members of {at_once} regions are changing"
            ),
        }
    }
}

/// New members where they are needed. A region with one voter gets two more at once: two voters would be worse than one.
pub fn repair(
    regions: &BTreeMap<RegionId, Replicas>,
    candidates: &[Candidate],
    policy: &RepairPolicy,
) -> (Vec<Retarget>, BTreeMap<RegionId, Blocked>) {
    let mut load: BTreeMap<NodeId, usize> = candidates.iter().map(|c| (c.node, c.replicas)).collect();
    let mut under_way = regions.values().filter(|r| !r.is_settled).count();
    let (mut plan, mut blocked) = (Vec::new(), BTreeMap::new());
    for (region, replicas) in regions {
        let keep: Vec<Member> = replicas
            .members
            .iter()
            .filter(|m| !replicas.lost.contains(&m.raft_id))
            .copied()
            .collect();
        let missing = policy.replicas.saturating_sub(keep.len());
        if missing == 0 {
            continue;
        }
        // One that has lost its only replica has nobody to learn from.
        if keep.is_empty() && Defence::LostRegionIsNotMadeAnew.holds() {
            blocked.insert(*region, Blocked::NobodyLeft);
            continue;
        }
        if !replicas.is_settled && Defence::OneChangeAtATime.holds() {
            blocked.insert(*region, Blocked::Unsettled);
            continue;
        }
        let add = choose(missing, &keep, candidates, &load);
        if add.len() < missing && Defence::NoGroupOfTwo.holds() {
            blocked.insert(*region, Blocked::NoRoom { needed: missing });
            continue;
        }
        if under_way >= policy.at_once {
            let at_once = policy.at_once;
            blocked.insert(*region, Blocked::Limit { at_once });
            continue;
        }
        under_way += 1;
        for node in &add {
            *load.entry(*node).or_default() += 1;
        }
        plan.push(Retarget {
            region: *region,
            keep,
            add,
        });
    }
    (plan, blocked)
}

/// Living datanodes without a replica: first those in zones that have none, then those with the fewest replicas.
pub(crate) fn choose(
    count: usize,
    keep: &[Member],
    candidates: &[Candidate],
    load: &BTreeMap<NodeId, usize>,
) -> Vec<NodeId> {
    let zone_of = |node: NodeId| {
        candidates
            .iter()
            .find(|c| c.node == node)
            .and_then(|c| c.zone.as_ref())
    };
    let mut taken: BTreeSet<NodeId> = keep.iter().map(|m| m.node).collect();
    let mut chosen = Vec::new();
    for _ in 0..count {
        let zones: BTreeSet<_> = taken.iter().filter_map(|node| zone_of(*node)).collect();
        let free = candidates.iter().filter(|c| c.alive && !taken.contains(&c.node));
        let crowded = |c: &Candidate| c.zone.as_ref().is_some_and(|zone| zones.contains(zone));
        let best = free.min_by_key(|c| (crowded(c), load.get(&c.node).copied().unwrap_or(0), c.node));
        let Some(best) = best.map(|c| c.node) else { break };
        taken.insert(best);
        chosen.push(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::members::Led;

    const POLICY: RepairPolicy = RepairPolicy {
        replicas: 3,
        at_once: 2,
    };

    fn candidate(node: NodeId, replicas: usize) -> Candidate {
        Candidate {
            node,
            alive: true,
            zone: None,
            replicas,
            leaders: 0,
        }
    }

    fn region(number: u32, nodes: &[NodeId], lost: &[u64]) -> (RegionId, Replicas) {
        let member = |node: &NodeId| Member {
            raft_id: 10 + node,
            node: *node,
        };
        let replicas = Replicas {
            members: nodes.iter().map(member).collect(),
            lost: lost.iter().copied().collect(),
            is_settled: true,
        };
        (RegionId::new(7, number), replicas)
    }

    #[test]
    fn a_single_voter_gets_two_more_or_none() {
        let regions = BTreeMap::from([region(0, &[0], &[])]);
        let (plan, _) = repair(
            &regions,
            &[candidate(0, 1), candidate(1, 5), candidate(2, 0)],
            &POLICY,
        );
        assert_eq!(plan[0].add, [2, 1]);
        let (plan, blocked) = repair(&regions, &[candidate(0, 1), candidate(1, 5)], &POLICY);
        assert!(plan.is_empty());
        assert_eq!(blocked[&RegionId::new(7, 0)], Blocked::NoRoom { needed: 2 });
    }

    #[test]
    fn who_is_lost_is_replaced_and_a_lost_single_is_not_invented() {
        let nodes: Vec<Candidate> = (0..4).map(|n| candidate(n, 1)).collect();
        let regions = BTreeMap::from([region(0, &[0, 1, 2], &[11]), region(1, &[0], &[10])]);
        let (plan, blocked) = repair(&regions, &nodes, &POLICY);
        assert_eq!(plan.len(), 1);
        assert_eq!(blocked[&RegionId::new(7, 1)], Blocked::NobodyLeft);
        assert_eq!((plan[0].keep.len(), plan[0].add.as_slice()), (2, [1].as_slice()));
    }

    #[test]
    fn a_newcomer_that_is_lost_before_it_votes_is_replaced() {
        let member = |id: u64| Member {
            raft_id: id,
            node: id,
        };
        // 3 was lost, and 4 is to take its place.
        let membership = |learners: &[u64]| Membership {
            recorded: [1, 2, 4].map(member).to_vec(),
            led: Some(Led {
                raft_id: 1,
                epoch: 3,
                last_index: 100,
                voters: BTreeSet::from([1, 2, 3]),
                learners: learners.iter().copied().collect(),
            }),
            reached: vec![(1, 100), (2, 100)],
        };
        let nodes: Vec<Candidate> = [1, 2, 5].map(|n| candidate(n, 1)).to_vec();
        for learners in [&[][..], &[4]] {
            let plan_without = |lost: &[u64]| {
                let lost = lost.iter().copied().collect();
                let replicas = Replicas::of(membership(learners), lost, 10);
                repair(
                    &BTreeMap::from([(RegionId::new(7, 0), replicas)]),
                    &nodes,
                    &POLICY,
                )
            };
            let (plan, _) = plan_without(&[4]);
            assert_eq!((plan[0].keep.len(), plan[0].add.as_slice()), (2, [5].as_slice()));
            assert!(plan_without(&[]).0.is_empty(), "it is waited for");
        }
        // The vote is being given.
        let mut voting = membership(&[4]);
        voting.reached.push((4, 100));
        assert!(!Replicas::of(voting, BTreeSet::from([4]), 10).is_settled);
    }

    #[test]
    fn a_region_whose_members_change_is_left_alone() {
        let nodes: Vec<Candidate> = (0..4).map(|n| candidate(n, 1)).collect();
        let (id, mut replicas) = region(0, &[0, 1, 2], &[11]);
        replicas.is_settled = false;
        let (plan, blocked) = repair(&BTreeMap::from([(id, replicas)]), &nodes, &POLICY);
        assert!(plan.is_empty());
        assert_eq!(blocked[&id], Blocked::Unsettled);
    }

    #[test]
    fn only_so_many_change_at_once_and_the_zones_differ() {
        let regions: BTreeMap<RegionId, Replicas> = (0..5).map(|n| region(n, &[0], &[])).collect();
        let zoned = |node: NodeId, zone: &str| Candidate {
            zone: Some(zone.into()),
            ..candidate(node, 0)
        };
        let nodes = [zoned(0, "a"), zoned(1, "a"), zoned(2, "b"), zoned(3, "c")];
        let (plan, blocked) = repair(&regions, &nodes, &POLICY);
        assert_eq!((plan.len(), blocked.len()), (2, 3));
        assert!(plan.iter().all(|p| p.add == [2, 3]), "{plan:?}");
    }

    proptest! {
        #[test]
        fn nobody_gets_two_replicas_and_nobody_dead_gets_one(
            members in prop::collection::vec(prop::sample::subsequence(vec![0u64, 1, 2, 3, 4], 1..=3), 1..8),
            alive in prop::collection::vec(any::<bool>(), 5),
            lost in prop::sample::subsequence(vec![10u64, 11, 12, 13, 14], 0..3),
        ) {
            let regions: BTreeMap<RegionId, Replicas> =
                members.iter().enumerate().map(|(n, nodes)| region(n as u32, nodes, &lost)).collect();
            let nodes: Vec<Candidate> = alive
                .iter()
                .enumerate()
                .map(|(n, alive)| Candidate { alive: *alive, ..candidate(n as NodeId, 0) })
                .collect();
            let (plan, blocked) = repair(&regions, &nodes, &POLICY);
            prop_assert!(plan.len() <= POLICY.at_once);
            for change in &plan {
                let kept: Vec<NodeId> = change.keep.iter().map(|m| m.node).collect();
                let mut all: Vec<NodeId> = kept.iter().chain(&change.add).copied().collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), 3);
                prop_assert!(change.add.iter().all(|n| alive[*n as usize]));
                prop_assert!(change.keep.iter().all(|m| !lost.contains(&m.raft_id)));
            }
            for (region, replicas) in &regions {
                let keep = replicas.members.iter().filter(|m| !lost.contains(&m.raft_id)).count();
                let is_fine = keep == 3;
                prop_assert_eq!(keep == 0, blocked.get(region) == Some(&Blocked::NobodyLeft));
                let is_planned = plan.iter().any(|p| p.region == *region);
                prop_assert_eq!(is_fine, !is_planned && !blocked.contains_key(region));
            }
        }
    }
}
