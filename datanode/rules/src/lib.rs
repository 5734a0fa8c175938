//! What surrounds the log of a region: which files it has, when its log may be trimmed, which requests it has seen, who
//! may serve and delete. Decisions only: no I/O, clock, task or randomness. The datanode does what they say.
//!
//! A model of all of it (`model`, in the tests) calls the same functions.

mod checkpoint;
mod clean;
mod defences;
mod edit;
mod lead;
mod lease;
mod put;
mod quiet;
mod requests;
mod trim;
mod view;

pub use checkpoint::Checkpoint;
pub use clean::{CleanPolicy, Cleaning, Listed, MAX_DELETES, is_foreign, may_delete, orphans};
pub use defences::Defence;
pub use edit::{Edit, FileMeta, RemovedFile};
pub use lead::{Lead, Meeting, NotServing, Standing, may_follow, meet};
pub use lease::{Grant, Lease};
pub use put::{AfterPut, Flush, Uploads, after_put, known_before_put, merge_fits, put_if_absent};
pub use quiet::{Quiet, QuietPolicy};
pub use requests::{Mark, RequestTable, Seen};
pub use trim::{Trimmed, keeps_view};
pub use view::{FlushedState, View};

#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;
