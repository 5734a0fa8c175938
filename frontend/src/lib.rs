//! frontend: protocols, SQL, routes.

mod auth;
pub mod config;
mod defences;
mod frontend;
pub mod ingest;
mod metrics;
pub mod protocols;
pub mod query;
pub mod route;
pub mod sql;
pub mod statement;

pub use config::FrontendConfig;
pub use defences::{Defence, PROOFS_ELSEWHERE};
pub use frontend::{Frontend, FrontendParts};
pub use route::{GrpcRegions, Peer, Regions};
