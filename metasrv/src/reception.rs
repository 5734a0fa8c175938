//! Nodes that come: who is let in, what it must know first, and what its beats say.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use greptime_metasrv_plan::lease::Granted;
use greptime_proto::v1::{self, beat, push};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{Error, NodeRole, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use crate::catalog::{Catalog, DatanodeRecord, Edit};
use crate::defences::Defence;
use crate::election::Leadership;
use crate::formats;
use crate::server::Metasrv;
use crate::sessions::{NodeKey, PUSH_QUEUE};
use crate::view;
use crate::watch;

impl Metasrv {
    /// Checks a node that registers, and records what is new of it.
    async fn admit(&self, register: &v1::Register) -> Result<NodeKey> {
        let identity = register.identity.clone().unwrap_or_default();
        let role = NodeRole::try_from(identity.role())?;
        let key = NodeKey {
            role,
            id: identity.node_id,
        };
        let catalog = self.catalog()?;
        let cluster_id = &catalog.root.cluster_id;
        let is_foreign = !identity.cluster_id.is_empty() && identity.cluster_id != *cluster_id;
        if is_foreign && Defence::ForeignDiskIsRefused.holds() {
            return Err(Error::permission_denied(format!(
                "this is cluster {cluster_id}, the node's data belongs to cluster {}",
                identity.cluster_id
            )));
        }
        formats::admit(register, catalog.root.format)?;
        if let Some(reason) = self
            .state
            .lock()
            .sessions
            .occupied(key, identity.incarnation, self.now())
        {
            return Err(Error::permission_denied(reason));
        }
        if role == NodeRole::Datanode {
            self.record_datanode(key, &identity.disk_id, &register.zone)
                .await?;
        }
        Ok(key)
    }

    async fn record_datanode(&self, key: NodeKey, disk_id: &str, zone: &str) -> Result<()> {
        if disk_id.is_empty() {
            return Err(Error::permission_denied("a datanode must say its disk id"));
        }
        let record = DatanodeRecord {
            format: FORMAT_VERSION,
            disk_id: disk_id.into(),
            zone: Some(zone.to_owned()).filter(|zone| !zone.is_empty()),
        };
        let changed = self
            .change(|catalog| {
                let known = catalog.datanodes.get(&key.id);
                if let Some(known) = known.filter(|known| known.disk_id != disk_id) {
                    warn!(
                        node = key.id,
                        old = known.disk_id,
                        new = disk_id,
                        "a datanode came with another disk"
                    );
                }
                let news = known != Some(&record);
                Ok(if news {
                    vec![Edit::PutDatanode(key.id, record.clone())]
                } else {
                    vec![]
                })
            })
            .await;
        changed.map(|_| ())
    }

    pub(crate) fn welcome_to(&self, catalog: &Catalog) -> v1::Welcome {
        v1::Welcome {
            cluster_id: catalog.root.cluster_id.clone(),
            metasrv_epoch: catalog.root.metasrv_epoch,
            heartbeat_interval_ms: self.options.config.heartbeat_interval.as_millis() as u64,
            format_version: catalog.root.format,
        }
    }

    /// Takes the node in and queues what it must know first. Under one lock, so that no change falls between.
    fn welcome(&self, key: NodeKey, register: v1::Register, push: mpsc::Sender<v1::Push>) -> Result<u64> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let catalog = state.catalog.as_ref().ok_or_else(|| self.not_leading())?;
        // Looked at again under the lock: it may have been raised since the node was let in.
        formats::admit(&register, catalog.root.format)?;
        let welcome = self.welcome_to(catalog);
        let update = view::catalog_update(None, catalog);
        info!(role = %key.role, node = key.id, address = %register.address, "a node has registered");
        let now = self.now();
        let serial = state.sessions.admit(key, register, push, now);
        let session = state.sessions.get(key.role, key.id).expect("just admitted");
        if let Some(watch) = state.watch.as_mut().filter(|_| key.role == NodeRole::Datanode) {
            watch.registered(key.id, &session.register, serial, now);
            // Told again when it is told to everybody: it may have come with another address.
            state.peers_told = v1::PeerUpdate::default();
        }
        let mut said = session.say(push::Body::Welcome(welcome));
        if key.role == NodeRole::Frontend {
            said &= session.say(push::Body::Catalog(update));
            said &= session.say(push::Body::Routes(state.routes.complete()));
        }
        drop(guard);
        self.note_change();
        if said {
            Ok(serial)
        } else {
            Err(Error::internal("a new session does not take pushes"))
        }
    }

    /// Takes in the beats of one session until it ends.
    async fn listen(&self, key: NodeKey, serial: u64, mut beats: BoxStream<'static, v1::Beat>) {
        while let Some(beat) = beats.next().await {
            if let Some(beat::Body::Tick(tick)) = beat.body {
                let now = self.now();
                let mut state = self.state.lock();
                let (number, said) = (tick.number, watch::said(&tick));
                let Some(changed) = state.sessions.tick(key, serial, tick, now) else {
                    continue;
                };
                let granted = match key.role {
                    NodeRole::Datanode => state.has_beaten((key.id, serial), said, self.leads_until(), now),
                    _ => Granted::default(),
                };
                let tock = v1::Tock {
                    number,
                    lease_ms: granted.length.as_millis() as u64,
                    without_lease: granted.without.iter().map(|r| r.as_u64()).collect(),
                };
                if let Some(session) = state.sessions.get(key.role, key.id) {
                    session.say(push::Body::Tock(tock));
                }
                drop(state);
                if changed {
                    self.note_change();
                }
            }
        }
        let mut state = self.state.lock();
        state.lost(key, serial, self.now());
        let ended = state.sessions.end(key, serial);
        drop(state);
        if ended {
            info!(role = %key.role, node = key.id, "a node's session has ended");
            self.note_change();
        }
    }

    /// Registers the sender of `beats`. The answer begins with `Welcome`, `NotLeader` or `Refused`.
    pub async fn open_session(
        self: &Arc<Self>,
        mut beats: BoxStream<'static, v1::Beat>,
    ) -> BoxStream<'static, Result<v1::Push>> {
        let only = |body| futures::stream::iter([Ok(v1::Push { body: Some(body) })]).boxed();
        if self.state.lock().catalog.is_none() {
            let leader = match self.leadership() {
                Leadership::Follower { leader } => leader,
                _ => String::new(),
            };
            return only(push::Body::NotLeader(v1::NotLeader { leader }));
        }
        let Some(Some(beat::Body::Register(register))) = beats.next().await.map(|b| b.body) else {
            let reason = "the first beat must be a Register".to_string();
            return only(push::Body::Refused(v1::Refused { reason }));
        };
        let key = match self.admit(&register).await {
            Ok(key) => key,
            Err(error) if error.is_retryable() => return futures::stream::iter([Err(error)]).boxed(),
            Err(error) => {
                return only(push::Body::Refused(v1::Refused {
                    reason: error.message,
                }));
            }
        };
        let (push, pushes) = mpsc::channel(PUSH_QUEUE);
        match self.welcome(key, register, push) {
            Ok(serial) => {
                let metasrv = self.clone();
                tokio::spawn(async move { metasrv.listen(key, serial, beats).await });
                ReceiverStream::new(pushes).map(Ok).boxed()
            }
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }
}
