//! Compaction: fewer, larger files, without rows that were overwritten, deleted, or have lived their time.
//!
//! `picker` decides, `merge` writes what was decided, `job` makes the outcome part of the manifest, and `clean` deletes
//! what is no longer named. `lane` and `workers` keep all of it out of the way of reads and writes.

mod clean;
mod job;
mod lane;
mod merge;
mod picker;
mod terms;
mod window;
mod workers;

pub(crate) use clean::discard;
pub use clean::{CleanPolicy, Cleaning, Listed, orphans};
pub use job::{CompactionLimits, Compactor, Decision, Merged, Settled, Step, Wanted};
pub use lane::{Lane, LaneCounters, Throttle};
pub use picker::{MIXED, Merge, Plan, Policy, Question, Report, Waiting, Why, pick, still_valid};
pub use window::WindowPolicy;
pub use workers::Workers;
