//! Who is known, and what is said to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use greptime_clock::SharedIds;
use greptime_proto::v1::GroupMessage;
use greptime_types::NodeId;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::handler::PeerHandler;
use crate::link::PeerLink;
use crate::metrics::PeerMetrics;
use crate::outgoing;
use crate::peer::Peer;
use crate::queue::Unsent;

/// Where a datanode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub node: NodeId,
    /// host:port
    pub address: String,
    /// Of the start that is meant; 0 is any.
    pub incarnation: u64,
}

#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// How often each peer is judged.
    pub look_interval: Duration,
    /// How often it is pinged.
    pub ping_interval: Duration,
    /// A peer that has not answered for longer is unreachable, and its stream is opened anew. A multiple of
    /// `ping_interval`, since one answer may be slow.
    pub unreachable_after: Duration,
    /// From the dial to the welcome. A stopped process still accepts connections.
    pub welcome_within: Duration,
    /// Between attempts to reach a peer; doubled up to the last, with jitter.
    pub first_retry: Duration,
    pub last_retry: Duration,
    /// What may wait for one peer: about what a busy node says in a quarter of a second.
    pub queue_bytes: usize,
    pub queue_messages: usize,
    /// Messages are put into frames of up to this size: large enough to cost little, small enough that a ping does not
    /// wait long behind one.
    pub frame_bytes: usize,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            look_interval: Duration::from_millis(25),
            ping_interval: Duration::from_millis(100),
            unreachable_after: Duration::from_millis(300),
            welcome_within: Duration::from_secs(1),
            first_retry: Duration::from_millis(10),
            last_retry: Duration::from_secs(1),
            queue_bytes: 32 << 20,
            queue_messages: 1 << 16,
            frame_bytes: 4 << 20,
        }
    }
}

/// How it stands with one peer, for a person.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub address: PeerAddress,
    pub is_connected: bool,
    pub is_unreachable: bool,
    /// Why it is not connected.
    pub problem: String,
    /// Bytes that wait for it.
    pub waiting_bytes: usize,
}

/// Keeps a stream to each known datanode. Dropping it ends them.
pub struct Peers {
    shared: Arc<Shared>,
}

pub struct Shared {
    pub link: Arc<dyn PeerLink>,
    pub handler: Weak<dyn PeerHandler>,
    pub ids: SharedIds,
    pub config: PeerConfig,
    pub metrics: PeerMetrics,
    /// Changed after each round of looking at the peers.
    pub looked: watch::Sender<()>,
    /// Held while the known set is changed.
    changing: Mutex<()>,
    known: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    runtime: Handle,
    /// `None` once the end has begun.
    tasks: Mutex<Option<JoinSet<()>>>,
    pub stop: CancellationToken,
}

