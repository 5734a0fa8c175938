//! Who leads among the metasrv.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use greptime_clock::SharedClock;
use greptime_types::{Error, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::EtcdStore;

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
const KEY: &str = "election";

/// One key under a lease; whoever creates it leads as long as the lease lives.
pub struct EtcdElection {
    store: Arc<EtcdStore>,
    /// host:port of this metasrv, which followers hand to their clients.
    address: String,
    clock: SharedClock,
    /// When etcd may forget the key, in microseconds of the clock.
    session_ends: AtomicU64,
}

impl EtcdElection {
    pub fn new(store: Arc<EtcdStore>, address: String, clock: SharedClock) -> Self {
        Self {
            store,
            address,
            clock,
            session_ends: AtomicU64::new(0),
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

    /// One term: waits for the key, then leads until the lease cannot be renewed.
    async fn term(&self, tell: &watch::Sender<Leadership>, shutdown: &CancellationToken) -> Result<()> {
        let mut client = self.store.client().await?;
        let asked = self.clock.now();
        let lease = client
            .lease_grant(SESSION_SECONDS, None)
            .await
            .map_err(|e| away(&e))?
            .id();
        self.renewed(asked);
        let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.map_err(|e| away(&e))?;
        loop {
            if *tell.borrow() != Leadership::Leader {
                match self.try_create(lease).await? {
                    None => {
                        info!(address = %self.address, "this metasrv leads");
                        tell.send_replace(Leadership::Leader);
                    }
                    Some(leader) => {
                        tell.send_if_modified(|now| {
                            let next = Leadership::Follower {
                                leader: leader.clone(),
                            };
                            let changed = *now != next;
                            *now = next;
                            changed
                        });
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(KEEP_ALIVE) => {}
                () = shutdown.cancelled() => {
                    // The next leader need not wait for the lease to end.
                    self.ended();
                    let _ = client.lease_revoke(lease).await;
                    return Ok(());
                }
            }
            let sent = self.clock.now();
            let renewal = async {
                keeper.keep_alive().await.map_err(|e| away(&e))?;
                let answer = answers.message().await.map_err(|e| away(&e))?;
                answer
                    .filter(|a| a.ttl() > 0)
                    .ok_or_else(|| Error::unavailable("the lease has ended"))
            };
            let give_up = self.surely_leads_until().saturating_sub(GIVE_UP_BEFORE);
            let left = give_up.saturating_sub(self.clock.now());
            match tokio::time::timeout(left, renewal).await {
                Ok(Ok(_)) => self.renewed(sent),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::unavailable("etcd did not renew the lease in time")),
            }
        }
    }

    /// `None`: we lead. Otherwise the address of the leader.
    async fn try_create(&self, lease: i64) -> Result<Option<String>> {
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
        Ok(Some(
            found
                .map(|(value, _)| String::from_utf8_lossy(&value).into_owned())
                .unwrap_or_default(),
        ))
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
