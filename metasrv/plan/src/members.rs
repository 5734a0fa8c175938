//! How the members of a group become those that are recorded for its region, step by step.
//!
//! Level-triggered: the record says who should be a member, the leader's report says who is. The same comparison serves a
//! region that gets its second and third replica, one whose datanode is gone for good, and one that moves. A group is
//! never left with two voters: whoever comes learns first, and then all that come and go do so in one change.

use std::collections::BTreeSet;
use std::fmt;

use greptime_types::NodeId;

use crate::Defence;
use crate::assignment::Member;

/// A region's members as recorded and as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Who should be a member, in the order of preference for leading.
    pub recorded: Vec<Member>,
    /// Who leads, and what it says of its group; `None` while nobody serves.
    pub led: Option<Led>,
    /// How far the logs of members reach, of those that say so: raft id and last index.
    pub reached: Vec<(u64, u64)>,
}

/// A leader's view of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Led {
    pub raft_id: u64,
    pub epoch: u64,
    pub last_index: u64,
    /// Raft ids; while a change of several is under way, those of before and after.
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
}

impl Led {
    /// Whether the replica votes or learns.
    pub fn has(&self, raft_id: u64) -> bool {
        self.voters.contains(&raft_id) || self.learners.contains(&raft_id)
    }

    /// The same of a replica that is not the leader.
    pub fn has_beside_itself(&self, raft_id: u64) -> bool {
        self.raft_id != raft_id && self.has(raft_id)
    }
}

/// What to tell the leader now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberStep {
    Nothing(Waiting),
    /// These get everything, and have no vote yet.
    AddLearners(Vec<Member>),
    /// These get a vote, and others leave, in one change.
    Promote {
        voters: Vec<Member>,
        remove: Vec<u64>,
    },
    /// The leader is to leave; this one leads first.
    HandOver {
        to: Member,
    },
}

/// Why there is nothing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The members are those that are recorded.
    Settled,
    NobodyLeads,
    /// These have yet to open the region.
    ToJoin(Vec<NodeId>),
    /// These have yet to be sent what there is.
    ToCatchUp(Vec<NodeId>),
    /// Nobody else who stays can lead.
    NobodyElse,
    /// The leader has been told, and has yet to do it.
    Changing,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => f.write_str("its members are as recorded"),
            Self::NobodyLeads => f.write_str("its members change when somebody leads"),
            Self::ToJoin(nodes) => write!(f, "datanodes {nodes:?} have yet to open it"),
            Self::ToCatchUp(nodes) => write!(f, "datanodes {nodes:?} have yet to be sent what there is"),
            Self::NobodyElse => f.write_str("its leader is to leave, and nobody else can lead"),
            Self::Changing => f.write_str("its members are changing"),
        }
    }
}

/// What a replica says of its group.
#[derive(Clone, Copy, Debug)]
pub struct Said<V> {
    pub member: Member,
    /// Term and index of its last entry.
    pub position: (u64, u64),
    /// Raft ids, as of the last change that it knows; empty if it knows none.
    pub voters: V,
}

/// Who has a vote in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    /// With their places in the record; those who are not recorded any more come behind all who are.
    pub voters: Vec<(usize, Member)>,
    /// How many others have one, of whom nothing is known.
    pub strangers: usize,
}

/// Who votes: what the replica with the longest log says, and what is recorded as long as nobody says anything. Who is
/// recorded may be learning still, and who is not may not have left.
pub fn who_votes<'a, V>(recorded: &[Member], said: &[Said<V>]) -> Electorate
where
    V: IntoIterator<Item = &'a u64> + Copy,
{
    let knows = |said: &&Said<V>| said.voters.into_iter().next().is_some();
    let newest = said.iter().filter(knows).max_by_key(|s| s.position);
    let Some(newest) = newest.filter(|_| Defence::GroupSaysWhoVotes.holds()) else {
        return Electorate {
            voters: recorded.iter().copied().enumerate().collect(),
            strangers: 0,
        };
    };
    let (mut voters, mut strangers) = (Vec::new(), 0);
    for id in newest.voters {
        let place = recorded.iter().position(|m| m.raft_id == *id);
        let others = said.iter().map(|s| s.member);
        match (place, others.into_iter().find(|m| m.raft_id == *id)) {
            (Some(place), _) => voters.push((place, recorded[place])),
            (None, Some(member)) => voters.push((recorded.len(), member)),
            (None, None) => strangers += 1,
        }
    }
    voters.sort_by_key(|(place, member)| (*place, member.raft_id));
    Electorate { voters, strangers }
}

/// Whether a replica that does not have the region is to join it: it is recorded, and was never a member.
pub fn joins(member: &Member, led: Option<&Led>) -> bool {
    led.is_some_and(|led| !led.has(member.raft_id) || !Defence::OnlyNewcomersJoin.holds())
}

