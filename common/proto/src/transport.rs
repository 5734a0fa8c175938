//! How nodes reach metasrv, independent of the wire: gRPC between processes, a call in a standalone one.

use async_trait::async_trait;
use futures::stream::BoxStream;
use greptime_types::Result;

use crate::v1;

/// The way to the metasrv that leads.
#[async_trait]
pub trait MetaLink: Send + Sync + 'static {
    /// Opens a heartbeat stream. The first beat must be a `Register`. An error, or the end of the answer, means
    /// that the session is over and the caller opens a new one.
    async fn heartbeat(
        &self,
        beats: BoxStream<'static, v1::Beat>,
    ) -> Result<BoxStream<'static, Result<v1::Push>>>;

    async fn ddl(&self, request: v1::DdlRequest) -> Result<v1::DdlResponse>;

    /// The JSON of `GET /v1/cluster`.
    async fn cluster(&self) -> Result<String>;

    /// The JSON of `GET /v1/procedures`.
    async fn procedures(&self) -> Result<String>;
}
