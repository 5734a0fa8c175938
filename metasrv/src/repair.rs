//! Brings the members of groups to what is recorded, and records others where some are missing or lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use greptime_metasrv_plan::Verdict;
use greptime_metasrv_plan::assignment::Member;
use greptime_metasrv_plan::members::{self, Led, MemberStep, Membership, Waiting};
use greptime_metasrv_plan::repair::{Blocked, RepairPolicy, Replicas, Retarget, repair};
use greptime_proto::v1::{self, push};
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{NodeId, NodeRole, RegionId, Result, TableState};
use tracing::{debug, info};

use crate::catalog::Catalog;
use crate::server::{Metasrv, State};

/// How often members are looked at while they are as recorded. It is a look at all regions.
const LOOK: Duration = Duration::from_millis(500);
/// The same while those of some region change: beats bring news about as often.
const LOOK_WHILE_CHANGING: Duration = Duration::from_millis(100);
/// An order to change members that had no effect is given again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(2);
/// A learner that lacks at most so many entries gets a vote.
pub(crate) const LAG: u64 = 1000;
/// Regions whose members change at the same time.
const AT_ONCE: usize = 8;

pub(crate) async fn run(metasrv: Arc<Metasrv>) {
    let mut changing = false;
    loop {
        let look = if changing { LOOK_WHILE_CHANGING } else { LOOK };
        tokio::select! {
            () = tokio::time::sleep(look) => {}
            () = metasrv.until_shutdown() => return,
        }
        changing = move_on(&metasrv);
        if let Err(error) = retarget(&metasrv).await {
            debug!(%error, "other members could not be recorded yet");
        }
    }
}

/// One step for each region whose members are not as recorded; whether there are any that somebody leads.
fn move_on(metasrv: &Metasrv) -> bool {
    let now = metasrv.now();
    let mut guard = metasrv.state.lock();
    let state = &mut *guard;
    let mut orders = std::mem::take(&mut state.member_orders);
    let Some(catalog) = state.catalog.as_ref() else {
        return false;
    };
    let mut changing = false;
    orders.retain(|_, (_, at)| now.saturating_sub(*at) < SAY_AGAIN);
    let mut handed_over = Vec::new();
    // Who is given up agrees to nothing.
    let recovering = catalog.recovering();
    for region in replicated(catalog).filter(|region| !recovering.contains(region)) {
        let membership = membership(state, catalog, region);
        let step = members::step(&membership, LAG);
        let rests = matches!(step, MemberStep::Nothing(Waiting::Settled | Waiting::NobodyLeads));
        changing |= !rests;
        let is_repeated = orders.get(&region).is_some_and(|(said, _)| *said == step);
        let Some(led) = membership.led.filter(|_| !is_repeated) else {
            continue;
        };
        if say(state, catalog, region, &led, &step) {
            info!(%region, ?step, "members change");
            if let MemberStep::HandOver { to } = &step {
                handed_over.push((region, led.epoch, to.node));
            }
            orders.insert(region, (step, now));
        }
    }
    state.member_orders = orders;
    // For a moment nobody leads, and nobody else is to be told to.
    for (region, epoch, to) in handed_over {
        state.note_transfer(region, epoch, to, now);
    }
    changing
}

/// Regions of tables that are there.
fn replicated(catalog: &Catalog) -> impl Iterator<Item = RegionId> + '_ {
    let ready = catalog.tables.values().filter(|t| t.state == TableState::Ready);
    ready.flat_map(|table| table.regions())
}

/// What is recorded of a region's members, and what its leader and they say.
pub(crate) fn membership(state: &State, catalog: &Catalog, region: RegionId) -> Membership {
    let reached = reports(state, region).map(|r| (r.raft_id, r.last_index));
    Membership {
        recorded: catalog.planned_members(region),
        led: leader_of(state, region),
        reached: reached.collect(),
    }
}

/// What datanodes say of the region; of those that were given up in a recovery nothing counts.
fn reports(state: &State, region: RegionId) -> impl Iterator<Item = &v1::RegionReport> {
    let counts = move |raft_id| {
        let catalog = state.catalog.as_ref();
        catalog.is_none_or(|catalog| !catalog.is_given_up(region, raft_id))
    };
    let reports = state.sessions.reports_of(region).map(|(_, report)| report);
    reports.filter(move |report| counts(report.raft_id))
}

/// What the leader of a region says; of several, the one of the latest epoch.
pub(crate) fn leading_report(state: &State, region: RegionId) -> Option<&v1::RegionReport> {
    let leading = reports(state, region).filter(|r| r.role() == v1::RegionRole::Leader);
    leading.max_by_key(|r| r.epoch)
}

/// Who leads a region, as its leader says.
pub(crate) fn leader_of(state: &State, region: RegionId) -> Option<Led> {
    let leader = leading_report(state, region)?;
    // One that knows no other replicas says nothing of members.
    let voters: BTreeSet<u64> = match leader.voters.is_empty() {
        true => [leader.raft_id].into(),
        false => leader.voters.iter().copied().collect(),
    };
    Some(Led {
        raft_id: leader.raft_id,
        epoch: leader.epoch,
        last_index: leader.last_index,
        voters,
        learners: leader.learners.iter().copied().collect(),
    })
}

pub(crate) fn spoken(member: &Member) -> v1::RegionMember {
    v1::RegionMember {
        raft_id: member.raft_id,
        node: member.node,
    }
}

