//! From a question to a known manifest edit. Each step may be the last one before a crash.
//!
//! Pick from the adopted view; merge and upload while flushes go on; then, alone, look whether the outcome still fits
//! and put an edit. Until the edit is known nothing refers to the outputs, and nothing happens to the inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use greptime_clock::SharedClock;
use greptime_rules::{Uploads, merge_fits};
use greptime_types::{Error, Result, TableInfo};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::clean::discard;
use super::merge::{Work, merge_files};
use super::picker::{Merge, Plan, Policy, Question, Report, pick, still_valid};
use super::terms;
use super::window::WindowPolicy;
use super::workers::Workers;
use crate::defences::Defence;
use crate::manifest::{Commit, FileMeta, ManifestStore, View};
use crate::metrics::DatanodeMetrics;
use crate::region::{Flusher, Region, leading_view, take_view};
use crate::sst::FileSource;

/// Rows that a reader or writer of a file holds in memory, encoded: a row group.
const ROW_GROUP_ROWS: u64 = 128 * 1024;
/// A row group as it was read, its decoded pages, and the batch that is merged, as multiples of the first.
const COPIES: u64 = 3;
/// What a reader or writer takes at least.
const LEAST_MEMORY: u64 = 1 << 20;
/// So many files are merged at once even if there is no memory for them: of fewer, some that only go together would
/// never be merged.
const LEAST_INPUTS: usize = 4;

/// What limits compactions.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactionLimits {
    pub policy: Policy,
    /// Bytes that all merges hold together, about.
    pub memory: u64,
}

/// What compactions are done with.
pub struct Compactor {
    pub flusher: Flusher,
    /// The bucket as merges reach it.
    pub lane: greptime_object_store::Bucket,
    pub clock: SharedClock,
    pub limits: CompactionLimits,
    pub metrics: DatanodeMetrics,
    pub workers: Workers,
    /// Merges at the same time.
    pub permits: Semaphore,
    /// In KiB, shared by the merges that run.
    pub memory: Semaphore,
}

/// How much is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// See [`Question::everything`].
    pub everything: bool,
    /// See [`Question::quiet`].
    pub quiet: bool,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// There is nothing to do.
    Rest,
    Dropped {
        files: usize,
    },
    Merged(Merged),
    /// The files changed meanwhile; the outputs were thrown away, and another question is due.
    Overtaken,
}

/// Files that took the place of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    pub inputs: usize,
    pub outputs: usize,
    /// Sizes of the files.
    pub bytes_read: u64,
    pub bytes_written: u64,
}

/// What it took until there was nothing to do.
#[derive(Clone, Debug)]
pub struct Settled {
    pub report: Report,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

/// What is decided, and from which view.
pub struct Decision {
    pub epoch: u64,
    pub view: Arc<View>,
    pub table: Arc<TableInfo>,
    pub cutoff: Option<i64>,
    pub plan: Plan,
    pub report: Report,
}

impl Compactor {
    /// Asks the picker. Errors: `Unavailable` if this node does not lead the region or does not know its files.
    pub fn decide(&self, region: &Region, wanted: Wanted) -> Result<Decision> {
        let (epoch, view) = leading_view(region)?;
        let table = region.with_state(|s| Arc::clone(s.table()));
        let now_ms = self.clock.wall_ms();
        let cutoff = terms::ttl_cutoff(&table, now_ms);
        let policy = Policy {
            max_inputs: self.inputs_that_fit(&view.files),
            ..self.limits.policy.clone()
        };
        let question = Question {
            files: &view.files,
            policy: &policy,
            window: WindowPolicy {
                fixed: terms::window(&table),
                per_second: terms::per_second(&table),
                bytes: policy.max_file_bytes,
                ttl: terms::ttl(&table),
            },
            now: terms::in_unit(&table, now_ms),
            ttl_cutoff: cutoff,
            quiet: wanted.quiet,
            everything: wanted.everything,
        };
        let (plan, report) = pick(&question);
        Ok(Decision {
            epoch,
            view,
            table,
            cutoff,
            plan,
            report,
        })
    }

