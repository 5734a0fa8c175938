//! The parts of a metasrv, and how they hold together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use greptime_clock::{SharedClock, SharedIds};
use greptime_metasrv_plan::Policy;
use greptime_metasrv_plan::failover::{Attempt, Step};
use greptime_metasrv_plan::members::MemberStep;
use greptime_metasrv_plan::repair::Blocked;
use greptime_object_store::{Bucket, ClusterMarker, check_claimed, claim};
use greptime_proto::transport::MetaLink;
use greptime_proto::v1::{self, push};
use greptime_telemetry::{Metrics, Readiness};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{Error, NodeId, NodeRole, RegionId, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::catalog::{Birth, Catalog, Edit};
use crate::defences::Defence;
use crate::driver;
use crate::election::{Election, Leadership};
use crate::failover;
use crate::metrics::MetasrvMetrics;
use crate::procedures;
use crate::redial::Redial;
use crate::repair;
use crate::sessions::{NodeKey, Sessions};
use crate::store::Store;
use crate::view;
use crate::watch::Watch;

/// The numbers that a metasrv goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetasrvConfig {
    pub heartbeat_interval: Duration,
    /// A node that is silent for longer counts as away.
    pub session_timeout: Duration,
    /// Copies of the log of a new region, each on another datanode: 1 or 3. With fewer than three datanodes it is one.
    pub replicas: usize,
    /// A datanode that has been dead for so long is not waited for: its replicas are made anew on others.
    pub replace_after: Duration,
}

impl Default for MetasrvConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            session_timeout: Duration::from_secs(3),
            replicas: 3,
            replace_after: Duration::from_secs(10 * 60),
        }
    }
}

/// What a metasrv is made of.
pub struct MetasrvOptions {
    pub config: MetasrvConfig,
    /// Name of the cluster, for people.
    pub name: String,
    /// host:port at which other nodes reach this metasrv.
    pub address: String,
    pub store: Arc<dyn Store>,
    pub election: Arc<dyn Election>,
    pub bucket: Bucket,
    pub clock: SharedClock,
    pub ids: SharedIds,
    pub metrics: Metrics,
    /// The numbers of failover.
    pub policy: Policy,
    pub redial: Arc<dyn Redial>,
}

/// What the state's lock guards. Nothing blocks while it is held.
#[derive(Default)]
pub(crate) struct State {
    /// Present while this metasrv leads and has loaded it.
    pub(crate) catalog: Option<Catalog>,
    /// When it was loaded for the first time since this metasrv leads.
    pub(crate) leading_since: Duration,
    /// The outcome of a change is unknown: the catalog is loaded again before the next one.
    pub(crate) stale: bool,
    pub(crate) sessions: Sessions,
    pub(crate) dependencies: Vec<v1::Dependency>,
    /// Routes as frontends know them.
    pub(crate) routes: view::Routes,
    /// The format, and the epoch of metasrv, that everybody was told.
    pub(crate) welcomed_to: (u32, u64),
    /// Since when everybody speaks a newer one.
    pub(crate) newer_since: Option<Duration>,
    /// What was seen of datanodes, present while this metasrv leads.
    pub(crate) watch: Option<Watch>,
    /// Where datanodes are, as they were told of each other.
    pub(crate) peers_told: v1::PeerUpdate,
    /// Some region is not served as it should be.
    pub(crate) unserved: bool,
    /// Regions that nobody serves, and what is done or waited for.
    pub(crate) waiting: BTreeMap<RegionId, Step>,
    /// Regions that have too few members, or lost ones, and why they get no others.
    pub(crate) blocked: BTreeMap<RegionId, Blocked>,
    /// What leaders were told about their members, and when.
    pub(crate) member_orders: BTreeMap<RegionId, (MemberStep, Duration)>,
    /// What running procedures wait for.
    pub(crate) waits: BTreeMap<String, String>,
    /// When orders of procedures were last given, by procedure or region.
    pub(crate) ordered: BTreeMap<String, Duration>,
}

impl State {
    /// A leader was told to hand over.
    pub(crate) fn note_transfer(&mut self, region: RegionId, epoch: u64, to: NodeId, now: Duration) {
        if let Some(watch) = self.watch.as_mut() {
            watch.note_try(region, epoch, Attempt::Transfer, to, now);
        }
    }

    /// A session has ended.
    pub(crate) fn lost(&mut self, key: NodeKey, serial: u64, now: Duration) {
        if let Some(watch) = self.watch.as_mut().filter(|_| key.role == NodeRole::Datanode) {
            watch.broken(key.id, serial, now);
        }
    }
}

