//! What takes the place of entries: a trim, or a snapshot of another replica.

use bytes::Bytes;
use raft::Ready;
use raft::eraftpb::HardState;

use super::Group;
use crate::defences::Defence;
use crate::io::{Checkpointed, Output};
use crate::record::{GroupRecord, Position, encode_raft};
use crate::snapshot::SnapshotData;
use crate::trim::TrimEntry;
use crate::{Batch, Key, LogError};

/// A snapshot that is in the batch of this turn.
pub(super) struct Restoring {
    pub(super) record: GroupRecord,
    pub(super) hard_state: HardState,
    pub(super) checkpoint: Bytes,
}

impl Group {
    pub(super) fn begin_trim(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        let Some(TrimEntry { through, checkpoint }) = self.trim.take() else {
            return Ok(());
        };
        let log = &self.raw.raft.raft_log;
        if through > log.applied || through <= self.raw.store().record.trimmed.index {
            // Not applied: a mistake of the caller. Trimmed already: an old checkpoint. Neither may be written.
            return Ok(());
        }
        let term = log
            .term(through)
            .map_err(|e| LogError::Read(format!("region {}, entry {through}: {e}", self.region)))?;
        let position = Position { index: through, term };
        let mut record = self.raw.store().record.clone();
        record.trimmed = position;
        // Without the commit index a reopened group would begin behind its own trimmed position.
        let mut hard_state = self.raw.store().hard_state.clone();
        hard_state.commit = log.committed.min(log.persisted);
        let changes = batch.region(self.region);
        changes.trim_through = Some(through);
        changes.put.insert(Key::Group, record.encode());
        changes.put.insert(Key::HardState, encode_raft(&hard_state));
        changes.put.insert(Key::Checkpoint, checkpoint.clone());
        self.trimming = Some((position, checkpoint));
        Ok(())
    }

    /// The batch is on disk. Before anything else of the turn: a snapshot in it may go further.
    pub fn note_trimmed(&mut self) {
        if let Some((position, _)) = &self.trimming
            && Defence::TrimIsKnownAtOnce.holds()
        {
            let position = *position;
            self.raw.mut_store().trimmed(position);
        }
    }

    /// What else follows from it.
    pub(super) fn finish_trim(&mut self, output: &mut Output) {
        let Some((position, checkpoint)) = self.trimming.take() else {
            return;
        };
        if !Defence::TrimIsKnownAtOnce.holds() {
            self.raw.mut_store().trimmed(position);
        }
        let checkpointed = Checkpointed {
            region: self.region,
            checkpoint,
        };
        match self.feed.skip_to(position.index) {
            true => output.restored.push(checkpointed),
            false => output.trimmed.push(checkpointed),
        }
    }

    pub(super) fn begin_restore(&mut self, ready: &Ready, batch: &mut Batch) -> Result<(), LogError> {
        let (snapshot, store) = (ready.snapshot(), self.raw.store());
        let data = SnapshotData::decode(self.region, snapshot.data.clone())?;
        let metadata = snapshot.get_metadata();
        let trimmed = Position {
            index: metadata.index,
            term: metadata.term,
        };
        let mut nodes = store.record.nodes.clone();
        nodes.extend(data.nodes);
        let record = GroupRecord {
            raft_id: store.record.raft_id,
            members: metadata.get_conf_state().clone(),
            members_index: data.members_index,
            nodes,
            trimmed,
            void_tail: ready.entries().is_empty()
                && store.has_tail(trimmed.index)
                && Defence::ReplacedTailIsVoid.holds(),
        };
        let mut hard_state = self.raw.raft.hard_state();
        hard_state.commit = hard_state.commit.max(trimmed.index);
        let changes = batch.region(self.region);
        changes.trim_through = Some(trimmed.index);
        changes.put.insert(Key::Group, record.encode());
        changes.put.insert(Key::HardState, encode_raft(&hard_state));
        changes.put.insert(Key::Checkpoint, data.checkpoint.clone());
        self.restoring = Some(Restoring {
            record,
            hard_state,
            checkpoint: data.checkpoint,
        });
        Ok(())
    }

    /// What the machine has counts for nothing any more: it goes on from the checkpoint when it is fed again.
    pub(super) fn cool_down(&mut self, output: &mut Output) -> Result<(), LogError> {
        let (trimmed, checkpoint) = (
            self.raw.store().record.trimmed.index,
            self.raw.store().checkpoint()?,
        );
        self.feed.fall_back(trimmed);
        output.restored.push(Checkpointed {
            region: self.region,
            checkpoint,
        });
        self.advance();
        Ok(())
    }
}
