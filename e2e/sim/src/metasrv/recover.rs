//! A person gives up what is lost, as `procedures::recover` of metasrv does it: of a group whose majority has lost its
//! disks, one replica goes on alone.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::migration::{Migration, Phase};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{NodeId, RegionId};

use super::failover::{bereaved, report};
use super::repair::leader_of;
use super::{Metasrv, State};
use crate::catalog::{Catalog, Edit, Member};
use crate::message::Push;
use crate::procedures::{Procedure, Recovery, Work};
use crate::trace::Branch;

const SAY_AGAIN: Duration = Duration::from_millis(200);

impl Metasrv {
    /// `ADMIN force_recover_region`. What is refused is asked for again.
    pub async fn force_recover(self: Rc<Self>, region: RegionId, node: NodeId) {
        let chosen = RefCell::new(None);
        let recorded = self.change(|catalog| {
            let is_same = |p: &Procedure| p.running_recovery().is_some_and(|r| r.region == region);
            if catalog.running().any(is_same) {
                return Ok(vec![]);
            }
            let group = bereaved(&mut self.state.borrow_mut(), catalog, region, self.now());
            let survivor = match group.leave_to(node) {
                Ok(survivor) => survivor,
                Err(refusal) => {
                    self.sim.note(|| format!("{}: {refusal}", self.me));
                    return Ok(vec![]);
                }
            };
            let recovery = Recovery {
                region,
                node,
                raft_id: survivor.raft_id,
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
            let member = Member {
                node,
                raft_id: survivor.raft_id,
            };
            let members = catalog.put_survivor(region, &member, &self.members_of(region, node));
            let ended = catalog.migration_of(region).and_then(given_up);
            let records = ended.into_iter().chain([procedure]).map(Edit::PutProcedure);
            Ok(members.into_iter().chain(records).collect())
        });
        if recorded.await.is_ok() && chosen.borrow().is_some() {
            self.sim.hit(Branch::RegionIsGivenToOne);
        }
    }

    /// Who votes or learns in a group, as the replica on a datanode says.
    fn members_of(&self, region: RegionId, node: NodeId) -> BTreeSet<u64> {
        let state = self.state.borrow();
        let own = report(&state, region, node).into_iter();
        own.flat_map(|r| r.voters.iter().chain(&r.learners))
            .copied()
            .collect()
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
