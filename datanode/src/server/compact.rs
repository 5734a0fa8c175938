//! Compactions and deletions: when they run, and what writers feel of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use greptime_clock::SharedClock;
use greptime_object_store::Bucket;
use greptime_proto::v1;
use greptime_types::{Error, RegionId, Result};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::Datanode;
use crate::compaction::{
    CleanPolicy, CompactionLimits, Compactor, Lane, LaneCounters, Policy, Step, Throttle, Wanted, Workers,
};
use crate::config::DatanodeConfig;
use crate::defences::Defence;
use crate::metrics::DatanodeMetrics;
use crate::region::{Flusher, Region};

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Rows live their time also where no file comes or goes.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Files of a merge at most.
const MAX_INPUTS: usize = 32;
/// What one merge reads, in files of the largest size.
const MAX_FULL_INPUTS: u64 = 8;
/// A region counts as quiet when it was not flushed for so many flush ages.
const QUIET_AGES: u32 = 2;
/// How long a write waits at most for compactions, just below the hard limit.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What compactions of a node are done with.
pub fn compactor(
    config: &DatanodeConfig,
    flusher: &Flusher,
    clock: &SharedClock,
    metrics: &DatanodeMetrics,
) -> Result<Compactor> {
    let counters = LaneCounters {
        bytes_read: metrics.compaction_bytes_read.clone(),
        bytes_written: metrics.compaction_bytes_written.clone(),
    };
    let lane = Lane::new(
        Arc::clone(&flusher.bucket.store),
        Handle::current(),
        Throttle::new(config.compaction_rate),
        Arc::clone(clock),
        counters,
    );
    let kib = usize::try_from(config.compaction_memory >> 10).unwrap_or(usize::MAX);
    Ok(Compactor {
        flusher: flusher.clone(),
        lane: Bucket {
            store: Arc::new(lane),
            root: flusher.bucket.root.clone(),
        },
        clock: Arc::clone(clock),
        limits: CompactionLimits {
            policy: Policy {
                active_runs: config.compaction_active_runs,
                inactive_runs: config.compaction_inactive_runs,
                max_inputs: MAX_INPUTS,
                max_file_bytes: config.compaction_file_size,
                max_merge_bytes: MAX_FULL_INPUTS.saturating_mul(config.compaction_file_size),
            },
            memory: config.compaction_memory,
        },
        metrics: metrics.clone(),
        workers: Workers::start(config.compaction_concurrency)?,
        permits: Semaphore::new(config.compaction_concurrency),
        memory: Semaphore::new(kib.min(Semaphore::MAX_PERMITS)),
    })
}

/// When each region is looked at next.
#[derive(Debug, Default)]
pub struct CompactionBook {
    regions: Mutex<HashMap<RegionId, Looked>>,
}

#[derive(Clone, Copy, Debug)]
struct Looked {
    running: bool,
    /// Of the manifest view that nothing was found to do for.
    version: Option<u64>,
    /// Of the view whose runs were counted last.
    counted: Option<u64>,
    again: Duration,
    retry: Duration,
    /// The newest flush, and since when it has been that.
    flushed_seq: u64,
    since: Duration,
    pending_bytes: u64,
}

impl CompactionBook {
    /// Whether the runs of the region's newest view were not counted yet; if so, they are now.
    fn is_uncounted(&self, region: RegionId, version: u64) -> bool {
        let mut regions = self.regions.lock();
        let counted = regions.get_mut(&region).map(|l| l.counted.replace(version));
        counted.is_some_and(|before| before != Some(version))
    }

    /// Whether the region may be looked at now; if so, somebody does. Tells how long it was not flushed.
    fn start(&self, region: RegionId, view: (u64, u64), now: Duration) -> Option<Duration> {
        let (version, flushed_seq) = view;
        let mut regions = self.regions.lock();
        let looked = regions.entry(region).or_insert(Looked {
            running: false,
            version: None,
            counted: None,
            again: now,
            retry: FIRST_RETRY,
            flushed_seq,
            since: now,
            pending_bytes: 0,
        });
        if looked.flushed_seq != flushed_seq {
            (looked.flushed_seq, looked.since) = (flushed_seq, now);
        }
        // After a failure the time counts, otherwise a new view too.
        let is_new = looked.retry == FIRST_RETRY && looked.version != Some(version);
        if looked.running || (now < looked.again && !is_new) {
            return None;
        }
        looked.running = true;
        Some(now.saturating_sub(looked.since))
    }

    fn finish(&self, region: RegionId, outcome: Option<(u64, u64)>, now: Duration) {
        let mut regions = self.regions.lock();
        let Some(looked) = regions.get_mut(&region) else {
            return;
        };
        looked.running = false;
        match outcome {
            Some((version, pending_bytes)) => {
                looked.version = Some(version);
                looked.pending_bytes = pending_bytes;
                looked.again = now + LOOK_AGAIN;
                looked.retry = FIRST_RETRY;
            }
            None => {
                looked.again = now + looked.retry;
                looked.retry = (looked.retry * 2).min(LAST_RETRY);
            }
        }
    }