    /// Carries out what was decided. Only one at a time for a region.
    pub async fn carry_out(&self, region: &Arc<Region>, decision: Decision) -> Result<Step> {
        match &decision.plan {
            Plan::Nothing => Ok(Step::Rest),
            Plan::Drop(names) => {
                let there = |view: &View| names.iter().all(|n| view.files.contains_key(n));
                let change = Change {
                    remove: names.clone(),
                    add: Vec::new(),
                };
                if !self.commit(region, decision.epoch, &change, there).await? {
                    return Ok(Step::Overtaken);
                }
                self.metrics.compaction_files_expired.inc_by(names.len() as u64);
                Ok(Step::Dropped { files: names.len() })
            }
            Plan::Merge(merge) => self.merge(region, &decision, merge).await,
        }
    }

    /// Steps until there is nothing to do.
    pub async fn settle(&self, region: &Arc<Region>, wanted: Wanted) -> Result<Settled> {
        let (mut bytes_read, mut bytes_written) = (0, 0);
        loop {
            let decision = self.decide(region, wanted)?;
            let report = decision.report.clone();
            match self.carry_out(region, decision).await? {
                Step::Rest => {
                    return Ok(Settled {
                        report,
                        bytes_read,
                        bytes_written,
                    });
                }
                Step::Merged(merged) => {
                    bytes_read += merged.bytes_read;
                    bytes_written += merged.bytes_written;
                }
                Step::Dropped { .. } | Step::Overtaken => {}
            }
        }
    }

    async fn merge(&self, region: &Arc<Region>, decision: &Decision, merge: &Merge) -> Result<Step> {
        let permits = u32::from(Defence::FewMergesAtOnce.holds());
        let _permit = self.permits.acquire_many(permits).await;
        let inputs: Vec<FileMeta> = merge
            .inputs
            .iter()
            .filter_map(|name| decision.view.files.get(name).cloned())
            .collect();
        let memory = self.memory_of(merge, &inputs);
        let _memory = self.memory.acquire_many(memory).await;
        let started = self.clock.now();
        let work = Arc::new(Work {
            files: FileSource::new(self.lane.clone(), self.flusher.files.caches().clone()),
            ids: Arc::clone(&self.flusher.ids),
            region: Arc::clone(region),
            epoch: decision.epoch,
            table: Arc::clone(&decision.table),
            plan: merge.clone(),
            inputs,
            ttl_cutoff: decision.cutoff,
            max_file_bytes: self.limits.policy.max_file_bytes,
            uploads: Arc::new(Mutex::new(Vec::new())),
        });
        let uploads = Arc::clone(&work.uploads);
        let merged = self.on_workers(work).await;
        let uploads = std::mem::take(&mut *uploads.lock());
        let outputs = match merged {
            Ok(outputs) => outputs,
            Err(error) => {
                discard(&self.flusher.bucket, region, uploads, Uploads::Void).await;
                return Err(error);
            }
        };
        let replaced = self.replace(region, decision.epoch, merge, outputs).await;
        let left = match &replaced {
            Ok(Step::Overtaken) => Some(Uploads::Void),
            Ok(_) => None,
            Err(_) => Some(Uploads::Unknown),
        };
        if let Some(left) = left {
            discard(&self.flusher.bucket, region, uploads, left).await;
            return replaced;
        }
        let step = replaced?;
        let took = self.clock.now().saturating_sub(started);
        self.metrics.compactions.inc();
        self.metrics.compaction_seconds.observe(took.as_secs_f64());
        self.metrics.compaction_files.inc_by(merge.inputs.len() as u64);
        Ok(step)
    }

