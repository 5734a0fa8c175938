//! Looks at the datanodes all the time, and gives regions whose leader is gone another one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use greptime_metasrv_plan::failover::{
    Attempt, LogEnd, Plan, RegionSeen, Report, Snapshot, Voter, VoterRole, plan,
};
use greptime_metasrv_plan::lease::surely_ends;
use greptime_metasrv_plan::{Judgement, Verdict};
use greptime_proto::v1::{self, push};
use greptime_types::{NodeId, NodeRole, RegionId, TableState};
use tracing::{info, warn};

use crate::catalog::Catalog;
use crate::server::{Metasrv, State};
use crate::watch::{ToRedial, Watch};

/// Voters that are hot, by their place in the record of members: one leads, one is ready to.
pub(crate) const HOT: usize = 2;

pub(crate) async fn run(metasrv: Arc<Metasrv>) {
    let mut changes = metasrv.changes.subscribe();
    let look = metasrv.options.policy.look;
    let mut next = tokio::time::interval(look * 4 / 5);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = next.tick() => {}
            () = metasrv.until_shutdown() => return,
        }
        let changed = changes.has_changed().unwrap_or(false);
        changes.mark_unchanged();
        look_once(&metasrv, changed);
    }
}

/// One look: judges, and if anything is new or not as it should be, tells who is to lead.
fn look_once(metasrv: &Arc<Metasrv>, changed: bool) {
    let now = metasrv.now();
    let mut guard = metasrv.state.lock();
    let state = &mut *guard;
    let (Some(watch), Some(catalog)) = (state.watch.as_mut(), state.catalog.clone()) else {
        return;
    };
    let before: BTreeMap<NodeId, Option<Verdict>> = catalog
        .datanodes
        .keys()
        .map(|node| (*node, watch.verdict(*node).cloned()))
        .collect();
    let (judgement, redial, news) = watch.look(now);
    tell_verdicts(&before, &judgement);
    for asked in redial {
        redial_in_background(metasrv, asked);
    }
    if news || changed || state.unserved {
        let (plan, report) = make_plan(state, &catalog, &judgement, now);
        state.unserved = !report.unserved.is_empty() || !report.misplaced.is_empty();
        carry_out(metasrv, state, &catalog, &plan, now);
        state.waiting = report.unserved;
    }
    drop(guard);
    if news {
        metasrv.note_change();
    }
}

fn tell_verdicts(before: &BTreeMap<NodeId, Option<Verdict>>, judgement: &Judgement) {
    for (node, verdict) in &judgement.verdicts {
        let was = before.get(node).and_then(Option::as_ref);
        let same = was.is_some_and(|was| std::mem::discriminant(was) == std::mem::discriminant(verdict));
        match verdict {
            _ if same => {}
            Verdict::Alive { .. } => info!(node, "datanode is {verdict}"),
            _ => warn!(node, "datanode is {verdict}"),
        }
    }
    if let Some(brake) = &judgement.brake {
        warn!("{brake}");
    }
}

fn redial_in_background(metasrv: &Arc<Metasrv>, asked: ToRedial) {
    let (metasrv, patience) = (Arc::clone(metasrv), metasrv.options.policy.redial_again);
    tokio::spawn(async move {
        let answer = metasrv.options.redial.redial(&asked.address, patience).await;
        let now = metasrv.now();
        let mut state = metasrv.state.lock();
        if let Some(watch) = state.watch.as_mut() {
            watch.redialled(&asked, answer, now);
        }
        drop(state);
        // What was learned may be a fact.
        look_once(&metasrv, true);
    });
}

