//! What this node tells metasrv, and does when it is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use greptime_log::{Authority, Change, InFiles, Initialise, Input, Member};
use greptime_peers::PeerHandler;
use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, push};
use greptime_types::{Error, RegionId, Result, TableInfo, format};

use super::Datanode;
use super::write::within;
use crate::defences::Defence;
use crate::manifest::{ManifestStore, View};
use crate::region::{Checkpoint, Region, RegionEntry};

/// A transfer that takes longer is given up.
const TRANSFER_WITHIN: Duration = Duration::from_millis(50);

/// A change of members that takes longer is asked for again.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Index at which the log of a new region begins.
const FIRST_INDEX: u64 = 1;

impl SessionHandler for Datanode {
    fn register(&self) -> v1::Register {
        *self.reported.lock() = None;
        self.beats.clear();
        v1::Register {
            identity: Some(self.me()),
            address: self.address.clone(),
            zone: self.zone.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            min_format: format::OLDEST_CLUSTER_FORMAT,
            max_format: format::NEWEST_CLUSTER_FORMAT,
            regions: self.reports(),
        }
    }

    fn tick(&self, number: u64, answered: u64) -> v1::Tick {
        let began = self.clock.now();
        // Before the reports: if a vote was given until then, they have its term.
        let heard = self.heard.is_taken();
        let reports = self.reports();
        let oldest_append = self.appends.oldest_append();
        let renounced = self.renounce(began, oldest_append, &reports);
        self.beats.begin(number, began, &reports);
        let mut reported = self.reported.lock();
        let changed = reported.as_ref() != Some(&reports);
        if changed {
            *reported = Some(reports.clone());
        }
        let problem = self.bucket_problem.lock().clone();
        v1::Tick {
            number,
            oldest_append_ms: oldest_append.as_millis() as u64,
            regions: if changed { reports } else { Vec::new() },
            regions_complete: changed,
            dependencies: vec![v1::Dependency {
                name: "object_store".into(),
                ok: problem.is_none(),
                message: problem.unwrap_or_default(),
            }],
            unreachable: self.peers.unreachable(),
            // Metasrv counts on it that this node votes for nobody without it.
            answered: if heard { answered } else { 0 },
            stopping: self.is_stopping(),
            renounced,
        }
    }

    fn news(&self) -> Arc<Notify> {
        self.regions.news()
    }

    fn answered(&self, tock: &v1::Tock) {
        self.take_leases(tock);
    }

    fn told(&self, push: push::Body) {
        match push {
            push::Body::Welcome(welcome) => return self.welcome(&welcome),
            _ => self.heard_metasrv(),
        }
        match push {
            push::Body::Peers(update) => self.peers.know(update),
            push::Body::Initialise(_)
            | push::Body::Alter(_)
            | push::Body::Drop(_)
            | push::Body::ChangeMembers(_)
            | push::Body::Recover(_)
            | push::Body::AssignmentsComplete(_) => self.take_order(push),
            push::Body::SetRole(role) if role.hot && !self.may_be_hot(RegionId::from_u64(role.region_id)) => {
            }
            push::Body::SetRole(role) => {
                self.tell_log(push);
                if role.warm {
                    self.take_order(push::Body::SetRole(role));
                }
            }
            push::Body::Campaign(_) | push::Body::Transfer(_) => self.tell_log(push),
            _ => {}
        }
    }

    fn disconnected(&self, reason: &str) {
        tracing::warn!(
            reason,
            "the session with metasrv ended; regions go on, and it is opened again"
        );
    }
}

impl Datanode {
    fn take_order(&self, order: push::Body) {
        if self.orders.try_send(order).is_err() {
            // Whoever ordered repeats it until a report shows that it was done.
            tracing::warn!("too many orders of metasrv wait; one was dropped");
        }
    }

