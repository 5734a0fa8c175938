//! The leaf of a plan beside a region, executed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MutableArrayData, RecordBatch, RecordBatchOptions, make_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};
use greptime_query::RegionScanSpec;
use greptime_types::TableSchema;
use tokio::sync::OnceCell;

use super::block::truth;
use super::measure::{measured, metrics_of};
use super::plan::ScanPlan;
use super::reader::RegionReader;
use super::top::ByTime;
use super::wanted::Interest;
use super::work::{Selected, Work};

/// Reads one region, at the moment when it is executed, in several streams.
pub struct ScanExec {
    spec: RegionScanSpec,
    plan: Arc<ScanPlan>,
    reader: Arc<RegionReader>,
    work: Arc<OnceCell<Arc<Work>>>,
    interest: Interest,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanExec {
    pub fn try_new(spec: RegionScanSpec, reader: Arc<RegionReader>) -> Result<Self> {
        let plan = Arc::new(ScanPlan::new(&spec, &reader.table.schema)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&plan.output)),
            Partitioning::UnknownPartitioning(reader.streams()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            spec,
            plan,
            reader,
            work: Arc::default(),
            interest: Interest::All,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same, for somebody who keeps the first rows by time.
    #[must_use]
    pub fn by_time(&self, by_time: Arc<ByTime>) -> Self {
        Self {
            spec: self.spec.clone(),
            plan: Arc::clone(&self.plan),
            reader: Arc::clone(&self.reader),
            work: Arc::default(),
            interest: Interest::ByTime(by_time),
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    pub fn reader(&self) -> Arc<RegionReader> {
        Arc::clone(&self.reader)
    }

    pub fn table(&self) -> &TableSchema {
        &self.reader.table.schema
    }

    pub fn limit(&self) -> Option<usize> {
        self.plan.limit
    }
}

impl fmt::Debug for ScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec({})", self.spec)
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spec.wanted() {
            wanted if wanted.is_empty() => f.write_str(self.name()),
            wanted => write!(f, "{}: {wanted}", self.name()),
        }?;
        match &self.interest {
            Interest::ByTime(by_time) if by_time.descending => f.write_str(", latest first"),
            Interest::ByTime(_) => f.write_str(", earliest first"),
            Interest::All | Interest::LastOfSeries => Ok(()),
        }
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "RegionScanExec"
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
        let (reader, work, plan, interest) = (
            Arc::clone(&self.reader),
            Arc::clone(&self.work),
            Arc::clone(&self.plan),
            self.interest.clone(),
        );
        let held = MemoryConsumer::new("blocks of a region").register(ctx.memory_pool());
        let batch_rows = ctx.session_config().batch_size();
        let rows = async move {
            let columns = plan.columns();
            let open = || reader.open(&columns, &plan.filters, interest);
            let work = work.get_or_try_init(open).await?;
            let looked_at = Arc::clone(&plan.looked_at);
            let shaper = Arc::new(Shaper {
                plan,
                looked_at,
                batch_rows,
            });
            let shaped = work.blocks(held, ctx).map(move |selected| {
                Ok::<_, DataFusionError>(futures::stream::iter(shaper.shape(selected?)?))
            });
            Ok::<_, DataFusionError>(shaped.try_flatten())
        };
        let rows = futures::stream::once(rows).try_flatten();
        let rows = limited(rows, self.plan.limit);
        let rows = measured(rows, BaselineMetrics::new(&self.metrics, partition));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(metrics_of(&self.metrics, &self.reader.metrics))
    }
}

impl ScanPlan {
    /// Columns of the region that are read.
    fn columns(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.output.fields().iter().map(|f| f.name().clone()).collect();
        let filters = self.filters.tags.iter().chain(&self.filters.rows);
        names.extend(filters.flat_map(collect_columns).map(|c| c.name().to_owned()));
        names
    }
}

/// What the plan above sees of rows of the engine.
struct Shaper {
    plan: Arc<ScanPlan>,
    /// Columns that the filter on rows looks at.
    looked_at: SchemaRef,
    batch_rows: usize,
}

impl Shaper {
    /// The rows in batches, which are made as they are asked for.
    fn shape(&self, selected: Selected) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
        let Selected { block, stretches } = selected;
        let mut rows = RecordBatch::new_empty(Arc::clone(&self.plan.output));
        if !stretches.is_empty() {
            let mut block = block.gather(&stretches)?;
            if let Some(filter) = &self.plan.filters.rows {
                block = block.keep(&truth(filter, &block.columns(&self.looked_at)?)?)?;
            }
            rows = as_output(&block.columns(&self.plan.output)?, &self.plan.output)?;
        }
        let batch_rows = self.batch_rows.max(1);
        let starts = (0..rows.num_rows()).step_by(batch_rows);
        Ok(starts.map(move |start| {
            let batch = rows.slice(start, batch_rows.min(rows.num_rows() - start));
            match batch.num_rows() == rows.num_rows() {
                true => Ok(batch),
                false => copied(&batch),
            }
        }))
    }
}

/// Part of a block in memory of its own: an operator that keeps batches counts for each of them all that it lies in.
fn copied(batch: &RecordBatch) -> Result<RecordBatch> {
    let copy = |column: &ArrayRef| {
        let data = column.to_data();
        let mut copied = MutableArrayData::new(vec![&data], false, data.len());
        copied.try_extend(0, 0, data.len())?;
        Ok(make_array(copied.freeze()))
    };
    let columns = batch
        .columns()
        .iter()
        .map(copy)
        .collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

/// The same columns, with the types that the plan expects: those of the region may be newer.
fn as_output(rows: &RecordBatch, output: &SchemaRef) -> Result<RecordBatch> {
    let columns = rows.columns().iter().zip(output.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => Ok(cast(column, field.data_type())?),
        }
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(output),
        columns,
        &options,
    )?)
}

/// The rows up to the limit, of each stream.
fn limited(
    rows: impl Stream<Item = Result<RecordBatch>> + Send,
    limit: Option<usize>,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let mut left = limit.unwrap_or(usize::MAX);
    let limited = rows.map(move |batch| {
        batch.map(|batch| {
            let taken = batch.num_rows().min(left);
            left -= taken;
            (batch.slice(0, taken), left > 0)
        })
    });
    // The batch that reaches the limit is the last one.
    limited.scan(true, |more, batch| {
        let wanted = *more;
        *more = !matches!(&batch, Ok((_, false)) | Err(_));
        futures::future::ready(wanted.then(|| batch.map(|(batch, _)| batch)))
    })
}
