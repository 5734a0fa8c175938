//! Datanodes over gRPC: one channel per address, writes as calls, queries through Arrow Flight.

use std::collections::HashMap;
use std::time::Duration;

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket, decode::FlightRecordBatchStream};
use async_trait::async_trait;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, TryStreamExt};
use greptime_proto::v1::region_client::RegionClient;
use greptime_proto::v1::{
    CompactRequest, CompactResponse, FlushRequest, FlushResponse, QueryRequest, WriteRequest, WriteResponse,
};
use greptime_proto::{MAX_MESSAGE, error_from_status};
use greptime_query::{RegionReport, RegionRows, ReportSlot, into_datafusion};
use greptime_types::{Error, Result};
use parking_lot::Mutex;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::{Peer, Regions};

/// A peer that answers no ping for this long is taken for gone, and its requests are sent again elsewhere.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Pods that are replaced leave their addresses behind; with so many, all are dialled anew.
const MAX_CHANNELS: usize = 1024;

/// Channels are kept by address. A channel that failed is dropped, so that the next attempt dials anew instead
/// of waiting for the old one's backoff.
pub struct GrpcRegions {
    connect_timeout: Duration,
    channels: Mutex<HashMap<String, Channel>>,
}

impl GrpcRegions {
    pub fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            channels: Mutex::default(),
        }
    }

    async fn channel(&self, peer: &Peer) -> Result<Channel> {
        if let Some(channel) = self.channels.lock().get(&peer.address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", peer.address))
            .map_err(|e| Error::unavailable(format!("datanode address `{}`: {e}", peer.address)))?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true);
        // The connector's own timeout covers TCP only.
        let channel = match tokio::time::timeout(self.connect_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable_peer(peer, &root_cause(&error))),
            Err(_) => return Err(unreachable_peer(peer, "no answer to the connection attempt")),
        };
        let mut channels = self.channels.lock();
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert(peer.address.clone(), channel.clone());
        Ok(channel)
    }

    async fn client(&self, peer: &Peer) -> Result<RegionClient<Channel>> {
        Ok(RegionClient::new(self.channel(peer).await?)
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE))
    }

    fn answer<T>(&self, peer: &Peer, response: Result<Response<T>, Status>) -> Result<T> {
        response
            .map(Response::into_inner)
            .map_err(|status| self.failed(peer, &status))
    }

    /// Forgets the connection when the failure lies in it, and not in what the datanode answered.
    fn failed(&self, peer: &Peer, status: &Status) -> Error {
        if std::error::Error::source(status).is_some() {
            self.channels.lock().remove(&peer.address);
        }
        at_peer(peer, error_from_status(status))
    }
}

fn at_peer(peer: &Peer, error: Error) -> Error {
    error.context(format_args!("datanode {} ({})", peer.node, peer.address))
}

fn unreachable_peer(peer: &Peer, why: &str) -> Error {
    Error::unavailable(format!(
        "datanode {} ({}) cannot be reached: {why}",
        peer.node, peer.address
    ))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

#[async_trait]
impl Regions for GrpcRegions {
    async fn write(&self, peer: &Peer, request: WriteRequest) -> Result<WriteResponse> {
        let response = self.client(peer).await?.write(request).await;
        self.answer(peer, response)
    }

    async fn flush(&self, peer: &Peer, request: FlushRequest) -> Result<FlushResponse> {
        let response = self.client(peer).await?.flush(request).await;
        self.answer(peer, response)
    }

    async fn compact(&self, peer: &Peer, request: CompactRequest) -> Result<CompactResponse> {
        let response = self.client(peer).await?.compact(request).await;
        self.answer(peer, response)
    }

    async fn query(&self, peer: &Peer, request: QueryRequest) -> Result<RegionRows> {
        let mut client = FlightServiceClient::new(self.channel(peer).await?)
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE);
        let ticket = Ticket {
            ticket: request.encode_to_vec().into(),
        };
        let response = client.do_get(ticket).await;
        let data = response
            .map_err(|status| self.failed(peer, &status))?
            .into_inner();
        let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
        let report = ReportSlot::default();
        let data = without_reports(data, report.clone());
        let mut batches = FlightRecordBatchStream::new_from_flight_data(data.boxed());
        // The schema comes before the first batch; a failure to plan shows here.
        let first = batches
            .try_next()
            .await
            .map_err(|e| at_peer(peer, flight_error(e)))?;
        let schema = match (&first, batches.schema()) {
            (Some(batch), _) => batch.schema(),
            (None, Some(schema)) => schema.clone(),
            (None, None) => return Err(at_peer(peer, Error::unavailable("the answer ended early"))),
        };
        let node = peer.node;
        let all = futures::stream::iter(first.map(Ok))
            .chain(batches)
            .map_err(move |e| into_datafusion(flight_error(e).context(format_args!("datanode {node}"))));
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, all));
        Ok(RegionRows { rows, report })
    }
}

/// Keeps the newest report, and leaves out messages that are nothing else.
fn without_reports<E: Send>(
    data: impl Stream<Item = Result<FlightData, E>> + Send,
    newest: ReportSlot,
) -> impl Stream<Item = Result<FlightData, E>> + Send {
    data.try_filter_map(move |message| {
        let has_report = !message.app_metadata.is_empty();
        // One that cannot be read is as good as none.
        if has_report && let Ok(report) = RegionReport::decode(message.app_metadata.clone()) {
            newest.set(report);
        }
        let is_only_report = has_report && message.data_header.is_empty();
        futures::future::ready(Ok((!is_only_report).then_some(message)))
    })
}

fn flight_error(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => error_from_status(&status),
        other => Error::internal(format!("the answer cannot be read: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_flight::encode::FlightDataEncoderBuilder;
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    /// A report beside the rows, and one after them.
    async fn reported_rows() -> Vec<FlightData> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let column = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
        let rows = futures::stream::iter([Ok(rows)]);
        let data = FlightDataEncoderBuilder::new().with_schema(schema).build(rows);
        let mut data: Vec<FlightData> = data.try_collect().await.unwrap();
        let report = |is_complete| RegionReport {
            node: 7,
            is_complete,
            ..RegionReport::default()
        };
        data[1].app_metadata = report(false).encode_to_vec().into();
        data.push(FlightData::new().with_app_metadata(report(true).encode_to_vec()));
        data
    }

    async fn read(data: Vec<FlightData>) -> (usize, Option<RegionReport>) {
        let newest = ReportSlot::default();
        let data = futures::stream::iter(data.into_iter().map(Ok::<_, FlightError>));
        let data = without_reports(data, newest.clone()).boxed();
        let rows = FlightRecordBatchStream::new_from_flight_data(data);
        let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        (rows.iter().map(RecordBatch::num_rows).sum(), newest.get())
    }

    #[tokio::test]
    async fn the_newest_report_is_kept_and_the_rows_come_through() {
        let mut data = reported_rows().await;
        let (rows, report) = read(data.clone()).await;
        assert_eq!(
            (rows, report.map(|r| (r.node, r.is_complete))),
            (3, Some((7, true)))
        );
        data.pop();
        let (rows, report) = read(data).await;
        assert_eq!((rows, report.map(|r| r.is_complete)), (3, Some(false)));
    }

    #[tokio::test]
    async fn an_answer_without_reports_or_with_unreadable_ones_has_its_rows() {
        let mut data = reported_rows().await;
        data.pop();
        data[1].app_metadata = vec![0xff; 3].into();
        assert_eq!(read(data.clone()).await, (3, None));
        data[1].app_metadata = bytes::Bytes::new();
        assert_eq!(read(data).await, (3, None));
    }
}
