//! Streams to the other datanodes, as the peers crate keeps them: nothing is kept or repeated, what is lost is told.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use greptime_log::{Input, Outgoing};
use greptime_types::NodeId;

use super::Datanode;
use crate::message::{Peers, Said};
use crate::process::Address;
use crate::rules::holds;
use crate::trace::Branch;

const PING: Duration = Duration::from_millis(100);
const UNREACHABLE_AFTER: Duration = Duration::from_millis(300);
const WELCOME_WITHIN: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// How soon leaders say to a node that they are there, when something for it was lost though it is connected.
const REPAIR_EVERY: Duration = Duration::from_millis(100);

/// One other datanode.
pub struct Peer {
    incarnation: u64,
    stream: Stream,
    answered: Duration,
    retry: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// Dialled again then.
    Down {
        until: Duration,
    },
    /// Given up then.
    Dialled {
        connection: u64,
        until: Duration,
    },
    Up {
        connection: u64,
    },
}

impl Datanode {
    pub(super) fn know_peers(&self, Peers { here, awaited }: Peers) {
        let all: BTreeMap<NodeId, u64> = here.into_iter().map(|p| (p.node, p.incarnation)).collect();
        let is_awaited = |node: &NodeId| awaited.contains(node) && holds("AwaitedPeersAreKept");
        let stays = |node: &NodeId, peer: &Peer| match all.get(node) {
            Some(incarnation) => *incarnation == peer.incarnation,
            None => is_awaited(node),
        };
        let known = self.peers.borrow();
        if known.keys().any(is_awaited) {
            self.sim.hit(Branch::AwaitedPeersAreKept);
        }
        let gone = known.iter().filter(|(node, peer)| !stays(node, peer));
        let gone: Vec<NodeId> = gone.map(|(node, _)| *node).collect();
        drop(known);
        for node in gone {
            self.peer_down(node, Duration::ZERO);
            self.peers.borrow_mut().remove(&node);
        }
        let now = self.sim.clock(self.me);
        for (node, incarnation) in all.into_iter().filter(|(node, _)| *node != self.node) {
            self.peers.borrow_mut().entry(node).or_insert(Peer {
                incarnation,
                stream: Stream::Down { until: now },
                answered: now,
                retry: FIRST_RETRY,
            });
        }
        self.dial_peers();
    }

    /// Dials whoever is not connected, and whose time it is.
    fn dial_peers(&self) {
        let now = self.sim.clock(self.me);
        let mut peers = self.peers.borrow_mut();
        for (node, peer) in peers.iter_mut() {
            let is_due = match peer.stream {
                Stream::Down { until } => now >= until,
                Stream::Dialled { connection, until } if now >= until => {
                    self.sim.hang_up(connection, self.me);
                    true
                }
                _ => false,
            };
            if is_due {
                let connection = self.sim.connect(self.me, Address::datanode(*node));
                let until = now + WELCOME_WITHIN;
                peer.stream = Stream::Dialled { connection, until };
                let to_incarnation = peer.incarnation;
                self.sim.say(connection, self.me, Said::Hello { to_incarnation });
            }
        }
    }

    /// Pings and judges.
    pub(super) async fn look_at_peers(self: Rc<Self>) {
        loop {
            let due = self.sim.clock(self.me) + PING;
            self.sim.sleep(PING).await;
            let now = self.sim.clock(self.me);
            let late = now.saturating_sub(due);
            let mut stuck = Vec::new();
            for (node, peer) in self.peers.borrow_mut().iter_mut() {
                peer.answered = (peer.answered + late).min(now);
                if let Stream::Up { connection } = peer.stream {
                    match now.saturating_sub(peer.answered) > UNREACHABLE_AFTER {
                        true => stuck.push(*node),
                        false => self.sim.say(connection, self.me, Said::Ping),
                    }
                }
            }
            for node in stuck {
                self.peer_down(node, Duration::ZERO);
            }
            self.dial_peers();
        }
    }

    /// Without ticks nobody says anything again by himself.
    pub(super) async fn repair_peers(self: Rc<Self>) {
        loop {
            self.sim.sleep(REPAIR_EVERY).await;
            let missed = std::mem::take(&mut *self.missed.borrow_mut());
            if !missed.is_empty() {
                self.tell(missed.into_iter().map(Input::PeerFound).collect());
            }
        }
    }

