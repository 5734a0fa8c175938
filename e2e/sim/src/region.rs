//! What a region knows on one datanode, as `region::state` of the datanode does, with the plainest of memtables.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use greptime_log::{CommittedEntry, GroupStatus, Membership};
use greptime_rules::{
    Checkpoint, Cleaning, FlushedState, Lead, Lease, NotServing, Quiet, RequestTable, Seen, Standing,
    Trimmed, View, keeps_view,
};
use greptime_types::{Error, RegionId, RequestId, Result, TableInfo};

use crate::entry::{Entry, WriteEntry};
use crate::message::{Op, RegionReport, RegionRole, Row, Written};
use crate::oracle::Applied;
use crate::rules::holds;
use crate::sim::{Lock, Mailbox, Sim};
use crate::trace::Branch;

/// Rows by sequence.
pub type Memory = BTreeMap<u64, Row>;

/// Rows that are being flushed, and what the region knew as of their last sequence.
#[derive(Clone)]
pub struct Frozen {
    pub rows: Rc<Memory>,
    pub sequence: u64,
    pub truncated_seq: u64,
    pub table: Rc<TableInfo>,
    pub requests: RequestTable,
}

impl Frozen {
    /// The region without its rows, as of the last of them.
    pub fn built(&self) -> FlushedState {
        FlushedState {
            table: self.table.as_ref().clone(),
            requests: self.requests.clone(),
        }
    }
}

/// Files and rows of one moment.
pub struct Snapshot {
    pub view: Arc<View>,
    pub memory: Vec<(u64, Row)>,
}

pub struct State {
    id: RegionId,
    table: Rc<TableInfo>,
    active: Memory,
    oldest_row: Option<Duration>,
    frozen: Option<Frozen>,
    /// Rows up to it are gone.
    truncated_seq: u64,
    /// A flush has something to say, though there may be no rows.
    rowless: bool,
    requests: RequestTable,
    under_way: BTreeSet<RequestId>,
    applied: u64,
    applied_term: u64,
    term_began: u64,
    status: GroupStatus,
    members: Membership,
    deposed_in: u64,
    trimmed: Trimmed,
    manifest: Option<Arc<View>>,
    failed: Option<String>,
    pub lease: Lease,
}

impl State {
    fn new(id: RegionId, checkpoint: Checkpoint, manifest: Option<View>) -> Self {
        let trimmed = Trimmed::of(&checkpoint);
        Self {
            id,
            table: Rc::new(checkpoint.table),
            active: Memory::new(),
            oldest_row: None,
            frozen: None,
            truncated_seq: 0,
            rowless: false,
            requests: checkpoint.requests,
            under_way: BTreeSet::new(),
            applied: checkpoint.flushed_seq,
            applied_term: 0,
            term_began: 0,
            status: GroupStatus::default(),
            members: Membership::default(),
            deposed_in: 0,
            trimmed,
            manifest: manifest.map(Arc::new),
            failed: None,
            lease: Lease::default(),
        }
    }

