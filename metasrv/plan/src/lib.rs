//! Pure decisions of metasrv: where regions go, what a datanode must be told, what is shown of a region; who is
//! alive, who may hold a lease, and who takes over.
//!
//! No clock, no I/O, no randomness: equal inputs give equal plans. Times are durations on metasrv's monotonic scale,
//! handed in.
//!
//! * [`policy`]: all numbers of failover, and how they must relate
//! * [`liveness`]: from heartbeats, connections and redials to a verdict for each datanode
//! * [`lease`]: when reads at a leader may be promised, and when such a promise has surely ended
//! * [`failover`]: from verdicts and reports to campaigns and transfers
//! * [`watch`]: what a metasrv remembers of datanodes from look to look
//! * [`placement`], [`assignment`]: new regions, and what datanodes are told about them
//! * [`repair`], [`members`]: who else should be a member of a group, and the steps on the way there
//! * [`migration`]: how a replica goes from one datanode to another

pub mod assignment;
mod defences;
pub mod failover;
pub mod lease;
pub mod liveness;
pub mod members;
pub mod migration;
pub mod placement;
pub mod policy;
pub mod repair;
pub mod watch;

pub use assignment::{Assignment, Command, RegionState, Replica, Reported, region_state, tell};
pub use defences::Defence;
pub use liveness::{Detector, Judgement, Observed, Verdict};
pub use policy::Policy;

/// Voters that a group of `voters` needs to commit or to elect.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}