impl Peers {
    /// Knows nobody at first. Until `shutdown`, after which the handler is told nothing.
    ///
    /// The handler is not kept alive: it usually owns what this returns.
    pub fn start(
        link: Arc<dyn PeerLink>,
        handler: Arc<dyn PeerHandler>,
        ids: SharedIds,
        config: PeerConfig,
        metrics: PeerMetrics,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            link,
            handler: Arc::downgrade(&handler),
            ids,
            config,
            metrics,
            looked: watch::Sender::new(()),
            changing: Mutex::default(),
            known: RwLock::default(),
            runtime: Handle::current(),
            tasks: Mutex::new(Some(JoinSet::new())),
            stop: shutdown.child_token(),
        });
        shared.spawn(look(Arc::clone(&shared)));
        Arc::new(Self { shared })
    }

    /// Where all other datanodes are, this one apart. One that moved or was started anew is dialled at once; who is not
    /// named is gone, unless it is `awaited`: of those nothing new is known, and streams to them stay.
    pub fn know(&self, all: Vec<PeerAddress>, awaited: &BTreeSet<NodeId>) {
        let me = self.shared.handler.upgrade().map(|handler| handler.me().node_id);
        let mut all: BTreeMap<NodeId, PeerAddress> = all.into_iter().map(|peer| (peer.node, peer)).collect();
        all.retain(|node, _| Some(*node) != me);
        let _one_at_a_time = self.shared.changing.lock();
        // The handler is told while nothing else is locked, and before streams to the same nodes are opened.
        for peer in self.shared.forget(&all, awaited) {
            let why = match all.contains_key(&peer.address.node) {
                true => "it has moved, or was started anew",
                false => "it is no longer in the cluster",
            };
            peer.retire(why);
        }
        let mut known = self.shared.known.write();
        for (node, address) in all {
            known
                .entry(node)
                .or_insert_with(|| self.shared.keep_stream(address));
        }
    }

    /// Queues messages for a peer, in order, and never blocks. False if they will not all arrive: the peer is not
    /// connected, its queue is full (then none was taken), or one is larger than any frame (then the others were).
    pub fn send(&self, to: NodeId, messages: Vec<GroupMessage>) -> bool {
        let count = messages.len();
        let peer = self.shared.known.read().get(&to).map(Arc::clone);
        let pushed = match peer {
            Some(peer) => peer.lane.push(messages),
            None => Err(Unsent::NotConnected),
        };
        let Err(unsent) = pushed else {
            return true;
        };
        let dropped = match unsent {
            Unsent::NotConnected | Unsent::Full => count,
            Unsent::TooLarge { messages } => {
                tracing::error!(
                    peer = to,
                    messages,
                    "messages are larger than a frame and cannot be sent"
                );
                messages
            }
        };
        self.shared.metrics.unsent.inc_by(dropped as u64);
        false
    }

    /// Known peers that have not been connected and answering for longer than they may.
    pub fn unreachable(&self) -> Vec<NodeId> {
        let known = self.shared.known.read();
        let unreachable = known.iter().filter(|(_, peer)| peer.is_unreachable());
        unreachable.map(|(node, _)| *node).collect()
    }

    /// Whether most of the known peers are unreachable.
    pub fn is_cut_off(&self) -> bool {
        let known = self.shared.known.read();
        let unreachable = known.values().filter(|peer| peer.is_unreachable());
        unreachable.count() * 2 > known.len()
    }

    /// All known peers.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.known.read().values().map(|p| p.status()).collect()
    }

    /// Waits until all tasks have ended; to be called after the shutdown.
    pub async fn finished(&self) {
        let tasks = self.shared.tasks.lock().take();
        if let Some(mut tasks) = tasks {
            while tasks.join_next().await.is_some() {}
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// Takes out those that are not where `all` says, and not awaited.
    fn forget(&self, all: &BTreeMap<NodeId, PeerAddress>, awaited: &BTreeSet<NodeId>) -> Vec<Arc<Peer>> {
        let mut known = self.known.write();
        let stays = |peer: &Arc<Peer>| match all.get(&peer.address.node) {
            Some(address) => *address == peer.address,
            None => awaited.contains(&peer.address.node),
        };
        let gone = known
            .values()
            .filter(|peer| !stays(peer))
            .map(Arc::clone)
            .collect();
        known.retain(|_, peer| stays(peer));
        gone
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.lock().as_mut() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(task, &self.runtime);
        }
    }

    fn keep_stream(self: &Arc<Self>, address: PeerAddress) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(self, address));
        self.spawn(outgoing::keep_stream(Arc::clone(self), Arc::clone(&peer)));
        peer
    }
}

/// Judges all peers, pings them now and then, and judges how late it is itself.
async fn look(shared: Arc<Shared>) {
    let interval = shared.config.look_interval;
    let mut due = Instant::now() + interval;
    let mut next_ping = due;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(due);
        let peers: Vec<_> = shared.known.read().values().map(Arc::clone).collect();
        // All of them are looked at, whatever is found of the first.
        let missed = peers.iter().filter(|peer| peer.look(now, late)).count();
        if now >= next_ping {
            peers.iter().for_each(|peer| peer.ping(now));
            next_ping = now + shared.config.ping_interval;
        }
        shared.looked.send_replace(());
        if let Some(handler) = shared.handler.upgrade().filter(|_| missed > 0) {
            handler.missed();
        }
        due = now + interval;
    }
}