    pub fn table(&self) -> &Rc<TableInfo> {
        &self.table
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn status(&self) -> GroupStatus {
        self.status
    }

    pub fn view(&self) -> Option<&Arc<View>> {
        self.manifest.as_ref()
    }

    pub fn requests(&self) -> &RequestTable {
        &self.requests
    }

    /// The region without its rows.
    pub fn built(&self) -> FlushedState {
        FlushedState {
            table: self.table.as_ref().clone(),
            requests: self.requests.clone(),
        }
    }

    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// A version of the manifest that is known to be there.
    pub fn known_version(&self) -> u64 {
        self.manifest
            .as_ref()
            .map_or(self.trimmed.version, |view| view.version)
    }

    pub fn standing(&self, epoch: u64) -> Standing {
        Standing {
            epoch,
            applied: self.applied,
            term_began: self.term_began,
            is_first: self.manifest.is_none(),
        }
    }

    pub fn rows(&self) -> usize {
        self.active.len()
    }

    pub fn oldest_row(&self) -> Option<Duration> {
        self.oldest_row
    }

    /// Files have rows that are gone: an edit gives their space back.
    pub fn has_truncated_files(&self) -> bool {
        self.manifest
            .as_ref()
            .is_some_and(|view| view.has_truncated(self.truncated_seq))
    }

    pub fn is_flushing(&self) -> bool {
        self.frozen.is_some()
    }

    pub fn leading_epoch(&self) -> Result<u64> {
        let lead = Lead {
            leads: self.status.leads,
            term: self.status.term,
            applied_term: self.applied_term,
            deposed_in: self.deposed_in,
        };
        let why = match (&self.failed, lead.serves()) {
            (None, Ok(epoch)) => return Ok(epoch),
            (Some(_), _) => "has failed here",
            (None, Err(NotServing::Follows)) => "is not led here",
            (None, Err(NotServing::Deposed)) => "has another leader",
            (None, Err(NotServing::Opening)) => "is opening",
        };
        Err(Error::unavailable(format!("region {} {why}", self.id)))
    }

    pub fn is_replicated(&self) -> bool {
        !self.members.voters.is_empty() && !self.members.is_alone(self.status.raft_id)
    }

    /// Whether it votes, and nobody else does.
    pub fn is_alone(&self) -> bool {
        self.members.voters == [self.status.raft_id].into()
    }

    pub fn follows(&self) -> bool {
        self.failed.is_none() && !self.status.leads && self.is_replicated()
    }

    /// Whether the files should be known here, and are not.
    pub fn wants_manifest(&self) -> bool {
        let is_needed = self.leading_epoch().is_ok() || (self.follows() && self.status.is_hot);
        is_needed && self.failed.is_none() && self.trimmed.wants_view(self.manifest.as_deref())
    }

    pub fn begin(&mut self, request: RequestId, sim: &Sim) -> Result<Seen> {
        match self.requests.look_up(request) {
            Seen::New if self.under_way.contains(&request) && holds("CopyUnderWayIsRefused") => {
                sim.hit(Branch::CopyUnderWayIsRefused);
                Err(Error::unavailable("the same request is being written"))
            }
            Seen::New => {
                self.under_way.insert(request);
                Ok(Seen::New)
            }
            seen => Ok(seen),
        }
    }

    pub fn refused(&mut self, request: RequestId) {
        self.under_way.remove(&request);
    }

    /// What the entry did, and what its proposer is told.
    pub fn apply(&mut self, entry: &CommittedEntry, now: Duration) -> (Applied, Result<Written>) {
        let (applied, result) = self.apply_entry(entry, now);
        if entry.term != self.applied_term {
            self.term_began = entry.index;
        }
        self.applied = entry.index;
        self.applied_term = entry.term;
        (applied, result)
    }

    fn apply_entry(&mut self, entry: &CommittedEntry, now: Duration) -> (Applied, Result<Written>) {
        let mut written = Written {
            epoch: entry.term,
            sequence: entry.index,
            duplicate: false,
        };
        let write = match Entry::decode(&entry.data) {
            None => return (Applied::Nothing, Ok(written)),
            Some(Entry::Alter(table)) => return (self.alter(*table), Ok(written)),
            Some(Entry::Forget(quiet)) => {
                self.requests.forget(&quiet);
                return (Applied::Nothing, Ok(written));
            }
            Some(Entry::Write(write)) => write,
        };
        self.under_way.remove(&write.request);
        let applied = match self.requests.first_time(write.request) {
            Seen::Finished => return (Applied::Late, Err(Error::conflict("this copy is late"))),
            Seen::Applied => Applied::Duplicate,
            // Its request id stays free for the same row under the newer schema.
            Seen::New if self.is_stale(&write) => {
                let error = Error::conflict("the row was made for columns of before");
                return (Applied::Stale, Err(error));
            }
            Seen::New => self.change(write.op, entry.index, now),
        };
        written.duplicate = applied == Applied::Duplicate;
        self.requests.apply(write.request, &write.finished);
        (applied, Ok(written))
    }

    fn change(&mut self, op: Op, sequence: u64, now: Duration) -> Applied {
        match op {
            Op::Put(row) => {
                self.active.insert(sequence, row);
                self.oldest_row.get_or_insert(now);
                Applied::Row(row)
            }
            Op::Truncate(number) => {
                self.truncate(sequence, now);
                Applied::Truncated(number)
            }
        }
    }

    /// A flush that is under way goes on with its own rows; its file is hidden, since it has only older ones.
    fn truncate(&mut self, sequence: u64, now: Duration) {
        self.active.clear();
        self.frozen = None;
        self.oldest_row = Some(now);
        self.truncated_seq = sequence;
        self.rowless = true;
    }

    fn alter(&mut self, table: TableInfo) -> Applied {
        if table.schema.version > self.table.schema.version || !holds("AlterGoesForwardOnly") {
            self.table = Rc::new(table);
        }
        let schema = &self.table.schema;
        Applied::Altered {
            version: schema.version,
            writes_from: schema.writes_from,
        }
    }

    fn is_stale(&self, write: &WriteEntry) -> bool {
        matches!(write.op, Op::Put(_))
            && write.made_for < self.table.schema.writes_from
            && holds("StaleRowsAreRefusedInTheLog")
    }

    pub fn fail(&mut self, reason: String) {
        self.failed.get_or_insert(reason);
    }

    pub fn depose(&mut self) {
        self.deposed_in = self.status.term;
    }

    pub fn adopt(&mut self, view: View) {
        if !view.replaces(self.manifest.as_deref()) {
            return;
        }
        self.forget_through(view.in_files());
        self.truncated_seq = self.truncated_seq.max(view.truncated_seq);
        self.manifest = Some(Arc::new(view));
    }

    /// Rows up to a sequence leave memory.
    fn forget_through(&mut self, through: u64) {
        self.active = self.active.split_off(&(through + 1));
        if let Some(frozen) = self.frozen.as_mut() {
            match frozen.sequence <= through {
                true => self.frozen = None,
                false => Rc::make_mut(&mut frozen.rows).retain(|sequence, _| *sequence > through),
            }
        }
        if self.active.is_empty() && !self.rowless {
            self.oldest_row = None;
        }
    }

    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.frozen.is_none() && (!self.active.is_empty() || self.rowless) {
            self.oldest_row = None;
            self.rowless = false;
            self.frozen = Some(Frozen {
                rows: Rc::new(std::mem::take(&mut self.active)),
                sequence: self.applied,
                truncated_seq: self.truncated_seq,
                table: Rc::clone(&self.table),
                requests: self.requests.clone(),
            });
        }
        self.frozen.clone()
    }

