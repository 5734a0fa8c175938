//! The datanode: opening it, and what it can be asked, independent of the wire.

mod compact;
mod damaged;
mod fallback;
mod followers;
mod grpc;
mod identity;
mod leases;
mod maintain;
mod open;
mod orders;
mod others;
mod peers;
mod prepared;
mod query;
mod regions;
mod removal;
mod session;
mod spill;
mod tasks;
mod warm;
mod write;

pub use identity::Identity;
pub use open::DatanodeParts;
pub use regions::Regions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use datafusion::prelude::SessionContext;
use greptime_clock::SharedClock;
use greptime_log::{Input, LogHandle, LogStore, TimedLog};
use greptime_proto::v1::{self, RegionReport, push};
use greptime_telemetry::Readiness;
use greptime_types::{Error, RegionId, Result};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::compaction::Compactor;
use crate::config::DatanodeConfig;
use crate::metrics::DatanodeMetrics;
use crate::region::{Flusher, Region};
use crate::sst::FileSource;
use compact::CompactionBook;
use fallback::Heard;
use followers::Cooled;
use identity::DataDir;
use leases::SentBeats;
use maintain::FlushBook;
use orders::Lanes;
use peers::PeerBook;
use prepared::PreparedPlans;
use spill::SpillSpace;
use tasks::Tasks;
use write::within;

/// A running datanode.
pub struct Datanode {
    config: DatanodeConfig,
    address: String,
    zone: String,
    incarnation: u64,
    data_dir: Arc<DataDir>,
    identity: Mutex<Identity>,
    clock: SharedClock,
    metrics: DatanodeMetrics,
    budget: Arc<Budget>,
    regions: Arc<Regions>,
    store: Arc<dyn LogStore>,
    appends: Arc<TimedLog>,
    log: LogHandle,
    peers: Arc<PeerBook>,
    /// No more streams of peers are answered.
    closing: CancellationToken,
    /// What needs no answer of the log.
    words: mpsc::Sender<Vec<Input>>,
    heard: Heard,
    cooled: Cooled,
    /// The highest epoch of a metasrv that has welcomed this node.
    metasrv_epoch: AtomicU64,
    flusher: Flusher,
    files: FileSource,
    flushes: FlushBook,
    compactor: Compactor,
    compactions: CompactionBook,
    flush_permits: Semaphore,
    load_permits: Semaphore,
    queries: SessionContext,
    spill: Arc<SpillSpace>,
    prepared: PreparedPlans,
    /// What this node may write, as metasrv said last.
    cluster_format: AtomicU32,
    /// Orders of metasrv, carried out one after the other.
    orders: mpsc::Sender<push::Body>,
    lanes: Lanes,
    /// metasrv has said everything that this node must hold.
    assigned: AtomicBool,
    readiness: Readiness,
    /// Reports that this session's metasrv has.
    reported: Mutex<Option<Vec<RegionReport>>>,
    beats: SentBeats,
    /// Why the bucket does not answer, if so.
    bucket_problem: Mutex<Option<String>>,
    /// Why this process must end, if so.
    fatal: watch::Sender<Option<String>>,
    tasks: Tasks,
    /// Others are to lead what this node leads.
    is_stopping: AtomicBool,
    shutdown: CancellationToken,
}

impl Datanode {
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Every region on this node's disk.
    pub fn reports(&self) -> Vec<RegionReport> {
        self.regions.reports()
    }

    #[cfg(test)]
    pub(crate) fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    /// Whether this node has registered and opened everything that it was told to hold; stays true.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// The same as a value for the probe endpoints.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Puts what a region has in memory into files.
    pub async fn flush(&self, request: v1::FlushRequest) -> Result<v1::FlushResponse> {
        let deadline = self.check_header(request.header.as_ref())?;
        self.check_alive()?;
        let region = self.regions.get(RegionId::from_u64(request.region_id))?;
        let flushed_index = within(deadline, self.flush_one(&region)).await?;
        Ok(v1::FlushResponse { flushed_index })
    }

    /// Merges the files of a region now, whatever the picker thinks; returns when it is done.
    pub async fn compact(&self, request: v1::CompactRequest) -> Result<v1::CompactResponse> {
        let deadline = self.check_header(request.header.as_ref())?;
        self.check_alive()?;
        let region = self.regions.get(RegionId::from_u64(request.region_id))?;
        within(deadline, self.compact_one(&region)).await
    }

    /// Waits until this process can no longer do its work, and says why. It must then exit, to start again from
    /// what is on disk; nothing is acknowledged any more.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        tokio::select! {
            reason = self.log.failed() => reason,
            reason = fatal.wait_for(Option::is_some) => match reason {
                Ok(reason) => reason.clone().unwrap_or_default(),
                Err(_) => "the datanode is gone".into(),
            },
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Before [`Self::shutdown`], while everything is still served: asks metasrv for others to lead what this node leads,
    /// and waits until they do, but not for longer than `patience`. Until then its vote may be what they need. What has
    /// nobody else is led to the end.
    pub async fn hand_over(&self, patience: Duration) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let started = self.clock.now();
        let leads = |region: &Arc<Region>| region.with_state(|s| s.is_replicated() && s.status().leads);
        let has_leader = |region: &Arc<Region>| region.with_state(|s| s.status().is_led_by_another());
        let mut led = BTreeSet::new();
        loop {
            let regions = self.regions.all();
            led.extend(
                regions
                    .iter()
                    .filter(|region| leads(region))
                    .map(|region| region.id()),
            );
            let waits = |region: &&Arc<Region>| led.contains(&region.id()) && !has_leader(region);
            let left = regions.iter().filter(waits).count();
            let took = self.clock.now().saturating_sub(started);
            if left == 0 || took >= patience {
                // Connections may outlive the listener.
                self.give_up_all_leases();
                tracing::info!(
                    led = led.len(),
                    left,
                    took_ms = took.as_millis() as u64,
                    "handed over before the stop"
                );
                return;
            }
            self.regions.news().notify_one();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops: no more sessions and background work; everything acknowledged is on disk already. What waits for space on
    /// a full disk is given up.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        self.store.stop_waiting();
        self.tasks.finish().await;
        self.log.stop().await;
        self.sync_once().await;
        self.files.caches().close().await;
    }

    fn fail(&self, reason: String) {
        tracing::error!(reason, "the datanode must stop");
        self.fatal.send_replace(Some(reason));
    }

    fn check_alive(&self) -> Result<()> {
        match self.log.failure().or_else(|| self.fatal.borrow().clone()) {
            Some(reason) => Err(Error::unavailable(format!("the node must restart: {reason}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