/// Tells the leader; `false` if there is nothing to tell.
fn say(state: &State, catalog: &Catalog, region: RegionId, led: &Led, step: &MemberStep) -> bool {
    let mut order = v1::ChangeMembers {
        region_id: region.as_u64(),
        epoch: led.epoch,
        members: catalog.planned_members(region).iter().map(spoken).collect(),
        ..Default::default()
    };
    let body = match step {
        MemberStep::Nothing(_) => return false,
        MemberStep::AddLearners(members) => {
            order.learners = members.iter().map(spoken).collect();
            push::Body::ChangeMembers(order)
        }
        MemberStep::Promote { voters, remove } => {
            order.voters = voters.iter().map(spoken).collect();
            order.remove.clone_from(remove);
            push::Body::ChangeMembers(order)
        }
        MemberStep::HandOver { to } => push::Body::Transfer(v1::TransferRegion {
            region_id: region.as_u64(),
            epoch: led.epoch,
            to_raft_id: to.raft_id,
        }),
    };
    let leads = |s: &&crate::sessions::Session| {
        let report = s.reports.get(&region);
        report.is_some_and(|r| r.raft_id == led.raft_id && r.role() == v1::RegionRole::Leader)
    };
    let mut datanodes = state.sessions.of_role(NodeRole::Datanode).map(|(_, s)| s);
    datanodes.find(leads).is_some_and(|session| session.say(body))
}

/// Records other members where some are missing or lost for good.
async fn retarget(metasrv: &Metasrv) -> Result<()> {
    let needed = {
        let mut state = metasrv.state.lock();
        let Some(catalog) = state.catalog.as_ref() else {
            return Ok(());
        };
        let (plan, blocked) = plan(metasrv, &state, catalog);
        state.blocked = blocked;
        !plan.is_empty()
    };
    if !needed {
        return Ok(());
    }
    // Decided again inside, from the newest catalog.
    let changed = metasrv.change(|catalog| {
        // What it is blocked by was told when it was found to be needed.
        let (plan, _) = plan(metasrv, &metasrv.state.lock(), catalog);
        for change in &plan {
            info!(region = %change.region, add = ?change.add, "the region gets other members");
        }
        Ok(catalog.retarget(&plan))
    });
    changed.await.map(drop)
}

fn plan(metasrv: &Metasrv, state: &State, catalog: &Catalog) -> (Vec<Retarget>, BTreeMap<RegionId, Blocked>) {
    if catalog.root.format < QUORUM_FORMAT {
        return Default::default();
    }
    let regions = replicated(catalog).map(|region| (region, replicas(metasrv, state, catalog, region)));
    let policy = RepairPolicy {
        replicas: metasrv.options.config.replicas,
        at_once: AT_ONCE,
    };
    repair(&regions.collect(), &metasrv.candidates(state, catalog), &policy)
}

fn replicas(metasrv: &Metasrv, state: &State, catalog: &Catalog, region: RegionId) -> Replicas {
    let membership = membership(state, catalog, region);
    let is_lost = |member: &&Member| {
        is_gone(metasrv, state, member.node)
            || has_lost_its_disk(state, region, member, membership.led.as_ref())
    };
    let lost = membership
        .recorded
        .iter()
        .filter(is_lost)
        .map(|m| m.raft_id)
        .collect();
    Replicas::of(membership, lost, LAG)
}

/// Why a region's members are not as they should be, if so: what stands against others, or what they wait for.
pub(crate) fn shortage(
    metasrv: &Metasrv,
    state: &State,
    catalog: &Catalog,
    region: RegionId,
) -> Option<String> {
    if let Some(blocked) = state.blocked.get(&region) {
        return Some(blocked.to_string());
    }
    let membership = membership(state, catalog, region);
    if let MemberStep::Nothing(waiting) = members::step(&membership, LAG)
        && !matches!(waiting, Waiting::Settled | Waiting::NobodyLeads)
    {
        return Some(waiting.to_string());
    }
    let dead_for = |node: NodeId| match state.watch.as_ref()?.verdict(node)? {
        Verdict::Dead { gone_since, .. } => Some(metasrv.now().saturating_sub(*gone_since)),
        _ => None,
    };
    let patience = metasrv.options.config.replace_after;
    membership.recorded.iter().find_map(|member| {
        let left = patience.checked_sub(dead_for(member.node)?)?;
        Some(format!(
            "datanode {} is dead; if it does not come back in {} s its replica is made anew elsewhere",
            member.node,
            left.as_secs()
        ))
    })
}

/// Dead for so long that it is not waited for.
fn is_gone(metasrv: &Metasrv, state: &State, node: NodeId) -> bool {
    let verdict = state.watch.as_ref().and_then(|watch| watch.verdict(node));
    matches!(verdict, Some(Verdict::Dead { gone_since, .. })
        if metasrv.now().saturating_sub(*gone_since) >= metasrv.options.config.replace_after)
}

/// The datanode is there, and has nothing of a replica that was a member.
pub(crate) fn has_lost_its_disk(state: &State, region: RegionId, member: &Member, led: Option<&Led>) -> bool {
    let session = state.sessions.get(NodeRole::Datanode, member.node);
    let is_missing = session.is_some_and(|s| !s.reports.contains_key(&region));
    is_missing && led.is_some_and(|led| led.has_beside_itself(member.raft_id))
}