    fn pending_bytes(&self) -> u64 {
        self.regions.lock().values().map(|l| l.pending_bytes).sum()
    }

    fn retain(&self, is_here: impl Fn(RegionId) -> bool) {
        self.regions.lock().retain(|id, _| is_here(*id));
    }
}

impl Datanode {
    /// Merges all files of a region, so that each window of time has one sorted run; rows in memory stay there.
    ///
    /// Errors: `Unavailable` if this node does not lead the region, or if the bucket cannot be reached.
    pub(super) async fn compact_one(&self, region: &Arc<Region>) -> Result<v1::CompactResponse> {
        let _one_at_a_time = region.compaction.lock().await;
        let wanted = Wanted {
            everything: true,
            quiet: true,
        };
        let files = || region.with_state(|s| s.view().map_or(0, |view| view.files.len() as u64));
        let files_before = files();
        let done = self.compactor.settle(region, wanted).await?;
        region.set_runs(done.report.runs);
        Ok(v1::CompactResponse {
            files_before,
            files_after: files(),
            bytes_read: done.bytes_read,
            bytes_written: done.bytes_written,
        })
    }

    /// Looks at regions whose files changed, and at each once a minute.
    pub(super) fn compact_what_is_due(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut most_runs = 0;
        for region in self.regions.all() {
            most_runs = most_runs.max(region.runs());
            let view = region.with_state(|s| {
                s.leading_epoch().ok()?;
                s.view().map(|view| (view.version, view.flushed_seq))
            });
            let Some(view) = view else { continue };
            // Also while files are merged, which may take long.
            if self.compactions.is_uncounted(region.id(), view.0)
                && let Ok(decision) = self.compactor.decide(&region, Wanted::default())
            {
                region.set_runs(decision.report.runs);
            }
            let Some(unflushed) = self.compactions.start(region.id(), view, now) else {
                continue;
            };
            let is_empty = region.with_state(|s| s.memory() == 0);
            let wanted = Wanted {
                everything: false,
                quiet: is_empty && unflushed >= self.config.flush_age * QUIET_AGES,
            };
            let node = Arc::clone(self);
            self.tasks
                .spawn(async move { node.look_at(&region, wanted).await });
        }
        self.metrics.compaction_runs.set(most_runs as u64);
        self.metrics
            .compaction_pending_bytes
            .set(self.compactions.pending_bytes());
        self.compactions.retain(|id| self.regions.find(id).is_some());
    }

    async fn look_at(&self, region: &Arc<Region>, wanted: Wanted) {
        let outcome = self.step_until_rest(region, wanted).await;
        if let Err(error) = &outcome {
            self.metrics.compaction_failures.inc();
            tracing::warn!(region = %region.id(), %error, "a compaction failed; it will be tried again");
        }
        let policy = CleanPolicy {
            grace: self.config.file_grace,
            listing: self.config.orphan_interval,
        };
        if let Err(error) = self.compactor.clean(region, policy).await {
            tracing::warn!(region = %region.id(), %error, "files that are no longer needed remain for now");
        }
        self.compactions
            .finish(region.id(), outcome.ok(), self.clock.now());
    }

    /// Steps until there is nothing to do; returns the version that this holds for, and what is pending.
    async fn step_until_rest(&self, region: &Arc<Region>, wanted: Wanted) -> Result<(u64, u64)> {
        let _one_at_a_time = region.compaction.lock().await;
        loop {
            let decision = self.compactor.decide(region, wanted)?;
            region.set_runs(decision.report.runs);
            let looked = (decision.view.version, decision.report.pending_bytes);
            match self.compactor.carry_out(region, decision).await? {
                Step::Rest => return Ok(looked),
                step => tracing::debug!(region = %region.id(), ?step, "compacted"),
            }
        }
    }

    /// Slows a write down, or refuses it, while the region's files are too many: a query has to merge them all.
    pub(super) async fn wait_for_compactions(&self, region: &Region) -> Result<()> {
        let (runs, soft, hard) = (
            region.runs(),
            self.config.compaction_soft_runs,
            self.config.compaction_hard_runs,
        );
        if runs >= hard && Defence::HardRunsRefuse.holds() {
            return Err(Error::exhausted(format!(
                "region {} has {runs} sorted runs in one window of time, the limit is {hard} \
                 (datanode.compaction_hard_runs); retry later, and see whether compactions reach the object store",
                region.id()
            )));
        }
        if runs >= soft && Defence::SoftRunsSlow.holds() {
            self.metrics.writes_slowed.inc();
            let part = (runs - soft + 1) as f64 / (hard - soft) as f64;
            tokio::time::sleep(LONGEST_WAIT.mul_f64(part)).await;
        }
        Ok(())
    }
}
