//! Procedures, as the catalog keeps them: regions that move.

use greptime_metasrv_plan::migration::Migration;
use greptime_types::NodeId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Procedure {
    pub format: u32,
    pub id: String,
    /// What is not done by then is undone.
    pub deadline_ms: i64,
    pub migration: Migration,
}

/// Nobody empties a datanode here.
pub struct MigrateNode {
    pub node: NodeId,
}

impl Procedure {
    pub fn has_ended(&self) -> bool {
        self.migration.phase.has_ended()
    }

    pub fn running_migration(&self) -> Option<&Migration> {
        Some(&self.migration).filter(|m| !m.phase.has_ended())
    }

    pub fn migrate_node(&self) -> Option<&MigrateNode> {
        None
    }
}
