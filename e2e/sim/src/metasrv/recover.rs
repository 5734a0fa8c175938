//! A person gives up what is lost, as `procedures::recover` of metasrv does it: of a group whose majority has lost its
//! disks, one replica goes on alone.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::failover::{Kept, LogEnd, Remains};
use greptime_metasrv_plan::members::Electorate;
use greptime_metasrv_plan::migration::{Migration, Phase};
use greptime_metasrv_plan::{Verdict, majority};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{NodeId, RegionId};

use super::failover::{electorate, report};
use super::repair::leader_of;
use super::{Metasrv, State};
use crate::catalog::{Catalog, Edit, Member};
use crate::message::{Push, RegionReport, RegionRole};
use crate::procedures::{Procedure, Recovery, Work};
use crate::trace::Branch;

const SAY_AGAIN: Duration = Duration::from_millis(200);
const ABOVE_ALL_KNOWN: u64 = 1 << 20;

impl Metasrv {
    /// `ADMIN force_recover_region`. What is refused is asked for again.
    pub async fn force_recover(self: Rc<Self>, region: RegionId, node: NodeId) {
        let chosen = RefCell::new(None);
        let recorded = self.change(|catalog| {
            let is_same = |p: &Procedure| p.running_recovery().is_some_and(|r| r.region == region);
            let survivor = match catalog.running().any(is_same) {
                true => None,
                false => Survivor::choose(&self.state.borrow(), catalog, (region, node), self.now()),
            };
            let Some(survivor) = survivor else {
                return Ok(vec![]);
            };
            let recovery = Recovery {
                region,
                node: survivor.member.node,
                raft_id: survivor.member.raft_id,
                seen_term: survivor.seen_term,
                has_ended: false,
            };
            self.sim
                .note(|| format!("{}: {recovery:?}, it keeps {}", self.me, survivor.kept));
            // Whatever becomes of the change, it is said from now on.
            self.sim.promise(region, survivor.kept);
            chosen.replace(Some(recovery.clone()));
            let procedure = Procedure {
                format: FORMAT_VERSION,
                id: self.sim.dice.borrow_mut().number().to_string(),
                deadline_ms: i64::MAX,
                work: Work::Recover(recovery),
            };
            let members = catalog.put_survivor(region, &survivor.member, &survivor.others);
            let ended = catalog.migration_of(region).and_then(given_up);
            let records = ended.into_iter().chain([procedure]).map(Edit::PutProcedure);
            Ok(members.into_iter().chain(records).collect())
        });
        if recorded.await.is_ok() && chosen.borrow().is_some() {
            self.sim.hit(Branch::RegionIsGivenToOne);
        }
    }

    /// Tells those that are to go on alone, and ends what is done.
    pub(super) async fn recover_on(&self, catalog: &Catalog) {
        let now = self.now();
        let (mut said, mut done) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.borrow_mut();
            for procedure in catalog.running() {
                let Some(recovery) = procedure.running_recovery() else {
                    continue;
                };
                if is_recovered(&state, recovery) {
                    done.push(procedure.id.clone());
                    continue;
                }
                let told = state.told_to_recover.get(&recovery.region).copied();
                if told.is_none_or(|at| now.saturating_sub(at) >= SAY_AGAIN) {
                    state.told_to_recover.insert(recovery.region, now);
                    said.push(recovery.clone());
                }
            }
        }
        for recovery in said {
            let order = Push::Recover {
                region: recovery.region,
                raft_id: recovery.raft_id,
                seen_term: recovery.seen_term,
            };
            self.say(recovery.node, order);
        }
        if done.is_empty() {
            return;
        }
        let ended = |catalog: &Catalog| {
            let records = done.iter().filter_map(|id| catalog.procedures.get(id).cloned());
            let ended = records.filter_map(|mut record| {
                let Work::Recover(recovery) = &mut record.work else {
                    return None;
                };
                recovery.has_ended = true;
                Some(Edit::PutProcedure(record))
            });
            Ok(ended.collect())
        };
        // What fails is tried again with the next look.
        let _ = self.change(ended).await;
    }
}

