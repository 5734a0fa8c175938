//! Steps the Raft groups of a datanode: inputs in, one durable batch a turn, committed entries out.
//!
//! The core calls nothing but the [`LogStore`]: no clock, no task, no random number. A group that needs no votes but its
//! own elects itself when it is opened. Everybody else leads when told to; when metasrv is away, elections begin after a
//! number of ticks that differs from replica to replica.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use greptime_types::{Error, NodeId, RegionId};
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{Config, ProgressState, RawNode, SnapshotStatus, StateRole};

use super::defences::Defence;
use super::group::{Campaign, Group};
use super::io::{Authority, GroupStatus, Initialise, Input, LogOptions, Network, Output};
use super::members::{Change, Member, Membership};
use super::record::{FIRST_POSITION, GroupRecord, encode_raft};
use super::snapshot::nodes_of;
use super::storage::RegionStorage;
use super::trim::TrimEntry;
use super::{Batch, Key, LogError, LogStore};

mod recover;

use recover::Recover;

/// Ticks without a word of a leader after which a replica asks for votes, if metasrv has been away for long: so many at
/// least, and up to as many more, differently for each replica and term.
const PATIENCE: u64 = 4;

/// Entries in one message to a replica, but for one that is larger. As many messages as may be under way
/// ([`LogOptions::inflight`]) are read from the log at once for a replica that has to catch up, and meanwhile no other group
/// of the node commits anything.
const MESSAGE_BYTES: u64 = 16 << 10;

/// As the library marks the votes that a leader has asked for.
const TRANSFER: &[u8] = b"CampaignTransfer";

