//! Pure planning: what is observed goes in; what to do, and what to tell, comes out.
//!
//! `plan` decides both whether anything is to be done and what, in one value: an empty [`Plan`] is the statement that
//! nothing has to change. It asks nobody, keeps nothing, and equal inputs give equal bytes; the crate depends on no
//! runtime, no client, no clock and no source of randomness, which a test checks.

pub mod build;
pub mod drift;
pub mod names;
pub mod observed;
pub mod pods;
pub mod quantity;
pub mod resolved;
pub mod settings;

mod conditions;
mod deletion;
mod plan;
mod report;
mod roles;
mod url;

pub use observed::{ChildId, ChildKind, ClusterView, Observed, PodFacts, Policy, Remote, SecretFacts};
pub use plan::{Cause, Plan, Step, children_to_observe, plan};
pub use report::{Notice, Report, refused};

#[cfg(test)]
mod fixtures;
