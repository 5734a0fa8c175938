//! What the log is trimmed to, and what a replica does that is told so.

use crate::checkpoint::Checkpoint;
use crate::defences::Defence;
use crate::view::View;

/// The newest checkpoint that a replica has heard of. Whoever made it, it stays true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trimmed {
    /// Every row up to it is in files of `version`.
    pub through: u64,
    /// Of the manifest.
    pub version: u64,
}

impl Trimmed {
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            through: checkpoint.flushed_seq,
            version: checkpoint.manifest_version,
        }
    }

    /// The checkpoint to which a leader that has applied the entries up to `applied` may trim: that of an adopted view,
    /// which is known to be there.
    pub fn next(&mut self, view: &View, applied: u64) -> Option<Checkpoint> {
        if view.flushed_seq <= self.through || view.flushed_seq > applied {
            return None;
        }
        let checkpoint = Checkpoint::of(view)?;
        *self = Self::of(&checkpoint);
        Some(checkpoint)
    }

    /// Another has trimmed the log; returns up to where rows leave memory at once: none do. They stay until a view is
    /// adopted that has them; the checkpoint is only a hint to load one.
    pub fn told(&mut self, checkpoint: &Checkpoint) -> u64 {
        self.through = self.through.max(checkpoint.flushed_seq);
        self.version = self.version.max(checkpoint.manifest_version);
        match Defence::RowsStayUntilTheirFilesAreKnown.holds() {
            true => 0,
            false => checkpoint.flushed_seq,
        }
    }

    /// Whether a newer view than the known one is to be loaded.
    pub fn wants_view(&self, known: Option<&View>) -> bool {
        known.is_none_or(|view| view.version < self.version)
    }
}

/// Whether a replica that begins anew from a checkpoint keeps the view that it has. A newer version may have rows that
/// the log has yet to give.
pub fn keeps_view(view: &View, checkpoint: &Checkpoint) -> bool {
    view.version == checkpoint.manifest_version || !Defence::RestoreForgetsNewerFiles.holds()
}