pub struct Metasrv {
    pub(crate) options: MetasrvOptions,
    pub(crate) state: Mutex<State>,
    /// Changes of the catalog take turns.
    turn: tokio::sync::Mutex<()>,
    leadership: watch::Sender<Leadership>,
    /// Counts changes of the state; whoever waits for something looks again.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) metrics: MetasrvMetrics,
    readiness: Readiness,
    shutdown: CancellationToken,
}

/// A commit without an answer. Dropped before it has one, the catalog is to be loaded again.
struct OutcomeUnknown<'a>(Option<&'a Metasrv>);

impl Drop for OutcomeUnknown<'_> {
    fn drop(&mut self) {
        let Some(metasrv) = self.0 else { return };
        let mut state = metasrv.state.lock();
        state.stale = state.catalog.is_some();
        drop(state);
        metasrv.note_change();
    }
}

impl Metasrv {
    /// Starts election and driver; they run until [`Metasrv::shutdown`].
    pub fn start(options: MetasrvOptions) -> Arc<Self> {
        let metrics = MetasrvMetrics::register(&options.metrics);
        let metasrv = Arc::new(Self {
            options,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            leadership: watch::channel(Leadership::Unknown).0,
            changes: watch::channel(0).0,
            metrics,
            readiness: Readiness::default(),
            shutdown: CancellationToken::new(),
        });
        let (election, tell) = (metasrv.options.election.clone(), metasrv.leadership.clone());
        let shutdown = metasrv.shutdown.clone();
        tokio::spawn(async move { election.run(tell, shutdown).await });
        tokio::spawn(metasrv.clone().lead());
        tokio::spawn(driver::run(metasrv.clone()));
        tokio::spawn(failover::run(metasrv.clone()));
        tokio::spawn(repair::run(metasrv.clone()));
        tokio::spawn(procedures::run::run(metasrv.clone()));
        tokio::spawn(driver::watch_dependencies(metasrv.clone()));
        metasrv
    }

