//! InfluxDB's write endpoints, of versions 1 and 2.

use std::io::Read;
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
use crate::protocols::line_protocol::{Precision, write_lines};

#[derive(Debug, Default, Deserialize)]
pub struct InfluxParams {
    /// Version 1.
    db: Option<String>,
    /// Version 2; `org` is ignored.
    bucket: Option<String>,
    precision: Option<String>,
}

pub async fn write(
    State(frontend): State<Arc<Frontend>>,
    Query(params): Query<InfluxParams>,
    request: Request,
) -> Response {
    let start = frontend.clock.now();
    let (headers, body) = match read_body(&frontend, request).await {
        Ok(read) => read,
        Err(failure) => return failure.into_response(),
    };
    let result = store(&frontend, &params, &headers, body).await;
    let took = frontend.clock.now().saturating_sub(start);
    frontend.metrics.request("influxdb", &result, took);
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => Failure {
            took_ms: took.as_millis(),
            ..Failure::from(error)
        }
        .into_response(),
    }
}

async fn store(frontend: &Frontend, params: &InfluxParams, headers: &HeaderMap, body: Bytes) -> Result<()> {
    let precision = Precision::parse(params.precision.as_deref().unwrap_or("ns"))?;
    let database = params.db.as_deref().or(params.bucket.as_deref());
    let database = database.unwrap_or(greptime_types::catalog::DEFAULT_DATABASE);
    // A bucket of version 2 may be `database/retention policy`.
    let database = database.split('/').next().unwrap_or(database);
    let body = match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        None | Some(b"identity" | b"") => body,
        Some(b"gzip") => gunzip(&body, frontend.config.max_body)?,
        Some(_) => {
            return Err(Error::unsupported(
                "the body's encoding is not supported; use gzip or none",
            ));
        }
    };
    let text = std::str::from_utf8(&body).map_err(|e| {
        let line = body[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Error::invalid(format!("line {line} is not UTF-8"))
    })?;
    write_lines(frontend, database, text, precision).await
}

fn gunzip(body: &Bytes, limit: u64) -> Result<Bytes> {
    let mut text = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(body.as_ref()).take(limit + 1);
    reader
        .read_to_end(&mut text)
        .map_err(|e| Error::invalid(format!("the gzip body is damaged: {e}")))?;
    if text.len() as u64 > limit {
        return Err(Error::invalid(format!(
            "the body unpacks to more than {limit} bytes (frontend.max_body)"
        )));
    }
    Ok(text.into())
}

pub async fn ping() -> Response {
    let version = [
        ("x-influxdb-version", "1.8"),
        ("x-influxdb-build", "GreptimeCluster"),
    ];
    (StatusCode::NO_CONTENT, version).into_response()
}

pub async fn health() -> Response {
    let body = serde_json::json!({"name": "greptime", "message": "ready", "status": "pass"});
    axum::Json(body).into_response()
}
