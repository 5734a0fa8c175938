//! How well the caches work.

use greptime_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Tier;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TierLabel {
    /// `memory` or `disk`.
    pub tier: &'static str,
}

/// Counters of the parts of files; those of decoded columns are in each query's own.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    hits: Family<TierLabel, Counter>,
    hit_bytes: Family<TierLabel, Counter>,
    misses: Counter,
    inserted_bytes: Counter,
    damaged: Counter,
    disk_errors: Counter,
}

impl CacheMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        metrics.register(
            "greptime_datanode_cache_hits",
            "Parts of files that were found",
            all.hits.clone(),
        );
        metrics.register(
            "greptime_datanode_cache_hit_bytes",
            "Bytes of parts that were found",
            all.hit_bytes.clone(),
        );
        metrics.register(
            "greptime_datanode_cache_misses",
            "Parts of files that were not found",
            all.misses.clone(),
        );
        metrics.register(
            "greptime_datanode_cache_inserted_bytes",
            "Bytes that were put into the cache",
            all.inserted_bytes.clone(),
        );
        metrics.register(
            "greptime_datanode_cache_damaged",
            "Parts that were dropped since they were not what was written",
            all.damaged.clone(),
        );
        metrics.register(
            "greptime_datanode_cache_disk_errors",
            "Errors of the cache's disk, which is then not used for a while",
            all.disk_errors.clone(),
        );
        all
    }

    pub(super) fn hit(&self, tier: Tier, bytes: usize) {
        let tier = match tier {
            Tier::Memory => "memory",
            Tier::Disk => "disk",
        };
        let label = TierLabel { tier };
        self.hits.get_or_create(&label).inc();
        self.hit_bytes.get_or_create(&label).inc_by(bytes as u64);
    }

    pub(super) fn miss(&self) {
        self.misses.inc();
    }

    pub(super) fn inserted(&self, bytes: usize) {
        self.inserted_bytes.inc_by(bytes as u64);
    }

    pub(super) fn damaged(&self) {
        self.damaged.inc();
    }

    pub(super) fn disk_failed(&self) {
        self.disk_errors.inc();
    }

    /// Errors of the disk so far.
    pub fn disk_errors(&self) -> u64 {
        self.disk_errors.get()
    }
}