    /// Ends every session and gives up leadership, so that another metasrv takes over at once.
    pub fn shutdown(&self) {
        self.shutdown.cancel();
        self.state.lock().sessions.clear();
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    pub(crate) async fn until_shutdown(&self) {
        self.shutdown.cancelled().await;
    }

    pub(crate) fn now(&self) -> Duration {
        self.options.clock.now()
    }

    pub(crate) fn note_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// Until when it surely leads, if it does.
    pub(crate) fn leads_until(&self) -> Duration {
        self.options.election.surely_leads_until()
    }

    /// Address of the metasrv that leads; empty if it is not known.
    pub fn leader_address(&self) -> String {
        match self.leadership() {
            Leadership::Leader => self.options.address.clone(),
            Leadership::Follower { leader } => leader,
            Leadership::Unknown => String::new(),
        }
    }

    /// Follows the election: takes the catalog over when elected, lets everything go when not.
    async fn lead(self: Arc<Self>) {
        let mut leadership = self.leadership.subscribe();
        loop {
            let now = leadership.borrow_and_update().clone();
            match now {
                Leadership::Leader => {
                    if let Err(error) = self.take_over().await {
                        warn!(%error, "the catalog cannot be taken over yet");
                        tokio::select! {
                            () = tokio::time::sleep(Duration::from_millis(500)) => continue,
                            () = self.shutdown.cancelled() => return,
                            _ = leadership.changed() => continue,
                        }
                    }
                    self.readiness.set();
                }
                Leadership::Follower { .. } => {
                    self.step_down();
                    self.readiness.set();
                }
                Leadership::Unknown => self.step_down(),
            }
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    fn step_down(&self) {
        let mut state = self.state.lock();
        if state.catalog.take().is_some() {
            info!("this metasrv no longer leads");
        }
        // What a new leader may have written since is not this one's to take over.
        state.stale = false;
        state.sessions.clear();
        state.routes = view::Routes::default();
        state.welcomed_to = (0, 0);
        state.newer_since = None;
        state.watch = None;
        state.peers_told = v1::PeerUpdate::default();
        state.waiting.clear();
        state.blocked.clear();
        state.member_orders.clear();
        state.waits.clear();
        state.ordered.clear();
    }

    /// Loads the catalog as its only writer, and makes sure that the bucket is ours.
    async fn take_over(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let birth = Birth {
            cluster_id: self.options.ids.uuid(),
            name: self.options.name.clone(),
            now_ms: self.options.clock.wall_ms(),
        };
        let mut catalog = Catalog::take_over(self.options.store.as_ref(), birth).await?;
        if !catalog.root.bucket_claimed {
            self.claim_bucket(&catalog).await?;
            catalog = catalog
                .commit(self.options.store.as_ref(), &[Edit::BucketClaimed])
                .await?;
        }
        let (epoch, tables) = (catalog.root.metasrv_epoch, catalog.tables.len());
        info!(cluster = %catalog.root.cluster_id, epoch, tables, "leading with the catalog loaded");
        {
            let now = self.now();
            let mut state = self.state.lock();
            // Under the lock, as in `install`: what was seen in another time of leading is not to be there in the next.
            if !self.leads() {
                return Err(self.not_leading());
            }
            state.leading_since = now;
            // What was seen of datanodes stays true when only the catalog is loaded again.
            let policy = self.options.policy.clone();
            let known = catalog.datanodes.keys().copied();
            state.watch.get_or_insert_with(|| Watch::new(policy, now, known));
        }
        self.install(catalog)
    }

    /// Puts `cluster.json`, or checks it once it was put, and notes the outcome among the dependencies.
    pub(crate) async fn claim_bucket(&self, catalog: &Catalog) -> Result<()> {
        let marker = ClusterMarker {
            format: FORMAT_VERSION,
            cluster_id: catalog.root.cluster_id.clone(),
            name: catalog.root.name.clone(),
            created_ms: catalog.root.created_ms,
        };
        let bucket = &self.options.bucket;
        let claimed = match catalog.root.bucket_claimed {
            true => check_claimed(bucket, &marker).await,
            false => claim(bucket, &marker).await,
        };
        self.note_dependency("object_store", &claimed);
        claimed
    }

    pub(crate) fn note_dependency(&self, name: &str, outcome: &Result<()>) {
        let message = outcome
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        let entry = v1::Dependency {
            name: name.into(),
            ok: outcome.is_ok(),
            message,
        };
        let mut state = self.state.lock();
        match state.dependencies.iter_mut().find(|d| d.name == name) {
            Some(known) => *known = entry,
            None => state.dependencies.push(entry),
        }
    }

    /// Makes `catalog` the one in force and tells the frontends what changed; an error if this metasrv has stopped
    /// leading since it asked for it.
    fn install(&self, catalog: Catalog) -> Result<()> {
        let mut state = self.state.lock();
        // Under the lock: who stops leading says so first, and then takes the lock to let the catalog go.
        if !self.leads() {
            return Err(self.not_leading());
        }
        let update = view::catalog_update(state.catalog.as_ref(), &catalog);
        state.catalog = Some(catalog);
        state.stale = false;
        state
            .sessions
            .broadcast(NodeRole::Frontend, &push::Body::Catalog(update));
        drop(state);
        self.note_change();
        Ok(())
    }

    fn leads(&self) -> bool {
        matches!(self.leadership(), Leadership::Leader)
    }

    pub(crate) fn not_leading(&self) -> Error {
        let leader = self.leader_address();
        let hint = if leader.is_empty() {
            "nobody leads yet".into()
        } else {
            format!("{leader} leads")
        };
        Error::unavailable(format!("this metasrv does not lead; {hint}"))
    }

    /// The catalog in force; an error if this metasrv does not lead.
    pub(crate) fn catalog(&self) -> Result<Catalog> {
        self.state
            .lock()
            .catalog
            .clone()
            .ok_or_else(|| self.not_leading())
    }

    /// Changes the catalog: `decide` sees the newest one and returns what to change, or nothing.
    pub(crate) async fn change(&self, decide: impl FnOnce(&Catalog) -> Result<Vec<Edit>>) -> Result<Catalog> {
        let turn = self.turn.lock().await;
        if self.state.lock().stale {
            drop(turn);
            if !self.leads() {
                return Err(self.not_leading());
            }
            self.take_over().await?;
            return Err(Error::unavailable("the catalog was just loaded anew; try again"));
        }
        let catalog = self.catalog()?;
        let edits = decide(&catalog)?;
        if edits.is_empty() {
            return Ok(catalog);
        }
        // Also for a caller that gives up in the middle: then nobody knows whether the change was made.
        let mut unknown = OutcomeUnknown(Some(self).filter(|_| Defence::UnknownChangeIsLookedFor.holds()));
        match catalog.commit(self.options.store.as_ref(), &edits).await {
            Ok(next) => {
                unknown.0 = None;
                self.metrics.catalog_changes.inc();
                self.install(next.clone())?;
                Ok(next)
            }
            Err(error) => Err(error.context("whether the change was made is unknown")),
        }
    }
}

/// The way to a metasrv in the same process.
pub struct InProcess(pub Arc<Metasrv>);

#[async_trait]
impl MetaLink for InProcess {
    async fn heartbeat(
        &self,
        beats: BoxStream<'static, v1::Beat>,
    ) -> Result<BoxStream<'static, Result<v1::Push>>> {
        Ok(self.0.open_session(beats).await)
    }

    async fn ddl(&self, request: v1::DdlRequest) -> Result<v1::DdlResponse> {
        self.0.ddl(request).await
    }

    async fn cluster(&self) -> Result<String> {
        Ok(self.0.cluster_json())
    }

    async fn procedures(&self) -> Result<String> {
        self.0.procedures_json()
    }
}
