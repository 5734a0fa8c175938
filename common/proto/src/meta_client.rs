//! metasrv over gRPC: finds the one that leads among several addresses, and stays with it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use greptime_types::{Error, Result};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::transport::MetaLink;
use crate::v1::{self, meta_client::MetaClient, push};
use crate::{LEADER_METADATA, error_from_status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// A half-open connection is noticed by pings, since heartbeats alone only fill a buffer.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Catalogs and region lists are larger than the default of 4 MiB long before they are a problem.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Tries the address that last led, then the others in turn; follows a hint of who leads.
#[derive(Debug)]
pub struct GrpcMeta {
    addresses: Vec<String>,
    /// Whom to ask first.
    preferred: parking_lot::Mutex<String>,
}

impl GrpcMeta {
    /// `addresses` are host:port; a headless service's names only serve to find one that answers.
    pub fn new(addresses: Vec<String>) -> Result<Arc<Self>> {
        let first = addresses
            .first()
            .cloned()
            .ok_or_else(|| Error::invalid("metasrv.addresses is empty; name at least one host:port"))?;
        Ok(Arc::new(Self {
            addresses,
            preferred: parking_lot::Mutex::new(first),
        }))
    }

    /// The preferred address, then the others.
    fn candidates(&self) -> Vec<String> {
        let preferred = self.preferred.lock().clone();
        let others = self.addresses.iter().filter(|a| **a != preferred).cloned();
        std::iter::once(preferred.clone()).chain(others).collect()
    }

    async fn connect(&self, address: &str) -> Result<MetaClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| Error::invalid(format!("metasrv address `{address}`: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|e| Error::unavailable(format!("metasrv {address} cannot be reached: {}", cause(&e))))?;
        Ok(MetaClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    fn prefer(&self, address: &str) {
        *self.preferred.lock() = address.to_string();
    }

    /// A leader that was named becomes preferred; one that failed ceases to be.
    fn learn(&self, failed: &str, leader: Option<String>) {
        match leader.filter(|l| !l.is_empty()) {
            Some(leader) => self.prefer(&leader),
            None if *self.preferred.lock() == failed => {
                let index = self
                    .addresses
                    .iter()
                    .position(|a| a == failed)
                    .map_or(0, |i| i + 1);
                self.prefer(&self.addresses[index % self.addresses.len()]);
            }
            None => {}
        }
    }

    /// Calls `attempt` on one metasrv after the other until one of them takes the request.
    async fn call<T, F>(&self, attempt: F) -> Result<T>
    where
        F: Fn(MetaClient<Channel>) -> BoxFuture<'static, Result<Response<T>, Status>>,
    {
        let mut last = Error::unavailable("no metasrv can be reached");
        for address in self.candidates() {
            let client = match self.connect(&address).await {
                Ok(client) => client,
                Err(error) => {
                    self.learn(&address, None);
                    last = error;
                    continue;
                }
            };
            match attempt(client).await {
                Ok(response) => {
                    self.prefer(&address);
                    return Ok(response.into_inner());
                }
                Err(status) => {
                    let leader = status
                        .metadata()
                        .get(LEADER_METADATA)
                        .and_then(|v| v.to_str().ok());
                    let error = error_from_status(&status);
                    if leader.is_none() && !error.is_retryable() {
                        return Err(error);
                    }
                    self.learn(&address, leader.map(str::to_string));
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// What a person asks for is not waited for long.
async fn soon<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
    answer.unwrap_or_else(|_| Err(Error::unavailable("metasrv does not answer")))
}

async fn open(mut client: MetaClient<Channel>, beats: Beats) -> Result<Streaming<v1::Push>> {
    let answer = client.heartbeat(beats).await;
    answer
        .map(Response::into_inner)
        .map_err(|status| error_from_status(&status))
}

/// A named stream, since the compiler cannot prove of a boxed one inside a generic call that it is `Send`.
struct Beats(BoxStream<'static, v1::Beat>);

impl futures::Stream for Beats {
    type Item = v1::Beat;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::Beat>> {
        self.0.poll_next_unpin(context)
    }
}

/// The innermost reason; transport errors say little themselves.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

#[async_trait]
impl MetaLink for GrpcMeta {
    async fn heartbeat(
        &self,
        beats: BoxStream<'static, v1::Beat>,
    ) -> Result<BoxStream<'static, Result<v1::Push>>> {
        let address = self.candidates().remove(0);
        let opened = match self.connect(&address).await {
            Ok(client) => open(client, Beats(beats)).await,
            Err(error) => Err(error),
        };
        let mut pushes = match opened {
            Ok(pushes) => pushes,
            Err(error) => {
                self.learn(&address, None);
                return Err(error);
            }
        };
        // The first push tells whether this is the leader, so that the next attempt goes to the right one.
        let first = match pushes.message().await {
            Ok(Some(first)) => first,
            Ok(None) => {
                self.learn(&address, None);
                return Err(Error::unavailable(format!("metasrv {address} closed the stream")));
            }
            Err(status) => {
                self.learn(&address, None);
                return Err(error_from_status(&status));
            }
        };
        if let Some(push::Body::NotLeader(to)) = &first.body {
            self.learn(&address, Some(to.leader.clone()));
            if to.leader.is_empty() {
                self.learn(&address, None);
            }
        }
        let rest = pushes.map(|p| p.map_err(|status| error_from_status(&status)));
        Ok(futures::stream::once(async { Ok(first) }).chain(rest).boxed())
    }

    async fn ddl(&self, request: v1::DdlRequest) -> Result<v1::DdlResponse> {
        let deadline = Duration::from_millis(request.deadline_ms.max(1));
        let call = self.call(|mut client| {
            let mut request = tonic::Request::new(request.clone());
            request.set_timeout(deadline);
            async move { client.ddl(request).await }.boxed()
        });
        tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
            Err(Error::deadline(
                "metasrv did not finish the change within the deadline",
            ))
        })
    }

    async fn cluster(&self) -> Result<String> {
        let call = self.call(|mut client| async move { client.cluster(v1::ClusterRequest {}).await }.boxed());
        soon(call).await.map(|response| response.json)
    }

    async fn procedures(&self) -> Result<String> {
        let call =
            self.call(|mut client| async move { client.procedures(v1::ProceduresRequest {}).await }.boxed());
        soon(call).await.map(|response| response.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_followed_and_a_failure_moves_on() {
        let meta = GrpcMeta::new(vec!["a:1".into(), "b:1".into()]).unwrap();
        meta.learn("a:1", Some("c:1".into()));
        assert_eq!(meta.candidates(), ["c:1", "a:1", "b:1"]);
        meta.learn("c:1", None);
        assert_eq!(meta.candidates(), ["a:1", "b:1"]);
        meta.learn("a:1", None);
        assert_eq!(meta.candidates(), ["b:1", "a:1"]);
    }

    #[test]
    fn no_address_is_an_error_that_names_the_setting() {
        assert!(
            GrpcMeta::new(vec![])
                .unwrap_err()
                .message
                .contains("metasrv.addresses")
        );
    }
}
