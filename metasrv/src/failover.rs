//! Looks at the datanodes all the time, and gives regions whose leader is gone another one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use greptime_metasrv_plan::assignment::Member;
use greptime_metasrv_plan::failover::{
    Attempt, Bereaved, LogEnd, Plan, RegionSeen, Report, Snapshot, Voter, VoterRole, plan,
};
use greptime_metasrv_plan::members::{Electorate, Said, who_votes};
use greptime_metasrv_plan::{Judgement, Verdict};
use greptime_proto::v1::{self, push};
use greptime_types::{NodeId, NodeRole, RegionId, TableState};
use tracing::{info, warn};

use crate::catalog::Catalog;
use crate::server::Metasrv;
use crate::sessions::Sessions;
use crate::watch::{BrakeNews, Look, ToRedial, Watch};

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
    let (Some(watch), Some(catalog)) = (state.watch.as_mut(), state.catalog.as_ref()) else {
        return;
    };
    let Look {
        judgement,
        redial,
        news,
        brake,
    } = watch.look(now);
    tell_verdicts(&judgement, &news);
    tell_brake(&judgement, brake);
    for asked in redial {
        redial_in_background(metasrv, asked);
    }
    if changed || state.unserved || !news.is_empty() {
        let mut cluster = Cluster {
            catalog,
            sessions: &state.sessions,
            watch,
        };
        let (plan, report) = cluster.plan(&judgement, now);
        cluster.watch.leases.follow(&plan);
        cluster.carry_out(metasrv, &plan, now);
        state.unserved = !report.unserved.is_empty() || !report.misplaced.is_empty();
        state.waiting = report.unserved;
    }
    drop(guard);
    if !news.is_empty() {
        metasrv.note_change();
    }
}

/// `news`: whose verdict is another than before.
fn tell_verdicts(judgement: &Judgement, news: &BTreeSet<NodeId>) {
    for (node, verdict) in judgement.verdicts.iter().filter(|(node, _)| news.contains(node)) {
        match verdict {
            Verdict::Alive { .. } => info!(node, "datanode is {verdict}"),
            _ => warn!(node, "datanode is {verdict}"),
        }
    }
}

