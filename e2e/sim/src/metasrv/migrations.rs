//! Regions move, as `procedures` of metasrv moves them.

use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::Verdict;
use greptime_metasrv_plan::failover::Attempt;
use greptime_metasrv_plan::members;
use greptime_metasrv_plan::migration::{Migration, Next, Phase, Seen, Target};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{NodeId, RegionId};

use super::repair::{LAG, has_lost_its_disk, leader_of, membership, replicated};
use super::{Metasrv, State};
use crate::catalog::{Catalog, Edit};
use crate::message::Push;
use crate::procedures::{Procedure, Work};
use crate::sim::SECOND;
use crate::trace::Branch;

const LOOK: Duration = Duration::from_millis(100);
const SAY_AGAIN: Duration = Duration::from_millis(200);
/// Much shorter than in earnest.
const TIMEOUT_MS: i64 = 8_000;

/// A phase that a migration enters, and what that was decided from.
struct Due {
    id: String,
    from: Phase,
    to: Phase,
}

impl Metasrv {
    /// Now and then somebody wants a region to be elsewhere.
    pub(super) async fn wish(self: Rc<Self>) {
        loop {
            let pause = self.sim.dice.borrow_mut().between(SECOND, 8 * SECOND);
            self.sim.sleep(Duration::from_micros(pause)).await;
            if !self.is_leading() {
                continue;
            }
            // Nobody waits for it: what fails is not asked for again.
            let _ = self
                .change(|catalog| Ok(self.begin_migration(catalog).unwrap_or_default()))
                .await;
        }
    }

    pub(super) async fn migrate(self: Rc<Self>) {
        loop {
            self.sim.sleep(LOOK).await;
            let Some(catalog) = self.catalog() else {
                continue;
            };
            self.recover_on(&catalog).await;
            let due: Vec<Due> = catalog
                .running()
                .filter_map(|p| self.step_of(&catalog, p))
                .collect();
            if due.is_empty() {
                continue;
            }
            // Of those that are still where it was decided from; what fails is tried again with the next look.
            let _ = self.change(|catalog| Ok(self.enter(catalog, &due))).await;
        }
    }

    fn begin_migration(&self, catalog: &Catalog) -> Option<Vec<Edit>> {
        let draw = |count: usize| self.sim.dice.borrow_mut().below(count.max(1) as u64) as usize;
        let (regions, nodes) = (replicated(catalog), catalog.datanodes.keys());
        let nodes: Vec<NodeId> = nodes.copied().collect();
        let (region, to) = (*regions.get(draw(regions.len()))?, *nodes.get(draw(nodes.len()))?);
        let members = catalog.planned_members(region);
        let source = *members.get(draw(members.len()))?;
        let state = self.state.borrow();
        let is_there = |node: NodeId| state.sessions.datanodes.contains_key(&node);
        let target = members.iter().find(|m| m.node == to);
        let leads = leader_of(&state, region).is_some_and(|led| led.raft_id == source.raft_id);
        let may_be = members.len() == self.replicas()
            && catalog.migration_of(region).is_none()
            && source.node != to
            && is_there(to)
            && (target.is_none() || leads);
        if !may_be {
            return None;
        }
        let migration = Migration {
            region,
            from: source.node,
            to,
            leaves: source.raft_id,
            comes: target.map_or(catalog.root.next_raft_id, |m| m.raft_id),
            is_new: target.is_none(),
            phase: match is_there(source.node) || target.is_some() {
                true => Phase::Joining,
                false => Phase::Leaving,
            },
        };
        self.sim.hit(Branch::MigrationBegins);
        self.sim
            .note(|| format!("{} moves a region: {migration:?}", self.me));
        let ids = migration.is_new.then_some(Edit::TakeIds { tables: 0, rafts: 1 });
        let members = migration.members_in(migration.phase, &members);
        let procedure = Procedure {
            format: FORMAT_VERSION,
            id: self.sim.dice.borrow_mut().number().to_string(),
            deadline_ms: self.sim.wall_ms(self.me) + TIMEOUT_MS,
            work: Work::Move(migration),
        };
        let puts = catalog.put_members([(region, members)]);
        Some(
            ids.into_iter()
                .chain(puts)
                .chain([Edit::PutProcedure(procedure)])
                .collect(),
        )
    }