    /// Orders that are a word to the log do not wait behind those that take long.
    fn tell_log(&self, order: push::Body) {
        let epoch = self.metasrv_epoch.load(Ordering::SeqCst);
        if let push::Body::Transfer(transfer) = &order {
            let id = RegionId::from_u64(transfer.region_id);
            if let Some(region) = self.regions.find(id) {
                region.give_up_lease();
            }
            self.abort_later(id);
        }
        if self.words.try_send(word(order, epoch)).is_err() {
            tracing::warn!("too many orders of metasrv wait; one was dropped");
        }
    }

    /// While a leader hands over it takes no writes; one whose heir does not answer goes on.
    fn abort_later(&self, region: RegionId) {
        let words = self.words.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TRANSFER_WITHIN).await;
            // The log ends with the node.
            let _ = words.send(vec![Input::AbortTransfer { region }]).await;
        });
    }

    fn welcome(&self, welcome: &v1::Welcome) {
        let known = self
            .metasrv_epoch
            .fetch_max(welcome.metasrv_epoch, Ordering::SeqCst);
        if known < welcome.metasrv_epoch {
            self.heard.is_news();
        }
        self.heard_metasrv();
        let format = welcome.format_version.max(format::OLDEST_CLUSTER_FORMAT);
        self.cluster_format.store(format, Ordering::SeqCst);
        let mut identity = self.identity.lock();
        if identity.cluster_id == welcome.cluster_id {
            return;
        }
        if !identity.cluster_id.is_empty() && Defence::DiskIsOfOneCluster.holds() {
            self.fail(format!(
                "this disk belongs to cluster {}, metasrv is of cluster {}; check metasrv.addresses and the volume",
                identity.cluster_id, welcome.cluster_id
            ));
            return;
        }
        identity.cluster_id.clone_from(&welcome.cluster_id);
        if let Err(error) = self.data_dir.store(&identity) {
            self.fail(format!("the cluster id cannot be kept: {error}"));
        }
    }

    /// Carries out one order.
    pub(super) async fn obey(self: &Arc<Self>, order: push::Body) {
        let result = match order {
            push::Body::Initialise(order) => self.initialise(order).await,
            push::Body::Alter(order) => self.alter(order).await,
            push::Body::Drop(order) => {
                let id = RegionId::from_u64(order.region_id);
                match order.only_replica {
                    true => self.drop_replica(id).await,
                    false => self.drop_region(id).await,
                }
            }
            push::Body::ChangeMembers(order) => self.change_members(order).await,
            push::Body::Recover(order) => self.recover(order).await,
            push::Body::SetRole(order) => {
                self.warm_up(RegionId::from_u64(order.region_id));
                Ok(())
            }
            push::Body::AssignmentsComplete(_) => {
                self.assigned.store(true, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "an order of metasrv was not carried out; it will be repeated");
        }
    }

    /// Starts a region's group, once.
    pub async fn initialise(self: &Arc<Self>, order: v1::InitialiseRegion) -> Result<()> {
        let id = RegionId::from_u64(order.region_id);
        if let Some(region) = self.regions.find(id) {
            let has = region.with_state(|s| s.report().raft_id);
            if has != 0 && has != order.raft_id && Defence::OtherReplicaIsRefused.holds() {
                return Err(Error::conflict(format!(
                    "region {id} is here as replica {has}, it cannot become replica {}",
                    order.raft_id
                )));
            }
            return Ok(());
        }
        if self.is_being_dropped(id) && Defence::DroppedNumberIsRefused.holds() {
            return Err(Error::conflict(format!(
                "region {id} was dropped; its number is not used again"
            )));
        }
        let joins = order.voters.is_empty();
        let checkpoint = Checkpoint {
            format: format::FORMAT_VERSION,
            table: table_from(&order.table_json)?,
            // Whoever joins has nothing, until it is sent what there is.
            flushed_seq: if joins { 0 } else { FIRST_INDEX },
            manifest_version: 0,
            requests: Default::default(),
        };
        let bytes = checkpoint.encode()?;
        // Nobody has ever written to a group that is started now, so its manifest is known to be empty.
        let manifest = (!joins).then(View::default);
        let region = Region::new(id, checkpoint, manifest, Arc::clone(&self.budget));
        self.regions.insert(region);
        let initialise = Initialise {
            region: id,
            raft_id: order.raft_id,
            voters: order.voters,
            members: order.members.into_iter().map(member).collect(),
            checkpoint: bytes,
        };
        self.log
            .initialise(initialise)
            .await
            .inspect_err(|_| drop(self.regions.remove(id)))?;
        tracing::info!(region = %id, raft_id = order.raft_id, "region initialised");
        Ok(())
    }

    /// Puts the change of a table into the region's log.
    pub async fn alter(&self, order: v1::AlterRegion) -> Result<()> {
        let id = RegionId::from_u64(order.region_id);
        let table = table_from(&order.table_json)?;
        let region = self.regions.get(id)?;
        if table.schema.version <= region.with_state(|s| s.table().schema.version) {
            return Ok(());
        }
        let altered = self.propose(id, RegionEntry::Alter(Box::new(table)).encode()?);
        within(Some(CHANGE_WITHIN), altered).await
    }
}

