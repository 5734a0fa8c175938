//! What a replica is sent whose next entry has been trimmed: where the region stands in files. No row travels.

use std::collections::BTreeMap;

use bytes::Bytes;
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{NodeId, RegionId, format};
use prost::Message as _;

use super::LogError;
use super::members::Member;

/// The data of a snapshot of Raft. Its rows are as of the trimmed position; its members are those of now, since a
/// replica that has joined since must find itself among them.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotData {
    /// [`super::Key::Checkpoint`] of the sender.
    pub checkpoint: Bytes,
    /// Changes of members up to this index are in the snapshot's members already, though their entries follow.
    pub members_index: u64,
    pub nodes: BTreeMap<u64, NodeId>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotBytes {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(bytes = "bytes", tag = "2")]
    checkpoint: Bytes,
    #[prost(uint64, tag = "3")]
    members_index: u64,
    #[prost(message, repeated, tag = "4")]
    nodes: Vec<Member>,
}

impl SnapshotData {
    pub fn encode(&self) -> Bytes {
        let bytes = SnapshotBytes {
            format: QUORUM_FORMAT,
            checkpoint: self.checkpoint.clone(),
            members_index: self.members_index,
            nodes: members_of(&self.nodes),
        };
        bytes.encode_to_vec().into()
    }

    pub fn decode(region: RegionId, data: Bytes) -> Result<Self, LogError> {
        let damaged =
            |e: &dyn std::fmt::Display| LogError::Corruption(format!("snapshot of region {region}: {e}"));
        let bytes = SnapshotBytes::decode(data).map_err(|e| damaged(&e))?;
        format::check_up_to("a snapshot", bytes.format, QUORUM_FORMAT).map_err(|e| damaged(&e))?;
        Ok(Self {
            checkpoint: bytes.checkpoint,
            members_index: bytes.members_index,
            nodes: nodes_of(&bytes.nodes),
        })
    }
}

pub(crate) fn nodes_of(members: &[Member]) -> BTreeMap<u64, NodeId> {
    members.iter().map(|m| (m.raft_id, m.node)).collect()
}

pub(crate) fn members_of(nodes: &BTreeMap<u64, NodeId>) -> Vec<Member> {
    let member = |(raft_id, node): (&u64, &NodeId)| Member {
        raft_id: *raft_id,
        node: *node,
    };
    nodes.iter().map(member).collect()
}
