//! What is persisted of a group beside Raft's hard state.

use bytes::Bytes;
use greptime_types::{RegionId, format};
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, HardState};

use super::{Key, LogError, LogStore};

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
    pub members: ConfState,
    pub trimmed: Position,
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
}

impl GroupRecord {
    pub fn new(raft_id: u64, voters: Vec<u64>) -> Self {
        let members = ConfState {
            voters,
            ..Default::default()
        };
        Self {
            raft_id,
            members,
            trimmed: FIRST_POSITION,
        }
    }

    /// Whether the group needs nobody else to elect and commit.
    pub fn is_alone(&self) -> bool {
        self.members.voters == [self.raft_id] && self.members.voters_outgoing.is_empty()
    }

    pub fn encode(&self) -> Bytes {
        let bytes = GroupBytes {
            format: format::FORMAT_VERSION,
            raft_id: self.raft_id,
            members: encode_raft(&self.members).to_vec(),
            trimmed_index: self.trimmed.index,
            trimmed_term: self.trimmed.term,
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
        format::check("the group record", record.format).map_err(|e| damaged(&e))?;
        Ok(Self {
            raft_id: record.raft_id,
            members: ConfState::parse_from_bytes(&record.members).map_err(|e| damaged(&e))?,
            trimmed: Position {
                index: record.trimmed_index,
                term: record.trimmed_term,
            },
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
