//! A node that writes down what it hears, and ways to run it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use greptime_clock::SystemIds;
use greptime_proto::v1;
use greptime_types::{Error, NodeId, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{GrpcPeerLink, PeerAddress, PeerConfig, PeerHandler, PeerLink, PeerMetrics, PeerStatus, Peers};

/// Nothing that is waited for in a test takes so long, on however busy a machine.
pub const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Connected(NodeId),
    Lost(NodeId, String),
}

/// Takes messages whose region ids are their numbers.
pub struct Recorder {
    node: NodeId,
    incarnation: u64,
    pub numbers: Mutex<Vec<u64>>,
    pub frames: AtomicUsize,
    pub bytes: AtomicU64,
    pub hellos: AtomicUsize,
    pub events: Mutex<Vec<Event>>,
    /// Whether `receive` takes anything.
    takes: watch::Sender<bool>,
    closing: CancellationToken,
}

impl Recorder {
    pub fn new(node: NodeId, incarnation: u64) -> Arc<Self> {
        Arc::new(Self {
            node,
            incarnation,
            numbers: Mutex::default(),
            frames: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            hellos: AtomicUsize::new(0),
            events: Mutex::default(),
            takes: watch::Sender::new(true),
            closing: CancellationToken::new(),
        })
    }

    pub fn take(&self, takes: bool) {
        self.takes.send_replace(takes);
    }

    pub fn close(&self) {
        self.closing.cancel();
    }

    pub fn heard(&self) -> usize {
        self.numbers.lock().len()
    }

    pub fn connects(&self) -> usize {
        let events = self.events.lock();
        events.iter().filter(|e| matches!(e, Event::Connected(_))).count()
    }

    pub fn losses(&self) -> Vec<String> {
        let reason = |event: &Event| match event {
            Event::Lost(_, why) => Some(why.clone()),
            Event::Connected(_) => None,
        };
        self.events.lock().iter().filter_map(reason).collect()
    }
}

#[async_trait]
impl PeerHandler for Recorder {
    fn me(&self) -> v1::NodeIdentity {
        v1::NodeIdentity {
            cluster_id: "blue".into(),
            role: v1::NodeRole::Datanode.into(),
            node_id: self.node,
            disk_id: format!("disk of {}", self.node),
            incarnation: self.incarnation,
        }
    }

    fn hello(&self, hello: &v1::PeerHello) -> Result<u64> {
        self.hellos.fetch_add(1, Ordering::SeqCst);
        let from = hello.from.clone().unwrap_or_default();
        if from.cluster_id != "blue" {
            return Err(Error::permission_denied(format!(
                "cluster `{}` is another",
                from.cluster_id
            )));
        }
        if hello.to_node != self.node {
            return Err(Error::unavailable(format!(
                "{} was meant, this is {}",
                hello.to_node, self.node
            )));
        }
        if hello.to_incarnation != 0 && hello.to_incarnation != self.incarnation {
            return Err(Error::unavailable(format!(
                "start {} was meant, this is {}",
                hello.to_incarnation, self.incarnation
            )));
        }
        Ok(self.incarnation)
    }

    async fn receive(&self, _: NodeId, batch: v1::PeerBatch) {
        let mut takes = self.takes.subscribe();
        takes.wait_for(|takes| *takes).await.unwrap();
        let bytes: usize = batch.messages.iter().map(|m| m.message.len()).sum();
        self.frames.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        let numbers = batch.messages.iter().map(|m| m.region_id);
        self.numbers.lock().extend(numbers);
    }

    fn connected(&self, peer: NodeId) {
        self.events.lock().push(Event::Connected(peer));
    }

    fn lost(&self, peer: NodeId, why: &str) {
        self.events.lock().push(Event::Lost(peer, why.to_string()));
    }

    fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }
}

/// Patient, so that a busy machine breaks no stream in a test that is not about that.
pub fn patient() -> PeerConfig {
    PeerConfig {
        unreachable_after: LONG,
        welcome_within: LONG,
        ..PeerConfig::default()
    }
}

/// For tests of silence: what a busy machine delays is still well below it.
pub fn watchful() -> PeerConfig {
    PeerConfig {
        ping_interval: Duration::from_millis(50),
        unreachable_after: Duration::from_secs(1),
        ..PeerConfig::default()
    }
}

/// A node that speaks.
pub struct Speaker {
    pub handler: Arc<Recorder>,
    pub peers: Arc<Peers>,
    pub shutdown: CancellationToken,
}

impl Speaker {
    pub fn start(handler: &Arc<Recorder>, link: Arc<dyn PeerLink>, config: PeerConfig) -> Self {
        let shutdown = CancellationToken::new();
        let peers = Peers::start(
            link,
            Arc::clone(handler) as _,
            SystemIds::shared(),
            config,
            PeerMetrics::default(),
            shutdown.clone(),
        );
        let handler = Arc::clone(handler);
        Self {
            handler,
            peers,
            shutdown,
        }
    }

    pub fn over_sockets(handler: &Arc<Recorder>, config: PeerConfig) -> Self {
        // A busy machine is slow to accept.
        Self::start(handler, Arc::new(GrpcPeerLink::new(LONG)), config)
    }

    pub async fn connect(&self, to: PeerAddress) {
        let node = to.node;
        let before = self.handler.connects();
        self.peers.know(vec![to], &BTreeSet::new());
        until(&format!("a stream to {node}"), || {
            self.handler.connects() > before
        })
        .await;
    }

    /// The only peer.
    pub fn status(&self) -> PeerStatus {
        self.peers.status().remove(0)
    }

    /// Says the numbers, one after the other, as fast as the queue takes them.
    pub async fn say(&self, to: NodeId, numbers: std::ops::Range<u64>, bytes: usize) {
        for number in numbers {
            while !self.peers.send(to, vec![message(number, bytes)]) {
                assert!(self.status().is_connected, "the stream broke at {number}");
                tokio::task::yield_now().await;
            }
        }
    }
}

pub fn at(node: NodeId, address: &str, incarnation: u64) -> PeerAddress {
    PeerAddress {
        node,
        address: address.into(),
        incarnation,
    }
}

pub fn message(number: u64, bytes: usize) -> v1::GroupMessage {
    v1::GroupMessage {
        region_id: number,
        message: vec![7; bytes].into(),
        authority: 1,
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(LONG, waited).await.is_err() {
        panic!("waited in vain for {what}");
    }
}
