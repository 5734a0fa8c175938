//! The operator.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::groups::GroupKey;
use super::plan::{Aggregation, Gives, Scope};
use super::states::{Accumulated, States};
use super::values::Values;
use crate::scan::measure::{measured, metrics_of};
use crate::scan::reader::RegionReader;
use crate::scan::wanted::Interest;
use crate::scan::work::{Glance, Work};

/// Aggregates over one region.
///
/// States come in several streams, and a group may be there several times: whoever merges states adds them up. Values
/// come in one.
pub struct RegionAggregateExec {
    reader: Arc<RegionReader>,
    aggregation: Arc<Aggregation>,
    work: Arc<OnceCell<Arc<Work>>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RegionAggregateExec {
    pub fn new(reader: Arc<RegionReader>, aggregation: Arc<Aggregation>) -> Self {
        let streams = match aggregation.gives {
            Gives::States => reader.streams(),
            Gives::Values { .. } => 1,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&aggregation.output)),
            Partitioning::UnknownPartitioning(streams),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            reader,
            aggregation,
            work: Arc::default(),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl fmt::Debug for RegionAggregateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionAggregateExec")
            .field("aggregation", &self.aggregation)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for RegionAggregateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions: Vec<&str> = self.aggregation.functions.iter().map(|f| f.expr.name()).collect();
        write!(
            f,
            "RegionAggregateExec: gby={:?}, aggr=[{}]",
            self.aggregation.keys,
            functions.join(", ")
        )
    }
}

impl ExecutionPlan for RegionAggregateExec {
    fn name(&self) -> &'static str {
        "RegionAggregateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, ctx: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition >= self.properties.partitioning.partition_count() {
            return internal_err!("there is no stream {partition}");
        }
        let run = Run {
            reader: Arc::clone(&self.reader),
            aggregation: Arc::clone(&self.aggregation),
            ctx,
        };
        let rows = match (&self.aggregation.gives, self.aggregation.scope) {
            (Gives::Values { otherwise }, _) => {
                let values = Values {
                    run,
                    streams: self.reader.streams(),
                    metrics: self.metrics.clone(),
                    otherwise: Arc::clone(otherwise),
                };
                futures::stream::once(values.batches()).try_flatten().boxed()
            }
            (Gives::States, Scope::NewestBuckets(groups)) => {
                let newest = Newest { run, groups };
                // They are few, so one stream looks at them.
                futures::stream::iter((partition == 0).then_some(newest))
                    .then(Newest::states)
                    .try_filter_map(futures::future::ok)
                    .boxed()
            }
            (Gives::States, Scope::All | Scope::LastOfSeries) => {
                let states = run.states(Arc::clone(&self.work));
                futures::stream::once(states).try_flatten().boxed()
            }
        };
        let rows = measured(rows, BaselineMetrics::new(&self.metrics, partition));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(metrics_of(&self.metrics, &self.reader.metrics))
    }
}

/// One execution.
pub struct Run {
    pub reader: Arc<RegionReader>,
    pub aggregation: Arc<Aggregation>,
    pub ctx: Arc<TaskContext>,
}

impl Run {
    pub fn memory(&self, name: &str) -> MemoryReservation {
        MemoryConsumer::new(name).register(self.ctx.memory_pool())
    }

    pub async fn open(&self) -> Result<Arc<Work>> {
        let interest = match self.aggregation.scope {
            Scope::LastOfSeries => Interest::LastOfSeries,
            Scope::All | Scope::NewestBuckets(_) => Interest::All,
        };
        let columns = self.aggregation.columns();
        self.reader
            .open(&columns, &self.aggregation.filters, interest)
            .await
    }

    /// The states of one stream, of the work that all share.
    async fn states(
        self,
        work: Arc<OnceCell<Arc<Work>>>,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + Send> {
        let work = work.get_or_try_init(|| self.open()).await?;
        let blocks = self.memory("blocks of a region");
        let held = self.memory("aggregates of a region");
        let glances = work.glances(blocks, self.ctx).boxed();
        Ok(aggregate(glances, States::new(self.aggregation)?, held))
    }
}

/// Aggregates over the newest intervals of time, as many as have the wanted number of groups.
struct Newest {
    run: Run,
    groups: usize,
}

/// Intervals without rows, or whose rows are not wanted, make a longer look necessary.
const LONGER: usize = 8;

impl Newest {
    async fn states(self) -> Result<Option<RecordBatch>> {
        let Run {
            reader, aggregation, ..
        } = &self.run;
        let [GroupKey::Bucket(buckets)] = aggregation.keys.as_slice() else {
            return internal_err!("the newest intervals of something else");
        };
        let Some(span) = reader.span(aggregation.filters.time)? else {
            return Ok(None);
        };
        let held = self.run.memory("aggregates of a region");
        let mut intervals = self.groups;
        loop {
            let back = i64::try_from(intervals - 1)
                .unwrap_or(i64::MAX)
                .saturating_mul(buckets.length);
            let from = buckets
                .start_of(span.max_time)
                .map_or(i64::MIN, |start| start.saturating_sub(back));
            let mut filters = aggregation.filters.clone();
            filters.time.from = filters.time.from.max(from);
            let work = reader
                .open(&aggregation.columns(), &filters, Interest::All)
                .await?;
            let mut states = Accumulated::new(Arc::clone(aggregation))?;
            let blocks = self.run.memory("blocks of a region");
            let mut selected = work.blocks(blocks, Arc::clone(&self.run.ctx)).boxed();
            while let Some(selected) = selected.try_next().await? {
                states.add(selected)?;
                held.try_resize(states.bytes())?;
                tokio::task::consume_budget().await;
            }
            if states.len() >= self.groups || from <= span.min_time {
                return Ok(Some(states.take()?));
            }
            intervals = intervals.saturating_mul(LONGER);
        }
    }
}

/// Adds up all blocks. When the groups do not fit into memory, they are given out before they are complete.
fn aggregate(
    glances: BoxStream<'static, Result<Glance>>,
    states: States,
    held: MemoryReservation,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    futures::stream::try_unfold(Some((glances, states, held)), |running| async move {
        let Some((mut glances, mut states, held)) = running else {
            return Ok(None);
        };
        while let Some(glance) = glances.try_next().await? {
            states.add(glance).await?;
            if held.try_resize(states.bytes()).is_err() {
                let rows = states.take()?;
                held.try_resize(states.bytes())?;
                return Ok(Some((rows, Some((glances, states, held)))));
            }
            // Blocks may come without waiting; others want the thread too, and a dropped query ends here.
            tokio::task::consume_budget().await;
        }
        Ok(match states.is_empty() {
            true => None,
            false => Some((states.take()?, None)),
        })
    })
}
