//! Steps the Raft groups of a datanode: inputs in, one durable batch a turn, committed entries out.
//!
//! The core calls nothing but the [`LogStore`]: no clock, no task, no random number. Elections never happen by
//! timeout here: a group with one voter elects itself when it is opened, all others are told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use greptime_types::{Error, RegionId};
use raft::eraftpb::{HardState, Message};
use raft::{Config, RawNode, StateRole};

use super::group::Group;
use super::record::{FIRST_POSITION, GroupRecord, encode_raft};
use super::storage::RegionStorage;
use super::{Batch, Key, LogError, LogStore};
use crate::defences::Defence;

/// Limits of the core.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Payload that is taken into one turn; more throughput than without a limit, and a bounded delay.
    pub turn_bytes: u64,
    /// Proposed and not yet committed, per group; further proposals are refused.
    pub uncommitted_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            turn_bytes: 4 << 20,
            uncommitted_bytes: 64 << 20,
        }
    }
}

/// Starts a group for good; repeated, it changes nothing.
#[derive(Clone, Debug)]
pub struct Initialise {
    pub region: RegionId,
    pub raft_id: u64,
    pub voters: Vec<u64>,
    pub checkpoint: Bytes,
}

#[derive(Debug)]
pub enum Input {
    Initialise(Initialise),
    /// `token` comes back with the committed entry, or as refused.
    Propose {
        region: RegionId,
        token: u64,
        data: Bytes,
    },
    Campaign {
        region: RegionId,
    },
    Message {
        region: RegionId,
        message: Box<Message>,
    },
    /// Rows up to `through` are in files of a known manifest version: forget their entries, and keep what a
    /// restart needs instead.
    Trim {
        region: RegionId,
        through: u64,
        checkpoint: Bytes,
    },
    Drop {
        region: RegionId,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct CommittedEntry {
    pub index: u64,
    pub term: u64,
    /// Empty in the entry with which a leader begins its term.
    pub data: Bytes,
    /// Of the proposal that this process made.
    pub token: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Committed {
    pub region: RegionId,
    pub entries: Vec<CommittedEntry>,
}

/// Where a group stands after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    pub raft_id: u64,
    pub leads: bool,
    pub term: u64,
    pub last_index: u64,
}

#[derive(Debug, Default)]
pub struct Output {
    /// In the order of the log for each region. The caller applies them, says [`LogCore::applied`], and only
    /// then answers.
    pub committed: Vec<Committed>,
    /// Proposals that will not be committed by this process; the sender may try elsewhere.
    pub refused: Vec<(u64, Error)>,
    pub status: Vec<(RegionId, GroupStatus)>,
    /// Regions that this turn started or dropped, now on disk.
    pub initialised: Vec<RegionId>,
    pub dropped: Vec<RegionId>,
    pub trimmed: Vec<(RegionId, u64)>,
}

/// Nothing of the request was done.
pub fn full_disk() -> Error {
    Error::exhausted("the disk of the datanode's log is full; make space on its volume, and retry")
}

pub struct LogCore {
    store: Arc<dyn LogStore>,
    options: LogOptions,
    groups: BTreeMap<RegionId, Group>,
    /// Groups that may have something to do.
    active: BTreeSet<RegionId>,
    initialise: Vec<Initialise>,
    drop: Vec<RegionId>,
    refused: Vec<(u64, Error)>,
}

impl LogCore {
    /// Opens the groups that are on disk; `flushed` names them with the index up to which rows are in files.
    /// A group that cannot be opened does not keep the others from it.
    pub fn open(
        store: Arc<dyn LogStore>,
        options: LogOptions,
        flushed: &BTreeMap<RegionId, u64>,
    ) -> (Self, Vec<(RegionId, LogError)>) {
        let mut core = Self {
            store,
            options,
            groups: BTreeMap::new(),
            active: BTreeSet::new(),
            initialise: Vec::new(),
            drop: Vec::new(),
            refused: Vec::new(),
        };
        let mut failed = Vec::new();
        for (region, index) in flushed {
            if let Err(error) = core.open_group(*region, *index) {
                failed.push((*region, error));
            }
        }
        (core, failed)
    }

    fn open_group(&mut self, region: RegionId, applied: u64) -> Result<(), LogError> {
        let storage = RegionStorage::open(Arc::clone(&self.store), region, applied)?;
        let (raft_id, alone) = (storage.record.raft_id, storage.record.is_alone());
        let applied = applied.max(storage.record.trimmed.index);
        let config = Config {
            id: raft_id,
            applied,
            // The library draws a random election timeout from [min, max): this range holds one value.
            election_tick: 10,
            heartbeat_tick: 1,
            min_election_tick: 10,
            max_election_tick: 11,
            max_size_per_msg: 1 << 20,
            check_quorum: false,
            pre_vote: false,
            max_committed_size_per_ready: self.options.turn_bytes,
            max_uncommitted_size: self.options.uncommitted_bytes,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage, &logger)
            .map_err(|e| LogError::Corruption(format!("group of region {region}: {e}")))?;
        let group = Group::new(raw, alone);
        self.groups.insert(region, group);
        self.active.insert(region);
        Ok(())
    }

    /// Whether a turn would do something.
    pub fn has_work(&self) -> bool {
        !(self.active.is_empty()
            && self.initialise.is_empty()
            && self.drop.is_empty()
            && self.refused.is_empty())
    }

    pub fn has_group(&self, region: RegionId) -> bool {
        self.groups.contains_key(&region)
    }

    /// Takes an input; its effects come with the next turn.
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Initialise(initialise) => self.initialise.push(initialise),
            Input::Drop { region } => self.drop.push(region),
            Input::Propose { region, token, data } => self.propose(region, token, data),
            Input::Campaign { region } => {
                if let Some(group) = self.groups.get_mut(&region) {
                    group.campaign = true;
                    self.active.insert(region);
                }
            }
            Input::Message { region, message } => {
                if let Some(group) = self.groups.get_mut(&region) {
                    // A message of a stale or unknown peer is as good as lost.
                    let _ = group.raw.step(*message);
                    self.active.insert(region);
                }
            }
            Input::Trim {
                region,
                through,
                checkpoint,
            } => {
                if let Some(group) = self.groups.get_mut(&region) {
                    group.trim = Some((through, checkpoint));
                    self.active.insert(region);
                }
            }
        }
    }

