//! Messages of a turn on their way to other nodes: one bundle for each node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use greptime_types::NodeId;
use parking_lot::Mutex;

use super::io::{Network, Outgoing};

/// The way to other datanodes.
pub trait Peers: Send + Sync + 'static {
    /// Takes messages for a node, without waiting; `false` if it cannot, and they are lost.
    fn send(&self, to: NodeId, messages: Vec<Outgoing>) -> bool;
}

/// There is nobody else.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: NodeId, _: Vec<Outgoing>) -> bool {
        false
    }
}

pub(crate) struct Mailbox {
    peers: Arc<dyn Peers>,
    /// Nodes for which something was lost: in this turn, and since somebody last asked.
    missed: Mutex<(BTreeSet<NodeId>, BTreeSet<NodeId>)>,
}

impl Mailbox {
    pub fn new(peers: Arc<dyn Peers>) -> Self {
        Self {
            peers,
            missed: Mutex::default(),
        }
    }

    /// Collects until it is flushed.
    pub fn open(&self) -> Bundles<'_> {
        Bundles {
            mailbox: self,
            by_node: BTreeMap::new(),
        }
    }

    pub fn missed_in_turn(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.missed.lock().0)
    }

    pub fn take_missed(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.missed.lock().1).into_iter().collect()
    }
}

pub(crate) struct Bundles<'a> {
    mailbox: &'a Mailbox,
    by_node: BTreeMap<NodeId, Vec<Outgoing>>,
}

impl Network for Bundles<'_> {
    fn send(&mut self, message: Outgoing) {
        self.by_node.entry(message.to).or_default().push(message);
    }

    fn flush(&mut self) {
        for (node, messages) in std::mem::take(&mut self.by_node) {
            if !self.mailbox.peers.send(node, messages) {
                let mut missed = self.mailbox.missed.lock();
                missed.0.insert(node);
                missed.1.insert(node);
            }
        }
    }
}
