//! Looks at the datanodes all the time, as `failover` of metasrv does.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::assignment::Member;
use greptime_metasrv_plan::failover::{
    Attempt, Bereaved, LogEnd, Plan, Reason, RegionSeen, Report, Snapshot, Step, Voter, VoterRole, plan,
};
use greptime_metasrv_plan::members::{Electorate, Said, who_votes};
use greptime_metasrv_plan::watch::{Answer as Redialled, Look, Place};
use greptime_metasrv_plan::{Judgement, Verdict};
use greptime_types::{NodeId, RegionId, TableState};

use super::{Metasrv, State};
use crate::catalog::Catalog;
use crate::message::{Answer, Push, RegionReport, RegionRole, Request};
use crate::process::Address;
use crate::sim::Signal;
use crate::trace::Branch;

/// Voters that are hot, by their place in the record of members.
pub(super) const HOT: usize = 2;

impl Metasrv {
    pub(super) async fn look(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            self.sim.sleep(self.policy.look * 4 / 5).await;
            let change = self.change.get();
            self.look_once(change != seen);
            seen = change;
        }
    }

    fn look_once(self: &Rc<Self>, changed: bool) {
        let now = self.now();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let (Some(watch), true) = (state.watch.as_mut(), state.catalog.is_some()) else {
            return;
        };
        let Look {
            judgement,
            redial,
            news,
            ..
        } = watch.look(now);
        self.tell_verdicts(&judgement, news.iter());
        for asked in redial {
            self.sim.spawn(self.me, Rc::clone(self).redial(asked));
        }
        let mut said = Vec::new();
        if changed || state.is_unserved || !news.is_empty() {
            let (plan, report) = plan_of(state, &judgement, now);
            said = self.carry_out(state, &plan, now);
            self.count_steps(&report);
            if let Some(watch) = state.watch.as_mut() {
                watch.leases.follow(&plan);
            }
            state.is_unserved = !report.unserved.is_empty() || !report.misplaced.is_empty();
        }
        drop(guard);
        for (node, push) in said {
            self.say(node, push);
        }
        if !news.is_empty() {
            self.note_change();
        }
    }

    fn count_steps(&self, report: &Report) {
        for step in report.unserved.values() {
            match step {
                Step::WaitForLease { .. } => self.sim.hit(Branch::WaitForLease),
                Step::MajorityLost(_) => self.sim.hit(Branch::MajorityLost),
                Step::Nothing {
                    reason: Reason::Unheard { .. },
                } => self.sim.hit(Branch::NobodyHeard),
                Step::Nothing {
                    reason: Reason::LeaderSuspect { .. },
                } => self.sim.hit(Branch::LeaderSuspect),
                _ => {}
            }
        }
    }

    fn tell_verdicts<'a>(&self, judgement: &Judgement, news: impl Iterator<Item = &'a NodeId>) {
        for node in news {
            let Some(verdict) = judgement.verdicts.get(node) else {
                continue;
            };
            self.sim
                .note(|| format!("{}: datanode-{node} is {verdict}", self.me));
            match verdict {
                Verdict::Dead { why, .. } if why.is_fact() => self.sim.hit(Branch::DeadByFact),
                Verdict::Dead { .. } => self.sim.hit(Branch::DeadBySilence),
                Verdict::Unwell { .. } => self.sim.hit(Branch::Unwell),
                _ => {}
            }
        }
        if judgement.brake.is_some() {
            self.sim.hit(Branch::Brake);
        }
        if judgement.late.is_some() {
            self.sim.hit(Branch::LatenessIsCredited);
        }
    }

    async fn redial(self: Rc<Self>, asked: Place) {
        let to = Address::datanode(asked.node);
        let until = self.sim.after(self.me, self.policy.redial_again);
        let never = (&Signal::default(), || false);
        let answer = match self
            .sim
            .call((self.me, to), Request::Identify, until, never)
            .await
        {
            Some(Answer::Identity { incarnation }) => Redialled::Process { incarnation },
            Some(Answer::Refused) => Redialled::Refused,
            _ => Redialled::Nobody,
        };
        let now = self.now();
        if let Some(watch) = self.state.borrow_mut().watch.as_mut() {
            watch.redialled(&asked, answer, now);
        }
        self.look_once(true);
    }

    /// What is to be said to whom.
    fn carry_out(&self, state: &mut State, plan: &Plan, now: Duration) -> Vec<(NodeId, Push)> {
        let Some(watch) = state.watch.as_mut() else {
            return vec![];
        };
        let mut said = Vec::new();
        for campaign in &plan.campaigns {
            let (region, node, seen_term) = (campaign.region, campaign.node, campaign.seen_term);
            self.sim.hit(Branch::CampaignOrdered);
            self.sim.note(|| {
                format!(
                    "{} tells datanode-{node} to lead {region} above {seen_term}",
                    self.me
                )
            });
            said.push((node, Push::Campaign { region, seen_term }));
            watch.note_try(region, seen_term, Attempt::Campaign, node, now);
        }
        for transfer in &plan.transfers {
            let (region, from, to) = (transfer.region, transfer.from, transfer.to);
            let Some(heir) = report(state, region, to).map(|r| r.raft_id) else {
                continue;
            };
            self.sim.hit(Branch::TransferOrdered);
            self.sim.note(|| {
                format!(
                    "{} tells datanode-{from} to hand {region} to datanode-{to}",
                    self.me
                )
            });
            let epoch = report(state, region, from).map_or(0, |r| r.epoch);
            said.push((from, Push::Transfer { region, to: heir }));
            if let Some(watch) = state.watch.as_mut() {
                watch.note_try(region, epoch, Attempt::Transfer, to, now);
            }
        }
        said
    }

    pub(super) fn say(&self, node: NodeId, push: Push) {
        let connection = self
            .state
            .borrow()
            .sessions
            .datanodes
            .get(&node)
            .map(|s| s.connection);
        if let Some(connection) = connection {
            self.push(connection, push);
        }
    }
}

