//! Work that goes on over many steps and over changes of the metasrv that leads: moving regions, emptying datanodes.
//!
//! A procedure is a record of the catalog. [`start`] makes it, [`run`] moves it on, [`show`] tells of it. What a step does
//! is decided by [`greptime_metasrv_plan::migration`].

mod drain;
mod recover;
pub(crate) mod run;
mod show;
mod start;

use greptime_metasrv_plan::migration::{Migration, Phase};
use greptime_types::{NodeId, RegionId};
use serde::{Deserialize, Serialize};

/// Regions that move at the same time; others wait for their turn.
pub(crate) const AT_ONCE: usize = 8;
/// Ended procedures that are remembered.
const REMEMBERED: usize = 1000;

/// A procedure as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Procedure {
    pub format: u32,
    pub id: String,
    pub started_ms: i64,
    /// What is not done by then is undone.
    pub deadline_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// Why it is being undone or was not done, or what was left as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    MigrateRegion(MigrateRegion),
    MigrateNode(MigrateNode),
    ForceRecoverRegion(ForceRecoverRegion),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateRegion {
    pub migration: Migration,
    /// The procedure that empties the datanode, if it was begun by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
    /// When each phase was entered.
    pub history: Vec<Entered>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    pub phase: Phase,
    pub at_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateNode {
    pub node: NodeId,
    /// For each region.
    pub timeout_ms: i64,
    /// Regions that went.
    pub done: u64,
    /// Regions that could not, and are not tried again.
    pub aborted: Vec<RegionId>,
    /// A person wants no more of them to be begun.
    #[serde(default)]
    pub is_called_off: bool,
}

/// A replica that goes on alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceRecoverRegion {
    pub region: RegionId,
    pub node: NodeId,
    pub raft_id: u64,
    /// Above every term of the group, those included that nobody is left to tell of: the replica leads in a later one.
    pub seen_term: u64,
}

impl Procedure {
    pub fn has_ended(&self) -> bool {
        self.ended_ms.is_some()
    }

    pub fn migrate_region(&self) -> Option<&MigrateRegion> {
        match &self.work {
            Work::MigrateRegion(work) => Some(work),
            _ => None,
        }
    }

    pub fn migrate_node(&self) -> Option<&MigrateNode> {
        match &self.work {
            Work::MigrateNode(work) => Some(work),
            _ => None,
        }
    }

    /// The migration, while it is under way.
    pub fn running_migration(&self) -> Option<&Migration> {
        let running = self.migrate_region().filter(|_| !self.has_ended());
        running.map(|work| &work.migration)
    }

    /// The migration is in another phase.
    pub(crate) fn enter(&mut self, phase: Phase, at_ms: i64) {
        if let Work::MigrateRegion(work) = &mut self.work {
            work.migration.phase = phase;
            work.history.push(Entered { phase, at_ms });
            if phase.has_ended() {
                self.ended_ms = Some(at_ms);
            }
        }
    }

    /// The region of which one replica is to go on alone.
    pub fn recovers(&self) -> Option<RegionId> {
        match &self.work {
            Work::ForceRecoverRegion(work) => Some(work.region),
            Work::MigrateRegion(_) | Work::MigrateNode(_) => None,
        }
    }

    /// `running`, `done` or `aborted`.
    pub fn state(&self) -> &'static str {
        let is_undone = match &self.work {
            Work::MigrateRegion(work) => work.migration.phase == Phase::Aborted,
            Work::MigrateNode(work) => work.is_called_off || !work.aborted.is_empty(),
            Work::ForceRecoverRegion(_) => false,
        };
        match (self.has_ended(), is_undone) {
            (false, _) => "running",
            (true, false) => "done",
            (true, true) => "aborted",
        }
    }
}

/// One record of each kind, and as it is kept.
#[cfg(test)]
pub(crate) fn golden() -> [(&'static str, Procedure); 3] {
    let region = RegionId::new(1024, 0);
    let record = |work| Procedure {
        format: 1,
        id: "p".into(),
        started_ms: 1,
        deadline_ms: 2,
        ended_ms: None,
        reason: None,
        work,
    };
    let migration = Migration {
        region,
        from: 0,
        to: 1,
        leaves: 7,
        comes: 8,
        is_new: true,
        phase: Phase::HandingOver,
    };
    let entered = Entered {
        phase: Phase::Joining,
        at_ms: 1,
    };
    let moves = Procedure {
        ended_ms: Some(3),
        reason: Some("why".into()),
        ..record(Work::MigrateRegion(MigrateRegion {
            migration,
            part_of: Some("q".into()),
            history: vec![entered],
        }))
    };
    let empties = record(Work::MigrateNode(MigrateNode {
        node: 1,
        timeout_ms: 5,
        done: 2,
        aborted: vec![region],
        is_called_off: false,
    }));
    let recovers = record(Work::ForceRecoverRegion(ForceRecoverRegion {
        region,
        node: 1,
        raft_id: 8,
        seen_term: 4,
    }));
    [
        (
            include_str!("../tests/golden/procedure-migrate-region-1.json"),
            moves,
        ),
        (
            include_str!("../tests/golden/procedure-migrate-node-1.json"),
            empties,
        ),
        (
            include_str!("../tests/golden/procedure-force-recover-region-1.json"),
            recovers,
        ),
    ]
}
