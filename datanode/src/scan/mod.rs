//! Reading a region: files of a manifest view, and the rows in memory that the view does not have.
//!
//! A `reader` opens what has wanted rows; `units` decides which of it must be merged; the resulting `parts` are the `work`
//! that several streams share, and those that come next are fetched before their turn (`queue`). What comes out is a
//! `block` of rows and the ranges of it that are wanted: the leaf (`exec`) makes batches of them for any plan, and
//! `aggregate` computes aggregates without looking at rows one by one.

mod aggregate;
mod block;
mod dedup;
mod exec;
mod filter;
mod measure;
mod merge;
mod parts;
mod plan;
mod queue;
mod reader;
mod top;
mod units;
mod wanted;
mod work;

pub use aggregate::accelerate;
pub use dedup::{Deletes, dedup};
pub use exec::ScanExec;
pub use merge::{newest, stream_of};
pub use reader::{RegionReader, ReloadManifest};
pub use top::read_by_time;

#[cfg(test)]
mod tests;
