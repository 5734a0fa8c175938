use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::members::{Led, MemberStep, step};

const LAG: u64 = 10;
const REGION: RegionId = RegionId::new(7, 0);

fn member(id: u64) -> Member {
    Member {
        raft_id: id,
        node: 100 + id,
    }
}

/// Replica 1 goes; 4 comes, or the other member 3 takes its place.
fn migration(is_new: bool, phase: Phase) -> Migration {
    let comes = if is_new { 4 } else { 3 };
    Migration {
        region: REGION,
        from: 101,
        to: 100 + comes,
        leaves: 1,
        comes,
        is_new,
        phase,
    }
}

/// A group as it is, and what is recorded of it.
#[derive(Clone, Debug)]
struct World {
    migration: Migration,
    recorded: Vec<Member>,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    leader: Option<u64>,
    dead: BTreeSet<u64>,
    is_hot: bool,
    is_warm: bool,
    is_lost: bool,
    is_unwell: bool,
    give_up: Option<String>,
}

impl World {
    fn new(is_new: bool, leader: u64) -> Self {
        let migration = migration(is_new, Phase::Joining);
        let recorded = [1, 2, 3].map(member).to_vec();
        Self {
            recorded: migration.members_in(Phase::Joining, &recorded),
            migration,
            voters: [1, 2, 3].into(),
            learners: BTreeSet::new(),
            leader: Some(leader),
            dead: BTreeSet::new(),
            is_hot: false,
            is_warm: false,
            is_lost: false,
            is_unwell: false,
            give_up: None,
        }
    }

    fn membership(&self) -> Membership {
        let all = self.recorded.iter().map(|m| m.raft_id);
        Membership {
            recorded: self.recorded.clone(),
            led: self.leader.map(|raft_id| Led {
                raft_id,
                epoch: 3,
                last_index: 100,
                voters: self.voters.clone(),
                learners: self.learners.clone(),
            }),
            reached: all
                .filter(|id| !self.dead.contains(id))
                .map(|id| (id, 100))
                .collect(),
        }
    }

    fn next(&self) -> Next {
        let comes = self.migration.comes;
        let is_target_alive = !self.dead.contains(&comes);
        let membership = self.membership();
        let waits = match step(&membership, LAG) {
            MemberStep::Nothing(waits) => waits,
            _ => Waiting::NobodyElse,
        };
        let seen = Seen {
            membership,
            target: is_target_alive.then_some(Target {
                is_hot: self.is_hot,
                is_warm: self.is_warm,
            }),
            is_target_alive,
            is_target_well: !self.is_unwell,
            is_target_lost: self.is_lost,
            give_up: self.give_up.clone(),
        };
        self.migration.next(&seen, &waits)
    }

    fn enter(&mut self, phase: Phase) {
        self.recorded = self.migration.members_in(phase, &self.recorded);
        self.migration.phase = phase;
    }

    /// Raft and metasrv's other hands do what is to be done.
    fn settle(&mut self) {
        self.is_warm = self.is_hot && self.migration.must_be_hot();
        self.is_hot = self.migration.must_be_hot();
        let alive = |id: &u64| !self.dead.contains(id);
        if self.leader.is_none_or(|l| !alive(&l)) {
            self.leader = self.voters.iter().copied().find(|id| alive(id));
        }
        match step(&self.membership(), LAG) {
            MemberStep::Nothing(_) => {}
            MemberStep::AddLearners(new) => self.learners.extend(new.iter().map(|m| m.raft_id)),
            MemberStep::HandOver { to } => self.leader = Some(to.raft_id),
            MemberStep::Promote { voters, remove } => {
                self.voters.extend(voters.iter().map(|m| m.raft_id));
                for gone in voters.iter().map(|m| m.raft_id).chain(remove.iter().copied()) {
                    self.learners.remove(&gone);
                }
                self.voters.retain(|id| !remove.contains(id));
            }
        }
    }

    /// One look: what is due is recorded or done.
    fn turn(&mut self) {
        match self.next() {
            Next::Wait(_) => {}
            Next::HandOver => self.leader = Some(self.migration.comes),
            Next::Enter(phase) => self.enter(phase),
            Next::Abort(_) => self.enter(Phase::Aborting),
        }
        self.settle();
    }
}

fn nodes(members: &[Member]) -> Vec<u64> {
    members.iter().map(|m| m.raft_id).collect()
}

