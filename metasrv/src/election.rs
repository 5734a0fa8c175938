//! Who leads among the metasrv.

mod line;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use greptime_clock::SharedClock;
use greptime_types::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use crate::defences::Defence;
use crate::store::EtcdStore;
use line::Line;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody is known to lead.
    #[default]
    Unknown,
    /// Somebody else leads, at this address.
    Follower {
        leader: String,
    },
    Leader,
}

/// Runs until `shutdown`, telling each change of leadership.
#[async_trait]
pub trait Election: Send + Sync + 'static {
    async fn run(&self, tell: watch::Sender<Leadership>, shutdown: CancellationToken);

    /// By the clock of this metasrv: until then nobody else leads, if this one does.
    fn surely_leads_until(&self) -> Duration;
}

/// The only metasrv there is: standalone, and tests.
#[derive(Debug, Default)]
pub struct Alone;

#[async_trait]
impl Election for Alone {
    async fn run(&self, tell: watch::Sender<Leadership>, shutdown: CancellationToken) {
        tell.send_replace(Leadership::Leader);
        shutdown.cancelled().await;
    }

    fn surely_leads_until(&self) -> Duration {
        Duration::MAX
    }
}

/// Seconds that a leader's key outlives it.
const SESSION_SECONDS: i64 = 5;
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A leader stops leading by itself so long before etcd may forget it.
const GIVE_UP_BEFORE: Duration = Duration::from_secs(1);
/// A renewal that failed is tried again after this time: etcd may be back before the key has ended.
const RENEW_AGAIN: Duration = Duration::from_millis(100);
const KEY: &str = "election";

/// Whose key it is.
struct Holder {
    address: String,
    lease: i64,
}

/// One key under a lease; whoever creates it leads as long as the lease lives. The others keep a [`Line`] to whoever leads,
/// and end the lease of a process that is gone: nobody leads, or promises anything, while it lives on without it.
pub struct EtcdElection {
    store: Arc<EtcdStore>,
    /// host:port of this metasrv, which followers hand to their clients.
    address: String,
    clock: SharedClock,
    /// When etcd may forget the key, in microseconds of the clock.
    session_ends: AtomicU64,
    /// Lease of a term that has ended, if etcd was not told so yet. Until it is, its key stands in the way.
    left_behind: Mutex<Option<i64>>,
}

impl EtcdElection {
    pub fn new(store: Arc<EtcdStore>, address: String, clock: SharedClock) -> Self {
        Self {
            store,
            address,
            clock,
            session_ends: AtomicU64::new(0),
            left_behind: Mutex::default(),
        }
    }

    /// etcd has kept the lease when it was asked at `sent`, or later.
    fn renewed(&self, sent: Duration) {
        let ends = sent + Duration::from_secs(SESSION_SECONDS as u64);
        self.session_ends.store(ends.as_micros() as u64, Ordering::SeqCst);
    }

    fn ended(&self) {
        self.session_ends.store(0, Ordering::SeqCst);
    }

