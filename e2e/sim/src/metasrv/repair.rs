//! Brings the members of groups to what is recorded, as `repair` of metasrv does.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::Verdict;
use greptime_metasrv_plan::assignment::Member;
use greptime_metasrv_plan::failover::Attempt;
use greptime_metasrv_plan::members::{self, Led, MemberStep, Membership};
use greptime_metasrv_plan::repair::{RepairPolicy, Replicas, Retarget, repair};
use greptime_types::{NodeId, RegionId, TableState};

use super::driver::candidates;
use super::{Metasrv, REPLACE_AFTER, State};
use crate::catalog::Catalog;
use crate::message::{ChangeMembers, Push, RegionReport, RegionRole};
use crate::trace::Branch;

const LOOK: Duration = Duration::from_millis(500);
const SAY_AGAIN: Duration = Duration::from_secs(2);
pub(super) const LAG: u64 = 1000;
const AT_ONCE: usize = 8;

impl Metasrv {
    pub(super) async fn mend(self: Rc<Self>) {
        loop {
            self.sim.sleep(LOOK).await;
            let Some(catalog) = self.catalog() else {
                continue;
            };
            self.move_on(&catalog);
            let now = self.now();
            if plan(&self.state.borrow(), &catalog, self.replicas(), now).is_empty() {
                continue;
            }
            // Decided again inside, from the newest catalog; what fails is tried again with the next look.
            let _ = self
                .change(|catalog| {
                    let plan = plan(&self.state.borrow(), catalog, self.replicas(), now);
                    self.sim.hit(Branch::MembersAreRecordedAnew);
                    self.sim
                        .note(|| format!("{} records other members: {plan:?}", self.me));
                    Ok(catalog.retarget(&plan))
                })
                .await;
        }
    }

    /// One step for each region whose members are not as recorded.
    fn move_on(&self, catalog: &Catalog) {
        let now = self.now();
        let mut said = Vec::new();
        let mut state = self.state.borrow_mut();
        let mut orders = std::mem::take(&mut state.member_orders);
        orders.retain(|_, (_, at)| now.saturating_sub(*at) < SAY_AGAIN);
        let mut handed_over = Vec::new();
        let recovering = catalog.recovering();
        for region in replicated(catalog) {
            if recovering.contains(&region) {
                continue;
            }
            let membership = membership(&state, catalog, region);
            let step = members::step(&membership, LAG);
            let is_repeated = orders.get(&region).is_some_and(|(told, _)| *told == step);
            let Some(led) = membership.led.filter(|_| !is_repeated) else {
                continue;
            };
            let Some(push) = order(catalog, region, &led, &step) else {
                continue;
            };
            let leads =
                |report: &RegionReport| report.raft_id == led.raft_id && report.role == RegionRole::Leader;
            let datanodes = state.sessions.datanodes.values();
            let mut leading = datanodes.filter(|s| s.reports.get(&region).is_some_and(leads));
            if let Some(session) = leading.next() {
                self.sim
                    .note(|| format!("{}: members of {region}: {step:?}", self.me));
                said.push((session.connection, push));
                if let MemberStep::HandOver { to } = &step {
                    handed_over.push((region, led.epoch, to.node));
                }
                orders.insert(region, (step, now));
            }
        }
        state.member_orders = orders;
        if let Some(watch) = state.watch.as_mut() {
            for (region, epoch, to) in handed_over {
                watch.note_try(region, epoch, Attempt::Transfer, to, now);
            }
        }
        drop(state);
        said.into_iter()
            .for_each(|(connection, push)| self.push(connection, push));
    }
}

pub(super) fn replicated(catalog: &Catalog) -> Vec<RegionId> {
    let ready = catalog.tables.values().filter(|t| t.state == TableState::Ready);
    ready.flat_map(|table| table.regions()).collect()
}

fn reports(state: &State, region: RegionId) -> impl Iterator<Item = &RegionReport> {
    let datanodes = state.sessions.datanodes.values();
    datanodes.filter_map(move |session| session.reports.get(&region))
}

pub(super) fn membership(state: &State, catalog: &Catalog, region: RegionId) -> Membership {
    let reached = reports(state, region).map(|r| (r.raft_id, r.last_index));
    Membership {
        recorded: catalog.planned_members(region),
        led: leader_of(state, region),
        reached: reached.collect(),
    }
}

/// Who leads a region, as its leader says.
pub(super) fn leader_of(state: &State, region: RegionId) -> Option<Led> {
    let leading = reports(state, region).filter(|r| r.role == RegionRole::Leader);
    let leader = leading.max_by_key(|r| r.epoch)?;
    let voters: BTreeSet<u64> = match leader.voters.is_empty() {
        true => [leader.raft_id].into(),
        false => leader.voters.clone(),
    };
    Some(Led {
        raft_id: leader.raft_id,
        epoch: leader.epoch,
        last_index: leader.last_index,
        voters,
        learners: leader.learners.clone(),
    })
}

fn order(catalog: &Catalog, region: RegionId, led: &Led, step: &MemberStep) -> Option<Push> {
    let mut order = ChangeMembers {
        region,
        epoch: led.epoch,
        learners: vec![],
        voters: vec![],
        remove: vec![],
        members: catalog.planned_members(region),
    };
    Some(match step {
        MemberStep::Nothing(_) => return None,
        MemberStep::AddLearners(members) => {
            order.learners.clone_from(members);
            Push::ChangeMembers(order)
        }
        MemberStep::Promote { voters, remove } => {
            order.voters.clone_from(voters);
            order.remove.clone_from(remove);
            Push::ChangeMembers(order)
        }
        MemberStep::HandOver { to } => Push::Transfer {
            region,
            to: to.raft_id,
        },
    })
}

fn plan(state: &State, catalog: &Catalog, wanted: usize, now: Duration) -> Vec<Retarget> {
    let regions: BTreeMap<RegionId, Replicas> = replicated(catalog)
        .into_iter()
        .map(|region| (region, replicas(state, catalog, region, now)))
        .collect();
    let policy = RepairPolicy {
        replicas: wanted,
        at_once: AT_ONCE,
    };
    repair(&regions, &candidates(state, catalog), &policy).0
}

fn replicas(state: &State, catalog: &Catalog, region: RegionId, now: Duration) -> Replicas {
    let membership = membership(state, catalog, region);
    let is_lost = |member: &&Member| {
        is_gone(state, member.node, now) || has_lost_its_disk(state, region, member, membership.led.as_ref())
    };
    let lost = membership.recorded.iter().filter(is_lost).map(|m| m.raft_id);
    let lost = lost.collect();
    Replicas::of(membership, lost, LAG)
}

fn is_gone(state: &State, node: NodeId, now: Duration) -> bool {
    let verdict = state.watch.as_ref().and_then(|watch| watch.verdict(node));
    matches!(verdict, Some(Verdict::Dead { gone_since, .. })
        if now.saturating_sub(*gone_since) >= REPLACE_AFTER)
}

/// The datanode is there, and has nothing of a replica that was a member.
pub(super) fn has_lost_its_disk(state: &State, region: RegionId, member: &Member, led: Option<&Led>) -> bool {
    let session = state.sessions.datanodes.get(&member.node);
    let is_missing = session.is_some_and(|s| !s.reports.contains_key(&region));
    is_missing && led.is_some_and(|led| led.has_beside_itself(member.raft_id))
}
