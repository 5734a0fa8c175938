//! What a region knows. It changes only by applying entries and by adopting manifest views.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use greptime_log::{Applied, CommittedEntry, GroupStatus, Membership};
use greptime_proto::v1::{RegionReport, RegionRole};
use greptime_rows::SeriesBatch;
use greptime_rules::{Grant, Lead, Lease, NotServing, Standing, Trimmed};
use greptime_types::{Error, MergeMode, RegionId, RequestId, Result, TableInfo, Ttl};

use super::entry::{RegionEntry, WriteEntry};
use super::rows::{replay_rows, with_unsaid};
use super::{Checkpoint, RequestTable, Seen};
use crate::defences::Defence;
use crate::manifest::View;
use crate::memtable::{Buffers, KeyColumns, Memtable, MemtableView};

mod replica;

/// Rows that are being flushed, and the region without its rows as of their last sequence.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub memtable: MemtableView,
    /// Every row up to it is here or in files.
    pub sequence: u64,
    /// Rows up to it are gone.
    pub truncated_seq: u64,
    pub table: Arc<TableInfo>,
    pub requests: RequestTable,
}

/// Files and rows of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub view: Arc<View>,
    /// What is being flushed, and what came since.
    pub memory: Vec<MemtableView>,
    pub table: Arc<TableInfo>,
    pub key: KeyColumns,
}

#[derive(Debug)]
pub struct RegionState {
    id: RegionId,
    table: Arc<TableInfo>,
    key: KeyColumns,
    active: Memtable,
    /// When the oldest row of `active` came, or what made the region `rowless`.
    oldest_row: Option<Duration>,
    /// The memtable of `frozen`.
    flushing: Memtable,
    frozen: Option<Frozen>,
    /// Entries are applied that left no row, and that only an edit can take off the log.
    rowless: bool,
    /// Rows up to it are gone, wherever they lie.
    truncated_seq: u64,
    /// Bytes of rows that the budget knows of.
    accounted: usize,
    requests: RequestTable,
    /// Writes that are proposed and neither applied nor refused, with their rows.
    under_way: HashMap<RequestId, SeriesBatch>,
    applied: u64,
    /// Term of the last applied entry.
    applied_term: u64,
    /// Index of the first applied entry of `applied_term`.
    term_began: u64,
    status: GroupStatus,
    members: Membership,
    /// The last term in which this node was found not to lead any more.
    deposed_in: u64,
    lease: Lease,
    /// Of the checkpoint on disk, or of the last trim that was asked for.
    trimmed: Trimmed,
    /// Files that readers use; `None` until the manifest was loaded.
    manifest: Option<Arc<View>>,
    manifest_problem: Option<String>,
    failed: Option<String>,
    /// Something a person should know, though the region serves.
    note: Option<String>,
    /// What queries need was brought near since it is hot.
    warmed: bool,
}

impl RegionState {
    pub fn new(id: RegionId, checkpoint: Checkpoint, manifest: Option<View>) -> Self {
        Self {
            id,
            key: KeyColumns::of(&checkpoint.table),
            trimmed: Trimmed::of(&checkpoint),
            table: Arc::new(checkpoint.table),
            active: Memtable::default(),
            oldest_row: None,
            flushing: Memtable::default(),
            frozen: None,
            rowless: false,
            truncated_seq: 0,
            accounted: 0,
            requests: checkpoint.requests,
            under_way: HashMap::new(),
            applied: checkpoint.flushed_seq,
            applied_term: 0,
            term_began: 0,
            status: GroupStatus::default(),
            members: Membership::default(),
            deposed_in: 0,
            lease: Lease::default(),
            manifest: manifest.map(Arc::new),
            manifest_problem: None,
            failed: None,
            note: None,
            warmed: false,
        }
    }

    pub fn table(&self) -> &Arc<TableInfo> {
        &self.table
    }

