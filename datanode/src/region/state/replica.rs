//! A region as one of several replicas.

use std::sync::Arc;

use greptime_log::{GroupStatus, Membership};

use super::RegionState;
use crate::manifest::View;
use crate::region::Checkpoint;

impl RegionState {
    pub fn set_members(&mut self, members: Membership) {
        self.members = members;
    }

    pub fn status(&self) -> GroupStatus {
        self.status
    }

    /// Whether others have a vote too.
    pub fn is_replicated(&self) -> bool {
        !self.members.voters.is_empty() && !self.members.is_alone(self.status.raft_id)
    }

    /// It has yet to be sent what its group has.
    pub fn is_joining(&self) -> bool {
        self.failed.is_none() && self.checkpoint_seq == 0
    }

    /// Somebody else leads in a later epoch, though this node has not heard of it by the log yet.
    pub fn depose(&mut self) {
        self.deposed_in = self.status.term;
    }

    /// It is a replica as it should be, though another leads.
    pub fn follows(&self) -> bool {
        self.failed.is_none() && !self.status.leads && self.is_replicated()
    }

    /// Whether the files of the region should be known here, and are not: those of the newest version that the log has
    /// told of.
    pub fn wants_manifest(&self) -> bool {
        let is_behind = |view: &Arc<View>| view.version < self.checkpoint_version;
        let is_needed = self.leading_epoch().is_ok() || (self.follows() && self.status.is_hot);
        is_needed && self.failed.is_none() && self.manifest.as_ref().is_none_or(is_behind)
    }

    /// The log has been trimmed to a checkpoint that another has made: its rows are in files of its version. They stay in
    /// memory until that version is adopted.
    pub fn trimmed(&mut self, checkpoint: &Checkpoint) {
        self.checkpoint_seq = self.checkpoint_seq.max(checkpoint.flushed_seq);
        self.checkpoint_version = self.checkpoint_version.max(checkpoint.manifest_version);
    }

    /// Begins anew from a checkpoint; what is in memory counts for nothing.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        let version = checkpoint.manifest_version;
        let next = Self {
            accounted: self.accounted,
            status: self.status,
            members: self.members.clone(),
            deposed_in: self.deposed_in,
            // A version that is newer than the checkpoint may have rows that the log has yet to give.
            manifest: self.manifest.take().filter(|view| view.version == version),
            note: self.note.take(),
            failed: self.failed.take(),
            ..Self::new(self.id, checkpoint, None)
        };
        *self = next;
    }
}