fn make_plan(state: &mut State, catalog: &Catalog, judgement: &Judgement, now: Duration) -> (Plan, Report) {
    let Some(watch) = state.watch.as_mut() else {
        return Default::default();
    };
    let mut snapshot = Snapshot::default();
    let tables = catalog
        .tables
        .values()
        .filter(|t| t.state != TableState::Dropping);
    for table in tables {
        for region in table.regions() {
            let members = catalog.members(region);
            if members.len() < 2 {
                // A single voter elects itself, or nobody does.
                continue;
            }
            let voters: Vec<Voter> = members
                .iter()
                .enumerate()
                .map(|(place, member)| {
                    let session = state.sessions.get(NodeRole::Datanode, member.node);
                    let report = session.and_then(|s| s.reports.get(&region));
                    let verdict = judgement.verdicts.get(&member.node).cloned();
                    let role = role(place, table.state);
                    voter(member, role, verdict, report, watch)
                })
                .collect();
            let epoch = voters.iter().filter_map(|v| v.leads).max();
            let tried = watch.tried(region, epoch);
            snapshot.regions.insert(region, RegionSeen { voters, tried });
        }
    }
    watch.keep_regions(|region| snapshot.regions.contains_key(&region));
    plan(&snapshot, &watch.policy, now)
}

/// The first of a new region leads it, so that leaders are spread as they were placed.
fn role(place: usize, table: TableState) -> VoterRole {
    let hot = match table {
        TableState::Creating => 1,
        _ => HOT,
    };
    if place < hot {
        VoterRole::Hot
    } else {
        VoterRole::LogOnly
    }
}

fn voter(
    member: &crate::catalog::Member,
    role: VoterRole,
    verdict: Option<Verdict>,
    report: Option<&v1::RegionReport>,
    watch: &Watch,
) -> Voter {
    let at = watch.last_beat(member.node).unwrap_or_default();
    // One that has failed cannot be voted for, nor vote.
    let log = report
        .filter(|r| r.role() != v1::RegionRole::Failed)
        .map(|r| LogEnd {
            last_term: r.last_term,
            last_index: r.last_index,
            term: r.epoch,
            at,
        });
    let leads = report
        .filter(|r| r.role() == v1::RegionRole::Leader)
        .map(|r| r.epoch);
    Voter {
        node: member.node,
        raft_id: member.raft_id,
        role,
        verdict: verdict.unwrap_or(Verdict::Alive {
            since: Duration::ZERO,
        }),
        log,
        leads,
        // No leases are granted yet: reads ask a majority.
        lease_ends: surely_ends(None, watch.leading_since, &watch.policy),
    }
}

fn carry_out(metasrv: &Metasrv, state: &mut State, catalog: &Catalog, plan: &Plan, now: Duration) {
    for campaign in &plan.campaigns {
        let order = push::Body::Campaign(v1::CampaignRegion {
            region_id: campaign.region.as_u64(),
            raft_id: campaign.raft_id,
            seen_term: campaign.seen_term,
        });
        say(state, campaign.node, order);
        let (region, node, term) = (campaign.region, campaign.node, campaign.seen_term);
        info!(%region, node, term, "telling a replica to campaign");
        metasrv.metrics.campaigns.inc();
        note_try(state, region, term, Attempt::Campaign, node, now);
    }
    for transfer in &plan.transfers {
        let members = catalog.members(transfer.region);
        let Some(to) = members.iter().find(|m| m.node == transfer.to) else {
            continue;
        };
        let epoch = epoch_of(state, transfer.region, transfer.from);
        let order = push::Body::Transfer(v1::TransferRegion {
            region_id: transfer.region.as_u64(),
            epoch,
            to_raft_id: to.raft_id,
        });
        say(state, transfer.from, order);
        let (region, from, to) = (transfer.region, transfer.from, transfer.to);
        info!(%region, from, to, "telling a leader to hand over");
        metasrv.metrics.transfers.inc();
        note_try(state, region, epoch, Attempt::Transfer, to, now);
    }
}

fn note_try(state: &mut State, region: RegionId, epoch: u64, what: Attempt, to: NodeId, now: Duration) {
    if let Some(watch) = state.watch.as_mut() {
        watch.note_try(region, epoch, what, to, now);
    }
}

fn epoch_of(state: &State, region: RegionId, node: NodeId) -> u64 {
    let session = state.sessions.get(NodeRole::Datanode, node);
    let report = session.and_then(|s| s.reports.get(&region));
    report.map_or(0, |r| r.epoch)
}

/// What is not taken is said again, when it still is needed.
fn say(state: &State, node: NodeId, order: push::Body) {
    if let Some(session) = state.sessions.get(NodeRole::Datanode, node) {
        session.say(order);
    }
}
