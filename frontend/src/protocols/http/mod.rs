//! HTTP: SQL, InfluxDB's line protocol, Prometheus' remote write.

mod auth;
mod body;
mod influx;
mod json;
mod prometheus;
mod sql;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use greptime_types::{Error, ErrorKind};

use crate::frontend::Frontend;

impl Frontend {
    /// Everything under `/v1`, and `/health` and `/ready`. To be merged with the probes of the process.
    pub fn http_router(self: &Arc<Self>) -> Router {
        let v1 = Router::new()
            .route("/sql", get(sql::get).post(sql::post))
            .route("/influxdb/write", post(influx::write))
            .route("/influxdb/api/v2/write", post(influx::write))
            .route("/prometheus/write", post(prometheus::write))
            .route_layer(middleware::from_fn_with_state(Arc::clone(self), auth::require))
            // InfluxDB's own are open too: agents probe them before they log in.
            .route("/influxdb/ping", get(influx::ping))
            .route("/influxdb/health", get(influx::health));
        let frontend = Arc::clone(self);
        let ready = move || {
            let ready = frontend.is_ready();
            async move {
                if ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            }
        };
        Router::new()
            .nest("/v1", v1)
            .route("/health", get(|| async { axum::Json(serde_json::json!({})) }))
            .route("/ready", get(ready))
            .with_state(Arc::clone(self))
    }
}

/// GreptimeDB's numbers for kinds of errors, which its clients know.
fn status_code(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::Unsupported => 1001,
        ErrorKind::Internal | ErrorKind::Corruption => 1003,
        ErrorKind::InvalidArgument => 1004,
        ErrorKind::DeadlineExceeded => 1005,
        ErrorKind::AlreadyExists => 4000,
        ErrorKind::NotFound => 4001,
        ErrorKind::Unavailable | ErrorKind::Conflict => 5000,
        ErrorKind::ResourceExhausted => 6000,
        ErrorKind::Unauthenticated => 7002,
        ErrorKind::PermissionDenied => 7006,
    }
}

/// An error as HTTP clients get it.
struct Failure {
    error: Error,
    /// Where HTTP has a better word than the kind of the error.
    status: Option<StatusCode>,
    /// No further request is read from this connection.
    closes: bool,
    took_ms: u128,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            status: None,
            closes: false,
            took_ms: 0,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let codes = self.error.kind.codes();
        let status = self.status.or_else(|| StatusCode::from_u16(codes.http).ok());
        let code = status_code(self.error.kind);
        let body = serde_json::json!({
            "code": code,
            "error": self.error.message,
            "execution_time_ms": self.took_ms,
        });
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(body)).into_response();
        response.headers_mut().insert("x-greptime-err-code", code.into());
        if self.closes {
            let close = header::HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if status == StatusCode::UNAUTHORIZED {
            let realm = header::HeaderValue::from_static("Basic realm=\"greptime\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        }
        response
    }
}
