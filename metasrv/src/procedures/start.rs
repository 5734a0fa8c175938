//! Begins procedures, and calls them off.

use greptime_metasrv_plan::migration::{Migration, Phase};
use greptime_proto::v1;
use greptime_types::format::{FORMAT_VERSION, QUORUM_FORMAT};
use greptime_types::{Error, NodeId, NodeRole, RegionId, Result, TableState};
use tracing::info;

use super::{AT_ONCE, Entered, MigrateNode, MigrateRegion, Procedure, REMEMBERED, Work};
use crate::catalog::{Catalog, Edit, Member};
use crate::ddl::response;
use crate::repair::leader_of;
use crate::server::{Metasrv, State};

const DEFAULT_TIMEOUT_MS: u64 = 300_000;
/// Records of ended procedures that go with one that begins.
const FORGET_AT_ONCE: usize = 20;

/// A region that is to move.
pub(super) struct Wanted {
    pub(super) region: RegionId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) timeout_ms: i64,
    pub(super) part_of: Option<String>,
}

impl Metasrv {
    pub(crate) async fn migrate_region(&self, request: v1::MigrateRegion) -> Result<v1::DdlResponse> {
        let wanted = Wanted {
            region: RegionId::from_u64(request.region_id),
            from: request.from_node,
            to: request.to_node,
            timeout_ms: timeout(request.timeout_ms),
            part_of: None,
        };
        let mut procedure = None;
        let catalog = self
            .change(|catalog| {
                if let Some(running) = same_migration(catalog, &wanted) {
                    procedure = Some((running.id.clone(), false));
                    return Ok(vec![]);
                }
                let (id, edits) = self.begin_migration(&self.state.lock(), catalog, &wanted)?;
                procedure = Some((id, true));
                Ok(edits)
            })
            .await?;
        Ok(begun(&catalog, wanted.region.table(), procedure))
    }

    pub(crate) async fn migrate_node(&self, request: v1::MigrateNode) -> Result<v1::DdlResponse> {
        let node = request.from_node;
        let mut procedure = None;
        let catalog = self
            .change(|catalog| {
                if !catalog.datanodes.contains_key(&node) {
                    return Err(no_such_datanode(catalog, node));
                }
                check_format(catalog)?;
                let empties = |p: &&Procedure| p.migrate_node().is_some_and(|w| w.node == node);
                if let Some(running) = catalog.running().find(empties) {
                    procedure = Some((running.id.clone(), false));
                    return Ok(vec![]);
                }
                let record = self.record(
                    i64::MAX,
                    Work::MigrateNode(MigrateNode {
                        node,
                        timeout_ms: timeout(request.timeout_ms),
                        done: 0,
                        aborted: vec![],
                        is_called_off: false,
                    }),
                );
                info!(procedure = %record.id, node, "emptying a datanode");
                procedure = Some((record.id.clone(), true));
                let mut edits = forget(catalog);
                edits.push(Edit::PutProcedure(record));
                Ok(edits)
            })
            .await?;
        Ok(begun(&catalog, 0, procedure))
    }

    /// A migration that has handed over goes on to its end; everything else is undone.
    pub(crate) async fn abort_procedure(&self, request: v1::AbortProcedure) -> Result<v1::DdlResponse> {
        let id = request.procedure_id;
        let mut changed = false;
        let catalog = self
            .change(|catalog| {
                let unknown = || Error::not_found(format!("procedure {id} is not known"));
                let mut record = catalog.procedures.get(&id).cloned().ok_or_else(unknown)?;
                if record.has_ended() {
                    return Err(Error::invalid(format!(
                        "procedure {id} has ended: it is {}",
                        record.state()
                    )));
                }
                if matches!(record.work, Work::ForceRecoverRegion(_)) {
                    return Err(Error::invalid(format!("procedure {id} cannot be undone")));
                }
                if let Some(work) = record.migrate_region()
                    && !work.migration.phase.can_abort()
                {
                    return Err(Error::invalid(format!(
                        "procedure {id} is {}, and cannot be undone; it ends soon",
                        work.migration.phase.label()
                    )));
                }
                changed = true;
                // Whoever moves it on does the rest.
                record.deadline_ms = 0;
                record.reason = Some("a person aborted it".into());
                if let Work::MigrateNode(work) = &mut record.work {
                    work.is_called_off = true;
                }
                let parts = catalog.running().filter(|p| {
                    let part_of = p.migrate_region().and_then(|w| w.part_of.as_ref());
                    part_of == Some(&id)
                });
                let parts = parts.map(|part| Procedure {
                    deadline_ms: 0,
                    reason: Some(format!("a person aborted procedure {id}")),
                    ..part.clone()
                });
                Ok(parts.chain([record]).map(Edit::PutProcedure).collect())
            })
            .await?;
        Ok(v1::DdlResponse {
            procedure_id: id,
            ..response(&catalog, 0, changed)
        })
    }

    pub(super) fn record(&self, timeout_ms: i64, work: Work) -> Procedure {
        let now_ms = self.options.clock.wall_ms();
        Procedure {
            format: FORMAT_VERSION,
            id: self.options.ids.uuid(),
            started_ms: now_ms,
            deadline_ms: now_ms.saturating_add(timeout_ms),
            ended_ms: None,
            reason: None,
            work,
        }
    }

