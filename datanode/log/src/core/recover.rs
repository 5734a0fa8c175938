//! A replica that goes on alone, since the majority of its group is lost for good.
//!
//! This is no step of Raft. What the others had and this replica has not is lost, though it may have been acknowledged;
//! and should the others come back, they could go on without it. So a person has to say so, and metasrv sees to it that
//! the others are gone and do not get their place back.
//!
//! Where the log ends before what the lost ones have flushed, the replica begins anew from the files, as one that is sent a
//! snapshot: entries that it appended below would have sequences that readers take for rows in files. So it does where the
//! lost ones may have put others in the place of its last entries: readers would not see these, though their requests count
//! as applied. Then the order comes again.

use std::collections::BTreeMap;

use greptime_types::{Error, RegionId};
use raft::eraftpb::{ConfState, HardState, Message, MessageType};

use super::LogCore;
use crate::defences::Defence;
use crate::group::Group;
use crate::io::{InFiles, Output};
use crate::record::{GroupRecord, encode_raft};
use crate::snapshot::SnapshotData;
use crate::{Batch, Key, LogError};

/// A replica that is to be the only one.
#[derive(Clone, Debug)]
pub(super) struct Recover {
    pub(super) region: RegionId,
    pub(super) raft_id: u64,
    pub(super) seen_term: u64,
    pub(super) files: Option<InFiles>,
}

impl Recover {
    /// What brings a replica to where the files end, if its log ends before. It comes from nobody: whoever could send it is
    /// lost.
    fn snapshot(&self, group: &Group) -> Option<Message> {
        let store = group.raw.store();
        let ends_before =
            |files: &InFiles| files.through > store.last() && Defence::SurvivorBeginsWithTheFiles.holds();
        let may_differ = |files: &InFiles| {
            files.through <= store.last()
                && may_have_others(group, files)
                && Defence::SurvivorGivesUpItsTail.holds()
        };
        let files = self.files.as_ref();
        let files = files.filter(|files| ends_before(files) || may_differ(files))?;
        let data = SnapshotData {
            checkpoint: files.checkpoint.clone(),
            members_index: store.record.members_index,
            nodes: store.record.nodes.clone(),
        };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.to = self.raft_id;
        message.term = group.raw.raft.term.max(self.seen_term);
        let snapshot = message.mut_snapshot();
        snapshot.data = data.encode();
        let metadata = snapshot.mut_metadata();
        metadata.index = files.through;
        metadata.term = files.term;
        metadata.set_conf_state(store.record.members.clone());
        Some(message)
    }
}

/// Whether files may have others in the place of entries here: they were flushed in a later term than that of the last
/// entry, and it is not known here that what they have is committed. From the leader of an entry's term on, every leader
/// has what was committed before.
fn may_have_others(group: &Group, files: &InFiles) -> bool {
    let log = &group.raw.raft.raft_log;
    files.through > log.committed && files.term > log.last_term()
}

impl LogCore {
    /// Puts into the batch what makes replicas the only ones of their groups; they are to be opened again when it is on
    /// disk, from the index that comes with them. Repeated, it changes nothing.
    pub(super) fn collect_recovered(
        &mut self,
        batch: &mut Batch,
        output: &mut Output,
    ) -> Vec<(RegionId, u64)> {
        let mut again = Vec::new();
        for recover in std::mem::take(&mut self.recover) {
            let region = recover.region;
            let Some(group) = self.groups.get_mut(&region) else {
                continue;
            };
            if group.raw.raft.id != recover.raft_id || group.is_alone() || group.is_busy() {
                // What is under way ends with this turn, and the order is repeated.
                continue;
            }
            let lost = Error::unavailable(format!("region {region} goes on with this replica alone; retry"));
            group.give_up(&lost, output);
            if let Some(snapshot) = recover.snapshot(group) {
                group.receive(snapshot);
                self.active.insert(region);
                continue;
            }
            let last = group.raw.store().last();
            let members = ConfState {
                voters: vec![recover.raft_id],
                ..ConfState::default()
            };
            let record = GroupRecord {
                members,
                // A change of members in the tail would bring the lost ones back.
                members_index: last,
                nodes: BTreeMap::new(),
                ..group.raw.store().record.clone()
            };
            let mut hard_state = HardState::default();
            hard_state.set_term(group.raw.raft.term.max(recover.seen_term) + 1);
            // Nobody is left who could say otherwise.
            hard_state.set_commit(last);
            let changes = batch.region(region);
            changes.put.insert(Key::Group, record.encode());
            changes.put.insert(Key::HardState, encode_raft(&hard_state));
            again.push((region, group.feed.applied()));
        }
        again
    }

    /// The batch is on disk.
    pub(super) fn reopen_recovered(
        &mut self,
        again: &[(RegionId, u64)],
        output: &mut Output,
    ) -> Result<(), LogError> {
        for (region, applied) in again {
            let was_hot = self.groups.remove(region).is_some_and(|group| group.feed.is_hot);
            self.open_group(*region, *applied)?;
            if let Some(group) = self.groups.get_mut(region) {
                group.feed.is_hot = was_hot;
                output.status.push((*region, group.status()));
                output.members.push((*region, group.membership()));
            }
        }
        Ok(())
    }
}
