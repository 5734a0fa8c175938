//! What metasrv counts.

use greptime_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Clone, Debug, Default)]
pub(crate) struct MetasrvMetrics {
    pub(crate) is_leader: Gauge,
    pub(crate) nodes: Gauge,
    pub(crate) regions_leading: Gauge,
    pub(crate) regions_waiting: Gauge,
    pub(crate) catalog_changes: Counter,
    pub(crate) commands_sent: Counter,
    pub(crate) campaigns: Counter,
    pub(crate) transfers: Counter,
}

impl MetasrvMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        let gauge = |name, help, gauge: &Gauge| metrics.register(name, help, gauge.clone());
        gauge(
            "greptime_metasrv_is_leader",
            "1 on the metasrv that leads",
            &all.is_leader,
        );
        gauge(
            "greptime_metasrv_connected_nodes",
            "Nodes with a session",
            &all.nodes,
        );
        gauge(
            "greptime_metasrv_regions_leading",
            "Regions that have a leader",
            &all.regions_leading,
        );
        gauge(
            "greptime_metasrv_regions_waiting",
            "Regions without a leader",
            &all.regions_waiting,
        );
        let counter = |name, help, counter: &Counter| metrics.register(name, help, counter.clone());
        counter(
            "greptime_metasrv_catalog_changes",
            "Committed changes of the catalog",
            &all.catalog_changes,
        );
        counter(
            "greptime_metasrv_commands_sent",
            "Commands sent to datanodes",
            &all.commands_sent,
        );
        counter(
            "greptime_metasrv_campaigns",
            "Replicas told to lead a region that nobody led",
            &all.campaigns,
        );
        counter(
            "greptime_metasrv_transfers",
            "Leaders told to hand over",
            &all.transfers,
        );
        all
    }
}
