//! Opening a datanode: identity, log, regions, loops.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use greptime_clock::{SharedClock, SharedIds};
use greptime_log::{EngineOptions, Key, LogCore, LogOptions, LogStore, LogSync, TimedLog};
use greptime_object_store::Bucket;
use greptime_peers::PeerLink;
use greptime_proto::run_session;
use greptime_proto::transport::MetaLink;
use greptime_proto::v1::push;
use greptime_query::{QueryPool, sort_reserve};
use greptime_telemetry::{Metrics, Readiness};
use greptime_types::{Error, NodeId, RegionId, Result, format};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::compact::{CompactionBook, compactor};
use super::damaged;
use super::fallback::Heard;
use super::identity::DataDir;
use super::maintain::FlushBook;
use super::orders::Lanes;
use super::peers::PeerBook;
use super::prepared::PreparedPlans;
use super::spill::SpillSpace;
use super::tasks::Tasks;
use super::{Datanode, Regions};
use crate::budget::Budget;
use crate::cache::{CacheMetrics, CacheSizes, Caches};
use crate::config::DatanodeConfig;
use crate::metrics::DatanodeMetrics;
use crate::region::{Checkpoint, Flusher, Region};
use crate::sst::FileSource;

/// Orders of metasrv that may wait.
const ORDER_QUEUE: usize = 4096;
/// Of the log's reserve, what is for elections, trims and cleaning.
const LOG_ROOM: u64 = 4 << 20;
/// Manifests that are loaded at the same time.
const LOADS: usize = 8;

/// What a datanode is made of.
pub struct DatanodeParts {
    pub config: DatanodeConfig,
    pub node_id: NodeId,
    /// host:port that peers dial.
    pub address: String,
    /// Where it fails together with others; empty if that is not known.
    pub zone: String,
    pub data_dir: PathBuf,
    pub bucket: Bucket,
    pub clock: SharedClock,
    pub ids: SharedIds,
    pub metrics: Metrics,
    /// The way to metasrv; without one the node only serves what is on its disk.
    pub meta: Option<Arc<dyn MetaLink>>,
    /// The way to other datanodes; without one there are none.
    pub peers: Option<Arc<dyn PeerLink>>,
}

impl Datanode {
    /// Opens the data directory and everything in it, and keeps a session with metasrv.
    pub async fn start(parts: DatanodeParts) -> Result<Arc<Self>> {
        let data_dir = Arc::new(DataDir::lock(&parts.data_dir)?);
        let metrics = DatanodeMetrics::register(&parts.metrics);
        let options = EngineOptions {
            dir: data_dir.path("log"),
            sync: parts.config.log_sync,
            damage: parts.config.log_damage,
            file_size: parts.config.log_file_size,
            reserve: parts.config.log_turn_size + parts.config.max_write_size + LOG_ROOM,
            purge_threshold: parts.config.log_purge_threshold,
            limit: parts.config.log_limit_in_force(),
        };
        let engine = damaged::open(&parts, &data_dir, options, &metrics.log_fsyncs).await?;
        for cut in engine.cuts() {
            tell_cut(cut, &metrics);
        }
        let cuts = engine.cuts().to_vec();
        let node = Self::open(parts, data_dir, metrics, Arc::new(engine)).await?;
        if let Some(cut) = cuts.iter().max_by_key(|cut| cut.acknowledged) {
            // The log is one for all regions, so which of them lost something is not known.
            let (file, offset, bytes) = (cut.file.display(), cut.offset, cut.bytes);
            let note = match cut.acknowledged {
                true => format!(
                    "LogDamageCut: {bytes} bytes with acknowledged rows were cut off {file} at {offset}"
                ),
                false => format!("TailTruncated: an incomplete write was cut off {file} at {offset}"),
            };
            node.regions
                .all()
                .iter()
                .for_each(|region| region.set_note(note.clone()));
        }
        Ok(node)
    }

    /// As [`Self::start`], over another log store.
    pub async fn start_with_log(parts: DatanodeParts, store: Arc<dyn LogStore>) -> Result<Arc<Self>> {
        let data_dir = Arc::new(DataDir::lock(&parts.data_dir)?);
        let metrics = DatanodeMetrics::register(&parts.metrics);
        Self::open(parts, data_dir, metrics, store).await
    }

