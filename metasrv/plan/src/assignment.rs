//! What a datanode must be told, from what it should hold and what it says it holds.
//!
//! Level-triggered: the same comparison serves a new table, a lost message, a restarted datanode and a new
//! metasrv leader.

use std::collections::{BTreeMap, BTreeSet};

use greptime_types::{NodeId, RegionId, TableId};

/// A replica and where it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub raft_id: u64,
    pub node: NodeId,
}

/// One replica that a datanode should hold, as recorded in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub region: RegionId,
    pub raft_id: u64,
    /// First voters of the group.
    pub voters: Vec<Member>,
    /// Whether the replica applies what is committed while it follows.
    pub hot: bool,
    /// It is to lead soon: what queries need is brought near.
    pub warm: bool,
    pub schema_version: u64,
    /// Some datanode has reported the region once: it is never initialised again, since the log that was lost
    /// would be forgotten silently.
    pub initialised: bool,
    /// Its group is there without it: it joins.
    pub joins: bool,
}

/// One region as a datanode reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    pub schema_version: u64,
    pub leading: bool,
    pub hot: bool,
    pub warm: bool,
}

/// How much of a group's log a replica has, as its datanode reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub last_term: u64,
    pub last_index: u64,
    pub applied_index: u64,
    pub hot: bool,
}

impl Extent {
    /// Whether the leader could hand over to it at once: it has all but `lag` entries, and has applied what it has if it
    /// is to be hot.
    pub fn has_caught_up(&self, leader: &Self, to_be_hot: bool, lag: u64) -> bool {
        let has =
            self.last_term == leader.last_term && self.last_index.saturating_add(lag) >= leader.last_index;
        let applies = self.hot && self.applied_index.saturating_add(lag) >= self.last_index;
        has && (applies || !to_be_hot)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Initialise(Assignment),
    Alter(RegionId),
    /// Whether it is to be hot. A leader is, whatever it is told.
    Role {
        region: RegionId,
        hot: bool,
        warm: bool,
    },
    Drop(RegionId),
    /// Another replica took its place; the region's objects stay.
    DropReplica(RegionId),
}

/// The commands that bring one datanode to what it should hold, in order of region.
///
/// Only regions of tables that are recorded as being dropped are dropped. A region that is not known at all is
/// left alone: the one who does not know it may be a metasrv that no longer leads.
///
/// `surplus`: replicas that their groups do not have any more.
pub fn tell(
    desired: &[Assignment],
    dropping: &BTreeSet<TableId>,
    surplus: &BTreeSet<RegionId>,
    reported: &BTreeMap<RegionId, Reported>,
) -> Vec<Command> {
    let desired: BTreeMap<RegionId, &Assignment> = desired.iter().map(|a| (a.region, a)).collect();
    let wanted = desired
        .values()
        .filter_map(|want| match reported.get(&want.region) {
            None if want.initialised && !want.joins => None,
            None => Some(Command::Initialise((*want).clone())),
            Some(has) if has.leading && has.schema_version < want.schema_version => {
                Some(Command::Alter(want.region))
            }
            Some(has) if want.voters.len() > 1 && !has.leading && differs(want, has) => Some(Command::Role {
                region: want.region,
                hot: want.hot,
                warm: want.warm,
            }),
            Some(_) => None,
        });
    let dropped = reported
        .keys()
        .filter(|r| dropping.contains(&r.table()))
        .map(|r| Command::Drop(*r));
    let left = surplus
        .iter()
        .filter(|r| reported.contains_key(r) && !dropping.contains(&r.table()))
        .map(|r| Command::DropReplica(*r));
    wanted.chain(dropped).chain(left).collect()
}

/// Whether the replica is not what it is to be. One that is warm and need not be stays so.
fn differs(want: &Assignment, has: &Reported) -> bool {
    has.hot != want.hot || (want.warm && !has.warm)
}

/// What is shown of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionState {
    Leading {
        node: NodeId,
        epoch: u64,
    },
    /// The datanode is there and on its way.
    Opening,
    /// Its datanode is away.
    NoLeader,
    /// Its datanode is there and does not have it: the disk was replaced or emptied.
    DiskLost,
}

impl RegionState {
    pub fn label(self) -> &'static str {
        match self {
            Self::Leading { .. } => "leading",
            Self::Opening => "opening",
            Self::NoLeader => "no_leader",
            Self::DiskLost => "disk_lost",
        }
    }
}

/// `replicas`: for each datanode that should hold the region, `None` when it is away, else the epoch in which it
/// leads, or whether it has the region at all.
pub fn region_state(initialised: bool, replicas: &[(NodeId, Replica)]) -> RegionState {
    let leader = replicas
        .iter()
        .filter_map(|(node, replica)| match replica {
            Replica::Leading { epoch } => Some((*epoch, *node)),
            _ => None,
        })
        .max();
    if let Some((epoch, node)) = leader {
        return RegionState::Leading { node, epoch };
    }
    let any = |state: Replica| replicas.iter().any(|(_, r)| *r == state);
    match () {
        () if any(Replica::Opening) => RegionState::Opening,
        () if any(Replica::Away) => RegionState::NoLeader,
        () if initialised => RegionState::DiskLost,
        () => RegionState::Opening,
    }
}

