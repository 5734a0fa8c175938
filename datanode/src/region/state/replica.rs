//! A region as one of several replicas.

use greptime_log::{GroupStatus, Membership};
use greptime_rules::keeps_view;
use greptime_types::Result;

use super::RegionState;
use crate::region::Checkpoint;

/// A replica that has yet to apply so many entries takes over at once: the leader holds writes back meanwhile.
const LAG: u64 = 1000;

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
        self.failed.is_none() && self.trimmed.through == 0
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
        let is_needed = self.leading_epoch().is_ok() || (self.follows() && self.status.is_hot);
        is_needed && self.failed.is_none() && self.trimmed.wants_view(self.manifest.as_deref())
    }

    /// What queries need is near.
    pub fn warmed(&mut self) {
        self.warmed = self.status.is_hot;
    }

    /// Whether it could lead without anybody noticing.
    pub fn is_warm(&self) -> bool {
        let has_nearly_all = self.applied.saturating_add(LAG) >= self.status.last_index;
        let knows_files = self.manifest.is_some() && !self.wants_manifest();
        self.warmed && self.failed.is_none() && has_nearly_all && knows_files
    }

    /// The log has been trimmed to a checkpoint that another has made: its rows are in files of its version.
    pub fn trimmed(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let leaving = self.trimmed.told(checkpoint);
        self.forget_through(leaving)
    }

    /// Begins anew from a checkpoint; what is in memory counts for nothing.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        let manifest = self.manifest.take().filter(|view| keeps_view(view, &checkpoint));
        let next = Self {
            accounted: self.accounted,
            status: self.status,
            members: self.members.clone(),
            deposed_in: self.deposed_in,
            manifest,
            note: self.note.take(),
            failed: self.failed.take(),
            ..Self::new(self.id, checkpoint, None)
        };
        *self = next;
    }
}