    /// The edits that begin a migration, and its id.
    pub(super) fn begin_migration(
        &self,
        state: &State,
        catalog: &Catalog,
        wanted: &Wanted,
    ) -> Result<(String, Vec<Edit>)> {
        check_format(catalog)?;
        let migration = migration(state, catalog, wanted)?;
        let recorded = catalog.planned_members(wanted.region);
        let mut edits = forget(catalog);
        if migration.is_new {
            edits.push(Edit::TakeIds { tables: 0, rafts: 1 });
        }
        let members = migration.members_in(migration.phase, &recorded);
        edits.extend(catalog.put_members([(wanted.region, members)]));
        let entered = Entered {
            phase: migration.phase,
            at_ms: self.options.clock.wall_ms(),
        };
        let work = MigrateRegion {
            migration,
            part_of: wanted.part_of.clone(),
            history: vec![entered],
        };
        let record = self.record(wanted.timeout_ms, Work::MigrateRegion(work));
        let id = record.id.clone();
        info!(procedure = %id, region = %wanted.region, from = wanted.from, to = wanted.to, "a region moves");
        edits.push(Edit::PutProcedure(record));
        Ok((id, edits))
    }
}

/// What is to be done, or why it cannot be.
fn migration(state: &State, catalog: &Catalog, wanted: &Wanted) -> Result<Migration> {
    let (region, from, to) = (wanted.region, wanted.from, wanted.to);
    let members = members_of(catalog, region)?;
    if let Some(other) = catalog.migration_of(region) {
        return Err(Error::invalid(format!(
            "region {region} moves already, by procedure {}; wait for it, or abort it",
            other.id
        )));
    }
    let source = member_on(members, region, from)?;
    if from == to {
        return Err(Error::invalid(format!(
            "region {region} is on datanode {to} already; name another to move it to"
        )));
    }
    if !catalog.datanodes.contains_key(&to) {
        return Err(no_such_datanode(catalog, to));
    }
    if state.sessions.get(NodeRole::Datanode, to).is_none() {
        return Err(Error::invalid(format!(
            "datanode {to} is away; nothing can move there"
        )));
    }
    let is_source_there = state.sessions.get(NodeRole::Datanode, from).is_some();
    let target = members.iter().find(|m| m.node == to);
    let led = leader_of(state, region);
    if target.is_some() && is_source_there && led.is_none_or(|led| led.raft_id != source.raft_id) {
        return Err(Error::invalid(format!(
            "datanode {to} has a replica of region {region} already, and datanode {from} does not lead it: nothing \
             can move between them"
        )));
    }
    let phase = match () {
        () if !is_source_there && target.is_none() => Phase::Leaving,
        () if catalog.running().filter(|p| p.migrate_region().is_some()).count() >= AT_ONCE => Phase::Waiting,
        () => Phase::Joining,
    };
    Ok(Migration {
        region,
        from,
        to,
        leaves: source.raft_id,
        comes: target.map_or(catalog.root.next_raft_id, |m| m.raft_id),
        is_new: target.is_none(),
        phase,
    })
}

/// The recorded members of a region of a table that is there.
pub(super) fn members_of(catalog: &Catalog, region: RegionId) -> Result<&[Member]> {
    let table = catalog.tables.get(&region.table());
    let is_there = table.is_some_and(|t| t.state == TableState::Ready && t.regions().any(|r| r == region));
    match is_there {
        true => Ok(catalog.members(region)),
        false => Err(Error::not_found(format!("region {region} does not exist"))),
    }
}

fn member_on(members: &[Member], region: RegionId, node: NodeId) -> Result<&Member> {
    members.iter().find(|m| m.node == node).ok_or_else(|| {
        let nodes: Vec<NodeId> = members.iter().map(|m| m.node).collect();
        Error::invalid(format!(
            "region {region} is not on datanode {node}; it is on {nodes:?}"
        ))
    })
}

fn check_format(catalog: &Catalog) -> Result<()> {
    if catalog.root.format < QUORUM_FORMAT {
        return Err(Error::unavailable(
            "regions can move when every node of the cluster runs a version that can do it; finish the roll first",
        ));
    }
    Ok(())
}

fn no_such_datanode(catalog: &Catalog, node: NodeId) -> Error {
    let known: Vec<NodeId> = catalog.datanodes.keys().copied().collect();
    Error::not_found(format!("datanode {node} does not exist; there are {known:?}"))
}

/// A repeated request is answered with what it has begun.
fn same_migration<'a>(catalog: &'a Catalog, wanted: &Wanted) -> Option<&'a Procedure> {
    let running = catalog.migration_of(wanted.region)?;
    let migration = running.running_migration()?;
    ((migration.from, migration.to) == (wanted.from, wanted.to)).then_some(running)
}

fn timeout(asked_ms: u64) -> i64 {
    let ms = if asked_ms == 0 {
        DEFAULT_TIMEOUT_MS
    } else {
        asked_ms
    };
    i64::try_from(ms).unwrap_or(i64::MAX)
}

pub(super) fn begun(catalog: &Catalog, table: u32, procedure: Option<(String, bool)>) -> v1::DdlResponse {
    let (procedure_id, changed) = procedure.unwrap_or_default();
    v1::DdlResponse {
        procedure_id,
        ..response(catalog, table, changed)
    }
}

/// Forgets the oldest procedures that have ended, but for parts of one that has not.
fn forget(catalog: &Catalog) -> Vec<Edit> {
    let is_needed = |p: &Procedure| {
        let whole = p.migrate_region().and_then(|w| w.part_of.as_ref());
        let whole = whole.and_then(|id| catalog.procedures.get(id));
        whole.is_some_and(|whole| !whole.has_ended())
    };
    let mut ended: Vec<&Procedure> = catalog
        .procedures
        .values()
        .filter(|p| p.has_ended() && !is_needed(p))
        .collect();
    ended.sort_by_key(|p| (p.ended_ms, &p.id));
    let surplus = ended.len().saturating_sub(REMEMBERED).min(FORGET_AT_ONCE);
    let oldest = ended.into_iter().take(surplus);
    oldest.map(|p| Edit::DeleteProcedure(p.id.clone())).collect()
}