    async fn open(
        parts: DatanodeParts,
        data_dir: Arc<DataDir>,
        metrics: DatanodeMetrics,
        store: Arc<dyn LogStore>,
    ) -> Result<Arc<Self>> {
        let config = parts.config;
        config.validate()?;
        parts
            .metrics
            .register_memory_limits("greptime_datanode_memory_limit_bytes", config.memory_limits());
        let identity = data_dir.identity(parts.node_id, &parts.ids)?;
        let budget = Budget::new(config.memtable_soft_limit, config.memtable_hard_limit);
        let (regions, wanted) = Regions::new(Arc::clone(&parts.clock));
        let clock = Arc::clone(&parts.clock);
        let appends = Arc::new(TimedLog::new(
            Arc::clone(&store),
            clock,
            metrics.log_append_seconds.clone(),
        ));
        let flushed = open_regions(store.as_ref(), &regions, &budget)?;
        let options = LogOptions {
            turn_bytes: config.log_turn_size,
            ..LogOptions::default()
        };
        let (core, failed) = LogCore::open(Arc::clone(&appends) as Arc<dyn LogStore>, options, &flushed);
        for (region, error) in failed {
            regions.get(region)?.fail(error.to_string());
        }
        damaged::may_go_on(&data_dir, &core, &flushed)?;
        let machine = Arc::clone(&regions) as Arc<dyn greptime_log::Apply>;
        // Which replicas these are is known before anybody is told of them.
        for region in regions.all() {
            if let (Some(status), Some(members)) = (core.status(region.id()), core.membership(region.id())) {
                region.set_status(status);
                region.set_members(members);
            }
        }
        let peers = Arc::new(PeerBook::default());
        let log = greptime_log::start(
            core,
            machine,
            Arc::clone(&peers) as _,
            config.write_queue,
            config.log_turn_size as usize,
        )?;
        let shutdown = CancellationToken::new();
        let (orders, arriving) = mpsc::channel(ORDER_QUEUE);
        let (words, spoken) = mpsc::channel(ORDER_QUEUE);
        let sizes = CacheSizes {
            memory: config.cache_memory,
            disk: config.cache_disk,
            decoded: config.decoded_cache_size,
        };
        let caches = Caches::open(
            sizes,
            &data_dir.path("cache"),
            CacheMetrics::register(&parts.metrics),
        )
        .await;
        let flusher = Flusher {
            files: FileSource::new(parts.bucket.clone(), caches),
            bucket: parts.bucket,
            ids: Arc::clone(&parts.ids),
            log: log.clone(),
            store: Arc::clone(&store),
            flush_bytes: metrics.flush_bytes.clone(),
            flush_bytes_written: metrics.flush_bytes_written.clone(),
        };
        let compactor = compactor(&config, &flusher, &parts.clock, &metrics)?;
        let spill = Arc::new(SpillSpace::open(&config, &data_dir)?);
        let node = Arc::new(Self {
            queries: query_context(&config, &spill)?,
            spill,
            prepared: PreparedPlans::default(),
            files: flusher.files.clone(),
            address: parts.address,
            zone: parts.zone,
            incarnation: parts.ids.random_u64(),
            data_dir,
            identity: Mutex::new(identity),
            clock: parts.clock,
            metrics,
            budget,
            regions,
            store,
            appends,
            log,
            peers,
            closing: shutdown.child_token(),
            words,
            heard: Heard::default(),
            cooled: Default::default(),
            metasrv_epoch: AtomicU64::new(0),
            flusher,
            flushes: FlushBook::default(),
            compactor,
            compactions: CompactionBook::default(),
            flush_permits: Semaphore::new(config.flush_concurrency),
            load_permits: Semaphore::new(LOADS),
            orders,
            lanes: Lanes::default(),
            // Everybody can read the oldest. Without metasrv there is nobody else.
            cluster_format: AtomicU32::new(match parts.meta {
                Some(_) => format::OLDEST_CLUSTER_FORMAT,
                None => format::NEWEST_CLUSTER_FORMAT,
            }),
            assigned: AtomicBool::new(false),
            readiness: Readiness::default(),
            reported: Mutex::default(),
            beats: Default::default(),
            bucket_problem: Mutex::default(),
            fatal: watch::Sender::new(None),
            tasks: Tasks::new(shutdown.clone()),
            is_stopping: AtomicBool::new(false),
            shutdown,
            config,
        });
        node.tasks.spawn(Arc::clone(&node).pass_words(spoken));
        if let Some(link) = parts.peers {
            node.start_peers(link, &parts.ids, &parts.metrics);
        }
        node.start_loops(arriving, wanted, parts.meta, parts.ids).await?;
        Ok(node)
    }

