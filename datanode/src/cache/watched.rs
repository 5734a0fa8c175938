//! The disk below the cache, watched.
//!
//! The library writes behind the back of whoever inserts, and says nothing when that fails. Nor does it get over that: it
//! loses the space that it wrote to, and may wait for it for ever. So parts are given to it in batches, and looked for
//! when they should be there. A disk that has not kept one is given up as a whole, and opened anew after a pause.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foyer::{
    Device, DeviceBuilder, Engine, EngineBuildContext, EngineConfig, HybridCacheProperties, Load,
    NoopDeviceBuilder, PieceRef, Spawner, StorageFilterResult,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::disk::open_files;
use super::metrics::CacheMetrics;
use super::ranges::RangeKey;
use crate::defences::Defence;

/// Bytes that the library takes at once, and forgets what is more.
pub(super) const WRITE_BUFFER: usize = 8 << 20;
/// Bytes that may wait to be written; what comes then is not kept on disk.
const MOST_WAITING: usize = 4 * WRITE_BUFFER;
/// What is written is a multiple of it.
const PAGE: usize = 4096;
/// After so many errors of reading the disk is given up. One of writing is enough.
pub(super) const READ_ERRORS: u32 = 16;
/// A disk that takes longer for a batch does not work.
const PATIENCE: Duration = Duration::from_secs(60);
/// A stop waits no longer for what is not written yet.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

pub(super) type Kept = dyn Engine<RangeKey, Bytes, HybridCacheProperties>;
type Part = PieceRef<RangeKey, Bytes, HybridCacheProperties>;
/// What the library builds its engine with, on given threads.
pub(super) type Context = dyn Fn(Spawner) -> EngineBuildContext + Send + Sync;
type Loaded = Load<RangeKey, Bytes, HybridCacheProperties>;

/// How long a disk that was given up is left alone: doubled each time, until it keeps something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    pub first: Duration,
    pub last: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            last: Duration::from_secs(10 * 60),
        }
    }
}

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct DiskState {
    dir: PathBuf,
    /// While it works.
    opened: RwLock<Option<Arc<Opened>>>,
    given_up: Notify,
    read_errors: AtomicU32,
    /// See [`MOST_WAITING`].
    waiting: AtomicUsize,
    /// Parts that were given may be gone for this reason.
    deletes: AtomicU64,
    /// The log says that the disk is done without, and not yet that it is used again.
    is_told: AtomicBool,
    metrics: CacheMetrics,
}

impl DiskState {
    pub fn new(dir: PathBuf, metrics: CacheMetrics) -> Arc<Self> {
        Arc::new(Self {
            dir,
            opened: RwLock::default(),
            given_up: Notify::new(),
            read_errors: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            deletes: AtomicU64::new(0),
            is_told: AtomicBool::new(false),
            metrics,
        })
    }

    /// Whether the disk is in use.
    pub fn works(&self) -> bool {
        self.opened.read().is_some()
    }

    fn opened(&self) -> Option<Arc<Opened>> {
        self.opened.read().clone()
    }

    fn begin(&self, opened: Opened) {
        self.read_errors.store(0, Ordering::Relaxed);
        *self.opened.write() = Some(Arc::new(opened));
    }

    /// Counts an error of reading; the one that is too many ends the use of the disk.
    pub fn read_failed(&self, error: &foyer::Error) {
        self.metrics.disk_failed();
        let errors = self.read_errors.fetch_add(1, Ordering::Relaxed) + 1;
        if errors >= READ_ERRORS && Defence::BrokenCacheDiskIsGivenUp.holds() {
            self.give_up(error);
        }
    }

    fn give_up(&self, why: &dyn fmt::Display) {
        let opened = self.opened.write().take();
        if opened.is_some() {
            self.tell(why);
            self.given_up.notify_one();
        }
    }

    /// Once, however often it is tried again.
    fn tell(&self, why: &dyn fmt::Display) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(dir = %self.dir.display(), error = %why, "the cache goes on without its disk, which is tried again");
        }
    }

    fn kept(&self) {
        if self.is_told.swap(false, Ordering::Relaxed) {
            tracing::info!(dir = %self.dir.display(), "the cache uses its disk again");
        }
    }
}

