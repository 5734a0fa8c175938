//! Pure decisions of metasrv: where regions go, what a datanode must be told, what is shown of a region.
//!
//! No clock, no I/O, no randomness: equal inputs give equal plans.

pub mod assignment;
pub mod placement;

pub use assignment::{Assignment, Command, RegionState, Replica, Reported, region_state, tell};
pub use placement::{NodeLoad, Refusal, place};
