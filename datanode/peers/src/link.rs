//! The wire under a stream: gRPC between processes, a call within one (`testing`).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use greptime_proto::v1::{self, peers_client::PeersClient};
use greptime_proto::{MAX_MESSAGE, error_from_status};
use greptime_types::{Error, Result};
use tonic::transport::Endpoint;

/// How a node reaches another.
#[async_trait]
pub trait PeerLink: Send + Sync + 'static {
    /// Opens a stream to the datanode at `address` (host:port). The first frame is a hello, the first answer a welcome
    /// or a refusal. An error, or the end of the answers, means that the stream is over; dropping the answers ends it.
    async fn exchange(
        &self,
        address: &str,
        frames: BoxStream<'static, v1::PeerFrame>,
    ) -> Result<BoxStream<'static, Result<v1::PeerAnswer>>>;
}

/// In a data center, an address that does not answer for so long is dead, and the next attempt follows soon.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// The pings of the streams notice a dead peer long before; this frees the connection to it.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// What may be under way in one stream before the receiver takes it: a frame. HTTP/2 leaves that to the receiver, so the
/// server of a datanode should say the same. It should also not delay small packets (`TcpIncoming::with_nodelay`; the
/// builder's own setting is not for listeners that are handed to it): delayed by Nagle's algorithm, its leave to send
/// more comes 40 ms late, and what would be 1000 MB/s over loopback is 100 MB/s.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams of a connection; a peer's connection has one.
pub const CONNECTION_WINDOW: u32 = 8 << 20;

/// Over HTTP/2, with a connection for each stream, so that a broken one cannot be mistaken for another.
#[derive(Clone, Debug)]
pub struct GrpcPeerLink {
    connect_timeout: Duration,
}

impl GrpcPeerLink {
    pub fn new(connect_timeout: Duration) -> Self {
        Self { connect_timeout }
    }
}

impl Default for GrpcPeerLink {
    fn default() -> Self {
        Self::new(CONNECT_TIMEOUT)
    }
}

#[async_trait]
impl PeerLink for GrpcPeerLink {
    async fn exchange(
        &self,
        address: &str,
        frames: BoxStream<'static, v1::PeerFrame>,
    ) -> Result<BoxStream<'static, Result<v1::PeerAnswer>>> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| Error::invalid(format!("datanode address `{address}`: {e}")))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_adaptive_window(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        // The connector's own timeout covers TCP only.
        let channel = match tokio::time::timeout(self.connect_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(cannot_reach(address, &cause(&error))),
            Err(_) => return Err(cannot_reach(address, "no answer to the connection attempt")),
        };
        let mut client = PeersClient::new(channel)
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE);
        let answers = client.exchange(Frames(frames)).await.map_err(|s| broken(&s))?;
        let answers = answers.into_inner();
        Ok(answers.map(|answer| answer.map_err(|s| broken(&s))).boxed())
    }
}

/// A named stream, since the compiler cannot prove of a boxed one inside a generic call that it is `Send`.
struct Frames(BoxStream<'static, v1::PeerFrame>);

impl futures::Stream for Frames {
    type Item = v1::PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::PeerFrame>> {
        self.0.poll_next_unpin(context)
    }
}

fn cannot_reach(address: &str, why: &str) -> Error {
    Error::unavailable(format!("{address} cannot be reached: {why}"))
}

/// What the server said, or why nothing came of it.
fn broken(status: &tonic::Status) -> Error {
    match std::error::Error::source(status) {
        Some(source) => Error::unavailable(format!("the connection broke: {}", cause(source))),
        None => error_from_status(status),
    }
}

/// The innermost reason; transport errors say little themselves.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}