    pub fn key(&self) -> &KeyColumns {
        &self.key
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    pub fn requests(&self) -> &RequestTable {
        &self.requests
    }

    pub fn view(&self) -> Option<&Arc<View>> {
        self.manifest.as_ref()
    }

    pub fn checkpoint_seq(&self) -> u64 {
        self.trimmed.through
    }

    pub fn checkpoint_version(&self) -> u64 {
        self.trimmed.version
    }

    /// Bytes of rows in memory.
    pub fn memory(&self) -> usize {
        self.active.bytes() + self.flushing.bytes()
    }

    /// What [`Self::memory`] was when this was last asked, and what it is.
    pub fn accounted(&mut self) -> (usize, usize) {
        let now = self.memory();
        (std::mem::replace(&mut self.accounted, now), now)
    }

    pub fn active_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// Rows were taken for a flush that is not done.
    pub fn is_flushing(&self) -> bool {
        self.frozen.is_some()
    }

    pub fn oldest_row(&self) -> Option<Duration> {
        self.oldest_row
    }

    /// Entries of the log that whoever opens the region, or comes to lead it, has to apply first.
    pub fn unflushed_entries(&self) -> u64 {
        self.applied.saturating_sub(self.trimmed.through)
    }

    /// The epoch in which this node serves the region.
    pub fn leading_epoch(&self) -> Result<u64> {
        if let Some(reason) = &self.failed {
            return Err(Error::unavailable(format!(
                "region {} has failed on this node: {reason}",
                self.id
            )));
        }
        let lead = Lead {
            leads: self.status.leads,
            term: self.status.term,
            applied_term: self.applied_term,
            deposed_in: self.deposed_in,
        };
        lead.serves().map_err(|why| {
            let id = self.id;
            Error::unavailable(match why {
                NotServing::Follows => format!("this node does not lead region {id}"),
                NotServing::Deposed => format!("another node leads region {id} in a later epoch"),
                NotServing::Opening => format!("region {id} is opening; retry"),
            })
        })
    }

    /// What this node, leading in `epoch`, holds against a view.
    pub fn standing(&self, epoch: u64) -> Standing {
        Standing {
            epoch,
            applied: self.applied,
            term_began: self.term_began,
            is_first: self.manifest.is_none(),
        }
    }

    pub fn set_status(&mut self, status: GroupStatus) {
        self.warmed &= status.is_hot;
        self.status = status;
    }

    pub fn lease(&mut self, grant: Grant) {
        self.lease.granted(grant);
    }

    pub fn renounce_lease(&mut self, now: Duration) {
        self.lease.renounce(now);
    }

    pub fn give_up_lease(&mut self) {
        self.lease.give_up(self.status.term);
    }

    pub fn is_leased(&self, epoch: u64, now: Duration) -> bool {
        self.lease.covers(epoch, now)
    }

    pub fn begin(&mut self, request: RequestId, rows: SeriesBatch) -> Result<Seen> {
        match self.requests.look_up(request) {
            Seen::New if self.under_way.contains_key(&request) && Defence::CopyUnderWayIsRefused.holds() => {
                Err(Error::unavailable(
                    "the same request is being written; retry to learn its outcome",
                ))
            }
            Seen::New => {
                self.under_way.insert(request, rows);
                Ok(Seen::New)
            }
            seen => Ok(seen),
        }
    }

    pub fn refused(&mut self, request: RequestId) {
        self.under_way.remove(&request);
    }

    pub fn apply(&mut self, entry: &CommittedEntry, now: Duration) -> Result<Applied> {
        if let Some(reason) = &self.failed {
            return Err(Error::unavailable(format!(
                "region {} has failed: {reason}",
                self.id
            )));
        }
        debug_assert_eq!(
            entry.index,
            self.applied + 1,
            "region {}: entries are applied in order",
            self.id
        );
        let result = self.apply_entry(entry, now);
        if entry.term != self.applied_term {
            self.term_began = entry.index;
        }
        match &result {
            Ok(_) => {
                self.applied = entry.index;
                self.applied_term = entry.term;
            }
            // Going on without this entry would lose it, so the region stops here.
            Err(error)
                if error.kind != greptime_types::ErrorKind::Conflict
                    && Defence::UnreadableEntryStopsTheRegion.holds() =>
            {
                self.fail(format!("entry {}: {error}", entry.index));
            }
            Err(_) => {
                self.applied = entry.index;
                self.applied_term = entry.term;
            }
        }
        result
    }

    fn apply_entry(&mut self, entry: &CommittedEntry, now: Duration) -> Result<Applied> {
        let mut applied = Applied {
            index: entry.index,
            term: entry.term,
            duplicate: false,
        };
        match RegionEntry::decode(entry.data.clone())? {
            RegionEntry::Noop => {}
            RegionEntry::Alter(table) => {
                if table.schema.version > self.table.schema.version || !Defence::AlterGoesForwardOnly.holds()
                {
                    self.key = KeyColumns::of(&table);
                    self.table = Arc::new(*table);
                }
            }
            RegionEntry::Forget(quiet) => self.requests.forget(&quiet),
            RegionEntry::Truncate(truncate) => {
                let request = truncate.request;
                self.under_way.remove(&request);
                let seen = self.first_time(request)?;
                applied.duplicate = seen == Seen::Applied;
                if seen == Seen::New {
                    self.truncate(entry.index, now);
                }
                self.requests.apply(request, &truncate.finished);
            }
            RegionEntry::Write(write) => {
                let rows = self.under_way.remove(&write.request);
                let seen = self.first_time(write.request)?;
                applied.duplicate = seen == Seen::Applied;
                if seen == Seen::New {
                    // Not applied, so its request id stays free for the same rows under the newer schema.
                    if Defence::StaleRowsAreRefusedInTheLog.holds() {
                        check_version(self.id, write.schema_version, &self.table)?;
                    }
                    self.insert(&write, rows, entry.index, now)?;
                }
                self.requests.apply(write.request, &write.finished);
            }
        }
        Ok(applied)
    }

    /// Whether a request was applied before; an error if it comes too late.
    fn first_time(&self, request: RequestId) -> Result<Seen> {
        match self.requests.first_time(request) {
            Seen::Finished => Err(finished(request)),
            seen => Ok(seen),
        }
    }

    /// A flush that is under way goes on with its own rows; its file is hidden, since it has only older ones.
    fn truncate(&mut self, sequence: u64, now: Duration) {
        self.active = Memtable::default();
        self.flushing = Memtable::default();
        self.oldest_row = Some(now);
        self.frozen = None;
        self.truncated_seq = sequence;
        self.rowless = true;
    }

    /// Rows up to it are gone.
    pub fn truncated_seq(&self) -> u64 {
        self.truncated_seq
    }

    /// Files have rows that are gone: an edit gives their space back.
    pub fn has_truncated_files(&self) -> bool {
        let view = self.manifest.as_ref();
        view.is_some_and(|view| view.has_truncated(self.truncated_seq))
    }

    /// `batch` is what the entry has, if this process wrote it.
    fn insert(
        &mut self,
        write: &WriteEntry,
        batch: Option<SeriesBatch>,
        sequence: u64,
        now: Duration,
    ) -> Result<()> {
        if self.table.ttl() == Ttl::Instant {
            self.rowless = true;
            self.oldest_row.get_or_insert(now);
            return Ok(());
        }
        let (rows, series) = (write.rows.rows.len(), write.rows.series.len());
        let (rows, buffers) = match batch {
            Some(batch) => (batch, Buffers { rows, series }),
            // Both parts lie in the buffer of the entry.
            None => {
                let rows = rows + series;
                (
                    replay_rows(&write.rows, &self.table)?,
                    Buffers { rows, series: 0 },
                )
            }
        };
        let rows = match self.table.options.merge_mode {
            MergeMode::LastNonNull if Defence::UnsaidIsNull.holds() => with_unsaid(rows, &self.table)?,
            _ => rows,
        };
        self.active
            .insert(&rows, &self.table.schema, (sequence, write.op), buffers)?;
        self.oldest_row.get_or_insert(now);
        Ok(())
    }

    pub fn fail(&mut self, reason: String) {
        self.failed.get_or_insert(reason);
    }

    pub fn set_note(&mut self, note: String) {
        self.note = Some(note);
    }

    pub fn close(&mut self, reason: String) {
        self.fail(reason);
        self.active = Memtable::default();
        self.flushing = Memtable::default();
        self.frozen = None;
    }

    pub fn adopt(&mut self, view: View) -> Result<()> {
        if !view.replaces(self.manifest.as_deref()) {
            return Ok(());
        }
        if self
            .frozen
            .as_ref()
            .is_some_and(|f| f.sequence <= view.flushed_seq)
        {
            self.flushing = Memtable::default();
            self.frozen = None;
        }
        self.forget_through(view.in_files())?;
        if self.active.is_empty() && !self.rowless {
            self.oldest_row = None;
        }
        self.truncated_seq = self.truncated_seq.max(view.truncated_seq);
        self.manifest = Some(Arc::new(view));
        self.manifest_problem = None;
        Ok(())
    }

    /// Rows up to this sequence leave memory: they are in files.
    fn forget_through(&mut self, sequence: u64) -> Result<()> {
        if let Some(frozen) = &mut self.frozen {
            self.flushing.forget_through(sequence)?;
            frozen.memtable = self.flushing.view();
        }
        self.active.forget_through(sequence)
    }

    pub fn manifest_failed(&mut self, reason: String) {
        self.manifest_problem = Some(reason);
    }

    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.frozen.is_none() && (!self.active.is_empty() || self.rowless) {
            self.oldest_row = None;
            self.rowless = false;
            self.flushing = std::mem::take(&mut self.active);
            self.frozen = Some(Frozen {
                memtable: self.flushing.view(),
                sequence: self.applied,
                truncated_seq: self.truncated_seq,
                table: Arc::clone(&self.table),
                requests: self.requests.clone(),
            });
        }
        self.frozen.clone()
    }

