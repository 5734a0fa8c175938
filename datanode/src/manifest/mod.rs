//! Which files a region consists of: a chain of edits on the bucket, one object per version.
//!
//! An edit is put only if its version is absent, and its outcome is known only by having read that version: a
//! put that answered an error may have happened, and may still happen. Every edit carries the epoch of its
//! writer; a writer that meets a higher one has been replaced and stops for good.

mod store;

pub use greptime_rules::{Edit, FileMeta, FlushedState, RemovedFile, View};
pub use store::{Commit, ManifestStore, RegionPath};

#[cfg(test)]
mod tests;
