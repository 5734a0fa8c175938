//! Emptying a datanode: one migration after the other, until nothing is left that could go.

use std::collections::{BTreeMap, BTreeSet};

use greptime_metasrv_plan::migration::{Phase, Refuge, refuge};
use greptime_metasrv_plan::placement::Candidate;
use greptime_types::{NodeId, RegionId, Result};
use tracing::{debug, info};

use super::start::Wanted;
use super::{AT_ONCE, MigrateNode, Procedure, Work};
use crate::catalog::{Catalog, Edit};
use crate::repair::leader_of;
use crate::server::{Metasrv, State};

/// What comes next for a datanode that is emptied.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// These are begun.
    Begin(Vec<(RegionId, NodeId)>),
    /// Some are under way, or wait for somebody.
    Wait(String),
    /// Nothing is left that could go.
    End { stay: usize },
}

impl Metasrv {
    /// Begins what is to be begun for datanodes that are emptied, and ends what has nothing left.
    pub(super) async fn step_drains(&self) -> Result<()> {
        let drains: Vec<String> = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let Some(catalog) = state.catalog.as_ref() else {
                return Ok(());
            };
            let running = catalog.running().filter(|p| p.migrate_node().is_some());
            let ids: Vec<String> = running.map(|p| p.id.clone()).collect();
            let turns: BTreeMap<String, Turn> = ids
                .iter()
                .filter_map(|id| Some((id.clone(), self.drain_turn(state, catalog, id)?)))
                .collect();
            let mut due = Vec::new();
            for (id, turn) in turns {
                match turn {
                    Turn::Wait(why) => drop(state.waits.insert(id, why)),
                    Turn::Begin(_) | Turn::End { .. } => due.push(id),
                }
            }
            due
        };
        for id in drains {
            // Decided again inside, from the newest catalog.
            self.change(|catalog| Ok(self.drain_edits(catalog, &id))).await?;
        }
        Ok(())
    }

    fn drain_turn(&self, state: &State, catalog: &Catalog, id: &str) -> Option<Turn> {
        let record = catalog.procedures.get(id).filter(|p| !p.has_ended())?;
        let work = record.migrate_node()?;
        let parts = || parts(catalog, id);
        let under_way = parts().filter(|p| !p.has_ended()).count();
        if under_way >= AT_ONCE || (work.is_called_off && under_way > 0) {
            return Some(Turn::Wait(format!("{under_way} regions are under way")));
        }
        if work.is_called_off {
            return Some(Turn::End { stay: 0 });
        }
        let tried: BTreeSet<RegionId> = parts()
            .filter_map(|p| Some(p.migrate_region()?.migration.region))
            .collect();
        let candidates = self.candidates(state, catalog);
        let left = left(state, catalog, work, &tried, &candidates);
        let begin: Vec<(RegionId, NodeId)> = left
            .iter()
            .filter_map(|(region, refuge)| match refuge {
                Refuge::Replica(to) => Some((*region, *to)),
                Refuge::Leadership(to) => Some((*region, to.node)),
                Refuge::Stays | Refuge::NobodyElse => None,
            })
            .filter(|(region, _)| catalog.migration_of(*region).is_none())
            .take(AT_ONCE - under_way)
            .collect();
        let is_stuck = |refuge: &Refuge| *refuge == Refuge::NobodyElse;
        Some(match left.iter().find(|(_, refuge)| is_stuck(refuge)) {
            _ if !begin.is_empty() => Turn::Begin(begin),
            _ if under_way > 0 => Turn::Wait(format!("{under_way} regions are under way")),
            Some((region, _)) => Turn::Wait(format!("no other datanode is there for region {region}")),
            None if left.iter().all(|(_, refuge)| *refuge == Refuge::Stays) => Turn::End { stay: left.len() },
            None => Turn::Wait("regions are moved by other procedures".into()),
        })
    }

    fn drain_edits(&self, catalog: &Catalog, id: &str) -> Vec<Edit> {
        let state = self.state.lock();
        let Some(turn) = self.drain_turn(&state, catalog, id) else {
            return vec![];
        };
        let Some(record) = catalog.procedures.get(id) else {
            return vec![];
        };
        match (turn, record.migrate_node()) {
            (Turn::Begin(regions), Some(work)) => {
                // Each takes a raft id from the catalog: one a change. The rest follows at once.
                let begun = regions.iter().find_map(|(region, to)| {
                    let wanted = Wanted {
                        region: *region,
                        from: work.node,
                        to: *to,
                        timeout_ms: work.timeout_ms,
                        part_of: Some(id.to_owned()),
                    };
                    let begun = self.begin_migration(&state, catalog, &wanted);
                    begun
                        .inspect_err(|error| debug!(%region, %error, "a region cannot move yet"))
                        .ok()
                });
                begun.map(|(_, edits)| edits).unwrap_or_default()
            }
            (Turn::End { stay }, Some(_)) => vec![Edit::PutProcedure(self.ended(catalog, record, stay))],
            _ => vec![],
        }
    }

    fn ended(&self, catalog: &Catalog, record: &Procedure, stay: usize) -> Procedure {
        let mut record = record.clone();
        let of_phase = |phase: Phase| {
            let regions = parts(catalog, &record.id).filter_map(|p| p.migrate_region());
            regions
                .filter(move |w| w.migration.phase == phase)
                .map(|w| w.migration.region)
        };
        let (done, aborted) = (
            of_phase(Phase::Done).count() as u64,
            of_phase(Phase::Aborted).collect(),
        );
        record.ended_ms = Some(self.options.clock.wall_ms());
        if let Work::MigrateNode(work) = &mut record.work {
            info!(procedure = %record.id, node = work.node, done, stay, "a datanode is emptied");
            (work.done, work.aborted) = (done, aborted);
        }
        if stay > 0 && record.reason.is_none() {
            record.reason = Some(format!(
                "replicas of {stay} regions stay, without leading: no other datanode has room for them"
            ));
        }
        record
    }
}

/// Migrations that belong to the emptying of a datanode.
fn parts<'a>(catalog: &'a Catalog, id: &'a str) -> impl Iterator<Item = &'a Procedure> {
    catalog.procedures.values().filter(move |p| {
        let whole = p.migrate_region().and_then(|w| w.part_of.as_deref());
        whole == Some(id)
    })
}

/// What is still on the datanode and was not tried, and where it could go.
fn left(
    state: &State,
    catalog: &Catalog,
    work: &MigrateNode,
    tried: &BTreeSet<RegionId>,
    candidates: &[Candidate],
) -> Vec<(RegionId, Refuge)> {
    let by_node = catalog.regions_by_node();
    let mut load: Vec<Candidate> = candidates.to_vec();
    let mut left = Vec::new();
    for (region, member) in by_node.get(&work.node).into_iter().flatten() {
        let leads = leader_of(state, *region).is_some_and(|led| led.raft_id == member.raft_id);
        let members: Vec<_> = catalog.planned_members(*region);
        let mut to = refuge(&members, work.node, leads, &load);
        if tried.contains(region) {
            // Its replica could not go, or leads again though it had handed over; once is enough.
            to = Refuge::Stays;
        }
        // The next one sees what this one brings.
        let taken = match to {
            Refuge::Replica(node) => Some(node),
            Refuge::Leadership(member) => Some(member.node),
            Refuge::Stays | Refuge::NobodyElse => None,
        };
        for candidate in load.iter_mut().filter(|c| Some(c.node) == taken) {
            candidate.replicas += usize::from(matches!(to, Refuge::Replica(_)));
            candidate.leaders += usize::from(leads);
        }
        left.push((*region, to));
    }
    left
}
