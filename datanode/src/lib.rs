//! datanode: regions, their log, memtable and files.
//!
//! A write goes `server` → [`greptime_log`] (on disk, committed) → `region` (applied to its `memtable`) → answer. Rows
//! leave memory by a flush: `sst` writes a file, `manifest` makes it visible, the log is trimmed. A query goes `server`
//! → `scan`, which merges the files of a manifest view with the rows that the view does not have.
//!
//! The log's core, `region::state` and `memtable` know no clock, task, network or disk.

pub mod budget;
pub mod cache;
pub mod compaction;
pub mod config;
mod defences;
pub mod manifest;
pub mod memtable;
pub mod metrics;
pub mod region;
pub mod scan;
pub mod schema;
pub mod server;
pub mod sst;
#[cfg(test)]
mod testing;

pub use config::DatanodeConfig;
pub use server::{Datanode, DatanodeParts};