/// The phases that a migration goes through when nothing happens.
fn phases(mut world: World) -> (Vec<Phase>, World) {
    let mut phases = vec![world.migration.phase];
    for _ in 0..30 {
        world.turn();
        if phases.last() != Some(&world.migration.phase) {
            phases.push(world.migration.phase);
        }
    }
    (phases, world)
}

#[test]
fn a_leader_moves_to_a_datanode_that_had_nothing() {
    let (phases, world) = phases(World::new(true, 1));
    let expected = [
        Phase::Joining,
        Phase::Warming,
        Phase::HandingOver,
        Phase::Leaving,
        Phase::Done,
    ];
    assert_eq!(phases, expected);
    assert_eq!((world.leader, nodes(&world.recorded)), (Some(4), vec![4, 2, 3]));
    assert_eq!(world.voters, [2, 3, 4].into());
}

#[test]
fn a_follower_moves_without_anything_being_handed_over() {
    let (phases, world) = phases(World::new(true, 2));
    assert_eq!(phases, [Phase::Joining, Phase::Leaving, Phase::Done]);
    assert_eq!((world.leader, nodes(&world.recorded)), (Some(2), vec![4, 2, 3]));
}

#[test]
fn leadership_moves_to_another_member_and_their_places_are_changed() {
    let (phases, world) = phases(World::new(false, 1));
    let expected = [Phase::Joining, Phase::Warming, Phase::HandingOver, Phase::Done];
    assert_eq!(phases, expected);
    assert_eq!((world.leader, nodes(&world.recorded)), (Some(3), vec![3, 2, 1]));
}

/// The last in the record leads, because the others could not.
fn led_by_the_last(is_new: bool) -> World {
    let mut world = World::new(is_new, 1);
    world.recorded.retain(|m| m.raft_id != 1);
    let place = world.recorded.iter().position(|m| m.raft_id == 4);
    let place = place.unwrap_or(world.recorded.len());
    world.recorded.insert(place, member(1));
    world
}

#[test]
fn whoever_was_handed_over_to_is_not_less_preferred_than_the_source() {
    let (_, world) = phases(led_by_the_last(false));
    assert_eq!((world.leader, nodes(&world.recorded)), (Some(3), vec![2, 3, 1]));
    let (_, world) = phases(led_by_the_last(true));
    assert_eq!((world.leader, nodes(&world.recorded)), (Some(4), vec![4, 2, 3]));
}

#[test]
fn nothing_is_handed_over_to_somebody_who_is_not_ready() {
    let mut world = World::new(true, 1);
    world.voters.insert(4);
    world.enter(Phase::Warming);
    assert_eq!(world.next(), Next::Wait(WaitingFor::ToApply(104)));
    world.is_hot = true;
    assert_eq!(world.next(), Next::Wait(WaitingFor::ToWarm(104)));
    world.dead.insert(4);
    assert_eq!(world.next(), Next::Wait(WaitingFor::Target(104)));
    world.dead.clear();
    world.is_warm = true;
    assert_eq!(world.next(), Next::Enter(Phase::HandingOver));
    world.enter(Phase::HandingOver);
    assert_eq!(world.next(), Next::HandOver);
    world.dead.insert(4);
    assert_eq!(world.next(), Next::Wait(WaitingFor::Target(104)));
    world.dead.clear();
    // It would have to hand back at once.
    world.is_unwell = true;
    assert_eq!(world.next(), Next::Wait(WaitingFor::ToBeWell(104)));
    world.is_unwell = false;
    world.is_hot = false;
    assert_eq!(world.next(), Next::Wait(WaitingFor::ToApply(104)));
}

#[test]
fn a_target_without_its_disk_is_given_up_until_it_has_been_handed_over_to() {
    let mut world = World::new(true, 1);
    world.voters.insert(4);
    world.is_lost = true;
    for phase in [Phase::Joining, Phase::Warming, Phase::HandingOver] {
        world.migration.phase = phase;
        assert!(matches!(world.next(), Next::Abort(why) if why == "the replica on datanode 104 was lost"));
    }
    world.enter(Phase::Leaving);
    assert!(matches!(world.next(), Next::Wait(WaitingFor::Members(_))));
}

#[test]
fn nobody_gets_a_second_replica_after_a_repair() {
    let mut world = World::new(true, 1);
    world.migration.phase = Phase::Waiting;
    world.recorded = [1, 2].map(member).to_vec();
    world.recorded.push(Member {
        raft_id: 5,
        node: 104,
    });
    assert_eq!(
        world.next(),
        Next::Abort("datanode 104 got another replica meanwhile".into())
    );
}

