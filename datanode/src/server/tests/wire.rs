//! The same through gRPC and Arrow Flight, on the loopback.

use std::sync::Arc;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightClient, Ticket};
use futures::TryStreamExt;
use greptime_proto::v1::region_client::RegionClient;
use greptime_proto::{error_from_status, v1};
use greptime_types::ErrorKind;
use prost::Message as _;
use tokio::task::AbortHandle;
use tonic::transport::{Channel, Endpoint};

use crate::testing::{Node, batch, ipc, row};

pub(super) async fn connect(node: &Node) -> Channel {
    serve(node).await.0
}

/// The same, and the task that accepts connections.
pub(super) async fn serve(node: &Node) -> (Channel, AbortHandle) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(Arc::clone(&node.datanode).serve(listener, std::future::pending()));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (endpoint.connect().await.unwrap(), server.abort_handle())
}

fn query(node: &Node, region_id: u64) -> Ticket {
    let request = v1::QueryRequest {
        region_id,
        ..node.scan_request(node.spec())
    };
    Ticket::new(request.encode_to_vec())
}

#[tokio::test]
async fn rows_written_by_grpc_come_back_by_flight() {
    let node = Node::new().await;
    let channel = connect(&node).await;
    let rows = [row("a", 1, 1.0), row("b", 2, 2.0)];
    let request = v1::WriteRequest {
        header: node.header(),
        region_id: node.region.as_u64(),
        request_id: Some(v1::RequestId {
            incarnation: 1,
            number: 1,
        }),
        schema_version: 1,
        rows: ipc(&batch(&rows)),
        ..Default::default()
    };
    let written = RegionClient::new(channel.clone())
        .write(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(written.affected_rows, 2);
    let mut flight = FlightClient::new(channel);
    let found: FlightRecordBatchStream = flight.do_get(query(&node, node.region.as_u64())).await.unwrap();
    let found: Vec<_> = found.try_collect().await.unwrap();
    assert_eq!(
        found.iter().flat_map(crate::testing::rows_of).collect::<Vec<_>>(),
        rows
    );
}

#[tokio::test]
async fn an_error_keeps_its_kind_and_message() {
    let node = Node::new().await;
    let channel = connect(&node).await;
    let mut flight = FlightServiceClient::new(channel);
    let status = flight.do_get(query(&node, 77)).await.unwrap_err();
    let error = error_from_status(&status);
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(error.message, "region 0:77 is not on this node");
}
