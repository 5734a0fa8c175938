//! What the frontend counts.

use std::time::Duration;

use greptime_clock::SharedClock;
use greptime_telemetry::Metrics;
use greptime_types::{Error, ErrorKind, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    protocol: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlanLabels {
    from: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: &'static str,
}

/// Seconds.
const BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

#[derive(Clone, Debug)]
pub struct FrontendMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<ProtocolLabels, Histogram>,
    rows_ingested: Family<ProtocolLabels, Counter>,
    plans: Family<PlanLabels, Counter>,
    /// Requests that wait for a region.
    pub held: Gauge,
    /// Attempts after the first, of writes and queries.
    pub retries: Counter,
}

impl FrontendMetrics {
    pub fn new(registry: &Metrics) -> Self {
        let new = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            rows_ingested: Family::default(),
            plans: Family::default(),
            held: Gauge::default(),
            retries: Counter::default(),
        };
        registry.register(
            "greptime_frontend_requests",
            "Requests by protocol and result",
            new.requests.clone(),
        );
        registry.register(
            "greptime_frontend_request_seconds",
            "Duration of requests",
            new.seconds.clone(),
        );
        registry.register(
            "greptime_frontend_rows_ingested",
            "Rows acknowledged to writers",
            new.rows_ingested.clone(),
        );
        registry.register(
            "greptime_frontend_query_plans",
            "Queries by where their plan came from",
            new.plans.clone(),
        );
        registry.register(
            "greptime_frontend_held_requests",
            "Requests waiting for a region",
            new.held.clone(),
        );
        registry.register(
            "greptime_frontend_retries",
            "Attempts after the first",
            new.retries.clone(),
        );
        new
    }

    /// One finished request. `code` is `Ok` or the kind of the error.
    pub fn request<T>(&self, protocol: &'static str, result: &Result<T>, took: Duration) {
        let code = match result {
            Ok(_) => "Ok",
            Err(error) => kind_name(error.kind),
        };
        self.requests
            .get_or_create(&RequestLabels { protocol, code })
            .inc();
        self.seconds
            .get_or_create(&ProtocolLabels { protocol })
            .observe(took.as_secs_f64());
    }

    /// A query was planned, or took the plan of an earlier one of its form.
    pub fn planned(&self, from_cache: bool) {
        let from = if from_cache { "cache" } else { "planner" };
        self.plans.get_or_create(&PlanLabels { from }).inc();
    }

    pub fn ingested(&self, protocol: &'static str, rows: u64) {
        self.rows_ingested
            .get_or_create(&ProtocolLabels { protocol })
            .inc_by(rows);
    }
}

/// A statement that is under way. It is counted when this is dropped: then its last row has been sent, or nobody
/// wants the rest.
pub struct Count {
    pub metrics: FrontendMetrics,
    pub clock: SharedClock,
    pub protocol: &'static str,
    /// Of the clock, when the statement began.
    pub start: Duration,
    pub outcome: Result<()>,
}

impl Count {
    pub fn failed(&mut self, error: Error) {
        self.outcome = Err(error);
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let took = self.clock.now().saturating_sub(self.start);
        self.metrics.request(self.protocol, &self.outcome, took);
    }
}

/// The name of a kind, as metrics and HTTP answers show it.
pub fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "InvalidArgument",
        ErrorKind::NotFound => "NotFound",
        ErrorKind::AlreadyExists => "AlreadyExists",
        ErrorKind::Unauthenticated => "Unauthenticated",
        ErrorKind::PermissionDenied => "PermissionDenied",
        ErrorKind::ResourceExhausted => "ResourceExhausted",
        ErrorKind::Unavailable => "Unavailable",
        ErrorKind::DeadlineExceeded => "DeadlineExceeded",
        ErrorKind::Conflict => "Conflict",
        ErrorKind::Unsupported => "Unsupported",
        ErrorKind::Corruption => "Corruption",
        ErrorKind::Internal => "Internal",
    }
}
