//! The registry of a process, and its text.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    budget: &'static str,
}

/// All metrics of a process. Cloning gives another handle of the same registry.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Registers a metric under its full name, e.g. `greptime_datanode_rows_written`; counters get `_total` from
    /// the encoding.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .register(name, help, metric);
    }

    /// Registers a gauge of what the settings allow in memory: the bytes of each budget, which may all be used at once.
    pub fn register_memory_limits<const N: usize>(&self, name: &str, limits: [(&'static str, u64); N]) {
        let gauges = Family::<BudgetLabels, Gauge<u64, AtomicU64>>::default();
        for (budget, bytes) in limits {
            gauges.get_or_create(&BudgetLabels { budget }).set(bytes);
        }
        let help = "Memory that may be used, by what for; all of them together may be";
        self.register(name, help, gauges);
    }

    /// OpenMetrics text, as `/metrics` serves it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(|e| e.into_inner());
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
