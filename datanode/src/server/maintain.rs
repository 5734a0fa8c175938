//! What goes on in the background: flushes, manifest loads, cleaning the log, looking at the bucket.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use greptime_log::LogError;
use greptime_rules::QuietPolicy;
use greptime_types::format::FORGET_FORMAT;
use greptime_types::{RegionId, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Datanode;
use crate::defences::Defence;
use crate::region::{Region, RegionEntry, flush, load_manifest};

const TICK: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Who leads is waited for by readers.
const LAST_RETRY_OF_A_LEADER: Duration = Duration::from_secs(1);
const RECLAIM_EVERY: Duration = Duration::from_secs(10);
/// While the disk of the log is full.
const RECLAIM_FULL_EVERY: Duration = Duration::from_millis(500);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const LOOK_FOR_QUIET_EVERY: Duration = Duration::from_secs(60);
/// Requests are given up after minutes, and copies of them are under way for as long as a connection lasts.
const QUIET: QuietPolicy = QuietPolicy {
    kept: 16,
    after: Duration::from_secs(6 * 3600),
};

/// Flushes that run, or that wait before they are tried again.
#[derive(Debug, Default)]
pub struct FlushBook {
    regions: Mutex<HashMap<RegionId, FlushState>>,
}

#[derive(Clone, Copy, Debug)]
enum FlushState {
    Running { retry: Duration },
    Waiting { until: Duration, retry: Duration },
}

impl FlushBook {
    /// Whether a flush may start now; if so, it is running.
    fn start(&self, region: RegionId, now: Duration) -> bool {
        let mut regions = self.regions.lock();
        let retry = match regions.get(&region) {
            Some(FlushState::Running { .. }) => return false,
            Some(FlushState::Waiting { until, .. }) if now < *until => return false,
            Some(FlushState::Waiting { retry, .. }) => *retry,
            None => FIRST_RETRY,
        };
        regions.insert(region, FlushState::Running { retry });
        true
    }

    fn finish(&self, region: RegionId, worked: bool, now: Duration) {
        let mut regions = self.regions.lock();
        match regions.remove(&region) {
            Some(FlushState::Running { retry }) if !worked => {
                let next = FlushState::Waiting {
                    until: now + retry,
                    retry: (retry * 2).min(LAST_RETRY),
                };
                regions.insert(region, next);
            }
            _ => {}
        }
    }
}

/// How long to wait after a manifest could not be loaded once more.
fn next_retry(retry: Duration, leads: bool) -> Duration {
    (retry * 2).min(if leads { LAST_RETRY_OF_A_LEADER } else { LAST_RETRY })
}

impl Datanode {
    pub(super) async fn maintain(self: Arc<Self>) {
        let mut last_reclaim = self.clock.now();
        let mut next_probe = self.clock.now();
        let mut next_quiet = self.clock.now() + LOOK_FOR_QUIET_EVERY;
        loop {
            self.become_ready();
            self.flush_what_is_due();
            self.compact_what_is_due();
            self.cool_followers();
            self.metrics.memtable_bytes.set(self.budget.used());
            self.metrics.log_bytes.set(self.store.size());
            self.metrics.region_count.set(self.regions.all().len() as u64);
            let now = self.clock.now();
            let reclaim_every = match self.store.is_full() {
                true => RECLAIM_FULL_EVERY,
                false => RECLAIM_EVERY,
            };
            if now >= last_reclaim + reclaim_every {
                last_reclaim = now;
                self.reclaim_log().await;
            }
            if now >= next_probe {
                next_probe = now + PROBE_EVERY;
                let node = Arc::clone(&self);
                self.tasks.spawn(async move { node.probe_bucket().await });
            }
            if now >= next_quiet {
                next_quiet = now + LOOK_FOR_QUIET_EVERY;
                self.forget_the_quiet(LOOK_FOR_QUIET_EVERY);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Lets regions forget frontend processes that are gone. `passed`: however late this look comes, so much is sure.
    pub(super) fn forget_the_quiet(self: &Arc<Self>, passed: Duration) {
        if self.cluster_format.load(Ordering::SeqCst) < FORGET_FORMAT
            && Defence::EntriesAreOfTheClusterFormat.holds()
        {
            return;
        }
        for region in self.regions.all() {
            let quiet = region.quiet(passed, &QUIET);
            if quiet.is_empty() {
                continue;
            }
            let node = Arc::clone(self);
            self.tasks.spawn(async move {
                let (count, entry) = (quiet.len(), RegionEntry::Forget(quiet));
                let Ok(data) = entry.encode() else { return };
                match node.propose(region.id(), data).await {
                    Ok(()) => tracing::debug!(region = %region.id(), count, "frontends are forgotten"),
                    Err(error) => tracing::debug!(region = %region.id(), %error, "nobody is forgotten yet"),
                }
            });
        }
    }

    /// Ready means: told everything by metasrv, and every region serves or has failed for good. It stays so.
    fn become_ready(&self) {
        if self.readiness.is_ready() || !self.assigned.load(Ordering::SeqCst) {
            return;
        }
        let opened = |r: &Arc<Region>| {
            r.with_state(|s| {
                s.failed().is_some() || s.leading_epoch().is_ok() || s.follows() || s.is_joining()
            })
        };
        if self.regions.all().iter().all(opened) {
            tracing::info!("ready");
            self.readiness.set();
        }
    }

    fn flush_what_is_due(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut regions: Vec<(usize, bool, Arc<Region>)> = Vec::new();
        // What is in files needs no log: of a full one all of it makes room, also what takes no memory.
        let full = self.store.is_full() && Defence::FullLogIsFlushed.holds();
        // Where files are changing, a flush may be under way; the next look finds what it leaves.
        let is_idle = |region: &Arc<Region>| region.files.try_lock().is_ok();
        for region in self.regions.all().into_iter().filter(is_idle) {
            let due = |since| now.saturating_sub(since) >= self.config.flush_age;
            let (bytes, due) = region.with_state(|s| {
                // Rows of a follower are flushed by its leader.
                if s.leading_epoch().is_err() {
                    return (0, false);
                }
                let is_long = s.memory() > 0 && s.unflushed_entries() >= self.config.flush_entries;
                let makes_room = full && s.unflushed_entries() > 0;
                let due = is_long
                    || makes_room
                    || s.is_flushing()
                    || s.has_truncated_files()
                    || s.oldest_row().is_some_and(due);
                (s.memory(), due)
            });
            if bytes > 0 || due {
                regions.push((bytes, due, region));
            }
        }
        regions.sort_by_key(|(bytes, _, region)| (std::cmp::Reverse(*bytes), region.id()));
        let mut excess = self.budget.excess();
        for (bytes, due, region) in regions {
            let large = bytes as u64 >= self.config.flush_size;
            if large || due || excess > 0 {
                excess = excess.saturating_sub(bytes as u64);
                self.flush_in_background(&region);
            }
        }
    }

    fn flush_in_background(self: &Arc<Self>, region: &Arc<Region>) {
        if !self.flushes.start(region.id(), self.clock.now()) {
            return;
        }
        let (node, region) = (Arc::clone(self), Arc::clone(region));
        self.tasks.spawn(async move {
            let result = node.flush_one(&region).await;
            node.flushes.finish(region.id(), result.is_ok(), node.clock.now());
        });
    }

    pub(super) async fn flush_one(&self, region: &Arc<Region>) -> Result<u64> {
        let _permit = self.flush_permits.acquire().await;
        let started = self.clock.now();
        let result = flush(&self.flusher, region).await;
        match &result {
            Ok(_) => {
                let took = self.clock.now().saturating_sub(started);
                self.metrics.flush_seconds.observe(took.as_secs_f64());
            }
            Err(error) => {
                self.metrics.flush_failures.inc();
                tracing::warn!(region = %region.id(), %error, "a flush failed; its rows stay in the log");
            }
        }
        result
    }

    /// Loads the manifests of regions that come to lead, or to be ready to.
    pub(super) async fn load_manifests(self: Arc<Self>, mut wanted: mpsc::UnboundedReceiver<Arc<Region>>) {
        while let Some(region) = wanted.recv().await {
            self.tasks.spawn(Arc::clone(&self).load_until_known(region));
        }
    }

    /// However long the bucket is away. Who comes to lead in the meantime does not wait for a follower's next attempt.
    async fn load_until_known(self: Arc<Self>, region: Arc<Region>) {
        let mut retry = FIRST_RETRY;
        loop {
            region.end_loading();
            // What happens from here on asks for a load of its own.
            if !region.with_state(|s| s.wants_manifest()) || !region.begin_loading() {
                return;
            }
            if let Err(error) = self.load_one(&region).await {
                tracing::warn!(region = %region.id(), %error, "the manifest is not loaded; trying again");
                region.manifest_failed(error.message);
                retry = tokio::select! {
                    () = tokio::time::sleep(retry) => next_retry(retry, region.with_state(|s| s.leading_epoch().is_ok())),
                    () = region.asked_again(), if Defence::NewLeaderLoadsAtOnce.holds() => FIRST_RETRY,
                };
            }
        }
    }

    async fn load_one(&self, region: &Arc<Region>) -> Result<()> {
        let _permit = self.load_permits.acquire().await;
        load_manifest(&self.flusher, region).await
    }

    /// Removes old log files. Regions whose entries keep an old file alive are flushed.
    async fn reclaim_log(self: &Arc<Self>) {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.reclaim()).await {
            Ok(Ok(behind)) => {
                for region in behind.into_iter().filter_map(|id| self.regions.find(id)) {
                    self.flush_in_background(&region);
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "old log files could not be removed"),
            Err(error) => self.fail(format!("cleaning the log panicked: {error}")),
        }
    }

    /// Syncs the log by interval, until the node stops.
    pub(super) async fn sync_log(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.config.log_sync_interval).await;
            self.sync_once().await;
        }
    }

    /// After a failed sync nobody knows what is on disk, so the process must not go on.
    pub(super) async fn sync_once(&self) {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.sync()).await {
            Ok(Ok(())) => {}
            // Nothing was written: what was acknowledged is in the hands of the kernel as it was before.
            Ok(Err(LogError::Full)) => {
                tracing::warn!("the log was not synced, since its disk is full and the node stops");
            }
            Ok(Err(_)) if !Defence::FailedSyncByIntervalEndsTheNode.holds() => {}
            Ok(Err(error)) => self.fail(error.to_string()),
            Err(error) => self.fail(format!("syncing the log panicked: {error}")),
        }
    }

    async fn probe_bucket(&self) {
        let probed = tokio::time::timeout(PROBE_EVERY, self.flusher.bucket.probe()).await;
        let problem = match probed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.message),
            Err(_) => Some("the object store does not answer".to_owned()),
        };
        *self.bucket_problem.lock() = problem;
    }
}
