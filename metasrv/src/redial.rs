//! Asking who answers at an address.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use greptime_proto::v1::{self, region_client::RegionClient};
use tonic::transport::Endpoint;

pub use greptime_metasrv_plan::watch::Answer;

/// Asks within `patience`.
#[async_trait]
pub trait Redial: Send + Sync + 'static {
    async fn redial(&self, address: &str, patience: Duration) -> Answer;
}

/// Over gRPC, to the address of the very connection that broke.
#[derive(Clone, Copy, Debug)]
pub struct GrpcRedial;

impl GrpcRedial {
    pub fn shared() -> Arc<dyn Redial> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Redial for GrpcRedial {
    async fn redial(&self, address: &str, patience: Duration) -> Answer {
        // The plain connection says whether somebody listens; a half-dead process may take it and say nothing.
        match tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Answer::Refused;
            }
            Ok(Ok(_)) => {}
            _ => return Answer::Nobody,
        }
        let identify = async {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
            let mut client = RegionClient::new(endpoint.connect().await.ok()?);
            let identity = client.identify(v1::IdentifyRequest {}).await.ok()?;
            Some(identity.into_inner().incarnation)
        };
        match tokio::time::timeout(patience, identify).await {
            Ok(Some(incarnation)) => Answer::Process { incarnation },
            _ => Answer::Nobody,
        }
    }
}

/// There are no other processes.
#[derive(Clone, Copy, Debug)]
pub struct NoRedial;

#[async_trait]
impl Redial for NoRedial {
    async fn redial(&self, _: &str, _: Duration) -> Answer {
        Answer::Nobody
    }
}
