//! The thin layer of gRPC and Arrow Flight over [`Datanode`].

use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use greptime_peers::{CONNECTION_WINDOW, PeerHandler, STREAM_WINDOW, peers_service};
use greptime_proto::v1::region_server::{Region, RegionServer};
use greptime_proto::{MAX_MESSAGE, status_from_error, v1};
use greptime_query::{RegionRows, ReportSlot, from_datafusion};
use prost::Message as _;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::Datanode;

struct Service(Arc<Datanode>);

impl Datanode {
    /// The services that other nodes call: `Region`, and Flight for queries.
    pub fn grpc_routes(self: Arc<Self>) -> Routes {
        let region = RegionServer::new(Service(Arc::clone(&self)))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let peers = peers_service(Arc::clone(&self) as Arc<dyn PeerHandler>);
        let flight = FlightServiceServer::new(Service(self))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Routes::new(region).add_service(flight).add_service(peers)
    }

    /// Serves [`Self::grpc_routes`] until `shutdown` resolves, then lets running requests end.
    pub async fn serve(
        self: Arc<Self>,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        // Streams of peers have no end of their own, and the server waits for those that are open.
        let closing = self.closing.clone();
        let shutdown = async move {
            shutdown.await;
            closing.cancel();
        };
        tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // A frontend that lost its power says nothing, and its queries would hold their memory for ever.
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_routes(self.grpc_routes())
            .serve_with_incoming_shutdown(incoming, shutdown)
            .await
            .map_err(std::io::Error::other)
    }
}

const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(2);

#[tonic::async_trait]
impl Region for Service {
    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        self.0
            .write(request.into_inner())
            .await
            .map(Response::new)
            .map_err(status_from_error)
    }

    async fn flush(&self, request: Request<v1::FlushRequest>) -> Result<Response<v1::FlushResponse>, Status> {
        self.0
            .flush(request.into_inner())
            .await
            .map(Response::new)
            .map_err(status_from_error)
    }

    async fn identify(&self, _: Request<v1::IdentifyRequest>) -> Result<Response<v1::NodeIdentity>, Status> {
        Ok(Response::new(self.0.me()))
    }

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<v1::CompactResponse>, Status> {
        self.0
            .compact(request.into_inner())
            .await
            .map(Response::new)
            .map_err(status_from_error)
    }
}

/// The newest report goes with every message, and at the end with one of its own; without reports nothing is added.
fn with_reports(
    data: impl Stream<Item = Result<FlightData, Status>> + Send,
    report: ReportSlot,
) -> impl Stream<Item = Result<FlightData, Status>> + Send {
    let encoded = move || report.get().map(|r| Bytes::from(r.encode_to_vec()));
    let newest = encoded.clone();
    let last = futures::stream::once(async move { encoded() }).filter_map(|metadata| {
        let message = metadata.map(|metadata| Ok(FlightData::new().with_app_metadata(metadata)));
        futures::future::ready(message)
    });
    let data = data.map_ok(move |message| match newest() {
        Some(metadata) => message.with_app_metadata(metadata),
        None => message,
    });
    data.chain(last)
}

type Answer<T> = Result<Response<T>, Status>;

fn unsupported<T>() -> Answer<T> {
    Err(Status::unimplemented("a datanode answers DoGet only"))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let query = v1::QueryRequest::decode(request.into_inner().ticket)
            .map_err(|e| Status::invalid_argument(format!("the ticket is not a query: {e}")))?;
        let RegionRows { rows, report } = self.0.query(query).await.map_err(status_from_error)?;
        let schema = rows.schema();
        let rows = rows.map_err(|e| FlightError::from(status_from_error(from_datafusion(&e))));
        let data = FlightDataEncoderBuilder::new().with_schema(schema).build(rows);
        Ok(Response::new(
            with_reports(data.map_err(Status::from), report).boxed(),
        ))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        unsupported()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        unsupported()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        unsupported()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        unsupported()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        unsupported()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        unsupported()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        unsupported()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        unsupported()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        unsupported()
    }
}