/// Threads of the library, which end with this value: it has tasks that never do.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub fn start() -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("cache-disk").enable_time();
        Ok(Self(Some(builder.build()?)))
    }

    pub fn spawner(&self) -> Spawner {
        match &self.0 {
            Some(runtime) => Spawner::from(runtime.handle().clone()),
            None => Spawner::current(),
        }
    }
}

impl Drop for Threads {
    /// Waits for nothing, since it may be in a task.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The library's engine over the files.
pub(super) struct Opened {
    engine: Arc<Kept>,
    _threads: Threads,
}

impl Opened {
    pub fn new(threads: Threads, engine: Arc<Kept>) -> Self {
        let _threads = threads;
        Self { engine, _threads }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opened")
    }
}

/// Opens the disk for the library, now and later.
#[derive(Debug)]
pub(super) struct WatchedConfig {
    pub state: Arc<DiskState>,
    /// Bytes that the disk is to have, as far as there is room.
    pub bytes: u64,
    pub pauses: Pauses,
}

impl EngineConfig<RangeKey, Bytes, HybridCacheProperties> for WatchedConfig {
    fn build(self: Box<Self>, ctx: EngineBuildContext) -> BoxFuture<'static, foyer::Result<Arc<Kept>>> {
        let Self { state, bytes, pauses } = *self;
        async move {
            let (orders, queue) = mpsc::unbounded_channel();
            let spawner = ctx.spawner.clone();
            let context = move |spawner: Spawner| EngineBuildContext {
                io_engine: Arc::clone(&ctx.io_engine),
                metrics: Arc::clone(&ctx.metrics),
                spawner,
                recover_mode: ctx.recover_mode,
            };
            let mut keeper = Keeper {
                state: Arc::clone(&state),
                bytes,
                context: Box::new(context),
                pauses,
                pause: pauses.first,
                since: None,
                is_closed: false,
            };
            keeper.open().await;
            spawner.spawn(keeper.run(queue));
            let device = NoopDeviceBuilder::default().build()?;
            Ok(Arc::new(Watched {
                state,
                orders,
                device,
            }) as Arc<Kept>)
        }
        .boxed()
    }
}

/// What the library has in the place of its own engine.
struct Watched {
    state: Arc<DiskState>,
    orders: mpsc::UnboundedSender<Order>,
    /// For its counters, which nobody reads.
    device: Arc<dyn Device>,
}

enum Order {
    Keep(Given),
    /// To be answered when everything before is done.
    Wait(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

struct Given {
    part: Part,
    /// As the library estimates it.
    size: usize,
    /// On disk, at most.
    bytes: usize,
}

impl Watched {
    fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) -> BoxFuture<'static, ()> {
        let (done, wait) = oneshot::channel();
        let sent = self.orders.send(order(done));
        async move {
            if sent.is_ok() {
                let _ = wait.await;
            }
        }
        .boxed()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Engine<RangeKey, Bytes, HybridCacheProperties> for Watched {
    fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn filter(&self, _: u64, _: usize) -> StorageFilterResult {
        match self.state.works() {
            true => StorageFilterResult::Admit,
            false => StorageFilterResult::Reject,
        }
    }

    fn enqueue(&self, part: Part, size: usize) {
        // The head of an entry comes to its estimate.
        let bytes = (size + PAGE).next_multiple_of(PAGE);
        if bytes > WRITE_BUFFER || !self.state.works() {
            return;
        }
        let waiting = &self.state.waiting;
        let is_behind = waiting.fetch_add(bytes, Ordering::Relaxed) > MOST_WAITING;
        let given = Given { part, size, bytes };
        if is_behind || self.orders.send(Order::Keep(given)).is_err() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn load(&self, hash: u64) -> BoxFuture<'static, foyer::Result<Loaded>> {
        let state = Arc::clone(&self.state);
        async move {
            let Some(opened) = state.opened() else {
                return Ok(Load::Miss);
            };
            let loaded = opened.engine.load(hash).await;
            Ok(loaded.unwrap_or_else(|error| {
                state.read_failed(&error);
                Load::Miss
            }))
        }
        .boxed()
    }

    fn delete(&self, hash: u64) {
        self.state.deletes.fetch_add(1, Ordering::SeqCst);
        if let Some(opened) = self.state.opened() {
            opened.engine.delete(hash);
        }
    }

    fn may_contains(&self, hash: u64) -> bool {
        let opened = self.state.opened();
        opened.is_some_and(|opened| opened.engine.may_contains(hash))
    }

    fn destroy(&self) -> BoxFuture<'static, foyer::Result<()>> {
        match self.state.opened() {
            Some(opened) => opened.engine.destroy(),
            None => async { Ok(()) }.boxed(),
        }
    }

    fn wait(&self) -> BoxFuture<'static, ()> {
        self.order(Order::Wait)
    }

