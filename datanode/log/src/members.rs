//! Who belongs to a group, where they live, and how that changes.

use std::collections::{BTreeMap, BTreeSet};

use greptime_types::NodeId;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

/// One replica of a region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Member {
    /// Given by metasrv, never reused.
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
    #[prost(uint64, tag = "2")]
    pub node: NodeId,
}

/// What a change of members is to make of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is sent everything, and has no vote.
    AddLearner(Member),
    /// It votes.
    AddVoter(Member),
    /// It is not a member any more.
    Remove { raft_id: u64 },
}

/// The changes as Raft takes them: all of them in one step. Several of them at once go over a joint configuration, which
/// the leader leaves as soon as it is in force.
pub(crate) fn conf_change(changes: &[Change]) -> ConfChangeV2 {
    let mut all = ConfChangeV2::default();
    all.set_transition(ConfChangeTransition::Explicit);
    for change in changes {
        let (kind, raft_id) = match change {
            Change::AddLearner(member) => (ConfChangeType::AddLearnerNode, member.raft_id),
            Change::AddVoter(member) => (ConfChangeType::AddNode, member.raft_id),
            Change::Remove { raft_id } => (ConfChangeType::RemoveNode, *raft_id),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = raft_id;
        all.changes.push(single);
    }
    if changes.len() == 1 {
        all.set_transition(ConfChangeTransition::Auto);
    }
    all
}

/// Where the members that the changes bring live; it travels with the entry.
pub(crate) fn places(changes: &[Change]) -> Vec<Member> {
    let member = |change: &Change| match change {
        Change::AddLearner(member) | Change::AddVoter(member) => Some(*member),
        Change::Remove { .. } => None,
    };
    changes.iter().filter_map(member).collect()
}

/// Who votes, and who is only sent everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    /// A change of several members is half done: both sets must agree.
    pub is_joint: bool,
    /// Where those live of whom it is known.
    pub nodes: BTreeMap<u64, NodeId>,
}

impl Membership {
    pub(crate) fn of(state: &ConfState, nodes: &BTreeMap<u64, NodeId>) -> Self {
        let voters = state.voters.iter().chain(&state.voters_outgoing);
        let learners = state.learners.iter().chain(&state.learners_next);
        Self {
            voters: voters.copied().collect(),
            learners: learners.copied().collect(),
            is_joint: !state.voters_outgoing.is_empty(),
            nodes: nodes.clone(),
        }
    }

    /// Whether `raft_id` votes or learns.
    pub fn has(&self, raft_id: u64) -> bool {
        self.voters.contains(&raft_id) || self.learners.contains(&raft_id)
    }

    /// Whether `raft_id` needs nobody else to elect itself and to commit.
    pub fn is_alone(&self, raft_id: u64) -> bool {
        self.voters.len() == 1 && self.voters.contains(&raft_id) && !self.is_joint
    }
}
