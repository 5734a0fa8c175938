//! The part of a plan that runs beside the regions of one table, one stream per region.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use datafusion::arrow::array::{Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use greptime_proto::v1::QueryParameters;
use greptime_query::{encode_plan, encode_values, in_region, in_short_turns, into_datafusion};
use greptime_types::{RegionId, TableInfo};

use super::analyze::Reports;
use crate::route::router::RegionQuery;
use crate::route::{Deadline, Router};

/// Until when a query must be done; travels in the session's extensions.
#[derive(Clone, Copy, Debug)]
pub struct QueryDeadline(pub Deadline);

/// The bytes of a prepared plan, and the constants of one statement.
struct Prepared {
    plan: Bytes,
    parameters: QueryParameters,
}

pub struct RegionQueryExec {
    /// What each region runs: a chain of operators over one `RegionScan`, in which the region is replaced.
    plan: Arc<dyn ExecutionPlan>,
    regions: Vec<RegionId>,
    table: Arc<TableInfo>,
    router: Arc<Router>,
    /// Whether `plan` is shown as a child. Not before the optimizer is done, whose rules would change it.
    is_shown: bool,
    /// Of EXPLAIN ANALYZE: where the regions say what they did.
    reports: Option<Arc<Reports>>,
    /// What the regions are sent in the place of `plan`, which has parameters then.
    prepared: Option<Arc<Prepared>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RegionQueryExec {
    /// `plan` has one partition; this has one per region, each with the properties of `plan`.
    pub fn try_new(
        plan: Arc<dyn ExecutionPlan>,
        regions: Vec<RegionId>,
        table: Arc<TableInfo>,
        router: Arc<Router>,
    ) -> Result<Self> {
        if plan.output_partitioning().partition_count() != 1 || regions.is_empty() {
            return internal_err!("a region runs one stream, and there must be a region");
        }
        let properties = PlanProperties::new(
            plan.equivalence_properties().clone(),
            Partitioning::UnknownPartitioning(regions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self {
            plan,
            regions,
            table,
            router,
            is_shown: false,
            reports: None,
            prepared: None,
            properties: Arc::new(properties),
            metrics,
        })
    }

    /// The same regions with another plan.
    pub fn with_plan(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Self> {
        self.with(plan, self.regions.clone())
    }

    fn with(&self, plan: Arc<dyn ExecutionPlan>, regions: Vec<RegionId>) -> Result<Self> {
        Self::try_new(plan, regions, Arc::clone(&self.table), Arc::clone(&self.router))
    }

    /// The same, with its plan shown below it.
    pub fn shown(&self) -> Result<Self> {
        let mut shown = self.with_plan(Arc::clone(&self.plan))?;
        shown.is_shown = true;
        Ok(shown)
    }

    /// The same, asking the regions to report; when they have, that is shown below in the place of the plan.
    pub fn reported(&self, by_region: bool) -> Result<Self> {
        let mut reported = self.shown()?;
        reported.reports = Some(Arc::new(Reports::new(&self.regions, by_region)));
        Ok(reported)
    }

    /// Other regions, which are sent the bytes of this plan, as it was prepared, and constants.
    pub fn prepared(&self, regions: Vec<RegionId>, plan: Bytes, constants: &[ScalarValue]) -> Result<Self> {
        let mut prepared = self.with(Arc::clone(&self.plan), regions)?;
        let values = encode_values(constants)?;
        let parameters = QueryParameters { values };
        prepared.prepared = Some(Arc::new(Prepared { plan, parameters }));
        Ok(prepared)
    }

    pub fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }

    pub fn regions(&self) -> &[RegionId] {
        &self.regions
    }
}

impl fmt::Debug for RegionQueryExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionQueryExec")
            .field("regions", &self.regions)
            .field("plan", &self.plan)
            .finish()
    }
}

impl DisplayAs for RegionQueryExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions: Vec<String> = self.regions.iter().map(ToString::to_string).collect();
        write!(
            f,
            "RegionQueryExec: table={}, regions=[{}]",
            self.table.full_name(),
            regions.join(", ")
        )?;
        match &self.reports {
            Some(reports) => f.write_str(&reports.summary()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for RegionQueryExec {
    fn name(&self) -> &'static str {
        "RegionQueryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    /// The regions' plan is shown below; it is executed there and not here.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        match self.reports.as_ref().and_then(|r| r.shown()) {
            Some(reported) => reported.iter().collect(),
            None if self.is_shown => vec![&self.plan],
            None => vec![],
        }
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.children().len()]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (<[_; 1]>::try_from(children), self.is_shown) {
            (Ok([plan]), true) => Ok(Arc::new(self.with_plan(plan)?.shown()?)),
            (Err(none), false) if none.is_empty() => Ok(self),
            _ => internal_err!("RegionQueryExec was given children that it does not have"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let recompute = datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(&region) = self.regions.get(partition) else {
            return internal_err!("RegionQueryExec has no partition {partition}");
        };
        let Some(deadline) = context.session_config().get_extension::<QueryDeadline>() else {
            return plan_err!("a query over regions needs a deadline");
        };
        let (plan, parameters) = match &self.prepared {
            None => (encode_plan(&in_region(&self.plan, region)?)?, None),
            Some(prepared) => (prepared.plan.clone(), Some(prepared.parameters.clone())),
        };
        let query = RegionQuery {
            region,
            schema_version: self.table.schema.version,
            plan,
            parameters,
            report: self.reports.is_some(),
        };
        let router = Arc::clone(&self.router);
        let schema = self.schema();
        let output_rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let expected = Arc::clone(&schema);
        let arrived = MemoryConsumer::new(format!("rows of region {region}")).register(context.memory_pool());
        let reports = self.reports.clone();
        let rows = async move {
            let asked = router.clock.now();
            let answer = router.query(query, deadline.0).await.map_err(into_datafusion)?;
            if let Some(reports) = &reports {
                reports.answered(partition, answer.report, router.clock.now() - asked);
            }
            let at_end = reports.clone();
            let end = futures::stream::poll_fn(move |_| {
                if let Some(reports) = &at_end {
                    reports.ended(partition, router.clock.now() - asked);
                }
                Poll::Ready(None)
            });
            let rows = answer.rows.map(move |batch| {
                let batch = as_expected(&expected, batch?)?;
                output_rows.add(batch.num_rows());
                if let Some(reports) = &reports {
                    reports.received(partition, batch.num_rows());
                }
                // It is here whether there is room or not, so that it is counted and not asked for: those who can
                // spill give way to it. There is one batch of each region; the next one is awaited.
                arrived.resize(size_of_rows(&batch));
                Ok(batch)
            });
            Ok::<_, DataFusionError>(rows.chain(end))
        };
        // Whoever takes them may have a task of its own.
        let rows = in_short_turns(futures::stream::once(rows).try_flatten().boxed());
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Only the rows' own part, where buffers are shared with other batches.
fn size_of_rows(batch: &RecordBatch) -> usize {
    let sizes = batch.columns().iter();
    sizes
        .map(|c| {
            c.to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| c.get_array_memory_size())
        })
        .sum()
}

/// The batch under our own schema: names and metadata may differ, types may not.
fn as_expected(schema: &SchemaRef, batch: RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        batch.columns().to_vec(),
        &options,
    )?)
}