    /// On threads of their own, which give way to those of requests. Dropping the caller stops the merge.
    async fn on_workers(&self, work: Arc<Work>) -> Result<Vec<FileMeta>> {
        let mut tasks = JoinSet::new();
        tasks.spawn_on(merge_files(work), self.workers.handle());
        let ended = tasks.join_next().await;
        let ended = ended.unwrap_or_else(|| Ok(Err(Error::internal("a merge has no end"))));
        ended.unwrap_or_else(|e| Err(Error::internal(format!("a merge was interrupted: {e}"))))
    }

    async fn replace(
        &self,
        region: &Arc<Region>,
        epoch: u64,
        merge: &Merge,
        outputs: Vec<FileMeta>,
    ) -> Result<Step> {
        let is_closed = |view: &View| still_valid(merge, &view.files);
        let fits = |view: &View| merge_fits(&merge.inputs, view, is_closed);
        let change = Change {
            remove: merge.inputs.clone(),
            add: outputs,
        };
        if !self.commit(region, epoch, &change, fits).await? {
            return Ok(Step::Overtaken);
        }
        Ok(Step::Merged(Merged {
            inputs: merge.inputs.len(),
            outputs: change.add.len(),
            bytes_read: merge.bytes,
            bytes_written: change.add.iter().map(|f| f.bytes).sum(),
        }))
    }

    /// Puts an edit of this epoch as long as `fits` holds for the newest view; `false` if it does not.
    ///
    /// An edit that lost its version is thrown away; a new one is made from the view that has the other.
    pub(super) async fn commit(
        &self,
        region: &Arc<Region>,
        epoch: u64,
        change: &Change,
        fits: impl Fn(&View) -> bool,
    ) -> Result<bool> {
        let _one_at_a_time = region.files.lock().await;
        let manifest = ManifestStore::new(self.flusher.bucket.clone(), region.id());
        loop {
            let (current, view) = leading_view(region)?;
            if current != epoch || !fits(&view) {
                return Ok(false);
            }
            let Some(mut edit) = view.edit_files(epoch, self.flusher.ids.uuid()) else {
                return Ok(false);
            };
            edit.remove.clone_from(&change.remove);
            edit.add.clone_from(&change.add);
            edit.deleted = region.cleaning.lock().deleted(&view);
            match manifest.commit(&view, &edit).await? {
                Commit::Adopted(view) => {
                    region.cleaning.lock().adopted(&view);
                    region.adopt(view)?;
                    return Ok(true);
                }
                Commit::Lost(view) => take_view(region, view)?,
            }
        }
    }

    fn inputs_that_fit(&self, files: &BTreeMap<String, FileMeta>) -> usize {
        if !Defence::MergeHasFewFiles.holds() {
            return self.limits.policy.max_inputs;
        }
        let largest = files.values().map(memory_of_file).max().unwrap_or(LEAST_MEMORY);
        let fit = self.limits.memory / largest.max(1);
        usize::try_from(fit)
            .unwrap_or(usize::MAX)
            .clamp(LEAST_INPUTS, self.limits.policy.max_inputs.max(LEAST_INPUTS))
    }

    /// In KiB, never more than there is: what needs more runs alone.
    fn memory_of(&self, merge: &Merge, inputs: &[FileMeta]) -> u32 {
        if !Defence::MergesFitTheirMemory.holds() {
            return 0;
        }
        let read: u64 = inputs.iter().map(memory_of_file).sum();
        let writer = inputs.iter().map(memory_of_file).max().unwrap_or(0);
        let bytes = read + writer * (merge.cuts.len() as u64 + 1);
        let all = self.limits.memory >> 10;
        u32::try_from((bytes >> 10).min(all)).unwrap_or(u32::MAX)
    }
}

fn memory_of_file(file: &FileMeta) -> u64 {
    let row_group = (file.bytes / file.rows.max(1) + 1).saturating_mul(ROW_GROUP_ROWS);
    (row_group.min(file.bytes) * COPIES).max(LEAST_MEMORY)
}

/// What an edit changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub remove: Vec<String>,
    pub add: Vec<FileMeta>,
}
