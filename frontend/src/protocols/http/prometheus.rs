//! Prometheus' remote write endpoint.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use greptime_types::{Error, Result};
use serde::Deserialize;

use super::Failure;
use super::body::read_body;
use crate::frontend::Frontend;
use crate::protocols::remote_write::write_series;

#[derive(Debug, Default, Deserialize)]
pub struct WriteParams {
    db: Option<String>,
}

pub async fn write(
    State(frontend): State<Arc<Frontend>>,
    Query(params): Query<WriteParams>,
    request: Request,
) -> Response {
    let start = frontend.clock.now();
    let (headers, body) = match read_body(&frontend, request).await {
        Ok(read) => read,
        Err(failure) => return failure.into_response(),
    };
    let result = store(&frontend, &params, &headers, &body).await;
    let took = frontend.clock.now().saturating_sub(start);
    frontend.metrics.request("prometheus", &result, took);
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => Failure {
            took_ms: took.as_millis(),
            ..Failure::from(error)
        }
        .into_response(),
    }
}

async fn store(frontend: &Frontend, params: &WriteParams, headers: &HeaderMap, body: &Bytes) -> Result<()> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if content_type.contains("io.prometheus.write.v2") {
        return Err(Error::unsupported(
            "remote write 2.0 is not supported; use protobuf_message: prometheus.WriteRequest",
        ));
    }
    let database = params
        .db
        .as_deref()
        .unwrap_or(greptime_types::catalog::DEFAULT_DATABASE);
    write_series(frontend, database, body).await
}