    async fn start_loops(
        self: &Arc<Self>,
        arriving: mpsc::Receiver<push::Body>,
        wanted: mpsc::UnboundedReceiver<Arc<Region>>,
        meta: Option<Arc<dyn MetaLink>>,
        ids: SharedIds,
    ) -> Result<()> {
        // Before anything is reported: a region whose drop was begun does not exist.
        self.resume_drops().await?;
        self.tasks.spawn(Arc::clone(self).load_manifests(wanted));
        self.tasks.spawn(Arc::clone(self).maintain());
        self.tasks.spawn(Arc::clone(self).tick_without_metasrv());
        self.tasks.spawn(Arc::clone(self).follow_free_space());
        if self.config.log_sync == LogSync::Interval {
            self.tasks.spawn(Arc::clone(self).sync_log());
        }
        self.tasks.spawn(Arc::clone(self).obey_orders(arriving));
        if let Some(meta) = meta {
            let session = run_session(meta, Arc::clone(self) as _, ids, self.shutdown.clone());
            self.tasks.spawn(session);
        }
        Ok(())
    }
}

fn tell_cut(cut: &greptime_log::Cut, metrics: &DatanodeMetrics) {
    metrics.log_tail_truncated_bytes.inc_by(cut.bytes);
    let (file, offset, bytes) = (cut.file.display(), cut.offset, cut.bytes);
    match cut.acknowledged {
        true => tracing::error!(%file, offset, bytes,
            "LogDamageCut: the log was damaged and everything behind the damage was cut, as datanode.log_damage = \"cut\" \
             allows; acknowledged rows are lost"),
        false => tracing::warn!(%file, offset, bytes,
            "TailTruncated: an incomplete write at the end of the log was cut; it was not acknowledged"),
    }
}

pub(super) fn log_error(error: greptime_log::LogError) -> Error {
    Error::corruption(error.to_string())
}

/// Every region on disk from its checkpoint; the log loop brings it up to date. Returns where each begins.
fn open_regions(
    store: &dyn LogStore,
    regions: &Regions,
    budget: &Arc<Budget>,
) -> Result<BTreeMap<RegionId, u64>> {
    let mut flushed = BTreeMap::new();
    for id in store.regions().map_err(log_error)? {
        let bytes = store.get(id, Key::Checkpoint).map_err(log_error)?;
        let bytes = bytes.ok_or_else(|| Error::corruption(format!("region {id} has no checkpoint")))?;
        let checkpoint = Checkpoint::decode(&bytes).map_err(|e| e.context(format!("region {id}")))?;
        flushed.insert(id, checkpoint.flushed_seq);
        regions.insert(Region::new(id, checkpoint, None, Arc::clone(budget)));
    }
    Ok(flushed)
}

/// Queries share a memory pool, and a directory for what does not fit.
fn query_context(config: &DatanodeConfig, spill: &SpillSpace) -> Result<SessionContext> {
    let failed = |e: datafusion::error::DataFusionError| Error::internal(format!("the query runtime: {e}"));
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spill.dir().to_owned()]))
        .with_max_temp_directory_size(config.query_spill_limit);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(QueryPool::new(
            config.query_memory,
            "datanode.query_memory",
        )))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(failed)?;
    spill.follow(&runtime.disk_manager)?;
    let mut session = SessionConfig::new();
    let reserve = sort_reserve(config.query_memory, session.target_partitions());
    session.options_mut().execution.sort_spill_reservation_bytes = reserve;
    let context = SessionContext::new_with_config_rt(session, runtime);
    for function in greptime_query::plan_functions() {
        context.register_udf(function.as_ref().clone());
    }
    Ok(context)
}
