//! Leases for reads: one region with three voters, two metasrv of which one leads after the other, and time.
//!
//! metasrv's side is that of its plan. What does not matter for leases is left out: a vote takes no time, and a leader
//! that was replaced never hears of it. An order to campaign may take any time.

use std::collections::BTreeMap;
use std::time::Duration;

use greptime_metasrv_plan::Policy;
use greptime_metasrv_plan::failover::{self, Plan};
use greptime_metasrv_plan::lease::{Elector, LeaderBeat, Leases as Granted, Led};
use greptime_types::{NodeId, RegionId};
use stateright::{Model, Property};

use super::world::spend;
use crate::{Grant, Lease};

const VOTERS: [NodeId; 3] = [0, 1, THIRD];
const THIRD: NodeId = 2;
const REGION: RegionId = RegionId::new(1024, 0);
/// Of each metasrv, counted from when it came to lead.
const SESSION: u64 = 4;
const LAST: u64 = 6;
const TERMS: u64 = 3;
const BEATS: u8 = 2;

fn policy() -> Policy {
    Policy {
        lease: seconds(2),
        clock_margin: Duration::ZERO,
        fallback_min: seconds(5),
        ..Policy::default()
    }
}

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

    fn beat_comes(&mut self, at: usize, metasrv: usize) -> Option<()> {
        let now = seconds(self.now);
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
        };
        let session_ends = seconds(metasrv.since + SESSION);
        let granted = metasrv.leases.answer(&beat, session_ends, now, &policy());
        message.granted = Some(!granted.length.is_zero());
        Some(())
    }

    fn answer_comes(&mut self, at: usize) -> Option<()> {
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
                length: policy().lease,
            });
        }
        Some(())
    }

    fn step(&mut self, action: &Action) -> Option<()> {
        let now = self.now;
        match *action {
            Action::Second if now < LAST => {
                self.now += 1;
                // What has been on its way for longer than a lease lasts is of no use.
                let limit = policy().lease.as_secs();
                self.messages.retain(|message| message.sent + limit >= now);
            }
            Action::Second => return None,
            Action::Beat(node) => {
                spend(&mut self.beats_left)?;
                let term = self.replica(node).leads_in;
                self.messages.push(Message {
                    node,
                    term: Some(term).filter(|term| *term > 0)?,
                    sent: now,
                    granted: None,
                });
            }
            Action::BeatComes(at, metasrv) => return self.beat_comes(at, metasrv),
            Action::AnswerComes(at) => return self.answer_comes(at),
            Action::NextMetasrv(found_by) => {
                let last = self.metasrvs.last().filter(|_| self.metasrvs.len() == 1)?;
                if now < last.since + SESSION {
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
            Action::Campaign(by, node) => {
                let metasrv = self.metasrvs.get_mut(by).filter(|_| self.order.is_none())?;
                let (leader, said) = (metasrv.leader, metasrv.in_touch.values());
                let seen_term = said
                    .map(|(_, term)| *term)
                    .chain(leader.map(|(_, term)| term))
                    .max()?;
                let since = seconds(metasrv.since);
                let end = |node: &NodeId| metasrv.leases.surely_end(REGION, *node, since, &policy());
                if VOTERS.iter().map(end).max() > Some(seconds(now)) {
                    return None;
                }
                let campaign = failover::Campaign {
                    region: REGION,
                    node,
                    raft_id: 0,
                    seen_term,
                };
                metasrv.leases.follow(&Plan {
                    campaigns: vec![campaign],
                    ..Plan::default()
                });
                self.order = Some(Order { by, node, seen_term });
            }
            Action::Obey => return self.obey(),
            Action::Fallback(node) => {
                let patience = policy().fallback_min.as_secs();
                let is_alone = |n: NodeId| now - self.replicas[n as usize].heard >= patience;
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

pub struct Leases;

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
            beats_left: BEATS,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Second, Action::EndTransfer, Action::Obey]);
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
        next.step(&action).map(|()| next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
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
            Property::sometimes("two elect without metasrv", |_, state: &State| {
                state.term > 1 && state.metasrvs.len() == 1 && state.transfer.is_none() && state.now >= 5
            }),
        ]
    }
}