/// A migration of the region has nothing to move any more.
fn given_up(moving: &Procedure) -> Option<Procedure> {
    let migration = moving.running_migration()?.clone();
    Some(Procedure {
        work: Work::Move(Migration {
            phase: Phase::Aborted,
            ..migration
        }),
        ..moving.clone()
    })
}

fn is_recovered(state: &State, recovery: &Recovery) -> bool {
    leader_of(state, recovery.region).is_some_and(|led| {
        led.raft_id == recovery.raft_id
            && led.epoch > recovery.seen_term
            && led.voters == [recovery.raft_id].into()
    })
}

/// The replica that goes on.
struct Survivor {
    member: Member,
    others: BTreeSet<u64>,
    seen_term: u64,
    kept: Kept,
}

impl Survivor {
    /// `None` if it is refused: a majority lives, the survivor does not, or somebody may only be late.
    fn choose(
        state: &State,
        catalog: &Catalog,
        (region, node): (RegionId, NodeId),
        now: Duration,
    ) -> Option<Self> {
        let Electorate { voters, strangers } = electorate(state, catalog, region);
        let count = voters.len() + strangers;
        let voters: Vec<Member> = voters.into_iter().map(|(_, member)| member.into()).collect();
        let member = voters.iter().find(|m| m.node == node)?;
        let watch = state.watch.as_ref()?;
        let verdict = |m: &Member| watch.verdict(m.node);
        let is_heard = |m: &Member| watch.hears(m.node, now);
        let whole = |m: &Member| {
            let report = report(state, region, m.node).filter(|_| is_heard(m))?;
            (report.role != RegionRole::Failed && report.raft_id == m.raft_id).then_some(report)
        };
        let own = whole(member)?;
        let position = |r: &RegionReport| (r.last_term, r.last_index);
        let alive: Vec<&RegionReport> = voters.iter().filter_map(whole).collect();
        let has_more = |r: &&RegionReport| position(r) > position(own);
        let mut lost = voters.iter().filter(|m| whole(m).is_none());
        let is_refused = alive.len() >= majority(count)
            || alive.iter().any(has_more)
            || !lost.all(|m| is_heard(m) || verdict(m).is_some_and(Verdict::is_dead));
        if is_refused {
            return None;
        }
        let said = voters
            .iter()
            .filter_map(|m| state.sessions.last_said(m.node, region));
        let said = said.map(|r| r.epoch.max(r.last_term)).max();
        let seen = said.max(Some(watch.highest_led(region)));
        Some(Self {
            member: member.clone(),
            others: own.voters.iter().chain(&own.learners).copied().collect(),
            seen_term: seen.unwrap_or(0) + ABOVE_ALL_KNOWN,
            kept: remains(state, catalog, region, own).kept(),
        })
    }
}

/// What is known of the group of a replica that goes on alone.
fn remains(state: &State, catalog: &Catalog, region: RegionId, own: &RegionReport) -> Remains {
    let Electorate { voters, strangers } = electorate(state, catalog, region);
    let others = voters.iter().filter(|(_, member)| member.raft_id != own.raft_id);
    let others = others.map(|(_, member)| {
        let said = state.sessions.last_said(member.node, region);
        let said = said.filter(|report| report.raft_id == member.raft_id);
        said.map(|report| report.epoch.max(report.last_term))
    });
    let led = state.watch.as_ref().map(|watch| watch.highest_led(region));
    Remains {
        leads: (own.role == RegionRole::Leader).then_some(own.epoch),
        log: LogEnd {
            last_term: own.last_term,
            last_index: own.last_index,
            applied_index: own.applied_index,
            term: own.epoch,
            flushed_index: 0,
            at: Duration::ZERO,
        },
        led: led.unwrap_or(0),
        others: others.collect(),
        strangers,
    }
}
