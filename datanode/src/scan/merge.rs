//! Sorted runs into one sorted stream.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use greptime_types::schema::SEQUENCE_COLUMN;

use crate::memtable::{ASCENDING, DESCENDING, KeyColumns};

/// Tags, time, newest first, as positions in `schema`.
pub fn ordering(schema: &SchemaRef, key: &KeyColumns) -> Result<LexOrdering> {
    let names = key.columns.iter().map(|(name, _)| (name.as_str(), ASCENDING));
    let mut sorts = Vec::new();
    for (name, options) in names.chain([(SEQUENCE_COLUMN, DESCENDING)]) {
        let column = Column::new(name, schema.index_of(name)?);
        sorts.push(PhysicalSortExpr {
            expr: Arc::new(column),
            options,
        });
    }
    LexOrdering::new(sorts)
        .ok_or_else(|| datafusion::common::internal_datafusion_err!("a region without key columns"))
}

/// One sorted stream of sorted streams. What it holds is reserved in the query's memory pool.
pub fn merge(
    streams: Vec<SendableRecordBatchStream>,
    schema: &SchemaRef,
    key: &KeyColumns,
    ctx: &TaskContext,
) -> Result<SendableRecordBatchStream> {
    let mut streams = streams;
    if streams.len() == 1 {
        return Ok(streams.remove(0));
    }
    let ordering = ordering(schema, key)?;
    let reservation = MemoryConsumer::new("region merge").register(ctx.memory_pool());
    StreamingMergeBuilder::new()
        .with_streams(streams)
        .with_schema(Arc::clone(schema))
        .with_expressions(&ordering)
        .with_metrics(BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0))
        .with_batch_size(ctx.session_config().batch_size())
        .with_reservation(reservation)
        .with_round_robin_tie_breaker(false)
        .build()
}

/// A batch in memory as a stream of smaller ones.
pub fn stream_of(batch: RecordBatch, batch_size: usize) -> SendableRecordBatchStream {
    let schema = batch.schema();
    let rows = batch.num_rows();
    let slices = (0..rows)
        .step_by(batch_size.max(1))
        .map(move |start| Ok(batch.slice(start, batch_size.min(rows - start))));
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter(slices),
    ))
}
