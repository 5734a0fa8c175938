//! Looks at the datanodes all the time, and gives regions whose leader is gone another one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use greptime_metasrv_plan::assignment::Member;
use greptime_metasrv_plan::failover::{
    Attempt, LogEnd, Plan, RegionSeen, Report, Snapshot, Voter, VoterRole, plan,
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
                let Electorate { voters, strangers } = electorate(self.sessions, self.catalog, region);
                if voters.len() + strangers < 2 {
                    // A single voter elects itself, or nobody does.
                    continue;
                }
                let voters = voters.iter().map(|(place, member)| {
                    let verdict = judgement.verdicts.get(&member.node).cloned();
                    let role = match heirs.contains(&(region, member.raft_id)) {
                        true => VoterRole::Hot,
                        false => role(*place, table.state),
                    };
                    Voter {
                        apart: judgement.apart_from(member.node),
                        ..self.voter(region, member, role, verdict)
                    }
                });
                let voters: Vec<Voter> = voters.collect();
                let epoch = voters.iter().filter_map(|v| v.leads).max();
                let tried = self.watch.tried(region, epoch);
                let led = self.watch.led(region, epoch);
                let lease_ends = self.watch.lease_of_another_ends(region, &voters);
                let seen = RegionSeen {
                    voters,
                    led,
                    lease_ends,
                    strangers,
                    tried,
                };
                snapshot.regions.insert(region, seen);
            }
        }
        self.watch
            .keep_regions(|region| snapshot.regions.contains_key(&region));
        plan(&snapshot, &self.watch.policy, now)
    }

    fn voter(&self, region: RegionId, member: &Member, role: VoterRole, verdict: Option<Verdict>) -> Voter {
        let report = self.report(region, member.node);
        let at = self.watch.last_beat(member.node).unwrap_or_default();
        let end = |r: &v1::RegionReport| log_end(r, at);
        // One that has failed cannot be voted for, nor vote.
        let log = report.filter(|r| r.role() != v1::RegionRole::Failed).map(end);
        let had = self.sessions.last_said(member.node, region);
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
            had: had.filter(|r| r.raft_id == member.raft_id).map(end),
            leads,
            elected: report
                .filter(|r| r.role() == v1::RegionRole::Opening && r.leader_raft_id == r.raft_id)
                .filter(|r| r.raft_id != 0)
                .map(|r| r.epoch),
            lease_ends: self.watch.lease_ends(region, member.node),
        }
    }

    fn report(&self, region: RegionId, node: NodeId) -> Option<&v1::RegionReport> {
        let report = self
            .sessions
            .get(NodeRole::Datanode, node)?
            .reports
            .get(&region)?;
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

/// How far a replica's log reached when the beat came `at`.
pub(crate) fn log_end(report: &v1::RegionReport, at: Duration) -> LogEnd {
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