    fn close(&self) -> BoxFuture<'static, foyer::Result<()>> {
        self.order(Order::Close).map(Ok).boxed()
    }
}

/// Gives parts to the disk, and sees whether they are there.
struct Keeper {
    state: Arc<DiskState>,
    bytes: u64,
    context: Box<Context>,
    pauses: Pauses,
    pause: Duration,
    /// Since when the disk is left alone.
    since: Option<Instant>,
    is_closed: bool,
}

impl Keeper {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Order>) {
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => Some(order),
                None => tokio::select! {
                    order = queue.recv() => order,
                    () = self.until_due() => {
                        self.open().await;
                        continue;
                    }
                },
            };
            match order {
                Some(Order::Keep(given)) => next = self.keep(given, &mut queue).await,
                Some(Order::Wait(done)) => {
                    let _ = done.send(());
                }
                Some(Order::Close(done)) => {
                    self.close().await;
                    let _ = done.send(());
                }
                None => return self.close().await,
            }
        }
    }

    /// Returns when a disk that was given up is to be tried again.
    async fn until_due(&mut self) {
        if self.is_closed {
            std::future::pending::<()>().await;
        }
        while self.state.works() {
            self.state.given_up.notified().await;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        tokio::time::sleep_until(since + self.pause).await;
    }

    /// The next pause is longer, unless something is kept before.
    async fn open(&mut self) {
        match open_files(&self.state.dir, self.bytes, &self.context).await {
            Ok(opened) => self.state.begin(opened),
            Err(error) => {
                self.state.metrics.disk_failed();
                self.state.tell(&error);
            }
        }
        if self.since.take().is_some() {
            self.pause = (self.pause * 2).min(self.pauses.last);
        }
    }

    /// Gives the disk a part and those that wait behind it, as many as it takes at once, and waits until they are
    /// there. Returns an order that came after them.
    async fn keep(&mut self, first: Given, queue: &mut mpsc::UnboundedReceiver<Order>) -> Option<Order> {
        let (opened, deletes) = (self.state.opened(), self.deletes());
        let (mut next, mut bytes, mut kept) = (Some(Order::Keep(first)), 0, Vec::new());
        while let Some(Order::Keep(given)) = next.take_if(|order| order.fits(WRITE_BUFFER - bytes)) {
            bytes += given.bytes;
            self.state.waiting.fetch_sub(given.bytes, Ordering::Relaxed);
            if let Some(opened) = &opened {
                kept.push(given.part.hash());
                opened.engine.enqueue(given.part, given.size);
            }
            next = queue.try_recv().ok();
        }
        let Some(opened) = opened else { return next };
        let written = tokio::time::timeout(PATIENCE, opened.engine.wait()).await;
        let missing = kept
            .iter()
            .filter(|hash| !opened.engine.may_contains(**hash))
            .count();
        // What was deleted meanwhile is missing, too.
        match (written, missing) {
            (Err(_), _) => self.lost(&"it does not answer"),
            (Ok(()), 0) => {
                self.state.kept();
                self.pause = self.pauses.first;
            }
            (Ok(()), _) if self.deletes() != deletes => {}
            (Ok(()), missing) => {
                self.lost(&format!("{missing} of {} parts could not be written", kept.len()))
            }
        }
        next
    }

    fn deletes(&self) -> u64 {
        self.state.deletes.load(Ordering::SeqCst)
    }

    fn lost(&self, why: &dyn fmt::Display) {
        self.state.metrics.disk_failed();
        if Defence::BrokenCacheDiskIsGivenUp.holds() {
            self.state.give_up(why);
        }
    }

    async fn close(&mut self) {
        self.is_closed = true;
        let opened = self.state.opened.write().take();
        if let Some(opened) = opened {
            let _ = tokio::time::timeout(STOP_PATIENCE, opened.engine.close()).await;
        }
    }
}

impl Order {
    /// Whether it is a part that is no larger than this.
    fn fits(&self, bytes: usize) -> bool {
        matches!(self, Self::Keep(given) if given.bytes <= bytes)
    }
}
