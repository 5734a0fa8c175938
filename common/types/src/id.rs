//! Identities. All of them are never reused, so that a late message can only ever miss.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Number of a table; unique in a cluster, never reused.
pub type TableId = u32;

/// Stable number of a node within its role: the ordinal of its StatefulSet pod, or `--node-id`.
pub type NodeId = u64;

/// Random id of the database cluster, minted once and kept in metasrv's store and on the bucket.
pub type ClusterId = String;

/// A region: 32 bits of table id, 32 bits of region number. Shown as `table:number`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionId(u64);

impl RegionId {
    pub const fn new(table: TableId, number: u32) -> Self {
        Self(((table as u64) << 32) | number as u64)
    }

    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub const fn table(self) -> TableId {
        (self.0 >> 32) as u32
    }

    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table(), self.number())
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RegionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("`{text}` is not a region id; write `table_id:number`"));
        let (table, number) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Self::new(
            table.parse().map_err(|_| invalid())?,
            number.parse().map_err(|_| invalid())?,
        ))
    }
}

impl TryFrom<String> for RegionId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RegionId> for String {
    fn from(id: RegionId) -> Self {
        id.to_string()
    }
}

/// Names one write of one frontend, so that a retried write is applied once.
///
/// `incarnation` is random and made at the start of the frontend process; `number` counts its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    pub incarnation: u64,
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    Metasrv,
    Datanode,
    Frontend,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metasrv => "metasrv",
            Self::Datanode => "datanode",
            Self::Frontend => "frontend",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_id_is_shown_and_read_as_table_and_number() {
        let id = RegionId::new(1024, 7);
        assert_eq!(id.to_string(), "1024:7");
        assert_eq!("1024:7".parse::<RegionId>().unwrap(), id);
        assert_eq!(RegionId::from_u64(id.as_u64()), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"1024:7\"");
    }

    #[test]
    fn a_wrong_region_id_says_how_to_write_it() {
        for text in ["", "7", "a:b", "1:", "1:-1"] {
            let error = text.parse::<RegionId>().unwrap_err();
            assert!(error.to_string().contains("table_id:number"), "{error}");
        }
    }
}
