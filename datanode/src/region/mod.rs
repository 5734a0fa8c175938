//! One region: a state machine over its log, whose rows move from memory to files.

mod entry;
mod flush;
mod rows;
mod state;

pub use entry::{RegionEntry, RowOp, TruncateEntry, WriteEntry};
pub use flush::{Flusher, flush, load_manifest};
pub(crate) use flush::{leading_view, take_view};
pub use greptime_rules::{Checkpoint, RequestTable, Seen};
pub use rows::{check_rows, read_rows};
pub use state::{Frozen, RegionState, Snapshot, check_version};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use greptime_log::{Applied, CommittedEntry, GroupStatus, Membership};
use greptime_rows::SeriesBatch;
use greptime_rules::{Grant, Mark, Quiet, QuietPolicy};
use greptime_types::{Error, RegionId, RequestId, Result, TableInfo};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::budget::Budget;
use crate::compaction::Cleaning;
use crate::defences::Defence;
use crate::manifest::View;

/// A region that this node holds.
#[derive(Debug)]
pub struct Region {
    id: RegionId,
    state: Mutex<RegionState>,
    budget: Arc<Budget>,
    /// One flush, manifest load or edit at a time.
    pub(crate) files: tokio::sync::Mutex<()>,
    /// One compaction at a time; flushes go on beside it.
    pub(crate) compaction: tokio::sync::Mutex<()>,
    pub(crate) cleaning: Mutex<Cleaning>,
    /// See [`Self::runs`].
    runs: AtomicUsize,
    /// Somebody is about to load the manifest.
    loading: AtomicBool,
    asked_again: Notify,
    /// Somebody brings near what queries need.
    warming: AtomicBool,
    quiet: Mutex<Quiet>,
}

/// What a write finds before it is proposed.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub table: Arc<TableInfo>,
    pub epoch: u64,
}

impl Region {
    /// `manifest` is known for a region that has just been started, and is loaded for all others.
    pub fn new(
        id: RegionId,
        checkpoint: Checkpoint,
        manifest: Option<View>,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let state = Mutex::new(RegionState::new(id, checkpoint, manifest));
        Arc::new(Self {
            id,
            state,
            budget,
            files: tokio::sync::Mutex::new(()),
            compaction: tokio::sync::Mutex::new(()),
            cleaning: Mutex::default(),
            runs: AtomicUsize::new(0),
            loading: AtomicBool::new(false),
            asked_again: Notify::new(),
            warming: AtomicBool::new(false),
            quiet: Mutex::default(),
        })
    }

    pub fn id(&self) -> RegionId {
        self.id
    }

