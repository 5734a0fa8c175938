//! One group within a turn: what it must write, and what follows once that is on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use greptime_types::{Error, NodeId, RegionId};
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType};
use raft::{RawNode, Ready, StateRole};

use super::defences::Defence;
use super::feed::Feed;
use super::io::{Authority, Checkpointed, CommittedEntry, GroupStatus, Network, Outgoing, Output};
use super::members::Membership;
use super::reads::Reads;
use super::record::{Position, encode_raft};
use super::storage::RegionStorage;
use super::trim::TrimEntry;
use super::{Batch, Key, LogError};

mod changes;
mod checkpoints;

use changes::PendingChange;
use checkpoints::Restoring;

/// An election that is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Campaign {
    /// It needs nobody's vote, if it still is alone when everything is applied.
    Alone,
    /// If its term is still not above the one that whoever told it knew of.
    Told { authority: Authority, seen_term: u64 },
}

impl Campaign {
    pub fn is_fallback(&self) -> bool {
        matches!(
            self,
            Self::Told {
                authority: Authority::Fallback,
                ..
            }
        )
    }
}

pub(crate) struct Group {
    pub region: RegionId,
    pub raw: RawNode<RegionStorage>,
    pub campaign: Option<Campaign>,
    /// In whose name its last campaign was.
    authority: u64,
    /// Proposals under way: index → (term, token).
    pub proposed: BTreeMap<u64, (u64, u64)>,
    pub reads: Reads,
    pub feed: Feed,
    /// The commit index moved since the hard state was written.
    hard_state_behind: bool,
    /// Asked for, with the checkpoint that takes the place of the entries.
    pub trim: Option<TrimEntry>,
    /// In the batch of this turn.
    trimming: Option<(Position, Bytes)>,
    restoring: Option<Restoring>,
    changes: VecDeque<PendingChange>,
    /// Of `changes`, those whose commit is in the batch of this turn.
    changing: usize,
    /// To be said without waiting for the disk.
    outbox: Vec<Message>,
    /// It is not hot any more, and has yet to let go of what it has.
    pub cooling: bool,
    /// Members were read or changed since they were last told.
    pub members_news: bool,
    /// Ticks without a word of the leader.
    pub silent: u32,
    /// It led at the end of the turn before.
    led: bool,
}

impl Group {
    /// `fed`: the index up to which the machine's state goes.
    pub fn new(region: RegionId, raw: RawNode<RegionStorage>, fed: u64) -> Self {
        let mut group = Self {
            region,
            campaign: None,
            authority: 0,
            proposed: BTreeMap::new(),
            reads: Reads::default(),
            feed: Feed::new(fed),
            hard_state_behind: false,
            trim: None,
            trimming: None,
            restoring: None,
            changes: VecDeque::new(),
            changing: 0,
            outbox: Vec::new(),
            cooling: false,
            members_news: true,
            silent: 0,
            led: false,
            raw,
        };
        group.campaign = group.needs_no_votes().then_some(Campaign::Alone);
        group
    }

    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn membership(&self) -> Membership {
        let record = &self.raw.store().record;
        Membership::of(&record.members, &record.nodes)
    }

    /// There is no other replica.
    pub fn is_alone(&self) -> bool {
        self.needs_no_votes() && self.raw.store().record.members.learners.is_empty()
    }

    fn needs_no_votes(&self) -> bool {
        let members = &self.raw.store().record.members;
        members.voters == [self.raw.raft.id] && members.voters_outgoing.is_empty()
    }

    /// A leader knows what is committed only when it has committed something itself.
    fn can_read(&self) -> bool {
        self.leads() && self.reads.is_waiting() && self.raw.raft.commit_to_current_term()
    }

    pub fn status(&self) -> GroupStatus {
        let raft = &self.raw.raft;
        GroupStatus {
            raft_id: raft.id,
            leads: self.leads(),
            leader: raft.leader_id,
            term: raft.term,
            last_index: raft.raft_log.last_index(),
            last_term: raft.raft_log.last_term(),
            committed: raft.raft_log.committed,
            is_hot: self.is_fed(),
        }
    }

    /// Whether committed entries go to the machine.
    fn is_fed(&self) -> bool {
        self.feed.is_hot || self.leads() || self.is_alone()
    }

