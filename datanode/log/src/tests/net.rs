//! Replicas of one region on several nodes, joined by a network that loses and cuts, step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use greptime_types::{Error, NodeId};

use super::*;

pub const REGION: RegionId = RegionId::new(9, 0);

/// What the entries of one replica have built: all texts in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    pub applied: u64,
    pub texts: Vec<String>,
}

impl Machine {
    pub fn checkpoint(&self) -> Bytes {
        format!("{}|{}", self.applied, self.texts.join(",")).into()
    }

    fn at(checkpoint: &[u8]) -> Self {
        let text = std::str::from_utf8(checkpoint).unwrap();
        let (applied, texts) = text.split_once('|').unwrap();
        Self {
            applied: applied.parse().unwrap(),
            texts: texts
                .split(',')
                .filter(|t| !t.is_empty())
                .map(String::from)
                .collect(),
        }
    }

    fn apply(&mut self, entry: &CommittedEntry) {
        assert_eq!(entry.index, self.applied + 1, "entries come in their order");
        self.applied = entry.index;
        if !entry.data.is_empty() {
            self.texts.push(String::from_utf8(entry.data.to_vec()).unwrap());
        }
    }
}

pub struct Replica {
    pub log: MemoryLog,
    pub core: LogCore,
    pub machine: Machine,
    pub members: Membership,
    /// Machines at every index that this process has applied, for checkpoints.
    pub history: BTreeMap<u64, Machine>,
    pub is_down: bool,
}

#[derive(Default)]
struct Sent(Vec<Outgoing>);

impl Network for Sent {
    fn send(&mut self, message: Outgoing) {
        self.0.push(message);
    }

    fn flush(&mut self) {}
}

/// Node `n` has the replica of Raft id `n`.
#[derive(Default)]
pub struct Net {
    pub replicas: BTreeMap<NodeId, Replica>,
    pub queue: VecDeque<(NodeId, Outgoing)>,
    /// Directions in which nothing arrives.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// What became of tokens.
    pub done: BTreeMap<u64, std::result::Result<u64, Error>>,
    pub reads: BTreeMap<u64, u64>,
    /// What was committed where: the same everywhere.
    committed: BTreeMap<u64, Bytes>,
}

pub fn members(nodes: &[NodeId]) -> Vec<Member> {
    let member = |n: &NodeId| Member {
        raft_id: *n,
        node: *n,
    };
    nodes.iter().map(member).collect()
}

impl Net {
    /// Nodes 1 to `count` with a group of all of them; 1 leads, and everybody is hot.
    pub fn of(count: NodeId) -> Self {
        let nodes: Vec<NodeId> = (1..=count).collect();
        let mut net = Self::default();
        for node in &nodes {
            net.add(*node, &nodes, &nodes);
        }
        net.settle();
        net.lead(1);
        net
    }

    /// A node with a replica; without voters it joins.
    pub fn add(&mut self, node: NodeId, voters: &[NodeId], all: &[NodeId]) {
        self.add_as((node, node), voters, all);
    }

    /// The same under another Raft id.
    pub fn add_as(&mut self, (node, raft_id): (NodeId, u64), voters: &[NodeId], all: &[NodeId]) {
        let log = MemoryLog::default();
        let (core, _) = LogCore::open(Arc::new(log.clone()), LogOptions::default(), &BTreeMap::new());
        let mut replica = Replica {
            log,
            core,
            machine: Machine::default(),
            members: Membership::default(),
            history: BTreeMap::new(),
            is_down: false,
        };
        let machine = Machine {
            applied: u64::from(!voters.is_empty()),
            texts: vec![],
        };
        replica.core.step(Input::Initialise(Initialise {
            region: REGION,
            raft_id,
            voters: voters.to_vec(),
            members: members(all),
            checkpoint: machine.checkpoint(),
        }));
        replica.machine = machine;
        self.replicas.insert(node, replica);
        self.settle();
        self.step(
            node,
            Input::Role {
                region: REGION,
                is_hot: true,
            },
        );
    }

    pub fn replica(&self, node: NodeId) -> &Replica {
        &self.replicas[&node]
    }

    pub fn step(&mut self, node: NodeId, input: Input) {
        let replica = self.replicas.get_mut(&node).unwrap();
        if !replica.is_down {
            replica.core.step(input);
        }
    }

    pub fn status(&self, node: NodeId) -> GroupStatus {
        self.replica(node).core.status(REGION).unwrap()
    }

