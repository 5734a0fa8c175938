//! Metrics of a datanode.

use std::sync::atomic::AtomicU64;

use greptime_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The kind of the error.
    pub reason: String,
}

#[derive(Clone, Debug)]
pub struct DatanodeMetrics {
    pub log_append_seconds: Histogram,
    pub log_fsyncs: Counter,
    pub log_tail_truncated_bytes: Counter,
    pub rows_written: Counter,
    pub write_rejected: Family<Reason, Counter>,
    pub writes_delayed: Counter,
    pub memtable_bytes: Gauge<u64, AtomicU64>,
    pub flush_seconds: Histogram,
    pub flush_failures: Counter,
    pub region_count: Gauge<u64, AtomicU64>,
    pub queries: Counter,
}

impl DatanodeMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self {
            log_append_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            log_fsyncs: Counter::default(),
            log_tail_truncated_bytes: Counter::default(),
            rows_written: Counter::default(),
            write_rejected: Family::default(),
            writes_delayed: Counter::default(),
            memtable_bytes: Gauge::default(),
            flush_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            flush_failures: Counter::default(),
            region_count: Gauge::default(),
            queries: Counter::default(),
        };
        metrics.register(
            "greptime_datanode_log_append_seconds",
            "Time to make one batch of the log durable",
            all.log_append_seconds.clone(),
        );
        metrics.register(
            "greptime_datanode_log_fsyncs",
            "Syncs of log files",
            all.log_fsyncs.clone(),
        );
        metrics.register(
            "greptime_datanode_log_tail_truncated_bytes",
            "Bytes of incomplete writes that were cut off the log at start",
            all.log_tail_truncated_bytes.clone(),
        );
        metrics.register(
            "greptime_datanode_rows_written",
            "Rows acknowledged",
            all.rows_written.clone(),
        );
        metrics.register(
            "greptime_datanode_write_rejected",
            "Writes that were answered with an error",
            all.write_rejected.clone(),
        );
        metrics.register(
            "greptime_datanode_writes_delayed",
            "Writes that were slowed down, since memtables are above the soft limit",
            all.writes_delayed.clone(),
        );
        metrics.register(
            "greptime_datanode_memtable_bytes",
            "Rows in memory that are not in files yet",
            all.memtable_bytes.clone(),
        );
        metrics.register(
            "greptime_datanode_flush_seconds",
            "Time from taking rows out of memory to a known manifest edit",
            all.flush_seconds.clone(),
        );
        metrics.register(
            "greptime_datanode_flush_failures",
            "Flushes that will be tried again",
            all.flush_failures.clone(),
        );
        metrics.register(
            "greptime_datanode_region_count",
            "Regions on this node",
            all.region_count.clone(),
        );
        metrics.register("greptime_datanode_queries", "Plans executed", all.queries.clone());
        all
    }
}