    /// The checkpoint that belongs to the manifest view, if it is newer than the one on disk.
    pub fn next_checkpoint(&mut self) -> Option<Checkpoint> {
        // Only the leader says so, and it has to be heard.
        self.leading_epoch().ok()?;
        self.trimmed.next(self.manifest.as_ref()?, self.applied)
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        self.leading_epoch()?;
        let view = View::shown(self.manifest.as_ref(), self.truncated_seq).ok_or_else(|| {
            let why = self.manifest_problem.as_deref().unwrap_or("it is being loaded");
            Error::unavailable(format!("region {} does not know its files yet: {why}", self.id))
        })?;
        Ok(Snapshot {
            view,
            memory: vec![self.flushing.view(), self.active.view()],
            table: Arc::clone(&self.table),
            key: self.key.clone(),
        })
    }

    pub fn report(&self) -> RegionReport {
        let (role, problem) = match (&self.failed, self.leading_epoch()) {
            (Some(reason), _) => (RegionRole::Failed, reason.clone()),
            (None, Err(_)) if self.follows() => (RegionRole::Follower, self.note.clone().unwrap_or_default()),
            (None, Err(waiting)) => (RegionRole::Opening, waiting.message),
            (None, Ok(_)) => (
                RegionRole::Leader,
                self.manifest_problem
                    .clone()
                    .or_else(|| self.note.clone())
                    .unwrap_or_default(),
            ),
        };
        RegionReport {
            region_id: self.id.as_u64(),
            raft_id: self.status.raft_id,
            role: role.into(),
            epoch: self.status.term,
            last_index: self.status.last_index,
            applied_index: self.applied,
            flushed_index: self
                .manifest
                .as_ref()
                .map_or(self.trimmed.through, |view| view.flushed_seq),
            schema_version: self.table.schema.version,
            problem,
            last_term: self.status.last_term,
            voters: self.members.voters.iter().copied().collect(),
            learners: self.members.learners.iter().copied().collect(),
            hot: self.status.is_hot,
            leader_raft_id: self.status.leader,
            warm: self.is_warm(),
        }
    }
}

/// Refuses rows that were made for a schema under which their names or types meant something else. Their writer makes
/// them anew when it knows the newer one.
pub fn check_version(region: RegionId, made_for: u64, table: &TableInfo) -> Result<()> {
    if made_for >= table.schema.writes_from {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "the rows were made for version {made_for} of {}, columns have changed in version {} (region {region}); \
         retry with the newer one",
        table.full_name(),
        table.schema.writes_from
    )))
}

fn finished(request: RequestId) -> Error {
    Error::conflict(format!(
        "request {} of {:016x} was finished before; this copy is late and is not applied",
        request.number, request.incarnation
    ))
}
