//! Leases for reads: one region with three voters, two metasrv of which one leads after the other, and time.
//!
//! metasrv's side is that of its plan: what it promises, and when it lets another campaign. What does not matter for leases
//! is left out: any replica may be taken for dead at any time, a vote takes no time, and a leader that was replaced never
//! hears of it. An order to campaign may take any time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_metasrv_plan::failover::{LogEnd, Plan, RegionSeen, Snapshot, Voter, VoterRole, plan};
use greptime_metasrv_plan::lease::{Elector, LeaderBeat, Leases as Granted, Led};
use greptime_metasrv_plan::liveness::Death;
use greptime_metasrv_plan::{Policy, Verdict};
use greptime_types::{NodeId, RegionId};
use stateright::{Model, Property};

use super::world::spend;
use crate::{Grant, Lease};

const VOTERS: [NodeId; 3] = [0, 1, THIRD];
const THIRD: NodeId = 2;
const REGION: RegionId = RegionId::new(1024, 0);
const LAST: u64 = 6;
const TERMS: u64 = 3;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One that leads from `since` on, for as long as a session.
#[derive(Clone, Debug, PartialEq, Hash)]
struct Metasrv {
    since: u64,
    /// Who has heard it since it leads, when, and the term that it said then.
    in_touch: BTreeMap<NodeId, (u64, u64)>,
    /// The newest leader that has beaten here, with its term.
    leader: Option<(NodeId, u64)>,
    leases: Granted,
}

impl Metasrv {
    /// What it decides when it hears two of the voters and has taken the other one for dead.
    fn plan(&self, candidate: NodeId, now: u64, policy: &Policy) -> Option<Plan> {
        let said = self.in_touch.values().map(|(_, term)| *term);
        let term = said.chain(self.leader.map(|(_, term)| term)).max()?;
        let voter = |node: NodeId| {
            let is_away = node != candidate && node != THIRD;
            let leads = self.leader.filter(|(leader, _)| *leader == node && is_away);
            Voter {
                node,
                raft_id: node,
                role: match node {
                    THIRD => VoterRole::LogOnly,
                    _ => VoterRole::Hot,
                },
                verdict: match is_away {
                    true => silent(),
                    false => Verdict::Alive { since: seconds(0) },
                },
                log: Some(log(term)),
                apart: BTreeSet::new(),
                had: None,
                leads: leads.map(|(_, term)| term),
                elected: None,
                lease_ends: self.leases.surely_end(REGION, node, seconds(self.since), policy),
            }
        };
        let region = RegionSeen {
            voters: VOTERS.map(voter).to_vec(),
            led: self.leader.map_or(0, |(_, term)| term),
            lease_ends: seconds(0),
            strangers: 0,
            tried: Vec::new(),
        };
        let regions = BTreeMap::from([(REGION, region)]);
        let (plan, _) = plan(&Snapshot { regions }, policy, seconds(now));
        Some(plan)
    }
}

fn silent() -> Verdict {
    Verdict::Dead {
        gone_since: seconds(0),
        why: Death::Silence { silence: seconds(1) },
    }
}

/// Of a replica in this term; all have the same entries.
fn log(term: u64) -> LogEnd {
    LogEnd {
        last_term: 1,
        last_index: 1,
        term,
        applied_index: 1,
        flushed_index: 0,
        at: seconds(0),
    }
}

/// A replica is told to campaign if it knows of no later term.
#[derive(Clone, Debug, PartialEq, Hash)]
struct Order {
    by: usize,
    node: NodeId,
    seen_term: u64,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Replica {
    /// The newest term in which it has led; it does not hear of later ones of others.
    leads_in: u64,
    /// In which it has voted.
    term: u64,
    lease: Lease,
    heard: u64,
    /// The newest metasrv that it has heard: orders of earlier ones count for nothing, nor do campaigns by them.
    metasrv: usize,
}

/// A beat, and then its answer.
#[derive(Clone, Debug, PartialEq, Hash)]
struct Message {
    node: NodeId,
    term: u64,
    sent: u64,
    /// It says that the sender has given up what was promised to it.
    renounces: bool,
    /// From a metasrv, with a lease.
    granted: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    now: u64,
    term: u64,
    leader: NodeId,
    replicas: Vec<Replica>,
    metasrvs: Vec<Metasrv>,
    messages: Vec<Message>,
    order: Option<Order>,
    /// A transfer that was begun in this term, and may succeed at any time.
    transfer: Option<(u64, NodeId)>,
    beats_left: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Second,
    Beat(NodeId),
    /// A leader sees that it cannot lead, and beats.
    Renounce(NodeId),
    /// The beat of this place comes to a metasrv, or its answer comes back.
    BeatComes(usize, usize),
    AnswerComes(usize),
    /// One that these have found.
    NextMetasrv(&'static [NodeId]),
    /// A metasrv lets a replica campaign.
    Campaign(usize, NodeId),
    Obey,
    /// A replica and the third elect it without metasrv.
    Fallback(NodeId),
    BeginTransfer(NodeId),
    EndTransfer,
}

impl State {
    fn replica(&mut self, node: NodeId) -> &mut Replica {
        &mut self.replicas[node as usize]
    }