    pub(super) fn unreachable(&self) -> Vec<NodeId> {
        let now = self.sim.clock(self.me);
        let peers = self.peers.borrow();
        let silent = |peer: &Peer| now.saturating_sub(peer.answered) > UNREACHABLE_AFTER;
        peers
            .iter()
            .filter(|(_, peer)| silent(peer))
            .map(|(node, _)| *node)
            .collect()
    }

    /// Whether they may arrive.
    pub(super) fn send_to_peer(&self, node: NodeId, messages: Vec<Outgoing>) -> bool {
        match self.peers.borrow().get(&node).map(|peer| peer.stream) {
            Some(Stream::Up { connection }) => {
                self.sim.say(connection, self.me, Said::Groups(messages));
                true
            }
            _ => false,
        }
    }

    fn peer_down(&self, node: NodeId, wait: Duration) {
        let now = self.sim.clock(self.me);
        let mut peers = self.peers.borrow_mut();
        let Some(peer) = peers.get_mut(&node) else {
            return;
        };
        let until = now + wait;
        let before = std::mem::replace(&mut peer.stream, Stream::Down { until });
        drop(peers);
        match before {
            Stream::Up { connection } => {
                self.sim.hang_up(connection, self.me);
                self.tell(vec![Input::PeerLost(node)]);
            }
            Stream::Dialled { connection, .. } => self.sim.hang_up(connection, self.me),
            Stream::Down { .. } => {}
        }
    }

    fn peer_of(&self, connection: u64) -> Option<NodeId> {
        let peers = self.peers.borrow();
        let of_it = |peer: &Peer| match peer.stream {
            Stream::Up { connection: c } | Stream::Dialled { connection: c, .. } => c == connection,
            Stream::Down { .. } => false,
        };
        peers.iter().find(|(_, peer)| of_it(peer)).map(|(node, _)| *node)
    }

    /// A stream that this node made, or that a peer did, is gone.
    pub fn peer_broken(&self, connection: u64) {
        self.incoming.borrow_mut().retain(|_, known| *known != connection);
        let Some(node) = self.peer_of(connection) else {
            return;
        };
        let retry = {
            let mut peers = self.peers.borrow_mut();
            let Some(peer) = peers.get_mut(&node) else {
                return;
            };
            let was_up = matches!(peer.stream, Stream::Up { .. });
            let retry = peer.retry;
            peer.retry = if was_up {
                FIRST_RETRY
            } else {
                (retry * 2).min(LAST_RETRY)
            };
            if was_up { Duration::ZERO } else { retry }
        };
        self.peer_down(node, retry);
        self.dial_peers();
    }

    pub fn peer_said(&self, from: Address, connection: u64, said: Said) {
        let (sim, me) = (&self.sim, self.me);
        match said {
            Said::Hello { to_incarnation } => {
                let is_me = to_incarnation == self.incarnation;
                if !is_me && holds("PeerNamesItsNode") {
                    sim.hit(Branch::PeerNamesItsNode);
                    sim.say(connection, me, Said::NotMe);
                    return;
                }
                // A newer stream takes the place of an older one.
                let older = self.incoming.borrow_mut().insert(from.node(), connection);
                older.into_iter().for_each(|older| sim.hang_up(older, me));
                sim.say(connection, me, Said::Welcome);
            }
            Said::Ping => sim.say(connection, me, Said::Pong),
            Said::Groups(messages) => {
                let input = |outgoing: Outgoing| Input::Message {
                    from: from.node(),
                    region: outgoing.region,
                    message: Box::new(outgoing.message),
                    authority: outgoing.authority,
                };
                self.tell(messages.into_iter().map(input).collect());
            }
            said => self.peer_answered(connection, said),
        }
    }

    fn peer_answered(&self, connection: u64, said: Said) {
        let Some(node) = self.peer_of(connection) else {
            return;
        };
        let now = self.sim.clock(self.me);
        if matches!(said, Said::NotMe) {
            // metasrv will say who is there.
            self.peer_down(node, LAST_RETRY);
            return;
        }
        let mut peers = self.peers.borrow_mut();
        let Some(peer) = peers.get_mut(&node) else {
            return;
        };
        peer.answered = now;
        let is_new = matches!(said, Said::Welcome) && matches!(peer.stream, Stream::Dialled { .. });
        if is_new {
            peer.stream = Stream::Up { connection };
            peer.retry = FIRST_RETRY;
            drop(peers);
            self.tell(vec![Input::PeerFound(node)]);
        }
    }
}