    /// One turn of one node; an error means that its disk has failed, and it is down.
    pub fn turn(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).unwrap();
        if replica.is_down || !replica.core.has_work() {
            return;
        }
        let mut sent = Sent::default();
        let Ok(output) = replica.core.turn(&mut sent) else {
            replica.is_down = true;
            return;
        };
        self.queue.extend(sent.0.into_iter().map(|m| (node, m)));
        for restored in output.restored {
            replica.machine = Machine::at(&restored.checkpoint);
        }
        for (_, members) in output.members {
            replica.members = members;
        }
        for committed in output.committed {
            for entry in &committed.entries {
                replica.machine.apply(entry);
                replica.history.insert(entry.index, replica.machine.clone());
                let first = self.committed.entry(entry.index).or_insert(entry.data.clone());
                assert_eq!(*first, entry.data, "entry {} is one everywhere", entry.index);
                if let Some(token) = entry.token {
                    self.done.insert(token, Ok(entry.index));
                }
            }
            let last = committed.entries.last().unwrap().index;
            replica.core.applied(REGION, last);
        }
        self.done
            .extend(output.refused.into_iter().map(|(token, e)| (token, Err(e))));
        self.reads
            .extend(output.reads.into_iter().map(|(_, token, index)| (token, index)));
    }

    /// Delivers the next message, if it can be.
    pub fn deliver(&mut self) {
        let Some((from, outgoing)) = self.queue.pop_front() else {
            return;
        };
        if self.cut.contains(&(from, outgoing.to)) || !self.replicas.contains_key(&outgoing.to) {
            return;
        }
        let message = Input::Message {
            from,
            region: outgoing.region,
            message: Box::new(outgoing.message),
            authority: outgoing.authority,
        };
        self.step(outgoing.to, message);
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let nodes: Vec<NodeId> = self.replicas.keys().copied().collect();
            nodes.iter().for_each(|node| self.turn(*node));
            while !self.queue.is_empty() {
                self.deliver();
            }
            let is_busy = |r: &Replica| !r.is_down && r.core.has_work();
            if !self.replicas.values().any(is_busy) && self.queue.is_empty() {
                return;
            }
        }
        panic!("it never rests");
    }

    pub fn campaign(&mut self, node: NodeId) {
        let seen_term = self.highest_term();
        self.step(
            node,
            Input::Campaign {
                region: REGION,
                seen_term,
                authority: Authority::Metasrv { epoch: 1 },
            },
        );
    }

    pub fn highest_term(&self) -> u64 {
        let terms = self.replicas.values().filter_map(|r| r.core.status(REGION));
        terms.map(|s| s.term).max().unwrap_or(0)
    }

    /// Lets a node campaign until it leads.
    pub fn lead(&mut self, node: NodeId) {
        for _ in 0..5 {
            self.campaign(node);
            self.settle();
            if self.status(node).leads {
                return;
            }
        }
        panic!("node {node} does not come to lead: {:?}", self.status(node));
    }

    pub fn propose(&mut self, node: NodeId, token: u64) {
        self.step(
            node,
            Input::Propose {
                region: REGION,
                token,
                data: format!("r{token}").into(),
            },
        );
    }

    /// Proposes and settles; the index.
    pub fn write(&mut self, node: NodeId, token: u64) -> u64 {
        self.propose(node, token);
        self.settle();
        self.done[&token].clone().unwrap()
    }

    pub fn has_history(&self, node: NodeId, index: u64) -> bool {
        self.replica(node).history.contains_key(&index)
    }

    /// The leader has everything up to `through` in files.
    pub fn trim(&mut self, node: NodeId, through: u64) {
        let checkpoint = self.replica(node).history[&through].checkpoint();
        self.step(
            node,
            Input::Trim {
                region: REGION,
                through,
                checkpoint,
            },
        );
    }

    /// The power goes; the node is back with what was on its disk.
    pub fn crash(&mut self, node: NodeId) {
        self.kill(node);
        self.start(node);
    }

    pub fn kill(&mut self, node: NodeId) {
        self.replicas.get_mut(&node).unwrap().is_down = true;
        self.queue.retain(|(from, m)| *from != node && m.to != node);
    }

    /// The nodes and their disks are gone, and with them what only they had.
    pub fn lose(&mut self, nodes: &[NodeId]) {
        self.replicas.retain(|node, _| !nodes.contains(node));
        let left = self
            .replicas
            .values()
            .map(|r| r.machine.applied)
            .max()
            .unwrap_or(0);
        self.committed.retain(|index, _| *index <= left);
        self.queue.clear();
    }

    pub fn start(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).unwrap();
        replica.log = replica.log.reopen();
        replica.machine = match replica.log.get(REGION, Key::Checkpoint).unwrap() {
            Some(checkpoint) => Machine::at(&checkpoint),
            None => Machine::default(),
        };
        let flushed = BTreeMap::from([(REGION, replica.machine.applied)]);
        let (core, failed) = LogCore::open(Arc::new(replica.log.clone()), LogOptions::default(), &flushed);
        assert!(failed.is_empty(), "{failed:?}");
        replica.core = core;
        replica.is_down = false;
        replica.history.clear();
        let others: Vec<NodeId> = self.replicas.keys().copied().filter(|n| *n != node).collect();
        for other in others {
            self.step(other, Input::PeerLost(node));
            self.step(other, Input::PeerFound(node));
        }
    }

    pub fn isolate(&mut self, node: NodeId) {
        for other in self.replicas.keys().filter(|n| **n != node) {
            self.cut.insert((node, *other));
            self.cut.insert((*other, node));
        }
    }

    /// The network is whole again.
    pub fn heal(&mut self) {
        self.cut.clear();
        let nodes: Vec<NodeId> = self.replicas.keys().copied().collect();
        for (from, to) in nodes.iter().flat_map(|a| nodes.iter().map(move |b| (*a, *b))) {
            self.step(from, Input::PeerLost(to));
            self.step(from, Input::PeerFound(to));
        }
    }

    pub fn change(&mut self, node: NodeId, token: u64, changes: Vec<Change>, all: &[NodeId]) {
        self.step(
            node,
            Input::Change {
                region: REGION,
                token,
                changes,
                members: members(all),
            },
        );
    }
}
