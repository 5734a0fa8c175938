//! Changes of a group's members: proposed, committed, on disk, in force.

use greptime_types::Error;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType};

use super::{Campaign, Group};
use crate::defences::Defence;
use crate::members::{Change, Member, conf_change, places};
use crate::record::encode_raft;
use crate::snapshot::{members_of, nodes_of};
use crate::{Batch, Key, LogError};

/// A change of members that is committed and not yet in force.
pub(super) struct PendingChange {
    pub(super) index: u64,
    change: ConfChangeV2,
    places: Vec<Member>,
}

impl Group {
    /// A change of several members at once is finished by the leader, whoever that is by then.
    pub(super) fn wants_to_leave_joint(&self) -> bool {
        let record = &self.raw.store().record;
        let is_free = !self.raw.raft.has_pending_conf() && self.raw.raft.lead_transferee.is_none();
        self.leads() && !record.members.voters_outgoing.is_empty() && is_free
    }

    pub fn change_members(&mut self, changes: &[Change], members: &[Member]) -> Result<(), Error> {
        let raft = &self.raw.raft;
        if raft.has_pending_conf() || !self.raw.store().record.members.voters_outgoing.is_empty() {
            return Err(Error::unavailable(format!(
                "region {} has another change of members under way",
                self.region
            )));
        }
        if changes.contains(&Change::Remove { raft_id: raft.id }) {
            return Err(Error::conflict(format!(
                "this node leads region {}; let another lead before it leaves",
                self.region
            )));
        }
        let mut known = self.raw.store().record.nodes.clone();
        known.extend(nodes_of(members));
        known.extend(nodes_of(&places(changes)));
        let context = members_of(&known);
        let context = MemberList { members: context };
        self.raw
            .propose_conf_change(prost::Message::encode_to_vec(&context), conf_change(changes))
            .map_err(|e| Error::unavailable(format!("members of region {}: {e}", self.region)))
    }

    /// That a change of members is committed is on disk before it is in force: a restart must not go back to the members
    /// of before, who may have lost their majority by it.
    pub(super) fn begin_changes(&mut self, batch: &mut Batch) {
        self.changing = self.changes.len();
        if self.changing == 0 || !Defence::ChangeOfMembersIsOnDiskFirst.holds() {
            return;
        }
        let hard_state = encode_raft(&self.raw.store().hard_state);
        batch.region(self.region).put.insert(Key::HardState, hard_state);
        self.hard_state_behind = false;
    }

    pub(super) fn finish_changes(&mut self) -> Result<(), LogError> {
        for pending in self.changes.drain(..self.changing).collect::<Vec<_>>() {
            let members = self.raw.apply_conf_change(&pending.change).map_err(|e| {
                let (region, index) = (self.region, pending.index);
                LogError::Corruption(format!("members of region {region}, entry {index}: {e}"))
            })?;
            let record = &mut self.raw.mut_store().record;
            record.members = members;
            record.members_index = pending.index;
            record.nodes.extend(nodes_of(&pending.places));
            record.forget_strangers();
            self.members_news = true;
        }
        self.changing = 0;
        if self.needs_no_votes() && !self.leads() && Defence::LastVoterElectsItself.holds() {
            self.campaign = Some(Campaign::Alone);
        }
        self.advance();
        Ok(())
    }

    pub(super) fn note_change(&mut self, entry: &Entry) -> Result<(), LogError> {
        let damaged = |e: &dyn std::fmt::Display| {
            LogError::Corruption(format!("region {}, entry {}: {e}", self.region, entry.index))
        };
        // The members of a snapshot are newer than its rows.
        if entry.index <= self.raw.store().record.members_index {
            return Ok(());
        }
        if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
            return Err(damaged(&"a change of members in a form that is never written"));
        }
        let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(|e| damaged(&e))?;
        let places =
            <MemberList as prost::Message>::decode(entry.context.clone()).map_err(|e| damaged(&e))?;
        self.changes.push_back(PendingChange {
            index: entry.index,
            change,
            places: places.members,
        });
        Ok(())
    }
}

/// Where members live, beside a change of them.
#[derive(Clone, PartialEq, prost::Message)]
struct MemberList {
    #[prost(message, repeated, tag = "1")]
    members: Vec<Member>,
}
