//! What metasrv has seen of the datanodes since it leads, and what it has told about regions without a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_metasrv_plan::failover::{Attempt, Tried};
use greptime_metasrv_plan::liveness::{Connection, Redial};
use greptime_metasrv_plan::{Detector, Judgement, Observed, Policy, Verdict};
use greptime_proto::v1;
use greptime_types::{NodeId, RegionId};

use crate::redial::Answer;

/// A datanode, where it was last reached, and what was seen of it.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// host:port; empty until it has registered with this leader.
    pub(crate) address: String,
    /// The session that counts.
    serial: u64,
    seen: Observed,
}

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) policy: Policy,
    pub(crate) leading_since: Duration,
    detector: Detector,
    nodes: BTreeMap<NodeId, Watched>,
    /// As of the last look.
    verdicts: BTreeMap<NodeId, Verdict>,
    tried: BTreeMap<RegionId, Tries>,
}

/// What was tried since somebody led in the epoch.
#[derive(Clone, Debug, Default)]
struct Tries {
    epoch: u64,
    tried: Vec<Tried>,
}

/// The newest tries that are remembered; which of them were long ago says nothing any more.
const MOST_TRIES: usize = 16;

/// A datanode that is to be redialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToRedial {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) incarnation: u64,
}

/// What a look found.
pub(crate) struct Look {
    pub(crate) judgement: Judgement,
    pub(crate) redial: Vec<ToRedial>,
    /// Whose verdict is another than before.
    pub(crate) news: BTreeSet<NodeId>,
}

impl Watch {
    /// `known`: the datanodes of the catalog; whoever of them has not come yet is waited for.
    pub(crate) fn new(policy: Policy, leading_since: Duration, known: impl Iterator<Item = NodeId>) -> Self {
        let absent = |node| {
            let watched = Watched {
                address: String::new(),
                serial: 0,
                seen: observed(0, Connection::Never, None),
            };
            (node, watched)
        };
        Self {
            detector: Detector::new(policy.clone(), leading_since),
            policy,
            leading_since,
            nodes: known.map(absent).collect(),
            verdicts: BTreeMap::new(),
            tried: BTreeMap::new(),
        }
    }

    pub(crate) fn registered(&mut self, node: NodeId, register: &v1::Register, serial: u64, now: Duration) {
        let incarnation = register.identity.as_ref().map_or(0, |i| i.incarnation);
        let watched = Watched {
            address: register.address.clone(),
            serial,
            seen: observed(incarnation, Connection::Up, Some(now)),
        };
        self.nodes.insert(node, watched);
    }

    pub(crate) fn beat(&mut self, node: NodeId, serial: u64, tick: &v1::Tick, now: Duration) {
        if let Some(watched) = self.nodes.get_mut(&node).filter(|w| w.serial == serial) {
            watched.seen.last_beat = Some(now);
            watched.seen.oldest_append = Duration::from_millis(tick.oldest_append_ms);
            watched.seen.unreachable = tick.unreachable.iter().copied().collect();
        }
    }

    pub(crate) fn broken(&mut self, node: NodeId, serial: u64, now: Duration) {
        if let Some(watched) = self.nodes.get_mut(&node).filter(|w| w.serial == serial) {
            watched.seen.connection = Connection::Broken { since: now };
            watched.seen.redial = Redial::Untried;
        }
    }

    pub(crate) fn redialled(&mut self, asked: &ToRedial, answer: Answer, now: Duration) {
        let still = |w: &&mut Watched| w.address == asked.address && w.seen.incarnation == asked.incarnation;
        if let Some(watched) = self.nodes.get_mut(&asked.node).filter(still) {
            watched.seen.redial = match answer {
                Answer::Refused => Redial::Refused,
                Answer::Nobody => Redial::NoAnswer,
                Answer::Process { incarnation } if incarnation == asked.incarnation => {
                    Redial::Accepted { at: now }
                }
                Answer::Process { .. } => Redial::OtherIncarnation,
            };
        }
    }

    /// Judges everybody.
    pub(crate) fn look(&mut self, now: Duration) -> Look {
        let seen = self.nodes.iter().map(|(node, w)| (*node, w.seen.clone()));
        let judgement = self.detector.look(now, &seen.collect());
        let kind = |verdict: &Verdict| std::mem::discriminant(verdict);
        let is_news =
            |(node, verdict): &(&NodeId, &Verdict)| self.verdicts.get(*node).map(kind) != Some(kind(verdict));
        let news = judgement.verdicts.iter().filter(is_news);
        let news = news.map(|(node, _)| *node).collect();
        self.verdicts.clone_from(&judgement.verdicts);
        Look {
            redial: self.ask_anew(&judgement.redial),
            judgement,
            news,
        }
    }

    fn ask_anew(&mut self, nodes: &BTreeSet<NodeId>) -> Vec<ToRedial> {
        let mut asked = Vec::new();
        for node in nodes {
            let Some(watched) = self.nodes.get_mut(node).filter(|w| !w.address.is_empty()) else {
                continue;
            };
            watched.seen.redial = Redial::Pending;
            asked.push(ToRedial {
                node: *node,
                address: watched.address.clone(),
                incarnation: watched.seen.incarnation,
            });
        }
        asked
    }

    pub(crate) fn verdict(&self, node: NodeId) -> Option<&Verdict> {
        self.verdicts.get(&node)
    }

    /// When a node last said something.
    pub(crate) fn last_beat(&self, node: NodeId) -> Option<Duration> {
        self.nodes.get(&node)?.seen.last_beat
    }

    /// Where the datanodes are, as they are told of each other.
    pub(crate) fn peers(&self) -> v1::PeerUpdate {
        let known = self.nodes.iter().filter(|(_, w)| !w.address.is_empty());
        let peer = |(node, watched): (&NodeId, &Watched)| v1::Peer {
            node: *node,
            address: watched.address.clone(),
            incarnation: watched.seen.incarnation,
        };
        v1::PeerUpdate {
            peers: known.map(peer).collect(),
        }
    }

    /// What was tried since somebody led in the newest epoch.
    pub(crate) fn tried(&mut self, region: RegionId, epoch: Option<u64>) -> Vec<Tried> {
        let Some(tries) = self.tried.get_mut(&region) else {
            return Vec::new();
        };
        if epoch.is_some_and(|epoch| epoch > tries.epoch) {
            self.tried.remove(&region);
            return Vec::new();
        }
        tries.tried.clone()
    }

    pub(crate) fn note_try(&mut self, region: RegionId, epoch: u64, what: Attempt, to: NodeId, at: Duration) {
        let tries = self.tried.entry(region).or_default();
        tries.epoch = tries.epoch.max(epoch);
        tries.tried.push(Tried { what, to, at });
        if tries.tried.len() > MOST_TRIES {
            tries.tried.remove(0);
        }
    }

    /// Forgets regions that are not there any more.
    pub(crate) fn keep_regions(&mut self, is_there: impl Fn(RegionId) -> bool) {
        self.tried.retain(|region, _| is_there(*region));
    }
}

fn observed(incarnation: u64, connection: Connection, last_beat: Option<Duration>) -> Observed {
    Observed {
        incarnation,
        connection,
        redial: Redial::Untried,
        last_beat,
        oldest_append: Duration::ZERO,
        unreachable: BTreeSet::new(),
    }
}