/// The next step of a region's group. `lag`: a learner that lacks at most so many entries of the leader's gets a vote.
pub fn step(region: &Membership, lag: u64) -> MemberStep {
    let Some(led) = &region.led else {
        return MemberStep::Nothing(Waiting::NobodyLeads);
    };
    let reached = |member: &Member| {
        let found = region.reached.iter().find(|(id, _)| *id == member.raft_id);
        found.map(|(_, index)| *index)
    };
    let coming: Vec<Member> = recorded(region, |m| !led.voters.contains(&m.raft_id));
    let leaving: Vec<u64> = led
        .voters
        .iter()
        .chain(&led.learners)
        .filter(|id| region.recorded.iter().all(|m| m.raft_id != **id))
        .copied()
        .collect();
    if coming.is_empty() && leaving.is_empty() {
        return MemberStep::Nothing(Waiting::Settled);
    }
    let is_strange = |m: &&Member| !led.learners.contains(&m.raft_id) && Defence::NewcomersLearnFirst.holds();
    let strangers: Vec<Member> = coming.iter().filter(is_strange).copied().collect();
    let open: Vec<Member> = strangers
        .iter()
        .filter(|m| reached(m).is_some())
        .copied()
        .collect();
    if !open.is_empty() {
        return MemberStep::AddLearners(open);
    }
    if !strangers.is_empty() {
        return MemberStep::Nothing(Waiting::ToJoin(nodes(&strangers)));
    }
    let behind = |m: &&Member| reached(m).is_none_or(|index| index.saturating_add(lag) < led.last_index);
    let late: Vec<Member> = coming.iter().filter(behind).copied().collect();
    if !late.is_empty() && Defence::LearnersCatchUpFirst.holds() {
        return MemberStep::Nothing(Waiting::ToCatchUp(nodes(&late)));
    }
    if leaving.contains(&led.raft_id) && Defence::LeaderHandsOverFirst.holds() {
        return hand_over(region, led, reached, lag);
    }
    MemberStep::Promote {
        voters: coming,
        remove: leaving,
    }
}

/// What the members wait for; [`Waiting::Changing`] while there is something to tell the leader.
pub fn waits(region: &Membership, lag: u64) -> Waiting {
    match step(region, lag) {
        MemberStep::Nothing(waits) => waits,
        _ => Waiting::Changing,
    }
}

/// A leader that is to leave hands over to a voter that stays; if all who stay are still learners, they get their vote
/// first, and it leaves afterwards.
fn hand_over(
    region: &Membership,
    led: &Led,
    reached: impl Fn(&Member) -> Option<u64>,
    lag: u64,
) -> MemberStep {
    let keeps_up = |m: &Member| reached(m).is_some_and(|index| index.saturating_add(lag) >= led.last_index);
    let heirs = recorded(region, |m| led.voters.contains(&m.raft_id) && keeps_up(m));
    if let Some(to) = heirs.first() {
        return MemberStep::HandOver { to: *to };
    }
    let learned = recorded(region, |m| led.learners.contains(&m.raft_id));
    match learned.is_empty() {
        true => MemberStep::Nothing(Waiting::NobodyElse),
        false => MemberStep::Promote {
            voters: learned,
            remove: vec![],
        },
    }
}

fn recorded(region: &Membership, wanted: impl Fn(&Member) -> bool) -> Vec<Member> {
    region.recorded.iter().filter(|m| wanted(m)).copied().collect()
}

