//! That rows are in files, as the leader of several voters tells all of them.

use bytes::Bytes;
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{RegionId, format};
use prost::Message as _;
use raft::eraftpb::Entry;

use super::LogError;

/// Marks the entry, in the context that Raft keeps beside the data.
const MARK: &[u8] = b"trim";

/// Rows up to `through` are in files of a known version of the manifest. Whoever said so, it stays true.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrimEntry {
    pub through: u64,
    /// What takes the place of the entries.
    pub checkpoint: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TrimBytes {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    through: u64,
    #[prost(bytes = "bytes", tag = "3")]
    checkpoint: Bytes,
}

impl TrimEntry {
    pub fn is_one(entry: &Entry) -> bool {
        entry.context == MARK
    }

    /// Context and data of the entry.
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let bytes = TrimBytes {
            format: QUORUM_FORMAT,
            through: self.through,
            checkpoint: self.checkpoint.clone(),
        };
        (MARK.to_vec(), bytes.encode_to_vec())
    }

    pub fn decode(region: RegionId, entry: &Entry) -> Result<Self, LogError> {
        let damaged = |e: &dyn std::fmt::Display| {
            LogError::Corruption(format!("region {region}, entry {}: {e}", entry.index))
        };
        let bytes = TrimBytes::decode(entry.data.clone()).map_err(|e| damaged(&e))?;
        format::check_up_to("a trim", bytes.format, QUORUM_FORMAT).map_err(|e| damaged(&e))?;
        Ok(Self {
            through: bytes.through,
            checkpoint: bytes.checkpoint,
        })
    }
}