    /// Whether a replica answers reads without asking the others.
    fn reads(&self, node: NodeId) -> bool {
        let replica = &self.replicas[node as usize];
        replica.lease.covers(replica.leads_in, seconds(self.now))
    }

    /// With the vote of the third.
    fn elect(&mut self, node: NodeId) -> Option<()> {
        if self.term == TERMS || self.leader == node {
            return None;
        }
        self.term += 1;
        let term = self.term;
        self.leader = node;
        self.replica(node).leads_in = term;
        self.replica(node).term = term;
        self.replica(THIRD).term = term;
        Some(())
    }

    fn obey(&mut self) -> Option<()> {
        let Order { by, node, seen_term } = self.order.take()?;
        let hears = |node: NodeId| self.replicas[node as usize].metasrv <= by;
        let term = self.replicas[node as usize].term;
        let is_late = term > seen_term;
        // In each term the third votes once.
        let votes = term >= self.replicas[THIRD as usize].term;
        (hears(node) && hears(THIRD) && !is_late && votes).then(|| self.elect(node))?
    }

    fn beat(&mut self, node: NodeId, renounces: bool) -> Option<()> {
        spend(&mut self.beats_left)?;
        let (term, sent) = (self.replica(node).leads_in, self.now);
        self.messages.push(Message {
            node,
            term: Some(term).filter(|term| *term > 0)?,
            sent,
            renounces,
            granted: None,
        });
        Some(())
    }

    /// Beats of one node come in the order in which they were sent: those before it that have not come are lost.
    fn lose_before(&mut self, at: usize) -> Option<usize> {
        let node = self.messages.get(at)?.node;
        let is_lost = |message: &Message| message.node == node && message.granted.is_none();
        let lost = self.messages[..at].iter().filter(|m| is_lost(m)).count();
        let mut place = 0;
        self.messages.retain(|message| {
            place += 1;
            place > at || !is_lost(message)
        });
        Some(at - lost)
    }

    fn beat_comes(&mut self, at: usize, metasrv: usize, model: &Leases) -> Option<()> {
        let now = seconds(self.now);
        let at = self.lose_before(at)?;
        let metasrv = self.metasrvs.get_mut(metasrv)?;
        let message = self.messages.get_mut(at).filter(|m| m.granted.is_none())?;
        if metasrv.leader.is_none_or(|(_, term)| term < message.term) {
            metasrv.leader = Some((message.node, message.term));
        }
        let is_leader = metasrv.leader == Some((message.node, message.term));
        let voters = VOTERS.map(|node| {
            let touch = metasrv.in_touch.get(&node);
            Elector {
                node,
                heard: touch.map(|(at, _)| seconds(*at)),
                term: touch.map_or(0, |(_, term)| *term),
                is_apart: false,
            }
        });
        let led = Led {
            region: REGION,
            epoch: message.term,
            voters: voters.to_vec(),
            strangers: 0,
        };
        let beat = LeaderBeat {
            node: message.node,
            led: is_leader.then_some(led).into_iter().collect(),
            oldest_append: Duration::ZERO,
            unanswered: Duration::ZERO,
            renounced: message.renounces.then_some(REGION).into_iter().collect(),
        };
        let session_ends = seconds(metasrv.since + model.session);
        let granted = metasrv.leases.answer(&beat, session_ends, now, &model.policy());
        message.granted = Some(!granted.length.is_zero());
        Some(())
    }

    fn answer_comes(&mut self, at: usize, model: &Leases) -> Option<()> {
        let granted = self.messages.get(at)?.granted?;
        let message = self.messages.remove(at);
        let now = self.now;
        let replica = self.replica(message.node);
        replica.heard = now;
        if granted {
            replica.lease.granted(Grant {
                term: message.term,
                sent: seconds(message.sent),
                received: seconds(now),
                length: model.policy().lease,
            });
        }
        Some(())
    }

