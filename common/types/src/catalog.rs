//! What metasrv keeps of databases and tables. These records are stored and sent as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::FORMAT_VERSION;
use crate::id::{RegionId, TableId};
use crate::partition::PartitionRule;
use crate::schema::TableSchema;

/// The database that exists from the start.
pub const DEFAULT_DATABASE: &str = "public";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseInfo {
    #[serde(default = "current_format")]
    pub format: u32,
    pub name: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// How far a table is on its way. Only `Ready` tables are shown to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Recorded; its regions are being initialised.
    Creating,
    Ready,
    /// Its name is free again; its regions and files are being removed.
    Dropping,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOptions {
    /// Rows are only added; equal identities stay side by side.
    #[serde(default)]
    pub append_mode: bool,
    /// As written by the user, e.g. `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Further options by name, shown back to the user.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableInfo {
    #[serde(default = "current_format")]
    pub format: u32,
    pub id: TableId,
    pub database: String,
    pub name: String,
    pub schema: TableSchema,
    #[serde(default)]
    pub options: TableOptions,
    pub partition: PartitionRule,
    pub state: TableState,
    /// Milliseconds since 1970, by the clock of the metasrv that created it.
    pub created_ms: i64,
}

impl TableInfo {
    /// Regions in the order of their partitions.
    pub fn regions(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.partition
            .partitions
            .iter()
            .map(|p| RegionId::new(self.id, p.region))
    }

    /// `database.table`, as errors and pages show it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }
}

fn current_format() -> u32 {
    FORMAT_VERSION
}