pub(super) fn report(state: &State, region: RegionId, node: NodeId) -> Option<&RegionReport> {
    state.sessions.datanodes.get(&node)?.reports.get(&region)
}

fn plan_of(state: &mut State, judgement: &Judgement, now: Duration) -> (Plan, Report) {
    let mut snapshot = Snapshot::default();
    let Some(catalog) = state.catalog.clone() else {
        return Default::default();
    };
    let (tables, heirs) = (catalog.tables.values(), catalog.heirs());
    for table in tables.filter(|t| t.state != TableState::Dropping) {
        for region in table.regions() {
            let mut seen = seen(state, &catalog, &heirs, (region, table.state));
            for voter in &mut seen.voters {
                voter.apart = judgement.apart_from(voter.node);
            }
            if seen.voters.len() + seen.strangers > 1 {
                snapshot.regions.insert(region, seen);
            }
        }
    }
    let Some(watch) = state.watch.as_mut() else {
        return Default::default();
    };
    watch.keep_regions(|region| snapshot.regions.contains_key(&region));
    plan(&snapshot, &watch.policy, now)
}

/// A region, but for who does not reach whom.
fn seen(
    state: &mut State,
    catalog: &Catalog,
    heirs: &BTreeSet<(RegionId, u64)>,
    (region, table): (RegionId, TableState),
) -> RegionSeen {
    let Electorate { voters, strangers } = electorate(state, catalog, region);
    let voters = voters.iter().map(|(place, member)| {
        let role = match heirs.contains(&(region, member.raft_id)) {
            true => VoterRole::Hot,
            false => role(*place, table),
        };
        voter(state, region, member, role)
    });
    let voters: Vec<Voter> = voters.collect();
    let epoch = voters.iter().filter_map(|v| v.leads).max();
    let tried = state
        .watch
        .as_mut()
        .map(|w| w.tried(region, epoch))
        .unwrap_or_default();
    let led = state.watch.as_mut().map_or(0, |w| w.led(region, epoch));
    let watch = state.watch.as_ref();
    let lease_ends = watch.map_or(Duration::ZERO, |w| w.lease_of_another_ends(region, &voters));
    RegionSeen {
        voters,
        led,
        lease_ends,
        strangers,
        tried,
    }
}

/// What is known of a region, for a person who wants one replica to go on alone.
pub(super) fn bereaved(state: &mut State, catalog: &Catalog, region: RegionId, now: Duration) -> Bereaved {
    let seen = seen(state, catalog, &catalog.heirs(), (region, TableState::Ready));
    let has_vote = |m: &Member| seen.voters.iter().any(|v| v.raft_id == m.raft_id);
    let recorded = catalog.planned_members(region);
    let learners = recorded.iter().filter(|m| !has_vote(m));
    let learners: Vec<Voter> = learners
        .map(|m| voter(state, region, m, VoterRole::LogOnly))
        .collect();
    let is_heard = |node: &NodeId| state.watch.as_ref().is_some_and(|w| w.hears(*node, now));
    let nodes = seen.voters.iter().chain(&learners).map(|v| v.node);
    Bereaved {
        heard: nodes.filter(is_heard).collect(),
        region,
        learners,
        seen,
    }
}

pub(super) fn electorate(state: &State, catalog: &Catalog, region: RegionId) -> Electorate {
    let datanodes = state.sessions.datanodes.iter();
    let reports = datanodes.filter_map(|(node, session)| Some((*node, session.reports.get(&region)?)));
    let said = reports.map(|(node, report)| Said {
        member: Member {
            raft_id: report.raft_id,
            node,
        },
        position: (report.last_term, report.last_index),
        voters: &report.voters,
    });
    who_votes(&catalog.planned_members(region), &said.collect::<Vec<_>>())
}

fn voter(state: &State, region: RegionId, member: &Member, role: VoterRole) -> Voter {
    let is_of_it = |r: &&RegionReport| r.raft_id == member.raft_id;
    let report = report(state, region, member.node).filter(is_of_it);
    let had = state.sessions.last_said(member.node, region).filter(is_of_it);
    let watch = state.watch.as_ref();
    let verdict = watch.and_then(|w| w.verdict(member.node)).cloned();
    let at = watch.and_then(|w| w.last_beat(member.node)).unwrap_or_default();
    let end = |r: &RegionReport| LogEnd {
        last_term: r.last_term,
        last_index: r.last_index,
        applied_index: r.applied_index,
        term: r.epoch,
        flushed_index: 0,
        at,
    };
    let log = report.filter(|r| r.role != RegionRole::Failed).map(end);
    let leads = report.filter(|r| r.role == RegionRole::Leader).map(|r| r.epoch);
    Voter {
        node: member.node,
        raft_id: member.raft_id,
        role,
        verdict: verdict.unwrap_or(Verdict::Alive {
            since: Duration::ZERO,
        }),
        log,
        apart: BTreeSet::new(),
        had: had.map(end),
        leads,
        elected: report.filter(|r| r.is_elected).map(|r| r.epoch),
        lease_ends: watch.map_or(Duration::ZERO, |w| w.lease_ends(region, member.node)),
    }
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
