//! The operator.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::groups::GroupKey;
use super::plan::{Aggregation, Scope};
use super::states::States;
use crate::scan::measure::{measured, metrics_of};
use crate::scan::reader::RegionReader;
use crate::scan::work::{Selected, Work};

/// States of aggregates over one region, in several streams. A group may be there several times; whoever merges states
/// adds them up.
pub struct RegionAggregateExec {
    reader: Arc<RegionReader>,
    aggregation: Arc<Aggregation>,
    work: Arc<OnceCell<Arc<Work>>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RegionAggregateExec {
    pub fn new(reader: Arc<RegionReader>, aggregation: Arc<Aggregation>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&aggregation.output)),
            Partitioning::UnknownPartitioning(reader.streams()),
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
        if partition >= self.reader.streams() {
            return internal_err!("there is no stream {partition}");
        }
        let (reader, work) = (Arc::clone(&self.reader), Arc::clone(&self.work));
        let aggregation = Arc::clone(&self.aggregation);
        let schema: SchemaRef = Arc::clone(&aggregation.output);
        let pool = Arc::clone(ctx.memory_pool());
        let states = async move {
            let blocks = MemoryConsumer::new("blocks of a region").register(&pool);
            let held = MemoryConsumer::new("aggregates of a region").register(&pool);
            if let Scope::NewestBuckets(groups) = aggregation.scope {
                let newest = Newest {
                    reader,
                    aggregation,
                    groups,
                };
                // They are few, so one stream looks at them.
                let states = match partition {
                    0 => newest.states(&blocks, &held, &ctx).await?,
                    _ => None,
                };
                let rows = states.map(|mut states| states.take());
                return Ok(futures::stream::iter(rows).boxed());
            }
            let columns = aggregation.columns();
            let last = aggregation.scope == Scope::LastOfSeries;
            let open = || reader.open(&columns, &aggregation.filters, last);
            let work = work.get_or_try_init(open).await?;
            let blocks = work.blocks(blocks, ctx).boxed();
            let states = States::new(aggregation)?;
            Ok::<_, DataFusionError>(aggregate(blocks, states, held).boxed())
        };
        let rows = futures::stream::once(states).try_flatten();
        let rows = measured(rows, BaselineMetrics::new(&self.metrics, partition));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(metrics_of(&self.metrics, &self.reader.metrics))
    }
}

/// Aggregates over the newest intervals of time, as many as have the wanted number of groups.
struct Newest {
    reader: Arc<RegionReader>,
    aggregation: Arc<Aggregation>,
    groups: usize,
}

/// Intervals without rows, or whose rows are not wanted, make a longer look necessary.
const LONGER: usize = 8;

impl Newest {
    async fn states(
        &self,
        blocks: &MemoryReservation,
        held: &MemoryReservation,
        ctx: &Arc<TaskContext>,
    ) -> Result<Option<States>> {
        let [GroupKey::Bucket(buckets)] = self.aggregation.keys.as_slice() else {
            return internal_err!("the newest intervals of something else");
        };
        let wanted = self.aggregation.filters.time;
        let Some(span) = self.reader.span(wanted)? else {
            return Ok(None);
        };
        let mut intervals = self.groups;
        loop {
            let back = i64::try_from(intervals - 1)
                .unwrap_or(i64::MAX)
                .saturating_mul(buckets.length);
            let from = buckets
                .start_of(span.max_time)
                .map_or(i64::MIN, |start| start.saturating_sub(back));
            let mut filters = self.aggregation.filters.clone();
            filters.time.from = filters.time.from.max(from);
            let work = self
                .reader
                .open(&self.aggregation.columns(), &filters, false)
                .await?;
            let mut states = States::new(Arc::clone(&self.aggregation))?;
            let mut selected = work.blocks(blocks.new_empty(), Arc::clone(ctx)).boxed();
            while let Some(selected) = selected.try_next().await? {
                states.add(selected)?;
                held.try_resize(states.bytes())?;
                tokio::task::consume_budget().await;
            }
            if states.len() >= self.groups || from <= span.min_time {
                return Ok(Some(states));
            }
            intervals = intervals.saturating_mul(LONGER);
        }
    }
}

/// Adds up all blocks. When the groups do not fit into memory, they are given out before they are complete.
fn aggregate(
    blocks: futures::stream::BoxStream<'static, Result<Selected>>,
    states: States,
    held: MemoryReservation,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    futures::stream::try_unfold(Some((blocks, states, held)), |running| async move {
        let Some((mut blocks, mut states, held)) = running else {
            return Ok(None);
        };
        while let Some(selected) = blocks.try_next().await? {
            states.add(selected)?;
            if held.try_resize(states.bytes()).is_err() {
                let rows = states.take()?;
                held.try_resize(states.bytes())?;
                return Ok(Some((rows, Some((blocks, states, held)))));
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
