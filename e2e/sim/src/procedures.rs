//! Procedures, as the catalog keeps them: regions that move, and regions that go on with one replica.

use greptime_metasrv_plan::migration::Migration;
use greptime_types::{NodeId, RegionId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Procedure {
    pub format: u32,
    pub id: String,
    /// What is not done by then is undone.
    pub deadline_ms: i64,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Move(Migration),
    Recover(Recovery),
}

/// Of a group that has lost its majority one replica goes on alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub region: RegionId,
    pub node: NodeId,
    pub raft_id: u64,
    pub seen_term: u64,
    pub has_ended: bool,
}

/// Nobody empties a datanode here.
pub struct MigrateNode {
    pub node: NodeId,
}

impl Procedure {
    pub fn has_ended(&self) -> bool {
        match &self.work {
            Work::Move(migration) => migration.phase.has_ended(),
            Work::Recover(recovery) => recovery.has_ended,
        }
    }

    pub fn running_migration(&self) -> Option<&Migration> {
        match &self.work {
            Work::Move(migration) => Some(migration).filter(|m| !m.phase.has_ended()),
            Work::Recover(_) => None,
        }
    }

    pub fn running_recovery(&self) -> Option<&Recovery> {
        match &self.work {
            Work::Recover(recovery) => Some(recovery).filter(|r| !r.has_ended),
            Work::Move(_) => None,
        }
    }

    pub fn recovers(&self) -> Option<RegionId> {
        self.running_recovery().map(|recovery| recovery.region)
    }

    pub fn migrate_node(&self) -> Option<&MigrateNode> {
        None
    }
}
