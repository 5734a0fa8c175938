//! One group within a turn: what it must write, and what follows once that is on disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use greptime_types::{Error, RegionId};
use raft::eraftpb::{Entry, EntryType, Message};
use raft::{RawNode, Ready, StateRole};

use super::core::{Committed, CommittedEntry, GroupStatus, Output};
use super::record::{Position, encode_raft};
use super::storage::RegionStorage;
use super::{Batch, Key, LogError};

pub struct Group {
    pub raw: RawNode<RegionStorage>,
    /// Elects itself as soon as everything committed is applied.
    pub campaign: bool,
    /// Proposals under way: index → (term, token).
    pub proposed: BTreeMap<u64, (u64, u64)>,
    /// The commit index moved since the hard state was written.
    pub hard_state_behind: bool,
    /// Asked for, with the checkpoint that takes the place of the entries.
    pub trim: Option<(u64, Bytes)>,
    /// In the batch of this turn.
    trimming: Option<Position>,
}

impl Group {
    /// `campaign`: it elects itself as soon as everything committed is applied.
    pub fn new(raw: RawNode<RegionStorage>, campaign: bool) -> Self {
        Self {
            raw,
            campaign,
            proposed: BTreeMap::new(),
            hard_state_behind: false,
            trim: None,
            trimming: None,
        }
    }

    pub fn status(&self) -> GroupStatus {
        let raft = &self.raw.raft;
        GroupStatus {
            raft_id: raft.id,
            leads: raft.state == StateRole::Leader,
            term: raft.term,
            last_index: raft.raft_log.last_index(),
        }
    }

    /// The library reads everything that is committed and not applied before it campaigns, so apply first.
    pub fn wants_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.campaign && log.applied == log.committed
    }

    /// What must be written this turn.
    pub fn begin(
        &mut self,
        region: RegionId,
        batch: &mut Batch,
        readies: &mut Vec<(RegionId, Ready)>,
        send: &mut dyn FnMut(RegionId, Message),
    ) -> Result<(), LogError> {
        if self.wants_campaign() {
            self.campaign = false;
            self.raw
                .campaign()
                .map_err(|e| LogError::Read(format!("region {region} campaigns: {e}")))?;
        }
        self.begin_trim(region, batch)?;
        if !self.raw.has_ready() {
            return Ok(());
        }
        let mut ready = self.raw.ready();
        if !ready.snapshot().is_empty() {
            return Err(LogError::Corruption(format!(
                "region {region} was sent a snapshot by nobody"
            )));
        }
        for message in ready.take_messages() {
            send(region, message);
        }
        if let Some(hard_state) = ready.hs() {
            self.raw.mut_store().hard_state = hard_state.clone();
            self.hard_state_behind = true;
        }
        let must_write = !ready.entries().is_empty() || ready.must_sync();
        if must_write {
            let changes = batch.region(region);
            changes.entries.extend_from_slice(ready.entries());
            if self.hard_state_behind {
                changes
                    .put
                    .insert(Key::HardState, encode_raft(&self.raw.store().hard_state));
                self.hard_state_behind = false;
            }
        }
        readies.push((region, ready));
        Ok(())
    }

    fn begin_trim(&mut self, region: RegionId, batch: &mut Batch) -> Result<(), LogError> {
        let Some((through, checkpoint)) = self.trim.take() else {
            return Ok(());
        };
        let log = &self.raw.raft.raft_log;
        if through > log.applied || through <= self.raw.store().record.trimmed.index {
            // Not applied: a mistake of the caller. Trimmed already: an old checkpoint. Neither may be written.
            return Ok(());
        }
        let term = log
            .term(through)
            .map_err(|e| LogError::Read(format!("region {region}, entry {through}: {e}")))?;
        let mut record = self.raw.store().record.clone();
        record.trimmed = Position { index: through, term };
        // Without the commit index a reopened group would begin behind its own trimmed position.
        let mut hard_state = self.raw.store().hard_state.clone();
        hard_state.commit = log.committed.min(log.persisted);
        let changes = batch.region(region);
        changes.trim_through = Some(through);
        changes.put.insert(Key::Group, record.encode());
        changes.put.insert(Key::HardState, encode_raft(&hard_state));
        changes.put.insert(Key::Checkpoint, checkpoint);
        self.trimming = Some(Position { index: through, term });
        Ok(())
    }

    /// The trim of this turn is on disk; returns how far it went.
    pub fn finish_trim(&mut self) -> Option<u64> {
        let position = self.trimming.take()?;
        self.raw.mut_store().trimmed(position);
        Some(position.index)
    }

    /// The batch is on disk.
    pub fn persisted(
        &mut self,
        region: RegionId,
        mut ready: Ready,
        output: &mut Output,
        send: &mut dyn FnMut(RegionId, Message),
    ) -> Result<(), LogError> {
        self.raw.mut_store().appended(ready.take_entries());
        for message in ready.take_persisted_messages() {
            send(region, message);
        }
        let mut entries = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().hard_state.commit = commit;
            self.hard_state_behind = true;
        }
        for message in light.take_messages() {
            send(region, message);
        }
        entries.extend(light.take_committed_entries());
        if !entries.is_empty() {
            let entries = entries.into_iter().map(|e| self.committed(region, e, output));
            let entries = entries.collect::<Result<Vec<_>, _>>()?;
            output.committed.push(Committed { region, entries });
        }
        if self.raw.raft.state != StateRole::Leader && !self.proposed.is_empty() {
            let lost = Error::unavailable(format!("this node no longer leads region {region}"));
            let tokens = std::mem::take(&mut self.proposed);
            output
                .refused
                .extend(tokens.into_values().map(|(_, token)| (token, lost.clone())));
        }
        Ok(())
    }

    fn committed(
        &mut self,
        region: RegionId,
        entry: Entry,
        output: &mut Output,
    ) -> Result<CommittedEntry, LogError> {
        if entry.get_entry_type() != EntryType::EntryNormal {
            return Err(LogError::Corruption(format!(
                "region {region}: entry {} changes members, which this version never writes",
                entry.index
            )));
        }
        let token = match self.proposed.remove(&entry.index) {
            Some((term, token)) if term == entry.term => Some(token),
            Some((_, token)) => {
                let lost = Error::unavailable(format!("another leader of region {region} took the place"));
                output.refused.push((token, lost));
                None
            }
            None => None,
        };
        Ok(CommittedEntry {
            index: entry.index,
            term: entry.term,
            data: entry.data,
            token,
        })
    }
}