fn tell_brake(judgement: &Judgement, news: BrakeNews) {
    match (news, &judgement.brake) {
        (BrakeNews::None, _) => {}
        (_, Some(brake)) => warn!("{brake}"),
        (_, None) => info!("silence of datanodes counts again"),
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

/// What plans are made from and carried out with.
struct Cluster<'a> {
    catalog: &'a Catalog,
    sessions: &'a Sessions,
    watch: &'a mut Watch,
}

impl Cluster<'_> {
    fn plan(&mut self, judgement: &Judgement, now: Duration) -> (Plan, Report) {
        let mut snapshot = Snapshot::default();
        let tables = self.catalog.tables.values();
        let heirs = self.catalog.heirs();
        for table in tables.filter(|t| t.state != TableState::Dropping) {
            for region in table.regions() {
                let mut seen = self.seen(region, table.state, &heirs);
                if seen.voters.len() + seen.strangers < 2 {
                    // A single voter elects itself, or nobody does.
                    continue;
                }
                for voter in &mut seen.voters {
                    voter.apart = judgement.apart_from(voter.node);
                }
                snapshot.regions.insert(region, seen);
            }
        }
        self.watch
            .keep_regions(|region| snapshot.regions.contains_key(&region));
        plan(&snapshot, &self.watch.policy, now)
    }

    /// A region, but for who does not reach whom. `heirs`: replicas that are to lead soon.
    fn seen(&mut self, region: RegionId, table: TableState, heirs: &BTreeSet<(RegionId, u64)>) -> RegionSeen {
        let Electorate { voters, strangers } = electorate(self.sessions, self.catalog, region);
        let voters = voters.iter().map(|(place, member)| {
            let role = match heirs.contains(&(region, member.raft_id)) {
                true => VoterRole::Hot,
                false => role(*place, table),
            };
            self.voter(region, member, role)
        });
        let voters: Vec<Voter> = voters.collect();
        let epoch = voters.iter().filter_map(|v| v.leads).max();
        RegionSeen {
            tried: self.watch.tried(region, epoch),
            led: self.watch.led(region, epoch),
            lease_ends: self.watch.lease_of_another_ends(region, &voters),
            voters,
            strangers,
        }
    }

    fn voter(&self, region: RegionId, member: &Member, role: VoterRole) -> Voter {
        // A replica whose log is not open yet has no id.
        let is_of_it = |r: &&v1::RegionReport| r.raft_id == member.raft_id;
        let report = self.report(region, member.node).filter(is_of_it);
        let at = self.watch.last_beat(member.node).unwrap_or_default();
        let end = |r: &v1::RegionReport| log_end(r, at);
        // One that has failed cannot be voted for, nor vote.
        let log = report.filter(|r| r.role() != v1::RegionRole::Failed).map(end);
        let had = self.sessions.last_said(member.node, region);
        let verdict = self.watch.verdict(member.node).cloned();
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
            apart: BTreeSet::new(),
            had: had.filter(is_of_it).map(end),
            leads,
            elected: report
                .filter(|r| r.role() == v1::RegionRole::Opening && r.leader_raft_id == r.raft_id)
                .map(|r| r.epoch),
            lease_ends: self.watch.lease_ends(region, member.node),
        }
    }

    fn report(&self, region: RegionId, node: NodeId) -> Option<&v1::RegionReport> {
        let session = self.sessions.get(NodeRole::Datanode, node)?;
        let report = session.reports.get(&region)?;
        (!self.catalog.is_given_up(region, report.raft_id)).then_some(report)
    }

    fn carry_out(&mut self, metasrv: &Metasrv, plan: &Plan, now: Duration) {
        for campaign in &plan.campaigns {
            let (region, node, term) = (campaign.region, campaign.node, campaign.seen_term);
            let order = v1::CampaignRegion {
                region_id: region.as_u64(),
                raft_id: campaign.raft_id,
                seen_term: term,
            };
            self.say(node, push::Body::Campaign(order));
            info!(%region, node, term, "telling a replica to campaign");
            metasrv.metrics.campaigns.inc();
            self.watch.note_try(region, term, Attempt::Campaign, node, now);
        }
        for transfer in &plan.transfers {
            let (region, from, to) = (transfer.region, transfer.from, transfer.to);
            let Some(heir) = self.report(region, to) else {
                continue;
            };
            let epoch = self.report(region, from).map_or(0, |r| r.epoch);
            let order = v1::TransferRegion {
                region_id: region.as_u64(),
                epoch,
                to_raft_id: heir.raft_id,
            };
            self.say(from, push::Body::Transfer(order));
            info!(%region, from, to, "telling a leader to hand over");
            metasrv.metrics.transfers.inc();
            self.watch.note_try(region, epoch, Attempt::Transfer, to, now);
        }
    }

    /// What is not taken is said again, when it still is needed.
    fn say(&self, node: NodeId, order: push::Body) {
        if let Some(session) = self.sessions.get(NodeRole::Datanode, node) {
            session.say(order);
        }
    }
}

/// What is known of a region, for a person who wants one replica to go on alone.
pub(crate) fn bereaved(
    (sessions, watch): (&Sessions, &mut Watch),
    catalog: &Catalog,
    region: RegionId,
    now: Duration,
) -> Bereaved {
    let mut cluster = Cluster {
        catalog,
        sessions,
        watch,
    };
    let seen = cluster.seen(region, TableState::Ready, &catalog.heirs());
    let has_vote = |m: &Member| seen.voters.iter().any(|v| v.raft_id == m.raft_id);
    let recorded = catalog.planned_members(region);
    let learners = recorded.iter().filter(|m| !has_vote(m));
    let learners: Vec<Voter> = learners
        .map(|m| cluster.voter(region, m, VoterRole::LogOnly))
        .collect();
    let nodes = seen.voters.iter().chain(&learners).map(|v| v.node);
    Bereaved {
        heard: nodes.filter(|node| cluster.watch.hears(*node, now)).collect(),
        region,
        learners,
        seen,
    }
}

/// How far a replica's log reached when the beat came `at`.
fn log_end(report: &v1::RegionReport, at: Duration) -> LogEnd {
    LogEnd {
        last_term: report.last_term,
        last_index: report.last_index,
        applied_index: report.applied_index,
        term: report.epoch,
        flushed_index: report.flushed_index,
        at,
    }
}

/// Who votes in a region, as far as records and datanodes say.
pub(crate) fn electorate(sessions: &Sessions, catalog: &Catalog, region: RegionId) -> Electorate {
    let reports = sessions.reports_of(region);
    let counts = |(_, report): &(NodeId, &v1::RegionReport)| !catalog.is_given_up(region, report.raft_id);
    let said = reports.filter(counts).map(|(node, report)| Said {
        member: Member {
            raft_id: report.raft_id,
            node,
        },
        position: (report.last_term, report.last_index),
        voters: &report.voters,
    });
    who_votes(&catalog.planned_members(region), &said.collect::<Vec<_>>())
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
