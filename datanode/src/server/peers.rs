//! The other datanodes, as the log and metasrv speak of them.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use greptime_clock::SharedIds;
use greptime_log::{Input, Outgoing};
use greptime_peers::{PeerAddress, PeerConfig, PeerHandler, PeerLink, PeerMetrics, Peers};
use greptime_proto::v1;
use greptime_telemetry::Metrics;
use greptime_types::{Error, NodeId, RegionId, Result, format};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Datanode;
use crate::defences::Defence;

/// How soon leaders say to a node that they are there, when something for it was lost though it is connected.
const REPAIR_EVERY: Duration = Duration::from_millis(100);

/// The streams to other datanodes, once there are any.
#[derive(Default)]
pub struct PeerBook {
    peers: OnceLock<Arc<Peers>>,
}

impl PeerBook {
    /// Where all other datanodes are, but for those that metasrv awaits.
    pub fn know(&self, update: v1::PeerUpdate) {
        if let Some(peers) = self.peers.get() {
            let address = |peer: v1::Peer| PeerAddress {
                node: peer.node,
                address: peer.address,
                incarnation: peer.incarnation,
            };
            let awaited = match Defence::AwaitedPeersAreKept.holds() {
                true => update.awaited.into_iter().collect(),
                false => BTreeSet::new(),
            };
            peers.know(update.peers.into_iter().map(address).collect(), &awaited);
        }
    }

    /// Whether most of the others have not been reached for a while.
    pub fn is_cut_off(&self) -> bool {
        self.peers.get().is_some_and(|peers| peers.is_cut_off())
    }

    /// Nodes that have not been reached for a while.
    pub fn unreachable(&self) -> Vec<NodeId> {
        self.peers
            .get()
            .map(|peers| peers.unreachable())
            .unwrap_or_default()
    }
}

impl greptime_log::Peers for PeerBook {
    fn send(&self, to: NodeId, messages: Vec<Outgoing>) -> bool {
        let Some(peers) = self.peers.get() else {
            return false;
        };
        let messages = messages.into_iter().map(|outgoing| v1::GroupMessage {
            region_id: outgoing.region.as_u64(),
            message: outgoing.encode(),
            authority: outgoing.authority,
        });
        peers.send(to, messages.collect())
    }
}

impl Datanode {
    pub(super) fn start_peers(self: &Arc<Self>, link: Arc<dyn PeerLink>, ids: &SharedIds, metrics: &Metrics) {
        let handler = Arc::clone(self) as Arc<dyn PeerHandler>;
        let config = PeerConfig::default();
        let metrics = PeerMetrics::register(metrics);
        let peers = Peers::start(
            link,
            handler,
            Arc::clone(ids),
            config,
            metrics,
            self.shutdown.clone(),
        );
        let _ = self.peers.peers.set(peers);
        self.tasks.spawn(Arc::clone(self).repair());
    }

    /// Without ticks nobody says anything again by himself.
    async fn repair(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REPAIR_EVERY).await;
            let missed = self.log.take_missed();
            if !missed.is_empty() {
                let found = missed.into_iter().map(Input::PeerFound).collect();
                // The log ends with the node.
                let _ = self.log.tell(found).await;
            }
        }
    }

    /// Passes what needs no answer on to the log, in order.
    pub(super) async fn pass_words(self: Arc<Self>, mut words: mpsc::Receiver<Vec<Input>>) {
        while let Some(inputs) = words.recv().await {
            let is_found = inputs.iter().any(|input| matches!(input, Input::MetasrvFound));
            // The log ends with the node.
            let _ = self.log.tell(inputs).await;
            if is_found {
                // Nothing that comes after it has to wait.
                let node = Arc::clone(&self);
                tokio::spawn(async move {
                    if node.log.passed().await.is_ok() {
                        node.heard.was_taken();
                    }
                });
            }
        }
    }
}

#[async_trait]
impl PeerHandler for Datanode {
    fn me(&self) -> v1::NodeIdentity {
        let identity = self.identity();
        v1::NodeIdentity {
            cluster_id: identity.cluster_id,
            role: v1::NodeRole::Datanode.into(),
            node_id: identity.node_id,
            disk_id: identity.disk_id,
            incarnation: self.incarnation,
        }
    }

    fn hello(&self, hello: &v1::PeerHello) -> Result<u64> {
        let (me, from) = (self.me(), hello.from.clone().unwrap_or_default());
        let is_other_start = hello.to_incarnation != 0 && hello.to_incarnation != me.incarnation;
        if (hello.to_node != me.node_id || is_other_start) && Defence::PeerNamesItsNode.holds() {
            return Err(Error::unavailable(format!(
                "datanode {} of start {:016x} was meant, this is {} of start {:016x}",
                hello.to_node, hello.to_incarnation, me.node_id, me.incarnation
            )));
        }
        if from.cluster_id != me.cluster_id && Defence::PeerIsOfTheCluster.holds() {
            return Err(Error::permission_denied(format!(
                "datanode {} is of cluster `{}`, this one of `{}`",
                from.node_id, from.cluster_id, me.cluster_id
            )));
        }
        format::check_up_to(
            "what a peer says at least",
            hello.min_format,
            format::NEWEST_CLUSTER_FORMAT,
        )?;
        Ok(me.incarnation)
    }

    async fn receive(&self, from: NodeId, batch: v1::PeerBatch) {
        let input = |said: v1::GroupMessage| {
            let region = RegionId::from_u64(said.region_id);
            Input::received(from, region, &said.message, said.authority)
        };
        let inputs: Vec<Input> = batch.messages.into_iter().filter_map(input).collect();
        // The log ends with the node.
        let _ = self.log.tell(inputs).await;
    }

    fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    fn missed(&self) {
        // If this node cannot lead any more, others are to soon.
        self.regions.news().notify_one();
    }

    fn connected(&self, peer: NodeId) {
        let _ = self.words.try_send(vec![Input::PeerFound(peer)]);
    }

    fn lost(&self, peer: NodeId, why: &str) {
        tracing::info!(peer, why, "the stream to a datanode is broken");
        let _ = self.words.try_send(vec![Input::PeerLost(peer)]);
    }
}
