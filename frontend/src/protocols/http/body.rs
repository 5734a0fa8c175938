//! Bodies of requests, up to the limit; what is sent beyond it is read away, so that the sender sees the answer.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::BytesMut;
use futures::StreamExt;
use greptime_types::Error;

use super::Failure;
use crate::frontend::Frontend;

/// A server that closes while the client still sends resets the connection, and the answer is lost. So much of a
/// refused body is read before the answer; what is longer is cut off, and the answer says that the connection ends.
const READ_AWAY: usize = 1 << 20;

/// The whole body, up to `max_body`.
pub(super) async fn read_body(
    frontend: &Frontend,
    request: Request<Body>,
) -> Result<(HeaderMap, Bytes), Failure> {
    let limit = frontend.config.max_body as usize;
    let (parts, body) = request.into_parts();
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    // A declared length is only a promise: it does not reserve more than most bodies need.
    let mut read = BytesMut::with_capacity(declared.unwrap_or(0).min(READ_AWAY));
    let mut stream = body.into_data_stream();
    let mut refused = declared.is_some_and(|length| length > limit);
    let mut away = 0;
    while let Some(part) = stream.next().await {
        let part = part.map_err(|e| Error::invalid(format!("the body cannot be read: {e}")))?;
        refused |= read.len() + part.len() > limit;
        if !refused {
            read.extend_from_slice(&part);
            continue;
        }
        away += part.len();
        if away > READ_AWAY {
            return Err(too_large(limit, true));
        }
    }
    if refused {
        return Err(too_large(limit, false));
    }
    Ok((parts.headers, read.freeze()))
}

fn too_large(limit: usize, closes: bool) -> Failure {
    let message = format!("the body is larger than {limit} bytes (frontend.max_body); send smaller batches");
    Failure {
        error: Error::invalid(message),
        status: Some(StatusCode::PAYLOAD_TOO_LARGE),
        closes,
        took_ms: 0,
    }
}
