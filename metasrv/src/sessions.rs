//! The nodes that are connected now, and what they last said. In memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_metasrv_plan::assignment::Replica;
use greptime_metasrv_plan::lease::Touch;
use greptime_metasrv_plan::{Command, Reported};
use greptime_proto::v1::{self, push};
use greptime_types::{NodeId, NodeRole, RegionId};
use tokio::sync::mpsc;

use crate::defences::Defence;

/// Pushes that may wait for one node. A node that lets more wait is cut off; it comes back and is told all anew.
pub(crate) const PUSH_QUEUE: usize = 1024;
/// A command that had no effect yet is said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(2);
/// A second process under a node's name is refused while the first was heard this recently.
const SECOND_PROCESS: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeKey {
    pub(crate) role: NodeRole,
    pub(crate) id: NodeId,
}

/// One connection of one process.
#[derive(Debug)]
pub(crate) struct Session {
    /// Tells this connection from a later one of the same node.
    pub(crate) serial: u64,
    pub(crate) register: v1::Register,
    pub(crate) push: mpsc::Sender<v1::Push>,
    /// When the node was taken in.
    pub(crate) since: Duration,
    pub(crate) last_beat: Duration,
    pub(crate) oldest_append_ms: u64,
    pub(crate) touch: Touch,
    /// The regions whose leases it gave up, as its last beat said.
    pub(crate) renounced: BTreeSet<RegionId>,
    pub(crate) reports: BTreeMap<RegionId, v1::RegionReport>,
    pub(crate) dependencies: Vec<v1::Dependency>,
    /// What was said last about each region, and when.
    told: BTreeMap<RegionId, (Command, Duration)>,
    /// Whether the node was told that it now knows everything.
    pub(crate) completed: bool,
}

impl Session {
    pub(crate) fn incarnation(&self) -> u64 {
        self.register.identity.as_ref().map_or(0, |i| i.incarnation)
    }

    /// Queues a push; `false` if the node does not take its pushes.
    pub(crate) fn say(&self, body: push::Body) -> bool {
        self.push.try_send(v1::Push { body: Some(body) }).is_ok()
    }

    /// Whether `command` is news for the node, or old enough to be repeated. Remembers it if so.
    pub(crate) fn should_say(&mut self, region: RegionId, command: &Command, now: Duration) -> bool {
        let is_late = |at| now.saturating_sub(at) >= SAY_AGAIN && Defence::OrdersAreRepeated.holds();
        let again = self
            .told
            .get(&region)
            .is_none_or(|(last, at)| last != command || is_late(*at));
        if again {
            self.told.insert(region, (command.clone(), now));
        }
        again
    }

    pub(crate) fn reported(&self) -> BTreeMap<RegionId, Reported> {
        let reported = |report: &v1::RegionReport| Reported {
            schema_version: report.schema_version,
            leading: report.role() == v1::RegionRole::Leader,
            hot: report.hot,
            warm: report.warm,
        };
        self.reports
            .iter()
            .map(|(region, report)| (*region, reported(report)))
            .collect()
    }

    /// `counts`: whether what the replica of that Raft id says is to be heard.
    pub(crate) fn replica(&self, region: RegionId, counts: impl Fn(u64) -> bool) -> Replica {
        let report = self.reports.get(&region);
        match report.filter(|report| counts(report.raft_id)) {
            None => Replica::Missing,
            Some(report) if report.role() == v1::RegionRole::Leader => {
                Replica::Leading { epoch: report.epoch }
            }
            Some(_) => Replica::Opening,
        }
    }
}

/// Everybody who is connected.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_node: BTreeMap<NodeKey, Session>,
    /// What datanodes that are away said last, since this metasrv leads: so much may be lost with them.
    away: BTreeMap<NodeId, BTreeMap<RegionId, v1::RegionReport>>,
    next_serial: u64,
}