    fn propose(&mut self, region: RegionId, token: u64, data: Bytes) {
        let Some(group) = self.groups.get_mut(&region) else {
            let error = Error::unavailable(format!("region {region} is not on this node"));
            self.refused.push((token, error));
            return;
        };
        if self.store.is_full() && Defence::FullLogTakesNoRows.holds() {
            // What room there is belongs to what is under way, and to what makes more.
            self.refused.push((token, full_disk()));
            return;
        }
        if let Err(error) = group.raw.propose(Vec::new(), data.into()) {
            let error = match error {
                raft::Error::ProposalDropped if group.raw.raft.state == StateRole::Leader => {
                    Error::exhausted(format!("region {region} has too many writes under way; retry"))
                }
                _ => Error::unavailable(format!("this node does not lead region {region}")),
            };
            self.refused.push((token, error));
            return;
        }
        let (index, term) = (group.raw.raft.raft_log.last_index(), group.raw.raft.term);
        group.proposed.insert(index, (term, token));
        self.active.insert(region);
    }

    /// The caller has applied the entries of `region` up to `index`.
    pub fn applied(&mut self, region: RegionId, index: u64) {
        if let Some(group) = self.groups.get_mut(&region) {
            group.raw.advance_apply_to(index);
            group.raw.mut_store().applied(index);
            self.active.insert(region);
        }
    }

    /// One turn: everything that is new becomes durable in one batch. `send` gets messages for other nodes; a
    /// leader's go out before the batch is written, since followers may write at the same time.
    ///
    /// After an error nothing of this turn may be acknowledged, and the core must not be used again. After
    /// [`LogError::Full`] nothing of it is on disk.
    pub fn turn(&mut self, send: &mut dyn FnMut(RegionId, Message)) -> Result<Output, LogError> {
        let mut output = Output {
            refused: std::mem::take(&mut self.refused),
            ..Output::default()
        };
        let mut batch = Batch::default();
        self.collect_dropped(&mut batch, &mut output);
        self.collect_initialised(&mut batch, &mut output);
        let active = std::mem::take(&mut self.active);
        let mut readies = Vec::new();
        for region in &active {
            if let Some(group) = self.groups.get_mut(region) {
                group.begin(*region, &mut batch, &mut readies, send)?;
            }
        }
        if !batch.is_empty() {
            self.store.append(batch)?;
        }
        for region in output.initialised.clone() {
            self.open_group(region, FIRST_POSITION.index)?;
        }
        for (region, ready) in readies {
            if let Some(group) = self.groups.get_mut(&region) {
                group.persisted(region, ready, &mut output, send)?;
            }
        }
        for region in active {
            let Some(group) = self.groups.get_mut(&region) else {
                continue;
            };
            output
                .trimmed
                .extend(group.finish_trim().map(|through| (region, through)));
            output.status.push((region, group.status()));
            if group.raw.has_ready() || group.wants_campaign() {
                self.active.insert(region);
            }
        }
        Ok(output)
    }

    fn collect_dropped(&mut self, batch: &mut Batch, output: &mut Output) {
        for region in std::mem::take(&mut self.drop) {
            self.initialise.retain(|i| i.region != region);
            if let Some(group) = self.groups.remove(&region) {
                let lost = Error::not_found(format!("region {region} was dropped"));
                output
                    .refused
                    .extend(group.proposed.values().map(|(_, token)| (*token, lost.clone())));
            }
            batch.region(region).delete = true;
            output.dropped.push(region);
        }
    }

    fn collect_initialised(&mut self, batch: &mut Batch, output: &mut Output) {
        for initialise in std::mem::take(&mut self.initialise) {
            let region = initialise.region;
            if self.groups.contains_key(&region) || output.initialised.contains(&region) {
                continue;
            }
            if output.dropped.contains(&region) {
                // One batch cannot delete a region and begin it again.
                self.initialise.push(initialise);
                continue;
            }
            let record = GroupRecord::new(initialise.raft_id, initialise.voters);
            let mut hard_state = HardState::default();
            hard_state.set_term(FIRST_POSITION.term);
            hard_state.set_commit(FIRST_POSITION.index);
            let changes = batch.region(region);
            changes.put.insert(Key::Group, record.encode());
            changes.put.insert(Key::HardState, encode_raft(&hard_state));
            changes.put.insert(Key::Checkpoint, initialise.checkpoint);
            output.initialised.push(region);
        }
    }
}
