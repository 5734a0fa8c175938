//! What the operator counts.

use greptime_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug)]
pub struct OperatorMetrics {
    reconciles: Family<ResultLabel, Counter>,
    seconds: Histogram,
    writes: Family<KindLabel, Counter>,
    is_leader: Gauge,
}

/// How a reconcile ended, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Somebody else wrote in between; it is tried again at once.
    Conflict,
    Error,
}

impl OperatorMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        // 1 ms to 16 s: a reconcile is a handful of requests, one of which waits up to a second.
        let buckets = exponential_buckets(0.001, 2.0, 15);
        let made = Self {
            reconciles: Family::default(),
            seconds: Histogram::new(buckets),
            writes: Family::default(),
            is_leader: Gauge::default(),
        };
        metrics.register(
            "greptime_operator_reconciles",
            "Reconciles by result: ok, conflict (somebody else wrote in between), error.",
            made.reconciles.clone(),
        );
        metrics.register(
            "greptime_operator_reconcile_seconds",
            "How long a reconcile took, in seconds.",
            made.seconds.clone(),
        );
        metrics.register(
            "greptime_operator_writes",
            "Writes to the Kubernetes API by kind of object; constant while nothing changes.",
            made.writes.clone(),
        );
        metrics.register(
            "greptime_operator_is_leader",
            "1 in the one operator that acts, 0 in those that wait.",
            made.is_leader.clone(),
        );
        made
    }

    pub fn reconciled(&self, outcome: Outcome, seconds: f64) {
        let result = match outcome {
            Outcome::Ok => "ok",
            Outcome::Conflict => "conflict",
            Outcome::Error => "error",
        };
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.seconds.observe(seconds);
    }

    pub fn wrote(&self, kind: &str) {
        self.writes
            .get_or_create(&KindLabel {
                kind: kind.to_owned(),
            })
            .inc();
    }

    pub fn set_leader(&self, leads: bool) {
        self.is_leader.set(i64::from(leads));
    }
}