    /// The most sorted runs of any window of time, when the files were last looked at: what a query has to merge, and
    /// what compactions are behind with.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    pub fn set_runs(&self, runs: usize) {
        self.runs.store(runs, Ordering::Relaxed);
    }

    /// Whether the caller is the one to load the manifest; if so, it says so when it is done. If not, whoever is
    /// learns that somebody has asked.
    pub fn begin_loading(&self) -> bool {
        let is_first = !self.loading.swap(true, Ordering::SeqCst);
        if !is_first {
            self.asked_again.notify_one();
        }
        is_first
    }

    /// Returns when somebody else would have begun to load the manifest, at once if that was before.
    pub async fn asked_again(&self) {
        self.asked_again.notified().await;
    }

    pub fn end_loading(&self) {
        self.loading.store(false, Ordering::SeqCst);
    }

    /// Whether the caller is the one to bring near what queries need; if so, it says so when it is done.
    pub fn begin_warming(&self) -> bool {
        !self.warming.swap(true, Ordering::SeqCst)
    }

    /// `is_warm`: it is done.
    pub fn end_warming(&self, is_warm: bool) {
        if is_warm {
            self.change(RegionState::warmed);
        }
        self.warming.store(false, Ordering::SeqCst);
    }

    /// Reads the state; keep it short, the log loop waits.
    pub fn with_state<T>(&self, read: impl FnOnce(&RegionState) -> T) -> T {
        read(&self.state.lock())
    }

    fn change<T>(&self, change: impl FnOnce(&mut RegionState) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        // Readers sort what is in memory, so it may have changed in between too.
        let (before, after) = state.accounted();
        self.budget.changed(before, after);
        result
    }

    /// Whether this node leads the region in an epoch that the caller may ask for (0 is any).
    pub fn admit(&self, epoch: u64, schema_version: u64) -> Result<Admitted> {
        self.with_state(|state| {
            let current = state.leading_epoch()?;
            if epoch != 0 && epoch < current && Defence::OlderEpochIsRefused.holds() {
                return Err(Error::conflict(format!(
                    "the request is for epoch {epoch} of region {}, it is in epoch {current}",
                    self.id
                )));
            }
            if epoch > current && Defence::NewerEpochIsRefused.holds() {
                return Err(Error::unavailable(format!(
                    "region {} is in epoch {current} here, the request is for epoch {epoch}",
                    self.id
                )));
            }
            if schema_version > state.table().schema.version && Defence::NewerSchemaIsWaitedFor.holds() {
                return Err(Error::unavailable(format!(
                    "region {} has schema version {}, the request is for version {schema_version}; retry",
                    self.id,
                    state.table().schema.version
                )));
            }
            Ok(Admitted {
                table: Arc::clone(state.table()),
                epoch: current,
            })
        })
    }

    /// Looks up a write's request, and marks it as under way if it is new. `rows` are those of the entry that will
    /// be proposed.
    pub fn begin(&self, request: RequestId, rows: SeriesBatch) -> Result<Seen> {
        self.change(|state| state.begin(request, rows))
    }

    /// Frontend processes that have not written for long, if this node leads; see [`Quiet::look`].
    pub fn quiet(&self, passed: Duration, policy: &QuietPolicy) -> Vec<(u64, Mark)> {
        let mut quiet = self.quiet.lock();
        self.with_state(|state| match state.leading_epoch() {
            Ok(_) => quiet.look(state.requests(), passed, policy),
            Err(_) => {
                *quiet = Quiet::default();
                Vec::new()
            }
        })
    }

    /// The write was not proposed, or will not be committed.
    pub fn refused(&self, request: RequestId) {
        self.change(|state| state.refused(request));
    }

    /// Applies a committed entry. `now` dates the oldest row in memory.
    pub fn apply(&self, entry: &CommittedEntry, now: Duration) -> Result<Applied> {
        self.change(|state| state.apply(entry, now))
    }

    pub fn set_status(&self, status: GroupStatus) {
        self.change(|state| state.set_status(status));
    }

    pub fn set_members(&self, members: Membership) {
        self.change(|state| state.set_members(members));
    }

    /// Begins anew from a checkpoint; what is in memory counts for nothing.
    pub fn restore(&self, checkpoint: &[u8]) {
        match Checkpoint::decode(checkpoint) {
            Ok(checkpoint) => self.change(|state| state.restore(checkpoint)),
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Rows up to the checkpoint are in files, as the leader has said.
    pub fn trimmed(&self, checkpoint: &[u8]) {
        match Checkpoint::decode(checkpoint) {
            Ok(checkpoint) => {
                if let Err(error) = self.change(|state| state.trimmed(&checkpoint)) {
                    self.fail(error.to_string());
                }
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Nothing more is taken or flushed; only a restart, or another leader, helps.
    pub fn fail(&self, reason: String) {
        tracing::error!(region = %self.id, reason, "the region cannot serve");
        self.change(|state| state.fail(reason));
    }

    /// Something a person should know, though the region serves; shown in its report.
    pub fn set_note(&self, note: String) {
        self.change(|state| state.set_note(note));
    }

    /// A view of the manifest that is known to be there. Rows that it has in files leave the memory.
    pub fn adopt(&self, view: View) -> Result<()> {
        self.change(|state| state.adopt(view))
    }

    /// Why the manifest could not be loaded yet, for people.
    pub fn manifest_failed(&self, reason: String) {
        self.change(|state| state.manifest_failed(reason));
    }

    /// metasrv promises that nobody else leads for a while.
    pub fn lease(&self, grant: Grant) {
        self.state.lock().lease(grant);
    }

    /// What was promised in answers to beats until now counts no more, nor what comes of it yet.
    pub fn renounce_lease(&self, now: Duration) {
        self.state.lock().renounce_lease(now);
    }

    /// No promise counts any more in the term that the region is in.
    pub fn give_up_lease(&self) {
        self.state.lock().give_up_lease();
    }

    /// Whether nobody else leads now, if this node leads in `epoch`.
    pub fn is_leased(&self, epoch: u64, now: Duration) -> bool {
        self.with_state(|state| state.is_leased(epoch, now))
    }

    /// Takes the rows in memory for a flush; `None` if there are none.
    pub fn freeze(&self) -> Option<Frozen> {
        self.change(RegionState::freeze)
    }

    /// What a reader sees: files and rows of one moment.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.with_state(RegionState::snapshot)
    }

    /// The region leaves this node: its memory is given back.
    pub fn close(&self, reason: &str) {
        self.change(|state| state.close(reason.to_owned()));
    }
}
