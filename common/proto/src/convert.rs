//! Errors and small values between the wire and `greptime_types`.

use std::ops::RangeInclusive;

use greptime_types::{Error, ErrorKind, Finished, NodeRole, RequestId};
use tonic::{Code, Status};

use crate::v1;

/// Response metadata in which a metasrv that does not lead names the one that does.
pub const LEADER_METADATA: &str = "greptime-leader";

/// An error as gRPC carries it: the code from the one table, the message as it is.
pub fn status_from_error(error: Error) -> Status {
    Status::new(Code::from_i32(error.kind.codes().grpc), error.message)
}

/// Back from gRPC. What this side made of an error of the transport (it has a source), and codes that we never send
/// (`Unknown`, `Cancelled`), mean that the connection broke, so whether the request was done is unknown: `Unavailable`, to
/// be retried under the same request id.
pub fn error_from_status(status: &Status) -> Error {
    let kind = match status.code() {
        Code::Unknown | Code::Cancelled => ErrorKind::Unavailable,
        _ if std::error::Error::source(status).is_some() => ErrorKind::Unavailable,
        code => ErrorKind::from_grpc(code as i32),
    };
    Error::new(kind, status.message())
}

impl From<NodeRole> for v1::NodeRole {
    fn from(role: NodeRole) -> Self {
        match role {
            NodeRole::Metasrv => Self::Metasrv,
            NodeRole::Datanode => Self::Datanode,
            NodeRole::Frontend => Self::Frontend,
        }
    }
}

impl TryFrom<v1::NodeRole> for NodeRole {
    type Error = Error;

    fn try_from(role: v1::NodeRole) -> Result<Self, Error> {
        match role {
            v1::NodeRole::Metasrv => Ok(Self::Metasrv),
            v1::NodeRole::Datanode => Ok(Self::Datanode),
            v1::NodeRole::Frontend => Ok(Self::Frontend),
            v1::NodeRole::Unspecified => Err(Error::invalid("a node must say its role")),
        }
    }
}

impl From<RequestId> for v1::RequestId {
    fn from(id: RequestId) -> Self {
        Self {
            incarnation: id.incarnation,
            number: id.number,
        }
    }
}

impl From<v1::RequestId> for RequestId {
    fn from(id: v1::RequestId) -> Self {
        Self {
            incarnation: id.incarnation,
            number: id.number,
        }
    }
}

impl From<RangeInclusive<u64>> for v1::NumberRange {
    fn from(numbers: RangeInclusive<u64>) -> Self {
        Self {
            first: *numbers.start(),
            last: *numbers.end(),
        }
    }
}

impl From<v1::NumberRange> for RangeInclusive<u64> {
    fn from(numbers: v1::NumberRange) -> Self {
        numbers.first..=numbers.last
    }
}

impl v1::WriteRequest {
    /// What the frontend that sent it has finished.
    pub fn finished(&self) -> Finished {
        Finished {
            lowest_unfinished: self.lowest_unfinished,
            given_up: self.given_up.iter().copied().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_retried_whatever_the_library_calls_it() {
        let mut broken = Status::internal("h2 protocol error: http2 error");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert!(error_from_status(&broken).is_retryable());
        let said = Status::internal("a bug");
        assert_eq!(error_from_status(&said).kind, ErrorKind::Internal);
    }

    #[test]
    fn an_error_survives_the_wire() {
        for kind in ErrorKind::ALL {
            let error = Error::new(kind, "what to do");
            assert_eq!(error_from_status(&status_from_error(error.clone())), error);
        }
    }
}