#[test]
fn a_source_that_is_gone_is_left_at_once() {
    let mut world = World::new(true, 2);
    world.dead.insert(1);
    world.recorded = [1, 2, 3].map(member).to_vec();
    world.enter(Phase::Leaving);
    let (phases, world) = phases(world);
    assert_eq!(phases, [Phase::Leaving, Phase::Done]);
    assert_eq!(world.voters, [2, 3, 4].into());
}

#[test]
fn whoever_leads_is_not_taken_back_and_who_left_is_not_kept() {
    let mut world = World::new(true, 1);
    world.voters.insert(4);
    world.enter(Phase::HandingOver);
    world.leader = Some(4);
    world.give_up = Some("it takes too long".into());
    assert_eq!(world.next(), Next::Enter(Phase::Leaving));
    world.recorded.retain(|m| m.raft_id != 1);
    assert!(matches!(world.next(), Next::Abort(why) if why.contains("101")));
}

#[test]
fn an_emptied_datanode_gives_its_replicas_to_whoever_has_room_or_at_least_its_leaders() {
    let candidate = |node, alive, leaders| Candidate {
        node,
        alive,
        zone: None,
        replicas: 1,
        leaders,
    };
    let members = [1, 2, 3].map(member);
    let full = [
        candidate(101, true, 0),
        candidate(102, true, 5),
        candidate(103, true, 2),
    ];
    assert_eq!(refuge(&members, 101, true, &full), Refuge::Leadership(member(3)));
    assert_eq!(refuge(&members, 101, false, &full), Refuge::Stays);
    let roomy = [&full[..], &[candidate(104, true, 0)]].concat();
    assert_eq!(refuge(&members, 101, true, &roomy), Refuge::Replica(104));
    let dead = [&full[..], &[candidate(104, false, 0)]].concat();
    assert_eq!(refuge(&members, 101, false, &dead), Refuge::Stays);
    assert_eq!(refuge(&members[..1], 101, true, &full[..1]), Refuge::NobodyElse);
}

#[derive(Clone, Debug)]
enum Event {
    Die(u64),
    Live(u64),
    GiveUp,
    Lead(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1u64..=4).prop_map(Event::Die),
        (1u64..=4).prop_map(Event::Live),
        (1u64..=4).prop_map(Event::Lead),
        Just(Event::GiveUp),
    ]
}

proptest! {
    /// Whatever happens between its steps, a migration ends, with three members that vote and one of the two replicas
    /// among them, and the region is never without a majority that it had.
    #[test]
    fn a_migration_ends_with_a_whole_group(
        is_new in any::<bool>(),
        events in prop::collection::vec((0usize..25, event()), 0..6),
    ) {
        let mut world = World::new(is_new, 1);
        for turn in 0..120 {
            for (_, event) in events.iter().filter(|(at, _)| *at == turn) {
                match event {
                    // One at a time: two of three is another matter.
                    Event::Die(id) => world.dead = [*id].into(),
                    Event::Live(id) => drop(world.dead.remove(id)),
                    Event::GiveUp => world.give_up = Some("a person wants it undone".into()),
                    Event::Lead(id) if world.voters.contains(id) && !world.dead.contains(id) => {
                        world.leader = Some(*id);
                    }
                    Event::Lead(_) => {}
                }
            }
            if turn == 60 {
                world.dead.clear();
            }
            let before = world.migration.phase;
            world.turn();
            let after = world.migration.phase;
            prop_assert!(!before.has_ended() || after == before);
            prop_assert!(world.voters.len() >= 3);
            prop_assert!(world.recorded.len() >= 3 && world.recorded.len() <= 4);
        }
        let has = |id: u64| world.voters.contains(&id);
        prop_assert!(world.migration.phase.has_ended(), "{world:?}");
        prop_assert_eq!(world.voters.len(), 3);
        prop_assert!(world.learners.is_empty());
        let recorded: BTreeSet<u64> = world.recorded.iter().map(|m| m.raft_id).collect();
        prop_assert_eq!(&recorded, &world.voters);
        if is_new {
            prop_assert_eq!(has(4), world.migration.phase == Phase::Done);
            prop_assert_eq!(has(1), world.migration.phase == Phase::Aborted);
        }
    }
}
