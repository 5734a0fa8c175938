//! Metrics of the streams that this node has opened.

use std::sync::atomic::AtomicI64;

use greptime_proto::v1::PeerBatch;
use greptime_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Of all peers together. Cloning gives other handles of the same.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    pub(crate) connected: Gauge<i64, AtomicI64>,
    pub(crate) connects: Counter,
    pub(crate) losses: Counter,
    pub(crate) frames: Counter,
    pub(crate) messages: Counter,
    pub(crate) bytes: Counter,
    pub(crate) unsent: Counter,
    pub(crate) ping_seconds: Histogram,
}

impl Default for PeerMetrics {
    /// Counts, for nobody to see.
    fn default() -> Self {
        Self {
            connected: Gauge::default(),
            connects: Counter::default(),
            losses: Counter::default(),
            frames: Counter::default(),
            messages: Counter::default(),
            bytes: Counter::default(),
            unsent: Counter::default(),
            ping_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
        }
    }
}

impl PeerMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        metrics.register(
            "greptime_datanode_peer_connected",
            "Datanodes to which a stream is open",
            all.connected.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_connects",
            "Streams to datanodes that were welcomed",
            all.connects.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_losses",
            "Streams to datanodes that broke",
            all.losses.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_frames_sent",
            "Frames with messages of Raft groups, handed to the connections",
            all.frames.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_messages_sent",
            "Messages of Raft groups in these frames",
            all.messages.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_bytes_sent",
            "Bytes of these messages",
            all.bytes.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_messages_unsent",
            "Messages that were dropped, since the datanode was not connected or its queue full",
            all.unsent.clone(),
        );
        metrics.register(
            "greptime_datanode_peer_ping_seconds",
            "Time from a ping to its answer, with what went out before it",
            all.ping_seconds.clone(),
        );
        all
    }

    pub(crate) fn count_sent(&self, batch: &PeerBatch) {
        let bytes: usize = batch.messages.iter().map(|m| m.message.len()).sum();
        self.frames.inc();
        self.messages.inc_by(batch.messages.len() as u64);
        self.bytes.inc_by(bytes as u64);
    }
}
