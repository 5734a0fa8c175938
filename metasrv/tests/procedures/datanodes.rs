//! Datanodes without disks and network. Their groups do at once what they are told, unless the test holds it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, push};
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{NodeId, RegionId, TableInfo};
use parking_lot::Mutex;

use crate::journal::Journal;

/// What can be held back of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A replica opens, to join its group.
    Open,
    Learn,
    Vote,
    /// A replica becomes hot, and warm.
    Heat,
    /// A replica becomes warm; it is hot at once.
    Warm,
    HandOver,
    Leave,
}

/// A replica as it is on disk.
#[derive(Clone, Copy, Debug)]
struct Replica {
    raft_id: u64,
    schema_version: u64,
    hot: bool,
    warm: bool,
}

/// What all of a group agree on.
#[derive(Debug, Default)]
struct Group {
    term: u64,
    leader: Option<u64>,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    /// Where every replica is, or was, by raft id.
    homes: BTreeMap<u64, NodeId>,
}

impl Group {
    fn has(&self, raft_id: u64) -> bool {
        self.voters.contains(&raft_id) || self.learners.contains(&raft_id)
    }

    fn home(&self, raft_id: u64) -> NodeId {
        self.homes[&raft_id]
    }
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<u64, Group>,
    disks: BTreeMap<NodeId, BTreeMap<u64, Replica>>,
    up: BTreeSet<NodeId>,
    /// Their appends wait for their disks.
    slow: BTreeSet<NodeId>,
    held: BTreeSet<(u64, Act)>,
    /// Orders that are held back.
    postponed: Vec<(NodeId, push::Body)>,
    /// What metasrv says that they may write.
    format: u32,
}

/// All that there are.
pub struct Datanodes {
    state: Mutex<State>,
    journal: Journal,
}

impl Datanodes {
    pub fn new(journal: Journal) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            journal,
        })
    }

    pub fn hold(&self, region: RegionId, act: Act) {
        self.state.lock().held.insert((region.as_u64(), act));
    }

    /// What was held back is done.
    pub fn release(&self, region: RegionId, act: Act) {
        let mut state = self.state.lock();
        state.held.remove(&(region.as_u64(), act));
        for (node, body) in std::mem::take(&mut state.postponed) {
            state.told(node, body);
        }
    }

    /// Whether a datanode has been told what is held back.
    pub fn is_told(&self, region: RegionId, act: Act) -> bool {
        let key = Some((region.as_u64(), act));
        let state = self.state.lock();
        let told = |body| act_of(body) == key || warms(body) == key;
        state.postponed.iter().any(|(_, body)| told(body))
    }

    /// Orders that are held back are lost, as with a connection that breaks.
    pub fn forget(&self) {
        self.state.lock().postponed.clear();
    }

    pub fn start(&self, node: NodeId) {
        self.state.lock().up.insert(node);
    }

    /// Lets appends of a datanode wait for its disk, or go on.
    pub fn slow_down(&self, node: NodeId, is_slow: bool) {
        let slow = &mut self.state.lock().slow;
        match is_slow {
            true => slow.insert(node),
            false => slow.remove(&node),
        };
    }

    pub fn stop(&self, node: NodeId) {
        let mut state = self.state.lock();
        state.up.remove(&node);
        state.postponed.retain(|(to, _)| *to != node);
    }

    pub fn format(&self) -> u32 {
        self.state.lock().format
    }

    /// What is on its disk is not there any more.
    pub fn wipe(&self, node: NodeId) {
        self.state.lock().disks.remove(&node);
    }

    /// Whether these vote in the region's group, and nobody else is in it.
    pub fn is_group_of(&self, region: RegionId, members: [NodeId; 3]) -> bool {
        let state = self.state.lock();
        let group = &state.groups[&region.as_u64()];
        let voters: BTreeSet<NodeId> = group.voters.iter().map(|id| group.home(*id)).collect();
        group.learners.is_empty() && voters == members.into()
    }

    pub fn has(&self, node: NodeId, region: RegionId) -> bool {
        let state = self.state.lock();
        state
            .disks
            .get(&node)
            .is_some_and(|disk| disk.contains_key(&region.as_u64()))
    }
}

impl State {
    fn reports(&self, node: NodeId) -> Vec<v1::RegionReport> {
        let disk = self.disks.get(&node).into_iter().flatten();
        disk.map(|(region, replica)| self.report(*region, replica))
            .collect()
    }