impl Sessions {
    /// Why a process that registers as `key` must wait, if it must.
    pub(crate) fn occupied(&self, key: NodeKey, incarnation: u64, now: Duration) -> Option<String> {
        let session = self.by_node.get(&key)?;
        let recently =
            now.saturating_sub(session.last_beat) < SECOND_PROCESS && Defence::SecondProcessIsRefused.holds();
        (session.incarnation() != incarnation && recently && key.role == NodeRole::Datanode).then(|| {
            format!(
                "{} {} is already running at {}; two processes cannot share a node id",
                key.role, key.id, session.register.address
            )
        })
    }

    /// Takes the node in; a former connection of it ends. Returns the serial of the new one.
    pub(crate) fn admit(
        &mut self,
        key: NodeKey,
        register: v1::Register,
        push: mpsc::Sender<v1::Push>,
        now: Duration,
    ) -> u64 {
        self.next_serial += 1;
        let serial = self.next_serial;
        let reports = by_region(&register.regions);
        let session = Session {
            serial,
            register,
            push,
            since: now,
            last_beat: now,
            oldest_append_ms: 0,
            touch: Touch::default(),
            renounced: BTreeSet::new(),
            reports,
            dependencies: Vec::new(),
            told: BTreeMap::new(),
            completed: false,
        };
        if key.role == NodeRole::Datanode {
            self.away.remove(&key.id);
        }
        self.by_node.insert(key, session);
        serial
    }

    /// Takes in a tick; returns whether anything but the time of the beat changed, or nothing if the connection has
    /// ended.
    pub(crate) fn tick(&mut self, key: NodeKey, serial: u64, tick: v1::Tick, now: Duration) -> Option<bool> {
        let session = self.by_node.get_mut(&key).filter(|s| s.serial == serial)?;
        session.last_beat = now;
        session.oldest_append_ms = tick.oldest_append_ms;
        session.dependencies = tick.dependencies;
        session.touch.beat(tick.number, tick.answered, now);
        session.renounced = tick.renounced.iter().map(|id| RegionId::from_u64(*id)).collect();
        if !tick.regions_complete {
            return Some(false);
        }
        let reports = by_region(&tick.regions);
        let changed = reports != session.reports;
        session.reports = reports;
        Some(changed)
    }

    /// Ends one connection; a later one of the same node stays.
    pub(crate) fn end(&mut self, key: NodeKey, serial: u64) -> bool {
        let is_of_it = |s: &Session| s.serial == serial || !Defence::OldConnectionEndsNothing.holds();
        let ends = self.by_node.get(&key).is_some_and(is_of_it);
        if ends {
            self.remove(key);
        }
        ends
    }

    /// Cuts off whoever has been silent for longer than `limit`.
    pub(crate) fn expire(&mut self, now: Duration, limit: Duration) -> Vec<(NodeKey, u64)> {
        let silent = |s: &Session| now.saturating_sub(s.last_beat) > limit;
        let gone: Vec<(NodeKey, u64)> = self
            .by_node
            .iter()
            .filter(|(_, s)| silent(s))
            .map(|(k, s)| (*k, s.serial))
            .collect();
        for (key, _) in &gone {
            self.remove(*key);
        }
        gone
    }

