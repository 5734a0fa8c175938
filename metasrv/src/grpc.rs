//! metasrv over gRPC.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use greptime_proto::v1::{self, meta_server};
use greptime_proto::{LEADER_METADATA, MAX_MESSAGE, status_from_error};
use tonic::{Request, Response, Status, Streaming};

use crate::election::Leadership;
use crate::server::Metasrv;

/// The tonic service of a metasrv.
pub fn meta_service(metasrv: Arc<Metasrv>) -> meta_server::MetaServer<MetaService> {
    meta_server::MetaServer::new(MetaService { metasrv })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

pub struct MetaService {
    metasrv: Arc<Metasrv>,
}

impl MetaService {
    /// The error as a status that names the leader if this is not it.
    fn status(&self, error: greptime_types::Error) -> Status {
        let mut status = status_from_error(error);
        if self.metasrv.leadership() != Leadership::Leader
            && let Ok(leader) = self.metasrv.leader_address().parse()
        {
            status.metadata_mut().insert(LEADER_METADATA, leader);
        }
        status
    }
}

#[async_trait]
impl meta_server::Meta for MetaService {
    type HeartbeatStream = BoxStream<'static, Result<v1::Push, Status>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::Beat>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        // A broken stream ends the session; why it broke is in the next registration's log.
        let beats = request
            .into_inner()
            .take_while(|b| std::future::ready(b.is_ok()))
            .filter_map(|b| async { b.ok() });
        let pushes = self.metasrv.open_session(beats.boxed()).await;
        Ok(Response::new(
            pushes.map(|push| push.map_err(status_from_error)).boxed(),
        ))
    }

    async fn ddl(&self, request: Request<v1::DdlRequest>) -> Result<Response<v1::DdlResponse>, Status> {
        self.metasrv
            .ddl(request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| self.status(e))
    }

    async fn cluster(&self, _: Request<v1::ClusterRequest>) -> Result<Response<v1::ClusterResponse>, Status> {
        // Another one knows neither nodes nor regions.
        if self.metasrv.leadership() != Leadership::Leader {
            return Err(self.status(self.metasrv.not_leading()));
        }
        Ok(Response::new(v1::ClusterResponse {
            json: self.metasrv.cluster_json(),
        }))
    }

    async fn procedures(
        &self,
        _: Request<v1::ProceduresRequest>,
    ) -> Result<Response<v1::ProceduresResponse>, Status> {
        let json = self.metasrv.procedures_json();
        let json = json.map_err(|e| self.status(e))?;
        Ok(Response::new(v1::ProceduresResponse { json }))
    }
}
