//! Reading a region: files of a manifest view, and the rows in memory that the view does not have.

mod dedup;
mod exec;
mod merge;
mod plan;

pub use dedup::{Deletes, dedup};
pub use exec::{ReloadManifest, ScanExec};
pub use merge::{merge, stream_of};
pub use plan::STORE_URL;

#[cfg(test)]
mod tests;