    /// One term: waits for the key, then leads until the lease cannot be renewed any more.
    async fn term(&self, tell: &watch::Sender<Leadership>, shutdown: &CancellationToken) -> Result<()> {
        let mut client = self.store.client().await?;
        self.clear_away(&mut client).await?;
        let asked = self.clock.now();
        let lease = client
            .lease_grant(SESSION_SECONDS, None)
            .await
            .map_err(|e| away(&e))?
            .id();
        *self.left_behind.lock() = Some(lease);
        self.renewed(asked);
        let mut line = Line::default();
        loop {
            let mut holder = None;
            if *tell.borrow() != Leadership::Leader {
                match self.try_create(lease).await? {
                    None => {
                        info!(address = %self.address, "this metasrv leads");
                        tell.send_replace(Leadership::Leader);
                    }
                    Some(found) => {
                        tell.send_if_modified(|now| {
                            let next = Leadership::Follower {
                                leader: found.address.clone(),
                            };
                            let changed = *now != next;
                            *now = next;
                            changed
                        });
                        holder = Some(found);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(KEEP_ALIVE) => {}
                gone = until_gone(&mut line, holder) => {
                    info!(address = %gone.address, "the process of the metasrv that leads is gone");
                    revoke(&mut client, gone.lease).await?;
                    continue;
                }
                () = shutdown.cancelled() => {
                    // The next leader need not wait for the lease to end.
                    self.ended();
                    let told = tokio::time::timeout(GIVE_UP_BEFORE, self.clear_away(&mut client));
                    return told.await.unwrap_or(Ok(()));
                }
            }
            self.renew(&mut client, lease).await?;
        }
    }

    /// Tries as long as the key surely stands: an etcd that is away for a moment ends no term.
    async fn renew(&self, client: &mut Client, lease: i64) -> Result<()> {
        let give_up = match Defence::LeaderStopsBeforeItsKeyEnds.holds() {
            true => self.surely_leads_until().saturating_sub(GIVE_UP_BEFORE),
            false => Duration::MAX,
        };
        loop {
            let sent = self.clock.now();
            let left = give_up.saturating_sub(sent);
            let failed = match tokio::time::timeout(left, keep_alive(client, lease)).await {
                Ok(Ok(true)) => {
                    self.renewed(sent);
                    return Ok(());
                }
                Ok(Ok(false)) => return Err(Error::unavailable("the lease has ended")),
                Ok(Err(error)) => error,
                Err(_) => Error::unavailable("etcd did not renew the lease in time"),
            };
            if self.clock.now() + RENEW_AGAIN >= give_up {
                return Err(failed);
            }
            tokio::time::sleep(RENEW_AGAIN).await;
        }
    }

    /// Ends the lease of the term before: nobody relies on it any more, and this process would wait for its own key.
    async fn clear_away(&self, client: &mut Client) -> Result<()> {
        let left_behind = *self.left_behind.lock();
        if let Some(lease) = left_behind {
            revoke(client, lease).await?;
            *self.left_behind.lock() = None;
        }
        Ok(())
    }

    /// `None`: we lead. Otherwise who does.
    async fn try_create(&self, lease: i64) -> Result<Option<Holder>> {
        let key = self.store.key(KEY);
        let mut client = self.store.client().await?;
        let put = TxnOp::put(
            key.clone(),
            self.address.clone(),
            Some(PutOptions::new().with_lease(lease)),
        );
        let txn = Txn::new()
            .when([Compare::version(key.clone(), CompareOp::Equal, 0)])
            .and_then([put])
            .or_else([TxnOp::get(key, None)]);
        let answer = client.txn(txn).await.map_err(|e| away(&e))?;
        if answer.succeeded() {
            return Ok(None);
        }
        let found = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(get) => get.kvs().first().map(|kv| (kv.value().to_vec(), kv.lease())),
            _ => None,
        });
        // An own key under this very lease: the answer to the creation was lost.
        if found.as_ref().is_some_and(|(_, owner)| *owner == lease) {
            return Ok(None);
        }
        let (value, lease) = found.unwrap_or_default();
        let address = String::from_utf8_lossy(&value).into_owned();
        Ok(Some(Holder { address, lease }))
    }
}

/// For ever if nobody is known to lead.
async fn until_gone(line: &mut Line, holder: Option<Holder>) -> Holder {
    match holder {
        Some(holder) => {
            line.until_gone(&holder.address, holder.lease).await;
            holder
        }
        None => std::future::pending().await,
    }
}

/// Ends a lease, if it has not ended by itself.
async fn revoke(client: &mut Client, lease: i64) -> Result<()> {
    match client.lease_revoke(lease).await {
        Err(etcd_client::Error::GRpcStatus(status)) if status.code() == Code::NotFound => Ok(()),
        Err(error) => Err(away(&error)),
        Ok(_) => Ok(()),
    }
}

/// Whether etcd knows the lease, which it then keeps for its whole length. A new stream each time: whatever has broken the
/// last one is behind it, and the client's first message on it is the renewal.
async fn keep_alive(client: &mut Client, lease: i64) -> Result<bool> {
    match client.lease_keep_alive(lease).await {
        Ok(_) => Ok(true),
        Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
        Err(error) => Err(away(&error)),
    }
}

fn away(error: &etcd_client::Error) -> Error {
    Error::unavailable(format!("etcd: {error}"))
}

#[async_trait]
impl Election for EtcdElection {
    async fn run(&self, tell: watch::Sender<Leadership>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let ended = self.term(&tell, &shutdown).await;
            self.ended();
            let led = tell.send_replace(Leadership::Unknown) == Leadership::Leader;
            if let Err(error) = ended {
                warn!(%error, led, "election is interrupted");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    fn surely_leads_until(&self) -> Duration {
        Duration::from_micros(self.session_ends.load(Ordering::SeqCst))
    }
}
