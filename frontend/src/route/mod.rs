//! Where regions are, and how a request gets there.
//!
//! metasrv pushes catalog and routes over the session ([`session`]); [`view`] keeps the newest of both. The
//! [`router`] sends a request to the leader of its region and asks [`hold`] what to do when it was not taken.

pub mod catalog;
pub mod ddl;
pub mod grpc;
pub mod hold;
pub mod ids;
pub mod router;
pub mod session;
pub mod table;
pub mod view;

use async_trait::async_trait;
use greptime_proto::v1::{
    CompactRequest, CompactResponse, FlushRequest, FlushResponse, QueryRequest, WriteRequest, WriteResponse,
};
use greptime_types::Result;

pub use catalog::Catalog;
pub use ddl::Ddl;
pub use greptime_query::RegionRows;
pub use grpc::GrpcRegions;
pub use router::{Deadline, Router};
pub use table::Peer;
pub use view::View;

/// How requests reach datanodes, independent of the wire: gRPC between processes, a call in a standalone one.
///
/// `Unavailable` means that the outcome is not known or nothing was done, and the caller sends the same request
/// (with the same request id) again.
#[async_trait]
pub trait Regions: Send + Sync + 'static {
    async fn write(&self, peer: &Peer, request: WriteRequest) -> Result<WriteResponse>;

    /// Errors inside the stream are `greptime_types::Error` in `DataFusionError::External`
    /// (`greptime_query::into_datafusion`).
    async fn query(&self, peer: &Peer, request: QueryRequest) -> Result<RegionRows>;

    async fn flush(&self, peer: &Peer, request: FlushRequest) -> Result<FlushResponse>;

    async fn compact(&self, peer: &Peer, request: CompactRequest) -> Result<CompactResponse>;
}
