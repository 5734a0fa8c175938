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
    pub log_bytes: Gauge<u64, AtomicU64>,
    pub log_tail_truncated_bytes: Counter,
    pub rows_written: Counter,
    pub write_rejected: Family<Reason, Counter>,
    pub writes_delayed: Counter,
    pub memtable_bytes: Gauge<u64, AtomicU64>,
    pub followers_cooled: Counter,
    pub flush_seconds: Histogram,
    pub flush_failures: Counter,
    pub region_count: Gauge<u64, AtomicU64>,
    pub queries: Counter,
    pub queries_under_lease: Counter,
    pub flush_bytes: Counter,
    pub flush_bytes_written: Counter,
    pub compactions: Counter,
    pub compaction_failures: Counter,
    pub compaction_seconds: Histogram,
    pub compaction_bytes_read: Counter,
    pub compaction_bytes_written: Counter,
    pub compaction_files: Counter,
    pub compaction_files_expired: Counter,
    pub compaction_pending_bytes: Gauge<u64, AtomicU64>,
    pub compaction_runs: Gauge<u64, AtomicU64>,
    pub files_deleted: Counter,
    pub orphans_deleted: Counter,
    pub writes_slowed: Counter,
}

impl DatanodeMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self {
            log_append_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            log_fsyncs: Counter::default(),
            log_bytes: Gauge::default(),
            log_tail_truncated_bytes: Counter::default(),
            rows_written: Counter::default(),
            write_rejected: Family::default(),
            writes_delayed: Counter::default(),
            memtable_bytes: Gauge::default(),
            followers_cooled: Counter::default(),
            flush_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            flush_failures: Counter::default(),
            region_count: Gauge::default(),
            queries: Counter::default(),
            queries_under_lease: Counter::default(),
            flush_bytes: Counter::default(),
            flush_bytes_written: Counter::default(),
            compactions: Counter::default(),
            compaction_failures: Counter::default(),
            compaction_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 18)),
            compaction_bytes_read: Counter::default(),
            compaction_bytes_written: Counter::default(),
            compaction_files: Counter::default(),
            compaction_files_expired: Counter::default(),
            compaction_pending_bytes: Gauge::default(),
            compaction_runs: Gauge::default(),
            files_deleted: Counter::default(),
            orphans_deleted: Counter::default(),
            writes_slowed: Counter::default(),
        };
        all.register_compaction(metrics);
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
            "greptime_datanode_log_bytes",
            "Size of the log on disk, in whole files",
            all.log_bytes.clone(),
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
            "greptime_datanode_followers_cooled",
            "Hot followers that keep the log only, since rows in memory came near the limit",
            all.followers_cooled.clone(),
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
        metrics.register(
            "greptime_datanode_queries_under_lease",
            "Plans executed without asking a majority who leads, by a lease",
            all.queries_under_lease.clone(),
        );
        all
    }

    fn register_compaction(&self, metrics: &Metrics) {
        let counters = [
            (
                "greptime_datanode_flush_bytes",
                "Bytes of files that flushes made",
                &self.flush_bytes,
            ),
            (
                "greptime_datanode_flush_bytes_written",
                "Bytes of files that flushes wrote to the object store, also those that were thrown away",
                &self.flush_bytes_written,
            ),
            (
                "greptime_datanode_compactions",
                "Merges of files whose outcome is in the manifest",
                &self.compactions,
            ),
            (
                "greptime_datanode_compaction_failures",
                "Compactions that will be tried again",
                &self.compaction_failures,
            ),
            (
                "greptime_datanode_compaction_bytes_read",
                "Bytes that compactions read from the object store",
                &self.compaction_bytes_read,
            ),
            (
                "greptime_datanode_compaction_bytes_written",
                "Bytes that compactions wrote to the object store",
                &self.compaction_bytes_written,
            ),
            (
                "greptime_datanode_compaction_files",
                "Files that were replaced by compactions",
                &self.compaction_files,
            ),
            (
                "greptime_datanode_compaction_files_expired",
                "Files that were dropped since all their rows had lived their time",
                &self.compaction_files_expired,
            ),
            (
                "greptime_datanode_files_deleted",
                "Replaced and dropped files that were deleted after the grace period",
                &self.files_deleted,
            ),
            (
                "greptime_datanode_orphans_deleted",
                "Files deleted that no manifest edit ever named",
                &self.orphans_deleted,
            ),
            (
                "greptime_datanode_writes_slowed",
                "Writes that waited because compactions are behind",
                &self.writes_slowed,
            ),
        ];
        for (name, help, counter) in counters {
            metrics.register(name, help, counter.clone());
        }
        metrics.register(
            "greptime_datanode_compaction_seconds",
            "Time from the start of a merge to a known manifest edit",
            self.compaction_seconds.clone(),
        );
        metrics.register(
            "greptime_datanode_compaction_pending_bytes",
            "Bytes in windows of time that have more sorted runs than they should have",
            self.compaction_pending_bytes.clone(),
        );
        metrics.register(
            "greptime_datanode_compaction_runs",
            "The most sorted runs in a window of time of any region",
            self.compaction_runs.clone(),
        );
    }
}
