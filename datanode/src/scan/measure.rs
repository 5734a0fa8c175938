//! What EXPLAIN ANALYZE shows of the leaf of a plan.

use std::sync::Arc;
use std::task::Poll;

use arrow::array::RecordBatch;
use datafusion::error::Result;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, Metric, MetricsSet};
use futures::stream::{Stream, StreamExt, poll_fn};
use greptime_query::{Measure, MeasureKind, in_short_turns};

use crate::sst::{ReadCounts, ReadMetrics};

/// Counts the rows of a stream, and the time in which it worked and did not wait. It works in short turns.
pub fn measured(
    rows: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    metrics: BaselineMetrics,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let mut rows = rows.boxed();
    let counted = poll_fn(move |cx| {
        let timer = metrics.elapsed_compute().timer();
        let polled = rows.poll_next_unpin(cx);
        drop(timer);
        // Without the bytes, which `record_poll` counts buffer by buffer.
        if let Poll::Ready(Some(Ok(batch))) = &polled {
            metrics.record_output(batch.num_rows());
        }
        polled
    });
    in_short_turns(counted)
}

/// The counters of a leaf: those of its streams, and those of what they read together.
pub fn metrics_of(streams: &ExecutionPlanMetricsSet, reads: &ReadMetrics) -> MetricsSet {
    let mut all = streams.clone_inner();
    let values = measures(&reads.counts()).into_iter();
    for value in values.filter_map(|measure| measure.to_metric()) {
        all.push(Arc::new(Metric::new(value, None)));
    }
    all
}

fn measures(counts: &ReadCounts) -> Vec<Measure> {
    let mut measures = vec![Measure::pruned(
        "files_pruned_by_time",
        counts.files_pruned,
        counts.files,
    )];
    // Each step sees what the one before has left.
    let mut left = counts.row_groups;
    for (name, pruned) in [
        ("row_groups_pruned_by_time", counts.row_groups_pruned_by_time),
        (
            "row_groups_pruned_by_statistics",
            counts.row_groups_pruned_by_statistics,
        ),
        (
            "row_groups_pruned_by_bloom_filter",
            counts.row_groups_pruned_by_bloom_filter,
        ),
        ("row_groups_pruned_by_pages", counts.row_groups_pruned_by_pages),
    ] {
        left = left.saturating_sub(pruned);
        measures.push(Measure::pruned(name, pruned, left));
    }
    for (name, pruned, all) in [
        ("pages_pruned", counts.pages_pruned, counts.pages),
        ("rows_pruned", counts.rows_pruned, counts.rows),
    ] {
        measures.push(Measure::pruned(name, pruned, all.saturating_sub(pruned)));
    }
    for (name, kind, value) in [
        ("files_opened", MeasureKind::Count, counts.files),
        ("row_groups_read", MeasureKind::Count, left),
        (
            "pages_read",
            MeasureKind::Count,
            counts.pages.saturating_sub(counts.pages_pruned),
        ),
        (
            "rows_read",
            MeasureKind::Count,
            counts.rows.saturating_sub(counts.rows_pruned),
        ),
        ("rows_in_memory", MeasureKind::Count, counts.rows_in_memory),
        ("rows_selected", MeasureKind::Count, counts.rows_selected),
        ("bytes_from_memory", MeasureKind::Bytes, counts.bytes_from_memory),
        ("bytes_from_disk", MeasureKind::Bytes, counts.bytes_from_disk),
        ("bytes_from_store", MeasureKind::Bytes, counts.bytes_from_store),
        ("bytes_decoded", MeasureKind::Bytes, counts.bytes_decoded),
        (
            "bytes_decoded_before",
            MeasureKind::Bytes,
            counts.bytes_decoded_before,
        ),
        ("store_requests", MeasureKind::Count, counts.store_requests),
        ("store_time", MeasureKind::Nanos, counts.store_nanos),
        ("opening_time", MeasureKind::Nanos, counts.opening_nanos),
    ] {
        measures.push(Measure::new(name, kind, value));
    }
    measures
}