pub struct LogCore {
    store: Arc<dyn LogStore>,
    options: LogOptions,
    groups: BTreeMap<RegionId, Group>,
    /// Groups that may have something to do.
    active: BTreeSet<RegionId>,
    initialise: Vec<Initialise>,
    drop: Vec<RegionId>,
    recover: Vec<Recover>,
    refused: Vec<(u64, Error)>,
    metasrv_epoch: u64,
    /// metasrv has been away for the whole time of a fallback election.
    orphaned: bool,
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
            recover: Vec::new(),
            refused: Vec::new(),
            metasrv_epoch: 0,
            orphaned: false,
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
        let raft_id = storage.record.raft_id;
        let applied = applied.max(storage.record.trimmed.index);
        let config = Config {
            id: raft_id,
            applied,
            // The library draws a random election timeout from [min, max): this range holds one value. It is never
            // ticked.
            election_tick: 10,
            heartbeat_tick: 1,
            min_election_tick: 10,
            max_election_tick: 11,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: self.options.inflight,
            check_quorum: false,
            pre_vote: false,
            max_committed_size_per_ready: self.options.turn_bytes,
            max_uncommitted_size: self.options.uncommitted_bytes,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage, &logger)
            .map_err(|e| LogError::Corruption(format!("group of region {region}: {e}")))?;
        self.groups.insert(region, Group::new(region, raw, applied));
        self.active.insert(region);
        Ok(())
    }

    /// Whether a turn would do something.
    pub fn has_work(&self) -> bool {
        !(self.active.is_empty()
            && self.initialise.is_empty()
            && self.drop.is_empty()
            && self.recover.is_empty()
            && self.refused.is_empty())
    }

    pub fn has_group(&self, region: RegionId) -> bool {
        self.groups.contains_key(&region)
    }

    pub fn status(&self, region: RegionId) -> Option<GroupStatus> {
        self.groups.get(&region).map(Group::status)
    }

    pub fn membership(&self, region: RegionId) -> Option<Membership> {
        self.groups.get(&region).map(Group::membership)
    }

    /// Takes an input; its effects come with the next turn.
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Initialise(initialise) => self.initialise.push(initialise),
            Input::Drop { region } => self.drop.push(region),
            Input::Recover {
                region,
                raft_id,
                seen_term,
                files,
            } => self.recover.push(Recover {
                region,
                raft_id,
                seen_term,
                files,
            }),
            Input::Propose { region, token, data } => self.propose(region, token, data),
            Input::Read { region, token } => self.read(region, token),
            Input::Change {
                region,
                token,
                changes,
                members,
            } => self.change(region, token, &changes, &members),
            Input::Campaign {
                region,
                seen_term,
                authority,
            } => self.campaign(region, seen_term, authority),
            Input::Transfer { region, to } => self.with(region, |group| {
                if group.leads() && to != group.raw.raft.id {
                    group.raw.transfer_leader(to);
                }
            }),
            Input::AbortTransfer { region } => {
                self.with(region, |group| group.raw.raft.abort_leader_transfer());
            }
            Input::Message {
                from,
                region,
                message,
                authority,
            } => self.receive(from, region, *message, authority),
            Input::PeerLost(node) => self.peer_lost(node),
            Input::PeerFound(node) => self.peer_found(node),
            Input::Role { region, is_hot } => self.role(region, is_hot),
            Input::MetasrvEpoch(epoch) => self.metasrv_epoch = self.metasrv_epoch.max(epoch),
            Input::Tick { orphaned } => self.tick(orphaned),
            Input::MetasrvFound => {
                self.orphaned = false;
                for group in self.groups.values_mut() {
                    group.silent = 0;
                    group.campaign.take_if(|campaign| campaign.is_fallback());
                }
            }
            Input::Trim {
                region,
                through,
                checkpoint,
            } => self.trim(region, TrimEntry { through, checkpoint }),
        }
    }

    fn with(&mut self, region: RegionId, change: impl FnOnce(&mut Group)) {
        if let Some(group) = self.groups.get_mut(&region) {
            change(group);
            self.active.insert(region);
        }
    }

    fn propose(&mut self, region: RegionId, token: u64, data: Bytes) {
        let Some(group) = self.groups.get_mut(&region) else {
            self.refused.push((token, not_here(region)));
            return;
        };
        // The library would pass it on to the leader, and nobody could say what became of it.
        if !group.leads() && Defence::OnlyLeadersPropose.holds() {
            self.refused.push((token, does_not_lead(region)));
            return;
        }
        if let Some(full) = self.store.full()
            && Defence::FullLogTakesNoRows.holds()
        {
            // What room there is belongs to what is under way, and to what makes more.
            self.refused.push((token, full.error()));
            return;
        }
        if let Err(error) = group.raw.propose(Vec::new(), data.into()) {
            let raft = &group.raw.raft;
            let error = match error {
                raft::Error::ProposalDropped if raft.lead_transferee.is_some() => {
                    Error::unavailable(format!("region {region} is being handed over; retry"))
                }
                raft::Error::ProposalDropped if raft.state == StateRole::Leader => {
                    Error::exhausted(format!("region {region} has too many writes under way; retry"))
                }
                _ => does_not_lead(region),
            };
            self.refused.push((token, error));
            return;
        }
        group.note_proposed(token);
        self.active.insert(region);
    }

    fn change(&mut self, region: RegionId, token: u64, changes: &[Change], members: &[Member]) {
        let result = match self.groups.get_mut(&region) {
            None => Err(not_here(region)),
            Some(group) if !group.leads() => Err(does_not_lead(region)),
            Some(group) => group
                .change_members(changes, members)
                .inspect(|()| group.note_proposed(token)),
        };
        match result {
            Ok(()) => drop(self.active.insert(region)),
            Err(error) => self.refused.push((token, error)),
        }
    }

    fn read(&mut self, region: RegionId, token: u64) {
        match self.groups.get_mut(&region) {
            None => self.refused.push((token, not_here(region))),
            Some(group) if !group.leads() => self.refused.push((token, does_not_lead(region))),
            Some(group) => {
                group.reads.ask(token);
                self.active.insert(region);
            }
        }
    }

    /// What comes late, from somebody who knew less, must not unseat a leader.
    fn campaign(&mut self, region: RegionId, seen_term: u64, authority: Authority) {
        if self.is_outdated(authority) {
            return;
        }
        self.with(region, |group| {
            let is_news = group.raw.raft.term <= seen_term || !Defence::OldCampaignIsIgnored.holds();
            if !group.leads() && is_news {
                group.campaign = Some(Campaign::Told { authority, seen_term });
            }
        });
    }

    /// Whether votes in this name could take a lease from somebody who holds it rightly.
    fn is_outdated(&mut self, authority: Authority) -> bool {
        if !Defence::VotesHaveAnAuthority.holds() {
            return false;
        }
        match authority {
            Authority::Fallback => !self.orphaned,
            Authority::Metasrv { epoch } if epoch < self.metasrv_epoch => true,
            Authority::Metasrv { epoch } => {
                self.metasrv_epoch = epoch;
                false
            }
        }
    }

    fn receive(&mut self, from: NodeId, region: RegionId, message: Message, authority: u64) {
        let is_vote = message.get_msg_type() == MessageType::MsgRequestVote && message.context != TRANSFER;
        if is_vote && self.is_outdated(Authority::of_code(authority)) {
            return;
        }
        if let Some(group) = self.groups.get_mut(&region) {
            // For a replica that was here before its disk was lost: this one has other entries and another vote.
            if message.to != group.raw.raft.id && Defence::MessageNamesItsReplica.holds() {
                return;
            }
            let nodes = &mut group.raw.mut_store().record.nodes;
            nodes.entry(message.from).or_insert(from);
            group.receive(message);
            self.active.insert(region);
        }
    }

    fn peer_lost(&mut self, node: NodeId) {
        for (region, group) in self.groups.iter_mut().filter(|(_, g)| g.leads()) {
            for raft_id in group.replicas_on(node) {
                let is_waiting = |p: &raft::Progress| p.state == ProgressState::Snapshot;
                if group.raw.raft.prs().get(raft_id).is_some_and(is_waiting) {
                    group.raw.report_snapshot(raft_id, SnapshotStatus::Failure);
                }
                group.raw.report_unreachable(raft_id);
                self.active.insert(*region);
            }
        }
    }

    fn peer_found(&mut self, node: NodeId) {
        for (region, group) in &mut self.groups {
            if group.leads() && !group.replicas_on(node).is_empty() {
                group.raw.ping();
                self.active.insert(*region);
            } else if Defence::FollowerCallsAgain.holds() && group.call_leader_on(node) {
                self.active.insert(*region);
            }
        }
    }

    fn role(&mut self, region: RegionId, is_hot: bool) {
        self.with(region, |group| {
            // A leader is needed as it is.
            if group.feed.is_hot != is_hot && (is_hot || !(group.leads() || group.is_alone())) {
                group.feed.is_hot = is_hot;
                group.cooling = !is_hot;
            }
        });
    }

    fn tick(&mut self, orphaned: bool) {
        self.orphaned = orphaned;
        for (region, group) in self.groups.iter_mut().filter(|(_, g)| !g.is_alone()) {
            if group.leads() {
                group.raw.ping();
            } else {
                group.silent = group.silent.saturating_add(1);
                let raft = &group.raw.raft;
                let patience =
                    PATIENCE + mix(region.as_u64() ^ raft.id.rotate_left(32) ^ raft.term) % PATIENCE;
                if orphaned && u64::from(group.silent) >= patience {
                    group.silent = 0;
                    group.campaign = Some(Campaign::Told {
                        authority: Authority::Fallback,
                        seen_term: raft.term,
                    });
                }
            }
            self.active.insert(*region);
        }
    }

    fn trim(&mut self, region: RegionId, trim: TrimEntry) {
        self.with(region, |group| {
            if group.is_alone() {
                group.trim = Some(trim);
            } else if group.leads() {
                let (context, data) = trim.encode();
                // The next flush says it again.
                let _ = group.raw.propose(context, data);
            }
        });
    }

    /// Up to which index the caller has applied what it was given.
    pub fn machine_applied(&self, region: RegionId) -> Option<u64> {
        self.groups.get(&region).map(|group| group.feed.applied())
    }

    /// The caller has applied the entries of `region` up to `index`.
    pub fn applied(&mut self, region: RegionId, index: u64) {
        self.with(region, |group| {
            group.feed.machine_applied(index);
            group.advance();
        });
    }

    /// One turn: everything that is new becomes durable in one batch. `network` gets messages for other nodes; a
    /// leader's go out before the batch is written, since followers may write at the same time.
    ///
    /// After an error nothing of this turn may be acknowledged, and the core must not be used again. After
    /// [`LogError::Full`] nothing of it is on disk.
    pub fn turn(&mut self, network: &mut dyn Network) -> Result<Output, LogError> {
        let mut output = Output {
            refused: std::mem::take(&mut self.refused),
            ..Output::default()
        };
        let mut batch = Batch::default();
        self.collect_dropped(&mut batch, &mut output);
        self.collect_initialised(&mut batch, &mut output);
        let recovered = self.collect_recovered(&mut batch, &mut output);
        let mut active = std::mem::take(&mut self.active);
        active.retain(|region| recovered.iter().all(|(other, _)| other != region));
        let mut readies = Vec::new();
        for region in &active {
            if let Some(group) = self.groups.get_mut(region) {
                group.begin(&mut batch, &mut readies, network)?;
            }
        }
        network.flush();
        if !batch.is_empty() {
            match self.store.append(batch) {
                Err(LogError::Write(_)) if !Defence::FailedWriteIsNone.holds() => {}
                written => written?,
            }
        }
        for region in &active {
            if let Some(group) = self.groups.get_mut(region) {
                group.note_trimmed();
            }
        }
        for region in output.initialised.clone() {
            self.open_group(region, 0)?;
            if Defence::FollowerCallsAgain.holds() {
                self.with(region, Group::call_everybody);
            }
        }
        self.reopen_recovered(&recovered, &mut output)?;
        for (region, ready) in readies {
            if let Some(group) = self.groups.get_mut(&region) {
                group.persisted(ready, &mut output, network)?;
            }
        }
        for region in active {
            let Some(group) = self.groups.get_mut(&region) else {
                continue;
            };
            group.finish(&mut output)?;
            output.status.push((region, group.status()));
            if std::mem::take(&mut group.members_news) {
                output.members.push((region, group.membership()));
            }
            if group.has_work() {
                self.active.insert(region);
            }
        }
        network.flush();
        Ok(output)
    }

    fn collect_dropped(&mut self, batch: &mut Batch, output: &mut Output) {
        for region in std::mem::take(&mut self.drop) {
            self.initialise.retain(|i| i.region != region);
            if let Some(mut group) = self.groups.remove(&region) {
                let lost = Error::not_found(format!("region {region} was dropped"));
                group.give_up(&lost, output);
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
            let nodes = nodes_of(&initialise.members);
            let (record, position) = match initialise.voters.is_empty() {
                true => (
                    GroupRecord::joining(initialise.raft_id, nodes),
                    Default::default(),
                ),
                false => (
                    GroupRecord::new(initialise.raft_id, initialise.voters, nodes),
                    FIRST_POSITION,
                ),
            };
            let mut hard_state = HardState::default();
            hard_state.set_term(position.term);
            hard_state.set_commit(position.index);
            let changes = batch.region(region);
            changes.put.insert(Key::Group, record.encode());
            changes.put.insert(Key::HardState, encode_raft(&hard_state));
            changes.put.insert(Key::Checkpoint, initialise.checkpoint);
            output.initialised.push(region);
        }
    }
}

fn not_here(region: RegionId) -> Error {
    Error::unavailable(format!("region {region} is not on this node"))
}

fn does_not_lead(region: RegionId) -> Error {
    Error::unavailable(format!("this node does not lead region {region}"))
}

/// Spreads numbers that differ little; the finalizer of SplitMix64.
fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
