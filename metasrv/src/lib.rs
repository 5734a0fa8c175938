//! metasrv: who holds which region, and what tables exist.
//!
//! `plan` (its own crate) decides; `driver` does what was decided; `view` tells. The catalog lives in a `Store`
//! and is changed by compare-and-swap only; who leads which region is what datanodes report, kept in memory.

mod alter;
pub mod catalog;
mod ddl;
mod defences;
mod driver;
mod election;
mod failover;
mod formats;
mod grpc;
mod leases;
mod metrics;
mod procedures;
mod readiness;
mod reception;
mod redial;
mod repair;
mod server;
mod sessions;
pub mod store;
mod view;
mod watch;

pub use defences::{Defence, PROOFS_ELSEWHERE};
pub use election::{Alone, Election, EtcdElection, Leadership};
pub use greptime_metasrv_plan::Policy;
pub use grpc::meta_service;
pub use redial::{Answer, GrpcRedial, NoRedial, Redial};
pub use server::{InProcess, Metasrv, MetasrvConfig, MetasrvOptions};
pub use view::http_router;