    /// The checkpoint that belongs to the view, if it is newer than the one on disk.
    pub fn next_checkpoint(&mut self) -> Option<Checkpoint> {
        self.leading_epoch().ok()?;
        let view = self.manifest.as_ref()?;
        self.trimmed.next(view, self.applied)
    }

    pub fn trimmed(&mut self, checkpoint: &Checkpoint) {
        let through = self.trimmed.told(checkpoint);
        if through > 0 {
            self.forget_through(through);
        }
    }

    /// Begins anew from a checkpoint.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        let manifest = self.manifest.take().filter(|view| keeps_view(view, &checkpoint));
        let next = Self {
            status: self.status,
            members: self.members.clone(),
            deposed_in: self.deposed_in,
            manifest,
            failed: self.failed.take(),
            lease: self.lease,
            ..Self::new(self.id, checkpoint, None)
        };
        *self = next;
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        self.leading_epoch()?;
        let view = View::shown(self.manifest.as_ref(), self.truncated_seq);
        let view = view.ok_or_else(|| Error::unavailable("the files are not known yet"))?;
        let frozen = self.frozen.iter().flat_map(|f| f.rows.iter());
        let memory = frozen
            .chain(&self.active)
            .map(|(sequence, row)| (*sequence, *row));
        Ok(Snapshot {
            memory: memory.collect(),
            view,
        })
    }

    pub fn report(&self) -> RegionReport {
        let role = match (&self.failed, self.leading_epoch()) {
            (Some(_), _) => RegionRole::Failed,
            (None, Err(_)) if self.follows() => RegionRole::Follower,
            (None, Err(_)) => RegionRole::Opening,
            (None, Ok(_)) => RegionRole::Leader,
        };
        RegionReport {
            region: self.id,
            raft_id: self.status.raft_id,
            role,
            epoch: self.status.term,
            last_index: self.status.last_index,
            applied_index: self.applied,
            last_term: self.status.last_term,
            schema_version: self.table.schema.version,
            voters: self.members.voters.clone(),
            learners: self.members.learners.clone(),
            hot: self.status.is_hot,
            is_elected: self.status.leads && role == RegionRole::Opening,
        }
    }
}

/// A region that a datanode holds.
pub struct Region {
    pub id: RegionId,
    pub state: RefCell<State>,
    /// One flush, manifest load or edit at a time.
    pub files: Lock,
    pub is_loading: Cell<bool>,
    /// Somebody else would have begun to load.
    pub asked_again: Mailbox<()>,
    pub is_flushing: Cell<bool>,
    pub is_compacting: Cell<bool>,
    pub quiet: RefCell<Quiet>,
    pub cleaning: RefCell<Cleaning>,
}

impl Region {
    pub fn new(id: RegionId, checkpoint: Checkpoint, manifest: Option<View>) -> Rc<Self> {
        Rc::new(Self {
            id,
            state: RefCell::new(State::new(id, checkpoint, manifest)),
            files: Lock::default(),
            is_loading: Cell::new(false),
            asked_again: Mailbox::default(),
            is_flushing: Cell::new(false),
            is_compacting: Cell::new(false),
            quiet: RefCell::default(),
            cleaning: RefCell::default(),
        })
    }

    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.borrow())
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.borrow_mut())
    }

    pub fn set_status(&self, status: GroupStatus) {
        self.change(|state| state.status = status);
    }

    pub fn set_members(&self, members: Membership) {
        self.change(|state| state.members = members);
    }

    /// Whether this datanode leads the region in an epoch that the caller may ask for, with the columns that it means.
    pub fn admit(&self, epoch: u64, made_for: u64, sim: &Sim) -> Result<u64> {
        let current = self.read(State::leading_epoch)?;
        if epoch != 0 && epoch < current && holds("OlderEpochIsRefused") {
            sim.hit(Branch::OlderEpochIsRefused);
            return Err(Error::conflict("the request is for an earlier epoch"));
        }
        if epoch > current && holds("NewerEpochIsRefused") {
            return Err(Error::unavailable("the request is for a later epoch"));
        }
        if made_for > self.read(|s| s.table().schema.version) && holds("NewerSchemaIsWaitedFor") {
            sim.hit(Branch::NewerSchemaIsWaitedFor);
            return Err(Error::unavailable("the table is to be altered here first"));
        }
        Ok(current)
    }
}