fn nodes(members: &[Member]) -> Vec<NodeId> {
    members.iter().map(|m| m.node).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAG: u64 = 10;

    fn member(id: u64) -> Member {
        Member {
            raft_id: id,
            node: 100 + id,
        }
    }

    fn members(ids: &[u64]) -> Vec<Member> {
        ids.iter().map(|id| member(*id)).collect()
    }

    fn region(recorded: &[u64], voters: &[u64], learners: &[u64], reached: &[(u64, u64)]) -> Membership {
        Membership {
            recorded: members(recorded),
            led: Some(Led {
                raft_id: voters[0],
                epoch: 3,
                last_index: 100,
                voters: voters.iter().copied().collect(),
                learners: learners.iter().copied().collect(),
            }),
            reached: reached.to_vec(),
        }
    }

    #[test]
    fn one_voter_becomes_three() {
        let at = |learners: &[u64], reached: &[(u64, u64)]| {
            step(&region(&[1, 2, 3], &[1], learners, reached), LAG)
        };
        let waits = |why| MemberStep::Nothing(why);
        assert_eq!(at(&[], &[(1, 100)]), waits(Waiting::ToJoin(vec![102, 103])));
        assert_eq!(
            at(&[], &[(1, 100), (2, 0)]),
            MemberStep::AddLearners(members(&[2]))
        );
        assert_eq!(at(&[2], &[(1, 100), (2, 100)]), waits(Waiting::ToJoin(vec![103])));
        assert_eq!(
            at(&[2, 3], &[(2, 100), (3, 89)]),
            waits(Waiting::ToCatchUp(vec![103]))
        );
        let promote = MemberStep::Promote {
            voters: members(&[2, 3]),
            remove: vec![],
        };
        assert_eq!(at(&[2, 3], &[(2, 100), (3, 90)]), promote);
        let settled = region(&[1, 2, 3], &[1, 2, 3], &[], &[]);
        assert_eq!(step(&settled, LAG), waits(Waiting::Settled));
    }

    #[test]
    fn a_member_is_replaced_in_one_change_and_a_leader_hands_over_before() {
        let replaced = step(&region(&[1, 2, 4], &[1, 2, 3], &[4], &[(2, 100), (4, 100)]), LAG);
        let promote = MemberStep::Promote {
            voters: members(&[4]),
            remove: vec![3],
        };
        assert_eq!(replaced, promote);
        let leader = step(&region(&[2, 3, 4], &[1, 2, 3], &[4], &[(2, 100), (4, 100)]), LAG);
        assert_eq!(leader, MemberStep::HandOver { to: member(2) });
        // Nobody who stays has a vote yet.
        let moved = step(&region(&[2], &[1], &[2], &[(2, 100)]), LAG);
        let promote = MemberStep::Promote {
            voters: members(&[2]),
            remove: vec![],
        };
        assert_eq!(moved, promote);
    }

    #[test]
    fn who_votes_is_what_the_longest_log_says() {
        let said = |id: u64, position: u64, voters: &'static [u64]| Said {
            member: member(id),
            position: (3, position),
            voters,
        };
        let recorded = members(&[4, 2, 3]);
        let nobody = who_votes(&recorded, &[said(2, 9, &[])]);
        assert_eq!(nobody.voters.len(), 3, "as recorded");
        // 4 is recorded and learns; 1 is not, and has not left; nothing is known of 5.
        let told = [said(1, 7, &[1, 2]), said(2, 9, &[1, 2, 3, 5]), said(4, 0, &[])];
        let expected = Electorate {
            voters: vec![(1, member(2)), (2, member(3)), (3, member(1))],
            strangers: 1,
        };
        assert_eq!(who_votes(&recorded, &told), expected);
    }

    /// Its record outlives its disk: such a replica would vote again in terms in which it has voted.
    #[test]
    fn who_was_a_member_does_not_join_again() {
        let region = region(&[1, 2, 3], &[1, 2], &[3], &[]);
        let led = region.led.as_ref();
        let joining: Vec<u64> = (1..=4).filter(|id| joins(&member(*id), led)).collect();
        assert_eq!(joining, [4]);
        assert!(
            !joins(&member(4), None),
            "nobody leads, so nobody knows who was one"
        );
    }

    #[test]
    fn nobody_is_told_anything_while_nobody_leads() {
        let mut region = region(&[1, 2], &[1], &[], &[]);
        region.led = None;
        assert_eq!(step(&region, LAG), MemberStep::Nothing(Waiting::NobodyLeads));
    }

    proptest! {
        /// Carried out step by step, with whatever leader, the members come to be those that are recorded, and never
        /// fewer than a majority of any change has what the leader has.
        #[test]
        fn members_come_to_be_those_that_are_recorded(
            recorded in prop::sample::subsequence(vec![1u64, 2, 3, 4, 5, 6], 1..=3),
            first in prop::sample::subsequence(vec![1u64, 2, 3, 4], 1..=3),
        ) {
            let all: Vec<(u64, u64)> = (1..=6).map(|id| (id, 100)).collect();
            let mut now = region(&recorded, &first, &[], &all);
            for _ in 0..10 {
                let next = step(&now, LAG);
                let led = now.led.as_mut().unwrap();
                match next {
                    MemberStep::Nothing(why) => {
                        prop_assert_eq!(why, Waiting::Settled);
                        let wanted: BTreeSet<u64> = recorded.iter().copied().collect();
                        prop_assert_eq!(&led.voters, &wanted);
                        prop_assert!(led.learners.is_empty());
                        return Ok(());
                    }
                    MemberStep::AddLearners(new) => led.learners.extend(new.iter().map(|m| m.raft_id)),
                    MemberStep::HandOver { to } => led.raft_id = to.raft_id,
                    MemberStep::Promote { voters, remove } => {
                        prop_assert!(!remove.contains(&led.raft_id));
                        for member in voters {
                            prop_assert!(led.learners.remove(&member.raft_id));
                            led.voters.insert(member.raft_id);
                        }
                        led.voters.retain(|id| !remove.contains(id));
                        led.learners.retain(|id| !remove.contains(id));
                    }
                }
            }
            prop_assert!(false, "it never settles");
        }
    }
}