    fn report(&self, region: u64, replica: &Replica) -> v1::RegionReport {
        let group = &self.groups[&region];
        let leads = group.leader == Some(replica.raft_id);
        let role = match leads {
            true => v1::RegionRole::Leader,
            false => v1::RegionRole::Follower,
        };
        let own = v1::RegionReport {
            region_id: region,
            raft_id: replica.raft_id,
            role: role.into(),
            schema_version: replica.schema_version,
            hot: leads || replica.hot,
            warm: replica.warm,
            ..Default::default()
        };
        if !group.has(replica.raft_id) {
            return own;
        }
        let index = 100 + group.term;
        v1::RegionReport {
            epoch: group.term,
            last_term: group.term,
            last_index: index,
            applied_index: index,
            voters: group.voters.iter().copied().collect(),
            learners: group.learners.iter().copied().collect(),
            leader_raft_id: group.leader.unwrap_or(0),
            ..own
        }
    }

    fn told(&mut self, node: NodeId, body: push::Body) {
        if !self.up.contains(&node) {
            return;
        }
        if act_of(&body).is_some_and(|act| self.held.contains(&act)) {
            return self.postponed.push((node, body));
        }
        if let push::Body::SetRole(order) = &body
            && warms(&body).is_some_and(|act| self.held.contains(&act))
        {
            let hot_only = v1::SetRegionRole {
                warm: false,
                ..*order
            };
            self.obey(node, &push::Body::SetRole(hot_only));
            return self.postponed.push((node, body));
        }
        self.obey(node, &body);
    }

    fn obey(&mut self, node: NodeId, body: &push::Body) {
        match body {
            push::Body::Welcome(welcome) => self.format = welcome.format_version,
            push::Body::Initialise(order) => self.initialise(node, order),
            push::Body::Campaign(order) => self.campaign(node, order),
            push::Body::ChangeMembers(order) => self.change(node, order),
            push::Body::Transfer(order) => self.transfer(node, order),
            push::Body::SetRole(order) => {
                if let Some(replica) = self.replica(node, order.region_id) {
                    (replica.hot, replica.warm) = (order.hot, order.hot && order.warm);
                }
            }
            push::Body::Drop(order) => {
                if let Some(disk) = self.disks.get_mut(&node) {
                    disk.remove(&order.region_id);
                }
            }
            _ => {}
        }
    }

    fn replica(&mut self, node: NodeId, region: u64) -> Option<&mut Replica> {
        self.disks.get_mut(&node)?.get_mut(&region)
    }

    fn initialise(&mut self, node: NodeId, order: &v1::InitialiseRegion) {
        let table: TableInfo = serde_json::from_str(&order.table_json).unwrap();
        let disk = self.disks.entry(node).or_default();
        disk.entry(order.region_id).or_insert(Replica {
            raft_id: order.raft_id,
            schema_version: table.schema.version,
            hot: false,
            warm: false,
        });
        let group = self.groups.entry(order.region_id).or_default();
        group.homes.insert(order.raft_id, node);
        if group.voters.is_empty() {
            group.voters.extend(&order.voters);
            group.term = 1;
        }
    }

    fn campaign(&mut self, node: NodeId, order: &v1::CampaignRegion) {
        let is_there = self.replica(node, order.region_id).is_some();
        let Some(group) = self.groups.get_mut(&order.region_id).filter(|_| is_there) else {
            return;
        };
        let alive = group.voters.iter().filter(|id| {
            let home = group.homes.get(id);
            home.is_some_and(|home| self.up.contains(home))
        });
        let is_elected = alive.count() > group.voters.len() / 2 && group.voters.contains(&order.raft_id);
        // Tests count on the first voter to lead first, and nobody is unseated, however slow the machine is.
        let may_lead = match group.leader {
            None => group.voters.first() == Some(&order.raft_id),
            Some(leader) => !self.up.contains(&group.home(leader)),
        };
        if is_elected && may_lead && group.term <= order.seen_term {
            group.term = order.seen_term + 1;
            group.leader = Some(order.raft_id);
        }
    }

    /// The group that the datanode leads in the epoch.
    fn led(&mut self, node: NodeId, region: u64, epoch: u64) -> Option<&mut Group> {
        let group = self.groups.get_mut(&region)?;
        let leads = group.leader.is_some_and(|id| group.home(id) == node);
        Some(group).filter(|group| leads && group.term == epoch)
    }

    fn change(&mut self, node: NodeId, order: &v1::ChangeMembers) {
        let Some(group) = self.led(node, order.region_id, order.epoch) else {
            return;
        };
        for learner in order
            .learners
            .iter()
            .filter(|m| !group.voters.contains(&m.raft_id))
        {
            group.learners.insert(learner.raft_id);
        }
        for voter in &order.voters {
            group.learners.remove(&voter.raft_id);
            group.voters.insert(voter.raft_id);
        }
        assert!(
            !order.remove.contains(&group.leader.unwrap()),
            "the leader is removed: {order:?}"
        );
        group.voters.retain(|id| !order.remove.contains(id));
        group.learners.retain(|id| !order.remove.contains(id));
        assert!(group.voters.len() >= 3, "too few have a vote: {group:?}");
    }