    /// The library reads everything that is committed and not applied before it campaigns, so apply first.
    pub fn wants_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.campaign.is_some() && log.applied == log.committed
    }

    /// Whether a turn would do something for it.
    pub fn has_work(&self) -> bool {
        self.raw.has_ready()
            || self.wants_campaign()
            || self.can_read()
            || !self.changes.is_empty()
            || self.trim.is_some()
            || self.members_news
            || self.cooling
            || !self.outbox.is_empty()
            || self.wants_to_leave_joint()
            || (self.is_fed() && self.feed.is_behind())
    }

    /// It is in the middle of something that ends with this turn.
    pub fn is_busy(&self) -> bool {
        self.restoring.is_some() || self.trimming.is_some() || self.feed.is_out()
    }

    /// The entry that was appended last is the proposal of `token`.
    pub fn note_proposed(&mut self, token: u64) {
        let raft = &self.raw.raft;
        self.proposed
            .insert(raft.raft_log.last_index(), (raft.term, token));
    }

    /// Other replicas that live on the node.
    pub fn replicas_on(&self, node: NodeId) -> Vec<u64> {
        let others = |(id, at): (&u64, &NodeId)| (*at == node && *id != self.raw.raft.id).then_some(*id);
        self.raw.store().record.nodes.iter().filter_map(others).collect()
    }

    /// What it said to a leader there may have been lost, and the leader waits for it: it says that it is there. Who knows
    /// no leader says it to everybody there: one of an older term may think that it leads. Whether there is somebody.
    pub fn call_leader_on(&mut self, node: NodeId) -> bool {
        let raft = &self.raw.raft;
        let mut there = self.replicas_on(node);
        there.retain(|id| !self.leads() && (raft.leader_id == *id || raft.leader_id == 0));
        let calls: Vec<Message> = there
            .iter()
            .map(|id| {
                let mut call = Message::default();
                call.set_msg_type(MessageType::MsgHeartbeatResponse);
                (call.from, call.to, call.term) = (raft.id, *id, raft.term);
                call.commit = raft.raft_log.committed;
                call
            })
            .collect();
        self.outbox.extend(calls);
        !there.is_empty()
    }

    /// It has just begun. What a leader has said to it before was lost, and the leader waits for an answer.
    pub fn call_everybody(&mut self) {
        let nodes: BTreeSet<NodeId> = self.raw.store().record.nodes.values().copied().collect();
        for node in nodes {
            self.call_leader_on(node);
        }
    }

    /// Takes in a message of another replica.
    pub fn receive(&mut self, message: Message) {
        let raft = &self.raw.raft;
        let (kind, term) = (message.get_msg_type(), raft.term);
        if message.term != 0 && message.term < term {
            match kind {
                // It calls ([`Self::call_leader_on`]), and does not know who leads.
                MessageType::MsgHeartbeatResponse if self.leads() => self.raw.ping(),
                _ => self.answer_older_term(&message),
            }
            return;
        }
        if matches!(
            kind,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        ) {
            self.silent = 0;
        }
        // A message of a stale or unknown replica is as good as lost.
        let _ = self.raw.step(message);
    }

    /// The library says nothing to somebody of an older term. A leader would never learn that this replica is further,
    /// and a candidate would ask again in vain.
    fn answer_older_term(&mut self, message: &Message) {
        let kind = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot => {
                MessageType::MsgAppendResponse
            }
            MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
            _ => return,
        };
        if !Defence::OlderTermIsAnswered.holds() {
            return;
        }
        let mut answer = Message::default();
        answer.set_msg_type(kind);
        answer.to = message.from;
        answer.from = self.raw.raft.id;
        answer.term = self.raw.raft.term;
        answer.reject = true;
        self.outbox.push(answer);
    }

    fn send(&self, message: Message, network: &mut dyn Network) {
        // Whoever is not known cannot be reached; it is said again when it is.
        let Some(to) = self.raw.store().record.nodes.get(&message.to).copied() else {
            return;
        };
        let authority = match message.get_msg_type() {
            MessageType::MsgRequestVote => self.authority,
            _ => 0,
        };
        network.send(Outgoing {
            to,
            region: self.region,
            message,
            authority,
        });
    }

    /// What must be written this turn.
    pub fn begin(
        &mut self,
        batch: &mut Batch,
        readies: &mut Vec<(RegionId, Ready)>,
        network: &mut dyn Network,
    ) -> Result<(), LogError> {
        for message in std::mem::take(&mut self.outbox) {
            self.send(message, network);
        }
        self.begin_campaign()?;
        self.begin_trim(batch)?;
        if self.can_read()
            && let Some(round) = self.reads.begin_round()
        {
            self.raw.read_index(round);
        }
        if self.wants_to_leave_joint() {
            // Refused only while another change is under way, which then leaves it.
            let _ = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
        self.begin_changes(batch);
        if !self.raw.has_ready() {
            return Ok(());
        }
        let mut ready = self.raw.ready();
        for message in ready.take_messages() {
            self.send(message, network);
        }
        if !ready.snapshot().is_empty() {
            self.begin_restore(&ready, batch)?;
        }
        if let Some(hard_state) = ready.hs() {
            self.raw.mut_store().hard_state = hard_state.clone();
            self.hard_state_behind = true;
        }
        if !ready.entries().is_empty() || ready.must_sync() {
            self.write(&ready, batch);
        }
        readies.push((self.region, ready));
        Ok(())
    }

    fn begin_campaign(&mut self) -> Result<(), LogError> {
        if !self.wants_campaign() {
            return Ok(());
        }
        if !self.raw.raft.promotable() && Defence::OnlyVotersCampaign.holds() {
            self.campaign = None;
            return Ok(());
        }
        match self.campaign.take() {
            Some(Campaign::Alone) if !self.needs_no_votes() => return Ok(()),
            // Others may have gone on while this replica had yet to apply what is committed.
            Some(Campaign::Told { seen_term, .. })
                if self.raw.raft.term > seen_term && Defence::OldCampaignIsIgnored.holds() =>
            {
                return Ok(());
            }
            Some(Campaign::Told { authority, .. }) => self.authority = authority.code(),
            _ => {}
        }
        self.raw
            .campaign()
            .map_err(|e| LogError::Read(format!("region {} campaigns: {e}", self.region)))
    }

    fn write(&mut self, ready: &Ready, batch: &mut Batch) {
        let changes = batch.region(self.region);
        changes.entries.extend_from_slice(ready.entries());
        if self.hard_state_behind {
            let hard_state = encode_raft(&self.raw.store().hard_state);
            changes.put.insert(Key::HardState, hard_state);
            self.hard_state_behind = false;
        }
        let store = self.raw.mut_store();
        if store.record.void_tail && !ready.entries().is_empty() && self.restoring.is_none() {
            store.record.void_tail = false;
            changes.put.insert(Key::Group, store.record.encode());
        }
    }

    /// The batch is on disk.
    pub fn persisted(
        &mut self,
        mut ready: Ready,
        output: &mut Output,
        network: &mut dyn Network,
    ) -> Result<(), LogError> {
        let restored = self.restoring.take();
        if let Some(restoring) = &restored {
            let (record, hard_state) = (restoring.record.clone(), restoring.hard_state.clone());
            self.raw.mut_store().restored(record, hard_state);
            self.changes.clear();
            self.changing = 0;
        }
        self.raw.mut_store().appended(ready.take_entries());
        for message in ready.take_persisted_messages() {
            self.send(message, network);
        }
        for read in ready.take_read_states() {
            let tokens = self.reads.end_round(&read.request_ctx);
            let reads = tokens.into_iter().map(|token| (self.region, token, read.index));
            output.reads.extend(reads);
        }
        let mut entries = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().hard_state.commit = commit;
            self.hard_state_behind = true;
        }
        for message in light.take_messages() {
            self.send(message, network);
        }
        entries.extend(light.take_committed_entries());
        if let Some(restoring) = restored {
            let index = restoring.record.trimmed.index;
            self.feed.restart(index);
            self.members_news = true;
            self.advance();
            output.restored.push(Checkpointed {
                region: self.region,
                checkpoint: restoring.checkpoint,
            });
        }
        self.commit(entries, output)?;
        if !self.leads() && self.is_asked() {
            let lost = Error::unavailable(format!("this node no longer leads region {}", self.region));
            self.give_up(&lost, output);
        }
        Ok(())
    }

    /// Changes of members that are in the batch of this turn come into force.
    pub fn finish(&mut self, output: &mut Output) -> Result<(), LogError> {
        self.finish_changes()?;
        self.finish_trim(output);
        let leads = self.leads();
        // Whoever led without being hot was fed as long as it did.
        self.cooling |= std::mem::replace(&mut self.led, leads) && !leads && !self.feed.is_hot;
        if std::mem::take(&mut self.cooling) && !self.is_fed() {
            self.cool_down(output)?;
        }
        self.catch_up(output)
    }

    /// Somebody waits for what only a leader can do.
    fn is_asked(&self) -> bool {
        !self.proposed.is_empty() || self.reads.is_open()
    }

    /// Nobody here will answer what was asked of the leader.
    pub fn give_up(&mut self, why: &Error, output: &mut Output) {
        let tokens = std::mem::take(&mut self.proposed);
        let tokens = tokens.into_values().map(|(_, token)| token);
        let tokens = tokens.chain(self.reads.give_up());
        output.refused.extend(tokens.map(|token| (token, why.clone())));
    }

    fn commit(&mut self, entries: Vec<Entry>, output: &mut Output) -> Result<(), LogError> {
        let Some(last) = entries.last().map(|e| e.index) else {
            return Ok(());
        };
        let first = entries[0].index;
        let entries = entries.into_iter().map(|e| self.committed(e, output));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        self.feed.committed(last);
        match self.is_fed() && self.feed.is_next(first) {
            true => self.feed.give(self.region, entries, output),
            // It reads them from the store when they are wanted.
            false => self.remember(entries),
        }
        self.advance();
        Ok(())
    }

    /// Proposals are answered when the machine has them.
    fn remember(&mut self, entries: Vec<CommittedEntry>) {
        let asked = entries.iter().filter_map(|e| Some((e.index, (e.term, e.token?))));
        self.proposed.extend(asked);
    }

    /// Gives the machine the next of what it has missed.
    fn catch_up(&mut self, output: &mut Output) -> Result<(), LogError> {
        if !self.is_fed() || !self.feed.is_behind() {
            return Ok(());
        }
        let range = self.feed.missing();
        let entries = self
            .raw
            .store()
            .read(range.start, range.end, super::feed::CHUNK_BYTES)?;
        let entries = entries.into_iter().map(|entry| {
            let token = self.token_of(&entry, output);
            plain(entry, token)
        });
        let entries = entries.collect();
        self.feed.give(self.region, entries, output);
        Ok(())
    }

    /// Tells Raft how far this replica has applied, but not beyond a change of members that is not in force.
    pub fn advance(&mut self) {
        let limit = self.changes.front().map_or(u64::MAX, |c| c.index - 1);
        let done = match self.is_fed() {
            true => self.feed.applied(),
            false => self.feed.last_committed(),
        };
        let target = done.min(limit);
        if target > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(target);
            self.raw.mut_store().applied(target);
        }
    }

    fn token_of(&mut self, entry: &Entry, output: &mut Output) -> Option<u64> {
        match self.proposed.remove(&entry.index) {
            Some((term, token)) if term == entry.term => Some(token),
            Some((_, token)) => {
                let lost =
                    Error::unavailable(format!("another leader of region {} took the place", self.region));
                output.refused.push((token, lost));
                None
            }
            None => None,
        }
    }

    fn committed(&mut self, entry: Entry, output: &mut Output) -> Result<CommittedEntry, LogError> {
        let token = self.token_of(&entry, output);
        match entry.get_entry_type() {
            EntryType::EntryNormal if TrimEntry::is_one(&entry) => {
                self.trim = Some(TrimEntry::decode(self.region, &entry)?);
            }
            EntryType::EntryNormal => {}
            _ => self.note_change(&entry)?,
        }
        Ok(plain(entry, token))
    }
}

/// What is the log's own business is nothing to the machine, but keeps its place.
fn plain(entry: Entry, token: Option<u64>) -> CommittedEntry {
    let is_of_machine = entry.get_entry_type() == EntryType::EntryNormal && !TrimEntry::is_one(&entry);
    CommittedEntry {
        index: entry.index,
        term: entry.term,
        data: match is_of_machine {
            true => entry.data,
            false => Bytes::new(),
        },
        token,
    }
}