    fn step(&mut self, action: &Action, model: &Leases) -> Option<()> {
        let now = self.now;
        match *action {
            Action::Second if now < LAST => {
                self.now += 1;
                // What has been on its way for longer than a lease lasts is of no use.
                let limit = model.policy().lease.as_secs();
                self.messages.retain(|message| message.sent + limit >= now);
            }
            Action::Second => return None,
            Action::Beat(node) => return self.beat(node, false),
            Action::Renounce(node) => {
                self.replica(node).lease.renounce(seconds(now));
                return self.beat(node, true);
            }
            Action::BeatComes(at, metasrv) => return self.beat_comes(at, metasrv, model),
            Action::AnswerComes(at) => return self.answer_comes(at, model),
            Action::NextMetasrv(found_by) => {
                let last = self.metasrvs.last().filter(|_| self.metasrvs.len() == 1)?;
                if now < last.since + model.session {
                    return None;
                }
                let mut in_touch = BTreeMap::new();
                for node in found_by {
                    let replica = self.replica(*node);
                    (replica.metasrv, replica.heard) = (1, now);
                    in_touch.insert(*node, (now, replica.term));
                }
                self.metasrvs.push(Metasrv {
                    since: now,
                    in_touch,
                    leader: None,
                    leases: Granted::default(),
                });
            }
            Action::Campaign(..) if self.term == TERMS => return None,
            Action::Campaign(by, node) => {
                let metasrv = self.metasrvs.get_mut(by).filter(|_| self.order.is_none())?;
                let plan = metasrv.plan(node, now, &model.policy())?;
                let campaign = *plan.campaigns.first()?;
                metasrv.leases.follow(&plan);
                // The other has been heard again since.
                metasrv.leases.follow(&Plan::default());
                self.order = Some(Order {
                    by,
                    node: campaign.node,
                    seen_term: campaign.seen_term,
                });
            }
            Action::Obey => return self.obey(),
            Action::Fallback(node) => {
                let is_alone = |n: NodeId| now - self.replicas[n as usize].heard >= model.patience;
                return (is_alone(node) && is_alone(THIRD)).then(|| self.elect(node))?;
            }
            Action::BeginTransfer(heir) => {
                let (term, leader) = (self.term, self.leader);
                if heir == leader || self.transfer.is_some_and(|(of, _)| of == term) {
                    return None;
                }
                self.replica(leader).lease.give_up(term);
                self.transfer = Some((term, heir));
            }
            Action::EndTransfer => {
                let (term, heir) = self.transfer.take()?;
                return (term == self.term).then(|| self.elect(heir))?;
            }
        }
        Some(())
    }
}

/// Times are in seconds.
pub struct Leases {
    /// Of each metasrv, counted from when it came to lead.
    pub session: u64,
    /// After so long without metasrv replicas elect by themselves.
    pub patience: u64,
    /// How many there are.
    pub beats: u8,
}

impl Leases {
    fn policy(&self) -> Policy {
        Policy {
            lease: seconds(2),
            clock_margin: Duration::ZERO,
            fallback_min: seconds(self.patience),
            ..Policy::default()
        }
    }
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let replica = |node: NodeId| Replica {
            leads_in: u64::from(node == 0),
            term: 1,
            lease: Lease::default(),
            heard: 0,
            metasrv: 0,
        };
        vec![State {
            now: 0,
            term: 1,
            leader: 0,
            replicas: VOTERS.map(replica).to_vec(),
            // All voters have beaten, and have had an answer.
            metasrvs: vec![Metasrv {
                since: 0,
                in_touch: VOTERS.map(|node| (node, (0, 1))).into(),
                leader: Some((0, 1)),
                leases: Granted::default(),
            }],
            messages: Vec::new(),
            order: None,
            transfer: None,
            beats_left: self.beats,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // One of them renounces; two would say the same, and take three times as long.
        actions.extend([
            Action::Second,
            Action::EndTransfer,
            Action::Obey,
            Action::Renounce(0),
        ]);
        let found_by: [&'static [NodeId]; 2] = [&[], &[0, THIRD]];
        actions.extend(found_by.map(Action::NextMetasrv));
        // The third only votes.
        for node in [0, 1] {
            actions.extend([
                Action::Beat(node),
                Action::BeginTransfer(node),
                Action::Fallback(node),
            ]);
            actions.extend((0..state.metasrvs.len()).map(|m| Action::Campaign(m, node)));
        }
        for at in 0..state.messages.len() {
            actions.push(Action::AnswerComes(at));
            actions.extend((0..state.metasrvs.len()).map(|m| Action::BeatComes(at, m)));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.step(&action, self).map(|()| next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(super::checks::LEASES, |_, state: &State| {
                VOTERS
                    .into_iter()
                    .all(|node| node == state.leader || !state.reads(node))
            }),
            Property::sometimes("a leader reads by its lease", |_, state: &State| {
                state.reads(state.leader)
            }),
            Property::sometimes("an heir reads by its lease", |_, state: &State| {
                state.term > 1 && state.reads(state.leader)
            }),
        ];
        if self.patience < LAST {
            properties.push(Property::sometimes(
                "two elect without metasrv",
                |model: &Self, state: &State| {
                    let is_late = state.now >= model.patience;
                    state.term > 1 && state.metasrvs.len() == 1 && state.transfer.is_none() && is_late
                },
            ));
        }
        properties
    }
}
