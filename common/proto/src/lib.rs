//! The gRPC contract between frontend, metasrv and datanode, and how errors and identities cross it.

#[allow(clippy::all)]
pub mod v1 {
    tonic::include_proto!("greptimecluster.v1");
}

mod convert;
mod meta_client;
mod session;
pub mod transport;

pub use convert::{LEADER_METADATA, error_from_status, status_from_error};
pub use meta_client::{GrpcMeta, MAX_MESSAGE};
pub use session::{SessionHandler, run_session};
