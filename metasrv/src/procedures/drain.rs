//! Emptying a datanode: one migration after the other, until nothing is left that could go.

use std::collections::{BTreeMap, BTreeSet};

use greptime_metasrv_plan::migration::{Migration, Phase, Refuge, refuge};
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
    /// Nothing is left that could go. `stay`: replicas that have nowhere to go; moves of others were aborted.
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
            None if left.iter().all(|(_, refuge)| *refuge == Refuge::Stays) => {
                let aborted: BTreeSet<RegionId> = aborted(catalog, id).map(|(region, _)| region).collect();
                let stay = left.iter().filter(|(region, _)| !aborted.contains(region));
                Turn::End { stay: stay.count() }
            }
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
        let is_done = |p: &&Procedure| {
            p.migrate_region()
                .is_some_and(|w| w.migration.phase == Phase::Done)
        };
        let done = parts(catalog, &record.id).filter(is_done).count() as u64;
        let aborted: Vec<(RegionId, &str)> = aborted(catalog, &record.id).collect();
        record.ended_ms = Some(self.options.clock.wall_ms());
        record.reason = record.reason.or_else(|| why_left(&aborted, stay));
        if let Work::MigrateNode(work) = &mut record.work {
            let aborted = aborted.into_iter().map(|(region, _)| region).collect();
            info!(procedure = %record.id, node = work.node, done, ?aborted, stay, "a datanode is emptied");
            (work.done, work.aborted) = (done, aborted);
        }
        record
    }
}

/// What was left on the datanode, and why.
fn why_left(aborted: &[(RegionId, &str)], stay: usize) -> Option<String> {
    let first = aborted.first().map(|(region, why)| match aborted.len() {
        1 => format!("the move of region {region} was aborted: {why}"),
        count => format!("the moves of {count} regions were aborted; that of {region}: {why}"),
    });
    let stays = (stay > 0).then(|| {
        format!("replicas of {stay} regions stay, without leading: no other datanode has room for them")
    });
    let why: Vec<String> = first.into_iter().chain(stays).collect();
    (!why.is_empty()).then(|| why.join("; "))
}

/// Migrations that belong to the emptying of a datanode.
fn parts<'a>(catalog: &'a Catalog, id: &'a str) -> impl Iterator<Item = &'a Procedure> {
    catalog.procedures.values().filter(move |p| {
        let whole = p.migrate_region().and_then(|w| w.part_of.as_deref());
        whole == Some(id)
    })
}

/// Regions whose move by the procedure was aborted, and why; but for those that are gone all the same.
fn aborted<'a>(catalog: &'a Catalog, id: &'a str) -> impl Iterator<Item = (RegionId, &'a str)> {
    let by_node = catalog.regions_by_node();
    parts(catalog, id).filter_map(move |part| {
        let Migration {
            region, from, phase, ..
        } = &part.migrate_region()?.migration;
        let mut here = by_node.get(from).into_iter().flatten();
        let is_left = *phase == Phase::Aborted && here.any(|(other, _)| other == region);
        is_left.then_some((*region, part.reason.as_deref().unwrap_or_default()))
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
