//! What a region keeps in the log store, so that after a restart it takes writes without reading the bucket.

use bytes::Bytes;
use greptime_types::{Error, Result, TableInfo, format};
use serde::{Deserialize, Serialize};

use crate::defences::Defence;
use crate::requests::RequestTable;
use crate::view::View;

/// The region as of `flushed_seq`: what the trimmed entries had built, except the rows, which are in files.
/// Written in one batch with the trim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub format: u32,
    pub table: TableInfo,
    pub flushed_seq: u64,
    /// A manifest version that is known to exist; the newest may be higher. 0 is none.
    pub manifest_version: u64,
    pub requests: RequestTable,
}

impl Checkpoint {
    /// Of a view that is known to be there, if anything was ever flushed.
    pub fn of(view: &View) -> Option<Self> {
        let flushed = view.flushed.as_ref()?;
        Some(Self {
            format: format::FORMAT_VERSION,
            table: flushed.table.clone(),
            flushed_seq: view.flushed_seq,
            manifest_version: view.version,
            requests: match Defence::CheckpointHasTheIds.holds() {
                true => flushed.requests.clone(),
                false => Default::default(),
            },
        })
    }

    pub fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|e| Error::internal(e.to_string()))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let checkpoint: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::corruption(format!("the region's checkpoint: {e}")))?;
        format::check("the region's checkpoint", checkpoint.format)?;
        Ok(checkpoint)
    }
}
