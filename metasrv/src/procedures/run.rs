//! Moves procedures on, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use greptime_metasrv_plan::Verdict;
use greptime_metasrv_plan::members::{self, Membership};
use greptime_metasrv_plan::migration::{Migration, Next, Phase, Seen, Target, WaitingFor};
use greptime_proto::v1::{self, push};
use greptime_types::{NodeId, NodeRole, RegionId, Result, TableState};
use tracing::{debug, info};

use super::recover::{self, Recover};
use super::{AT_ONCE, Procedure, Work};
use crate::catalog::{Catalog, Edit};
use crate::repair::{LAG, has_lost_its_disk, leader_of, membership};
use crate::server::{Metasrv, State};

/// How often procedures are looked at without news.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks, however many news there are.
const PAUSE: Duration = Duration::from_millis(5);
/// An order that had no effect is given again after this time.
const SAY_AGAIN: Duration = Duration::from_millis(200);
/// Procedures that one change of the catalog may touch; each is a few operations of a transaction.
const MOST: usize = 16;

pub(crate) async fn run(metasrv: Arc<Metasrv>) {
    let mut changes = metasrv.changes.subscribe();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
            () = metasrv.until_shutdown() => return,
        }
        changes.mark_unchanged();
        if let Err(error) = step(&metasrv).await {
            debug!(%error, "progress of procedures could not be recorded yet");
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A phase that a migration enters.
struct Due {
    id: String,
    /// What it was decided from.
    from: Phase,
    to: Phase,
    reason: Option<String>,
}

/// What one look found.
#[derive(Default)]
struct Look {
    due: Vec<Due>,
    /// What procedures wait for, by their ids.
    waits: BTreeMap<String, String>,
    /// Whose leaders are to be told to hand over.
    hand_over: Vec<String>,
    recover: Vec<Recover>,
}

async fn step(metasrv: &Metasrv) -> Result<()> {
    let look = {
        let mut state = metasrv.state.lock();
        let Some(catalog) = state.catalog.as_ref().filter(|c| c.running().next().is_some()) else {
            state.waits.clear();
            return Ok(());
        };
        let mut look = look(metasrv, &state, catalog);
        let waits = std::mem::take(&mut look.waits);
        say(metasrv, &mut state, &look);
        state.waits = waits;
        look
    };
    if !look.due.is_empty() {
        // Decided again inside, from the newest catalog.
        metasrv
            .change(|catalog| Ok(enter(metasrv, catalog, &look.due)))
            .await?;
    }
    metasrv.end_recoveries().await?;
    metasrv.step_drains().await
}

fn look(metasrv: &Metasrv, state: &State, catalog: &Catalog) -> Look {
    let now_ms = metasrv.options.clock.wall_ms();
    let mut look = Look::default();
    let mut running: Vec<&Procedure> = catalog.running().collect();
    running.sort_by_key(|p| (p.started_ms, &p.id));
    let mut moving = running.iter().filter(|p| is_moving(p)).count();
    for procedure in running {
        match &procedure.work {
            Work::MigrateRegion(work) => {
                let migration = &work.migration;
                let mut next = next(state, catalog, procedure, migration, now_ms);
                if migration.phase == Phase::Waiting && matches!(next, Next::Enter(_)) {
                    match moving < AT_ONCE {
                        true => moving += 1,
                        false => next = Next::Wait(WaitingFor::Turn { at_once: AT_ONCE }),
                    }
                }
                look.note(procedure, migration, next);
            }
            Work::ForceRecoverRegion(work) => look.recover.extend(recover::order(state, work)),
            Work::MigrateNode(_) => {}
        }
    }
    look.due.truncate(MOST);
    look
}

fn is_moving(procedure: &Procedure) -> bool {
    procedure
        .running_migration()
        .is_some_and(|m| m.phase != Phase::Waiting)
}

impl Look {
    fn note(&mut self, procedure: &Procedure, migration: &Migration, next: Next) {
        let id = procedure.id.clone();
        let (to, reason) = match next {
            Next::Wait(why) => return drop(self.waits.insert(id, why.to_string())),
            Next::HandOver => {
                let why = format!("datanode {} has yet to hand over", migration.from);
                self.waits.insert(id.clone(), why);
                return self.hand_over.push(id);
            }
            Next::Enter(phase) => (phase, None),
            Next::Abort(reason) => (Phase::Aborting, Some(reason)),
        };
        self.due.push(Due {
            id,
            from: migration.phase,
            to,
            reason,
        });
    }
}

/// Gives the orders that were not given a moment ago.
fn say(metasrv: &Metasrv, state: &mut State, look: &Look) {
    let now = metasrv.now();
    state.ordered.retain(|_, at| now.saturating_sub(*at) < SAY_AGAIN);
    let Some(catalog) = state.catalog.as_ref() else {
        return;
    };
    let (mut ordered, mut handed_over) = (Vec::new(), Vec::new());
    for id in look
        .hand_over
        .iter()
        .filter(|id| !state.ordered.contains_key(*id))
    {
        if let Some(migration) = catalog.procedures.get(id).and_then(Procedure::running_migration) {
            handed_over.extend(hand_over(state, migration));
            ordered.push(id.clone());
        }
    }
    for order in &look.recover {
        let key = order.region.to_string();
        if !state.ordered.contains_key(&key) {
            order.say(state);
            ordered.push(key);
        }
    }
    state.ordered.extend(ordered.into_iter().map(|key| (key, now)));
    for (region, epoch, to) in handed_over {
        state.note_transfer(region, epoch, to, now);
    }
}

fn has_table(catalog: &Catalog, region: RegionId) -> bool {
    let table = catalog.tables.get(&region.table());
    table.is_some_and(|t| t.state != TableState::Dropping)
}

fn next(state: &State, catalog: &Catalog, procedure: &Procedure, migration: &Migration, now_ms: i64) -> Next {
    if !has_table(catalog, migration.region) {
        return Next::Abort(format!("region {} was dropped", migration.region));
    }
    let membership: Membership = membership(state, catalog, migration.region);
    let waits = members::waits(&membership, LAG);
    let session = state.sessions.get(NodeRole::Datanode, migration.to);
    let report = session.and_then(|s| s.reports.get(&migration.region));
    let report = report.filter(|r| r.raft_id == migration.comes);
    let verdict = state.watch.as_ref().and_then(|watch| watch.verdict(migration.to));
    let comes = migration.target();
    let is_late = now_ms >= procedure.deadline_ms;
    let too_late = || {
        procedure
            .reason
            .clone()
            .unwrap_or_else(|| "it took too long".into())
    };
    let seen = Seen {
        target: report.map(|r| Target {
            is_hot: r.hot,
            is_warm: r.warm,
        }),
        is_target_alive: session.is_some(),
        is_target_well: verdict.is_some_and(Verdict::is_alive),
        is_target_lost: has_lost_its_disk(state, migration.region, &comes, membership.led.as_ref()),
        give_up: is_late.then(too_late),
        membership,
    };
    migration.next(&seen, &waits)
}

/// Tells the source; returns what it was told.
fn hand_over(state: &State, migration: &Migration) -> Option<(RegionId, u64, NodeId)> {
    let led = leader_of(state, migration.region)?;
    let order = v1::TransferRegion {
        region_id: migration.region.as_u64(),
        epoch: led.epoch,
        to_raft_id: migration.comes,
    };
    info!(region = %migration.region, from = migration.from, to = migration.to, "telling a leader to hand over");
    let session = state.sessions.get(NodeRole::Datanode, migration.from)?;
    session.say(push::Body::Transfer(order));
    Some((migration.region, led.epoch, migration.to))
}

/// The edits for those who are still where it was decided from.
fn enter(metasrv: &Metasrv, catalog: &Catalog, due: &[Due]) -> Vec<Edit> {
    let now_ms = metasrv.options.clock.wall_ms();
    let (mut members, mut records) = (Vec::new(), Vec::new());
    for due in due {
        let Some(mut record) = catalog.procedures.get(&due.id).cloned() else {
            continue;
        };
        let Some(migration) = record.running_migration().filter(|m| m.phase == due.from) else {
            continue;
        };
        let mut to = due.to;
        if !has_table(catalog, migration.region) {
            to = Phase::Aborted;
        } else {
            let recorded = catalog.planned_members(migration.region);
            members.push((migration.region, migration.members_in(to, &recorded)));
        }
        info!(procedure = %record.id, region = %migration.region, phase = to.label(), "a region moves on");
        if due.from.can_abort() && matches!(to, Phase::Leaving | Phase::Done) {
            record.reason = record
                .reason
                .map(|why| format!("{why}, when it had been handed over"));
        }
        record.enter(to, now_ms);
        if due.reason.is_some() {
            record.reason.clone_from(&due.reason);
        }
        records.push(record);
    }
    let mut edits = catalog.put_members(members);
    edits.extend(records.into_iter().map(Edit::PutProcedure));
    edits
}