/// One replica as metasrv knows it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replica {
    Away,
    Missing,
    Opening,
    Leading { epoch: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_almost_all_and_has_applied_it_has_caught_up() {
        let leader = Extent {
            last_term: 7,
            last_index: 100,
            applied_index: 100,
            hot: true,
        };
        let table = [
            ((7, 90, 80, true), true, true),
            ((7, 89, 89, true), true, false),
            ((6, 100, 100, true), true, false),
            ((7, 100, 89, true), true, false),
            ((7, 100, 100, false), true, false),
            ((7, 100, 0, false), false, true),
        ];
        for ((last_term, last_index, applied_index, hot), to_be_hot, expected) in table {
            let own = Extent {
                last_term,
                last_index,
                applied_index,
                hot,
            };
            assert_eq!(own.has_caught_up(&leader, to_be_hot, 10), expected, "{own:?}");
        }
    }

    const REGION: RegionId = RegionId::new(7, 0);

    fn want(initialised: bool) -> Assignment {
        Assignment {
            region: REGION,
            raft_id: 1,
            voters: vec![Member { raft_id: 1, node: 0 }],
            hot: true,
            warm: false,
            schema_version: 2,
            initialised,
            joins: false,
        }
    }

    fn told(desired: &[Assignment], reported: &BTreeMap<RegionId, Reported>) -> Vec<Command> {
        tell(desired, &BTreeSet::new(), &BTreeSet::new(), reported)
    }

    #[test]
    fn a_replica_joins_a_group_that_is_there_and_leaves_without_its_objects() {
        let joins = Assignment {
            joins: true,
            ..want(true)
        };
        let none = BTreeMap::new();
        assert_eq!(
            told(std::slice::from_ref(&joins), &none),
            [Command::Initialise(joins)]
        );
        let surplus = BTreeSet::from([REGION]);
        let left = tell(&[], &BTreeSet::new(), &surplus, &has(2, false));
        assert_eq!(left, [Command::DropReplica(REGION)]);
        assert_eq!(tell(&[], &BTreeSet::new(), &surplus, &none), []);
    }

    fn has(schema_version: u64, leading: bool) -> BTreeMap<RegionId, Reported> {
        BTreeMap::from([(
            REGION,
            Reported {
                schema_version,
                leading,
                hot: leading,
                warm: false,
            },
        )])
    }

    #[test]
    fn a_new_region_is_initialised_until_it_is_reported() {
        assert_eq!(
            told(&[want(false)], &BTreeMap::new()),
            [Command::Initialise(want(false))]
        );
        assert_eq!(told(&[want(false)], &has(2, true)), []);
    }

    #[test]
    fn a_replica_that_is_to_lead_soon_is_told_until_it_is_warm() {
        let heir = Assignment {
            voters: vec![Member { raft_id: 1, node: 0 }, Member { raft_id: 2, node: 1 }],
            warm: true,
            ..want(true)
        };
        let has = |hot, warm| {
            let reported = Reported {
                schema_version: 2,
                leading: false,
                hot,
                warm,
            };
            BTreeMap::from([(REGION, reported)])
        };
        let role = Command::Role {
            region: REGION,
            hot: true,
            warm: true,
        };
        assert_eq!(
            told(std::slice::from_ref(&heir), &has(false, false)),
            std::slice::from_ref(&role)
        );
        assert_eq!(told(std::slice::from_ref(&heir), &has(true, false)), [role]);
        assert_eq!(told(&[heir], &has(true, true)), []);
    }

    #[test]
    fn a_lost_region_is_never_initialised_again() {
        assert_eq!(told(&[want(true)], &BTreeMap::new()), []);
        assert_eq!(
            region_state(true, &[(0, Replica::Missing)]),
            RegionState::DiskLost
        );
    }

    #[test]
    fn an_old_schema_is_altered_at_the_leader_only() {
        assert_eq!(told(&[want(true)], &has(1, true)), [Command::Alter(REGION)]);
        assert_eq!(told(&[want(true)], &has(1, false)), []);
    }

    #[test]
    fn a_follower_is_told_whether_it_is_hot_and_a_leader_is_not() {
        let member = |raft_id| Member {
            raft_id,
            node: raft_id,
        };
        let want = |hot| Assignment {
            voters: vec![member(1), member(2), member(3)],
            hot,
            ..want(true)
        };
        let role = |hot| {
            let (region, warm) = (REGION, false);
            [Command::Role { region, hot, warm }]
        };
        assert_eq!(told(&[want(true)], &has(2, false)), role(true));
        assert_eq!(told(&[want(false)], &has(2, false)), []);
        assert_eq!(told(&[want(false)], &has(2, true)), []);
    }

    #[test]
    fn a_region_is_dropped_only_with_its_table() {
        let dropping = BTreeSet::from([REGION.table()]);
        assert_eq!(
            tell(&[], &dropping, &BTreeSet::new(), &has(1, true)),
            [Command::Drop(REGION)]
        );
        assert_eq!(told(&[], &has(1, true)), []);
    }

    #[test]
    fn the_leader_of_the_highest_epoch_is_the_leader() {
        let replicas = [
            (0, Replica::Leading { epoch: 3 }),
            (1, Replica::Leading { epoch: 5 }),
        ];
        assert_eq!(
            region_state(true, &replicas),
            RegionState::Leading { node: 1, epoch: 5 }
        );
        assert_eq!(region_state(true, &[(0, Replica::Away)]), RegionState::NoLeader);
        assert_eq!(
            region_state(false, &[(0, Replica::Missing)]),
            RegionState::Opening
        );
    }
}