    /// What a migration needs: an order is given here, a phase is to be recorded.
    fn step_of(&self, catalog: &Catalog, procedure: &Procedure) -> Option<Due> {
        let migration = procedure.running_migration()?;
        let is_late = self.sim.wall_ms(self.me) >= procedure.deadline_ms;
        let next = next(&self.state.borrow(), catalog, migration, is_late);
        let to = match next {
            Next::Wait(_) => return None,
            Next::Enter(phase) => phase,
            Next::Abort(why) => {
                self.sim.note(|| format!("{} undoes a migration: {why}", self.me));
                Phase::Aborting
            }
            Next::HandOver => {
                self.hand_over(migration);
                return None;
            }
        };
        Some(Due {
            id: procedure.id.clone(),
            from: migration.phase,
            to,
        })
    }

    fn hand_over(&self, migration: &Migration) {
        let (now, region) = (self.now(), migration.region);
        let mut state = self.state.borrow_mut();
        let told = state.told_to_hand_over.get(&region).copied();
        if told.is_some_and(|at| now.saturating_sub(at) < SAY_AGAIN) {
            return;
        }
        let Some(led) = leader_of(&state, region) else {
            return;
        };
        state.told_to_hand_over.insert(region, now);
        if let Some(watch) = state.watch.as_mut() {
            watch.note_try(region, led.epoch, Attempt::Transfer, migration.to, now);
        }
        drop(state);
        self.sim.hit(Branch::MigrationHandsOver);
        let to = migration.comes;
        self.say(migration.from, Push::Transfer { region, to });
    }

    /// The edits for those who are still where it was decided from.
    fn enter(&self, catalog: &Catalog, due: &[Due]) -> Vec<Edit> {
        let (mut members, mut records) = (Vec::new(), Vec::new());
        for due in due {
            let record = catalog.procedures.get(&due.id);
            let migration = record.and_then(Procedure::running_migration);
            let Some((record, migration)) = record.zip(migration.filter(|m| m.phase == due.from)) else {
                continue;
            };
            let region: RegionId = migration.region;
            let recorded = catalog.planned_members(region);
            members.push((region, migration.members_in(due.to, &recorded)));
            let record = Procedure {
                work: Work::Move(Migration {
                    phase: due.to,
                    ..migration.clone()
                }),
                ..record.clone()
            };
            self.sim
                .note(|| format!("{}: {region} moves on to {:?}", self.me, due.to));
            match due.to {
                Phase::Done => self.sim.hit(Branch::MigrationIsDone),
                Phase::Aborted => self.sim.hit(Branch::MigrationIsUndone),
                _ => {}
            }
            records.push(Edit::PutProcedure(record));
        }
        catalog.put_members(members).into_iter().chain(records).collect()
    }
}

fn next(state: &State, catalog: &Catalog, migration: &Migration, is_late: bool) -> Next {
    let region = migration.region;
    let membership = membership(state, catalog, region);
    let waits = members::waits(&membership, LAG);
    let session = state.sessions.datanodes.get(&migration.to);
    let report = session.and_then(|s| s.reports.get(&region));
    let report = report.filter(|r| r.raft_id == migration.comes);
    let verdict = state.watch.as_ref().and_then(|watch| watch.verdict(migration.to));
    let comes = migration.target();
    let seen = Seen {
        // There is nothing to warm.
        target: report.map(|r| Target {
            is_hot: r.hot,
            is_warm: r.hot,
        }),
        is_target_alive: session.is_some(),
        is_target_well: verdict.is_some_and(Verdict::is_alive),
        is_target_lost: has_lost_its_disk(state, region, &comes, membership.led.as_ref()),
        give_up: is_late.then(|| "it took too long".into()),
        membership,
    };
    migration.next(&seen, &waits)
}
