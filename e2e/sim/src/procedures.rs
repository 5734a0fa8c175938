//! Procedures, as the catalog keeps them; nobody begins one here.

use greptime_metasrv_plan::migration::Migration;
use greptime_types::NodeId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Procedure {
    pub format: u32,
    pub id: String,
}

pub struct MigrateNode {
    pub node: NodeId,
}

impl Procedure {
    pub fn has_ended(&self) -> bool {
        true
    }

    pub fn running_migration(&self) -> Option<&Migration> {
        None
    }

    pub fn migrate_node(&self) -> Option<&MigrateNode> {
        None
    }
}