impl Datanode {
    /// Changes the members of a region that this node leads in the epoch that is meant.
    async fn change_members(&self, order: v1::ChangeMembers) -> Result<()> {
        let id = RegionId::from_u64(order.region_id);
        self.regions.get(id)?.admit(order.epoch, 0)?;
        let learners = order.learners.into_iter().map(member).map(Change::AddLearner);
        let voters = order.voters.into_iter().map(member).map(Change::AddVoter);
        let removed = order.remove.into_iter().map(|raft_id| Change::Remove { raft_id });
        let changes = learners.chain(voters).chain(removed).collect();
        let members = order.members.into_iter().map(member).collect();
        let changed = self.log.change_members(id, changes, members);
        within(Some(CHANGE_WITHIN), changed).await.map(drop)
    }

    /// Makes a replica the only one of its group. The lost ones may have flushed in a later term, and more than they had
    /// sent: the manifest says so.
    async fn recover(&self, order: v1::RecoverRegion) -> Result<()> {
        let id = RegionId::from_u64(order.region_id);
        let manifest = ManifestStore::new(self.flusher.bucket.clone(), id);
        let view = manifest.load(0).await?;
        // A copy that comes late would take the members away that have come since.
        let is_done = self.regions.get(id)?.with_state(|s| s.report().epoch) > order.seen_term;
        if is_done && Defence::LateRecoveryIsVoid.holds() {
            return Ok(());
        }
        let checkpoint = Checkpoint::of(&view).map(|checkpoint| checkpoint.encode());
        let recover = Input::Recover {
            region: id,
            raft_id: order.raft_id,
            seen_term: order.seen_term.max(view.epoch),
            files: checkpoint.transpose()?.map(|checkpoint| InFiles {
                through: view.flushed_seq,
                term: view.epoch,
                checkpoint,
            }),
        };
        let told = self.words.send(vec![recover]).await;
        told.map_err(|_| Error::unavailable("the log has ended"))
    }
}

fn member(member: v1::RegionMember) -> Member {
    Member {
        raft_id: member.raft_id,
        node: member.node,
    }
}

/// What the log is told by an order of the metasrv of `epoch`.
fn word(order: push::Body, epoch: u64) -> Vec<Input> {
    match order {
        push::Body::Campaign(order) => vec![Input::Campaign {
            region: RegionId::from_u64(order.region_id),
            seen_term: order.seen_term,
            authority: Authority::Metasrv { epoch },
        }],
        push::Body::Transfer(order) => vec![Input::Transfer {
            region: RegionId::from_u64(order.region_id),
            to: order.to_raft_id,
        }],
        push::Body::SetRole(order) => vec![Input::Role {
            region: RegionId::from_u64(order.region_id),
            is_hot: order.hot,
        }],
        _ => Vec::new(),
    }
}

fn table_from(json: &str) -> Result<TableInfo> {
    let table: TableInfo =
        serde_json::from_str(json).map_err(|e| Error::invalid(format!("the table: {e}")))?;
    format::check("the table", table.format)?;
    Ok(table)
}
