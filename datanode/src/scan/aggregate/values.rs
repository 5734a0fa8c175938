//! The newest rows of a whole region, given out as values.
//!
//! Streams read side by side, each the parts that it takes. What they have found is merged a row at a time, so that all
//! columns of a group come from one row, and nobody above has to merge anything.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::internal_datafusion_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, Time};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use greptime_query::shorten_turn;
use tokio::task::JoinSet;

use super::exec::Run;
use super::last::LastRows;
use crate::scan::work::Glance;

pub struct Values {
    pub run: Run,
    pub streams: usize,
    pub metrics: ExecutionPlanMetricsSet,
    /// The plan of the same values whose operators give out or spill what does not fit into memory.
    pub otherwise: Arc<dyn ExecutionPlan>,
}

/// Newest rows, and the memory that they were promised.
struct Found {
    rows: LastRows,
    held: Vec<MemoryReservation>,
}

impl Values {
    /// A group is given out only when all streams are done. If so many groups do not fit into memory, nothing was given
    /// out yet, and the other plan begins anew.
    pub async fn batches(self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let mut streams = JoinSet::new();
        match self.merged(&mut streams).await {
            Ok(None) => Ok(futures::stream::empty().boxed()),
            Ok(Some(found)) => Ok(found.batches(self.run.ctx.session_config().batch_size())),
            Err(error) if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) => {
                // Those that still read hold memory.
                streams.shutdown().await;
                MetricBuilder::new(&self.metrics)
                    .global_counter("starts_with_less_memory")
                    .add(1);
                Ok(self.otherwise.execute(0, self.run.ctx)?.boxed())
            }
            Err(error) => Err(error),
        }
    }

    /// What all streams have found; dropping `streams` stops them.
    async fn merged(&self, streams: &mut JoinSet<Result<Found>>) -> Result<Option<Found>> {
        let work = self.run.open().await?;
        let none = LastRows::new(Arc::clone(&self.run.aggregation))?;
        for stream in 0..self.streams {
            let blocks = self.run.memory("blocks of a region");
            let glances = work.glances(blocks, Arc::clone(&self.run.ctx)).boxed();
            let held = self.run.memory("aggregates of a region");
            let time = MetricBuilder::new(&self.metrics).elapsed_compute(stream);
            streams.spawn(timed(newest(glances, none.sibling(), held), time));
        }
        let mut merged: Option<Found> = None;
        while let Some(ended) = streams.join_next().await {
            let found = ended.map_err(|e| internal_datafusion_err!("a stream of a region ended: {e}"))??;
            match &mut merged {
                None => merged = Some(found),
                Some(merged) => merged.add(found),
            }
        }
        Ok(merged)
    }
}

/// The newest rows of all parts that one stream takes.
async fn newest(
    mut glances: BoxStream<'static, Result<Glance>>,
    mut rows: LastRows,
    held: MemoryReservation,
) -> Result<Found> {
    while let Some(glance) = glances.try_next().await? {
        rows.add(glance).await?;
        held.try_resize(rows.bytes())?;
        // Parts may come without waiting; others want the thread too, and a dropped query ends here.
        tokio::task::consume_budget().await;
    }
    let held = vec![held];
    Ok(Found { rows, held })
}

/// Counts the time in which a future worked and did not wait. It works in short turns.
async fn timed<T>(work: impl Future<Output = T>, time: Time) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        shorten_turn(cx);
        let _working = time.timer();
        work.as_mut().poll(cx)
    })
    .await
}

impl Found {
    fn add(&mut self, other: Self) {
        self.rows.merge(other.rows);
        self.held.extend(other.held);
    }

    /// The memory is given back after the last batch.
    fn batches(self, rows: usize) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { rows: found, held } = self;
        let batches = found.into_batches(rows).inspect(move |_| {
            let _until_the_end = &held;
        });
        futures::stream::iter(batches).boxed()
    }
}