    fn remove(&mut self, key: NodeKey) {
        let session = self.by_node.remove(&key);
        if let Some(session) = session.filter(|_| key.role == NodeRole::Datanode) {
            self.away.insert(key.id, session.reports);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.by_node.clear();
        self.away.clear();
    }

    pub(crate) fn get(&self, role: NodeRole, id: NodeId) -> Option<&Session> {
        self.by_node.get(&NodeKey { role, id })
    }

    pub(crate) fn datanode_mut(&mut self, id: NodeId) -> Option<&mut Session> {
        self.by_node.get_mut(&NodeKey {
            role: NodeRole::Datanode,
            id,
        })
    }

    pub(crate) fn of_role(&self, role: NodeRole) -> impl Iterator<Item = (NodeId, &Session)> {
        self.by_node
            .iter()
            .filter(move |(k, _)| k.role == role)
            .map(|(k, s)| (k.id, s))
    }

    /// What datanodes say of a region.
    pub(crate) fn reports_of(&self, region: RegionId) -> impl Iterator<Item = (NodeId, &v1::RegionReport)> {
        let datanodes = self.of_role(NodeRole::Datanode);
        datanodes.filter_map(move |(node, session)| Some((node, session.reports.get(&region)?)))
    }

    /// What a datanode says of a region, or said before it went away.
    pub(crate) fn last_said(&self, node: NodeId, region: RegionId) -> Option<&v1::RegionReport> {
        let reports = match self.get(NodeRole::Datanode, node) {
            Some(session) => &session.reports,
            None => self.away.get(&node)?,
        };
        reports.get(&region)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeKey, &Session)> {
        self.by_node.iter().map(|(k, s)| (*k, s))
    }

    /// Says the same to all nodes of a role; those that do not listen are cut off.
    pub(crate) fn broadcast(&mut self, role: NodeRole, body: &push::Body) {
        let is_deaf = |(key, session): &(&NodeKey, &Session)| key.role == role && !session.say(body.clone());
        let deaf: Vec<NodeKey> = self.by_node.iter().filter(is_deaf).map(|(key, _)| *key).collect();
        for key in deaf {
            self.remove(key);
        }
    }
}

fn by_region(reports: &[v1::RegionReport]) -> BTreeMap<RegionId, v1::RegionReport> {
    reports
        .iter()
        .map(|r| (RegionId::from_u64(r.region_id), r.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NodeKey = NodeKey {
        role: NodeRole::Datanode,
        id: 1,
    };

    fn register(incarnation: u64) -> v1::Register {
        let identity = v1::NodeIdentity {
            node_id: 1,
            incarnation,
            ..Default::default()
        };
        v1::Register {
            identity: Some(identity),
            ..Default::default()
        }
    }

    #[test]
    fn a_second_process_under_the_same_name_waits_until_the_first_is_silent() {
        let mut sessions = Sessions::default();
        let (push, _pushes) = mpsc::channel(8);
        sessions.admit(KEY, register(7), push, Duration::ZERO);
        assert!(
            sessions
                .occupied(KEY, 8, Duration::from_secs(1))
                .unwrap()
                .contains("already running")
        );
        assert_eq!(sessions.occupied(KEY, 7, Duration::from_secs(1)), None);
        assert_eq!(sessions.occupied(KEY, 8, Duration::from_secs(3)), None);
    }

    #[test]
    fn an_order_without_an_effect_is_given_again() {
        let mut sessions = Sessions::default();
        let (push, _pushes) = mpsc::channel(8);
        sessions.admit(KEY, register(7), push, Duration::ZERO);
        let session = sessions.datanode_mut(KEY.id).unwrap();
        let region = RegionId::new(1024, 0);
        let (first, other) = (Command::Alter(region), Command::Drop(region));
        let mut says = |order: &Command, ms| session.should_say(region, order, Duration::from_millis(ms));
        assert!(says(&first, 0));
        assert!(!says(&first, 1_999), "it may be on its way");
        assert!(says(&first, 2_000));
        assert!(!says(&first, 3_999), "it counts from the last time");
        assert!(says(&other, 3_999), "another one is given at once");
    }

    #[test]
    fn the_end_of_an_old_connection_does_not_end_the_new_one() {
        let mut sessions = Sessions::default();
        let (push, _pushes) = mpsc::channel(8);
        let old = sessions.admit(KEY, register(7), push.clone(), Duration::ZERO);
        let new = sessions.admit(KEY, register(7), push, Duration::ZERO);
        assert!(!sessions.end(KEY, old));
        assert!(sessions.end(KEY, new));
    }
}