    fn transfer(&mut self, node: NodeId, order: &v1::TransferRegion) {
        let up = self.up.clone();
        let Some(group) = self.led(node, order.region_id, order.epoch) else {
            return;
        };
        if group.voters.contains(&order.to_raft_id) && up.contains(&group.home(order.to_raft_id)) {
            group.term += 1;
            group.leader = Some(order.to_raft_id);
        }
    }

    /// The order for people, with datanodes in the place of raft ids.
    fn line(&self, node: NodeId, body: &push::Body) -> Option<(u64, String)> {
        let spoken = |members: &[v1::RegionMember]| members.iter().map(|m| m.node).collect::<Vec<_>>();
        Some(match body {
            push::Body::Initialise(order) if order.voters.is_empty() => {
                (order.region_id, format!("{node} joins"))
            }
            push::Body::ChangeMembers(order) => {
                let homes = &self.groups[&order.region_id].homes;
                let removed: Vec<NodeId> = order.remove.iter().map(|id| homes[id]).collect();
                let (learners, voters) = (spoken(&order.learners), spoken(&order.voters));
                let line = format!(
                    "{node} changes members: learners {learners:?}, voters {voters:?}, without {removed:?}"
                );
                (order.region_id, line)
            }
            push::Body::SetRole(order) => {
                let role = match (order.hot, order.warm) {
                    (true, true) => "hot and warm",
                    (true, false) => "hot",
                    (false, _) => "log-only",
                };
                (order.region_id, format!("{node} is to be {role}"))
            }
            push::Body::Transfer(order) => {
                let to = self.groups[&order.region_id].home(order.to_raft_id);
                (order.region_id, format!("{node} hands over to {to}"))
            }
            push::Body::Drop(order) if order.only_replica => {
                (order.region_id, format!("{node} drops its replica"))
            }
            push::Body::Drop(order) => (order.region_id, format!("{node} drops the region")),
            _ => return None,
        })
    }
}

fn act_of(body: &push::Body) -> Option<(u64, Act)> {
    Some(match body {
        push::Body::Initialise(order) if order.voters.is_empty() => (order.region_id, Act::Open),
        push::Body::ChangeMembers(order) if !order.learners.is_empty() => (order.region_id, Act::Learn),
        push::Body::ChangeMembers(order) if !order.voters.is_empty() => (order.region_id, Act::Vote),
        push::Body::ChangeMembers(order) => (order.region_id, Act::Leave),
        push::Body::SetRole(order) if order.warm => (order.region_id, Act::Heat),
        push::Body::Transfer(order) => (order.region_id, Act::HandOver),
        _ => return None,
    })
}

fn warms(body: &push::Body) -> Option<(u64, Act)> {
    match body {
        push::Body::SetRole(order) if order.warm => Some((order.region_id, Act::Warm)),
        _ => None,
    }
}

/// One process.
pub struct Datanode {
    pub all: Arc<Datanodes>,
    pub id: NodeId,
    pub disk_id: String,
    pub incarnation: u64,
}

impl SessionHandler for Datanode {
    fn register(&self) -> v1::Register {
        let identity = v1::NodeIdentity {
            cluster_id: String::new(),
            role: v1::NodeRole::Datanode.into(),
            node_id: self.id,
            disk_id: self.disk_id.clone(),
            incarnation: self.incarnation,
        };
        v1::Register {
            identity: Some(identity),
            address: format!("10.0.0.{}:3001", self.id),
            version: "test".into(),
            min_format: 1,
            max_format: QUORUM_FORMAT,
            regions: self.all.state.lock().reports(self.id),
            zone: String::new(),
        }
    }

    fn tick(&self, number: u64, answered: u64) -> v1::Tick {
        let state = self.all.state.lock();
        v1::Tick {
            number,
            answered,
            regions: state.reports(self.id),
            regions_complete: true,
            oldest_append_ms: if state.slow.contains(&self.id) { 1_000 } else { 0 },
            ..Default::default()
        }
    }

    fn told(&self, body: push::Body) {
        let mut state = self.all.state.lock();
        if let Some((region, line)) = state.line(self.id, &body) {
            self.all.journal.note(RegionId::from_u64(region), line);
        }
        state.told(self.id, body);
    }

    fn disconnected(&self, _reason: &str) {}
}
