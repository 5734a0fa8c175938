//! What is persisted of a group beside Raft's hard state.

use std::collections::BTreeMap;

use bytes::Bytes;
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{NodeId, RegionId, format};
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, HardState};

use super::members::{Member, Membership};
use super::snapshot::{members_of, nodes_of};
use super::{Key, LogError, LogStore};
use crate::defences::Defence;

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// The log of a region does not begin at zero: a learner that joins with nothing must not look as if it had the
/// same empty log as the first voters, but must be sent a snapshot.
pub const FIRST_POSITION: Position = Position { index: 1, term: 1 };

/// Identity and members of a group, and how far its log is trimmed. The position survives an empty log.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRecord {
    /// Given by metasrv, never reused.
    pub raft_id: u64,
    /// Empty in a replica that has yet to be sent its first snapshot.
    pub members: ConfState,
    /// Changes of members up to this index are in `members`.
    pub members_index: u64,
    /// Where members live; of a group that has always been alone, nobody needs to know.
    pub nodes: BTreeMap<u64, NodeId>,
    pub trimmed: Position,
    /// What the store has behind `trimmed` is of before a snapshot replaced it, and counts for nothing. The first entry
    /// after it takes this away.
    pub void_tail: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GroupBytes {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    raft_id: u64,
    /// `raft::eraftpb::ConfState`.
    #[prost(bytes = "vec", tag = "3")]
    members: Vec<u8>,
    #[prost(uint64, tag = "4")]
    trimmed_index: u64,
    #[prost(uint64, tag = "5")]
    trimmed_term: u64,
    #[prost(uint64, tag = "6")]
    members_index: u64,
    #[prost(message, repeated, tag = "7")]
    nodes: Vec<Member>,
    #[prost(bool, tag = "8")]
    void_tail: bool,
}

impl GroupRecord {
    /// Of a replica that begins with the group, as one of its first voters.
    pub fn new(raft_id: u64, voters: Vec<u64>, nodes: BTreeMap<u64, NodeId>) -> Self {
        Self {
            raft_id,
            members: ConfState {
                voters,
                ..Default::default()
            },
            members_index: FIRST_POSITION.index,
            nodes,
            trimmed: FIRST_POSITION,
            void_tail: false,
        }
    }

    /// Of a replica that joins a group: it waits to be sent everything.
    pub fn joining(raft_id: u64, nodes: BTreeMap<u64, NodeId>) -> Self {
        Self {
            raft_id,
            members: ConfState::default(),
            members_index: 0,
            nodes,
            trimmed: Position::default(),
            void_tail: false,
        }
    }

    /// A group of one voter that never had another is written as programs have read it that knew no other. One that is left
    /// alone has to know which changes of members in its log are void.
    fn format(&self) -> u32 {
        let had_others =
            self.members_index > FIRST_POSITION.index && Defence::SurvivorKnowsWhatIsVoid.holds();
        let is_simple = self.nodes.is_empty()
            && !had_others
            && self.members.voters == [self.raft_id]
            && self.members.voters_outgoing.is_empty()
            && self.members.learners.is_empty();
        match is_simple {
            true => format::FORMAT_VERSION,
            false => QUORUM_FORMAT,
        }
    }

    /// Forgets where those live who are no members any more.
    pub fn forget_strangers(&mut self) {
        let membership = Membership::of(&self.members, &BTreeMap::new());
        self.nodes.retain(|id, _| membership.has(*id));
    }

    pub fn encode(&self) -> Bytes {
        let format = self.format();
        let bytes = GroupBytes {
            format,
            raft_id: self.raft_id,
            members: encode_raft(&self.members).to_vec(),
            trimmed_index: self.trimmed.index,
            trimmed_term: self.trimmed.term,
            members_index: match format {
                QUORUM_FORMAT => self.members_index,
                _ => 0,
            },
            nodes: members_of(&self.nodes),
            void_tail: self.void_tail,
        };
        bytes.encode_to_vec().into()
    }

    pub fn load(store: &dyn LogStore, region: RegionId) -> Result<Self, LogError> {
        let damaged =
            |e: &dyn std::fmt::Display| LogError::Corruption(format!("group of region {region}: {e}"));
        let bytes = store
            .get(region, Key::Group)?
            .ok_or_else(|| damaged(&"it is missing"))?;
        let record = GroupBytes::decode(bytes).map_err(|e| damaged(&e))?;
        format::check_up_to("the group record", record.format, QUORUM_FORMAT).map_err(|e| damaged(&e))?;
        Ok(Self {
            raft_id: record.raft_id,
            members: ConfState::parse_from_bytes(&record.members).map_err(|e| damaged(&e))?,
            members_index: record.members_index,
            nodes: nodes_of(&record.nodes),
            trimmed: Position {
                index: record.trimmed_index,
                term: record.trimmed_term,
            },
            void_tail: record.void_tail,
        })
    }
}

pub fn load_hard_state(store: &dyn LogStore, region: RegionId) -> Result<HardState, LogError> {
    match store.get(region, Key::HardState)? {
        None => Ok(HardState::default()),
        Some(bytes) => HardState::parse_from_bytes(&bytes)
            .map_err(|e| LogError::Corruption(format!("hard state of region {region}: {e}"))),
    }
}

/// Encodes a message of Raft. Its messages have no required fields, so this cannot fail.
pub fn encode_raft(message: &impl protobuf::Message) -> Bytes {
    message
        .write_to_bytes()
        .expect("messages of raft have no required fields")
        .into()
}
