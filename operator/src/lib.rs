//! The operator: observe → plan (a pure crate of its own) → apply → tell.
//!
//! * [`controller`] — which changes lead to which reconcile
//! * [`reconcile`] — one turn for one cluster
//! * [`observe`], [`apply`], [`status`], [`events`] — its stages; [`deletion`] instead when the cluster is going
//! * [`children`] and [`diff`] — live objects, and whether they differ from the wanted ones; [`metasrv`] is asked too
//! * [`lease`], [`run`], [`command`] — the process around it
//!
//! Nothing here decides what a cluster should look like or what is said about it: that is `greptime_operator_plan`.

pub mod apply;
pub mod backoff;
pub mod children;
pub mod command;
pub mod context;
pub mod controller;
pub mod deletion;
pub mod diff;
pub mod error;
pub mod events;
pub mod lease;
pub mod metasrv;
pub mod metrics;
pub mod observe;
pub mod quantity;
pub mod reconcile;
pub mod run;
pub mod status;
