//! The leaf of a plan beside a region, executed.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::ColumnStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::batch_filter;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use greptime_object_store::Bucket;
use greptime_query::{RegionScanSpec, into_datafusion};
use greptime_types::schema::SEQUENCE_COLUMN;
use greptime_types::{Error, Result as OurResult};
use object_store::ObjectStoreExt;

use super::dedup::{Deletes, dedup};
use super::merge::{merge, stream_of};
use super::plan::{STORE_URL, ScanPlan};
use crate::manifest::FileMeta;
use crate::region::{Region, Snapshot};
use crate::schema::engine_schema;
use crate::sst::key_of;

/// Of a file that is no longer there: how often a newer manifest view is tried.
const ATTEMPTS: usize = 3;

/// Loads the newest manifest of a region.
#[async_trait]
pub trait ReloadManifest: Send + Sync + fmt::Debug {
    async fn reload(&self, region: &Arc<Region>) -> OurResult<()>;
}

/// Reads one region, at the moment when it is executed.
pub struct ScanExec {
    spec: RegionScanSpec,
    region: Arc<Region>,
    bucket: Bucket,
    manifest: Arc<dyn ReloadManifest>,
    properties: Arc<PlanProperties>,
}

impl ScanExec {
    pub fn try_new(
        spec: RegionScanSpec,
        region: Arc<Region>,
        bucket: Bucket,
        manifest: Arc<dyn ReloadManifest>,
    ) -> Result<Self> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(spec.output_schema()?),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            spec,
            region,
            bucket,
            manifest,
            properties: Arc::new(properties),
        })
    }
}

impl fmt::Debug for ScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec({})", self.spec)
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionScanExec: {}", self.spec)
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
        if partition != 0 {
            return internal_err!("a region scan has one partition, not {partition}");
        }
        let reader = Reader {
            spec: self.spec.clone(),
            region: Arc::clone(&self.region),
            bucket: self.bucket.clone(),
            manifest: Arc::clone(&self.manifest),
            ctx,
        };
        let stream = futures::stream::once(reader.open()).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// One execution.
struct Reader {
    spec: RegionScanSpec,
    region: Arc<Region>,
    bucket: Bucket,
    manifest: Arc<dyn ReloadManifest>,
    ctx: Arc<TaskContext>,
}

impl Reader {
    /// The first batch comes only after all files that are merged were opened, so a file that is missing shows
    /// before anything was given out, and a newer view can be tried.
    async fn open(self) -> Result<SendableRecordBatchStream> {
        for _ in 0..ATTEMPTS {
            let snapshot = self.region.snapshot().map_err(into_datafusion)?;
            let mut rows = self.read(&snapshot)?;
            let first = rows.next().await;
            if let Some(Err(error)) = &first
                && came_from_files(error)
                && self.lacks_a_file(&snapshot).await
            {
                self.manifest
                    .reload(&self.region)
                    .await
                    .map_err(into_datafusion)?;
                continue;
            }
            let schema = rows.schema();
            let all = futures::stream::iter(first).chain(rows);
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, all)));
        }
        Err(into_datafusion(Error::corruption(format!(
            "files that the manifest of region {} names are not there",
            self.region.id()
        ))))
    }

    /// The reader's own error does not always say that a file was not found, so the bucket is asked.
    async fn lacks_a_file(&self, snapshot: &Snapshot) -> bool {
        for file in snapshot.view.files.values() {
            let head = self
                .bucket
                .store
                .head(&key_of(&self.bucket, file.home, &file.name))
                .await;
            if matches!(head, Err(object_store::Error::NotFound { .. })) {
                return true;
            }
        }
        false
    }

    fn read(&self, snapshot: &Snapshot) -> Result<SendableRecordBatchStream> {
        let plan = ScanPlan::new(&self.spec, snapshot)?;
        let mut runs = self.read_memory(snapshot, &plan)?;
        for file in snapshot.view.files.values() {
            runs.push(self.read_file(file, snapshot, &plan)?);
        }
        let key = &snapshot.key;
        let rows = if runs.is_empty() {
            stream_of(RecordBatch::new_empty(Arc::clone(&plan.schema)), 1)
        } else if key.append_mode {
            let rows = futures::stream::iter(runs).flatten();
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&plan.schema), rows))
        } else {
            dedup(
                merge(runs, &plan.schema, key, &self.ctx)?,
                key.clone(),
                Deletes::Drop,
            )
        };
        Ok(finish(rows, plan))
    }

    fn read_memory(&self, snapshot: &Snapshot, plan: &ScanPlan) -> Result<Vec<SendableRecordBatchStream>> {
        let flushed = snapshot.view.flushed_seq;
        let batch_size = self.ctx.session_config().batch_size();
        let table = &snapshot.table;
        let wanted = |c: &greptime_types::ColumnSchema| plan.schema.index_of(&c.name).is_ok();
        let internal = plan.schema.index_of(SEQUENCE_COLUMN).is_ok();
        let schema = engine_schema(&table.schema, wanted, internal);
        let mut runs = Vec::new();
        for memory in &snapshot.memory {
            let batches = memory.runs(flushed, &schema, table).map_err(into_datafusion)?;
            for batch in batches {
                let rows = stream_of(plain(&batch, &plan.schema)?, batch_size);
                runs.push(filtered(rows, plan.before.clone()));
            }
        }
        Ok(runs)
    }

    fn read_file(
        &self,
        file: &FileMeta,
        snapshot: &Snapshot,
        plan: &ScanPlan,
    ) -> Result<SendableRecordBatchStream> {
        let mut source = ParquetSource::new(Arc::clone(&plan.schema)).with_pushdown_filters(true);
        if let Some(before) = &plan.before {
            source = source.with_predicate(Arc::clone(before));
        }
        let path = key_of(&self.bucket, file.home, &file.name);
        let time = &snapshot.table.schema.time_index().name;
        let statistics = file_statistics(file, &plan.schema, time)?;
        let mut partitioned = PartitionedFile::new("", file.bytes).with_statistics(Arc::new(statistics));
        // As it is: the constructor would encode it once more.
        partitioned.object_meta.location = path;
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, Arc::new(source))
            .with_file_group(FileGroup::new(vec![partitioned]))
            .build();
        let rows = DataSourceExec::from_data_source(config).execute(0, Arc::clone(&self.ctx))?;
        // Row filters of the file reader are best effort.
        Ok(filtered(rows, plan.before.clone()))
    }
}

/// What the manifest knows of a file, so that a query for another time does not even open it.
fn file_statistics(file: &FileMeta, schema: &SchemaRef, time: &str) -> Result<Statistics> {
    let mut statistics = Statistics::new_unknown(schema);
    let at = schema.index_of(time)?;
    let kind = schema.field(at).data_type();
    let value = |v: i64| ScalarValue::Int64(Some(v)).cast_to(kind).map(Precision::Exact);
    statistics.num_rows = Precision::Exact(file.rows as usize);
    statistics.column_statistics[at] = ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: value(file.min_time)?,
        max_value: value(file.max_time)?,
        ..ColumnStatistics::new_unknown()
    };
    Ok(statistics)
}

fn filtered(
    rows: SendableRecordBatchStream,
    filter: Option<Arc<dyn PhysicalExpr>>,
) -> SendableRecordBatchStream {
    let Some(filter) = filter else { return rows };
    let schema = rows.schema();
    let kept = rows.map(move |batch| batch.and_then(|batch| batch_filter(&batch, &filter)));
    let kept = kept.filter(|batch| futures::future::ready(!matches!(batch, Ok(b) if b.num_rows() == 0)));
    Box::pin(RecordBatchStreamAdapter::new(schema, kept))
}

/// Filters, projects and limits what overwriting left.
fn finish(rows: SendableRecordBatchStream, plan: ScanPlan) -> SendableRecordBatchStream {
    let rows = filtered(rows, plan.after);
    let output = Arc::clone(&plan.output);
    let projected = rows.map(move |batch| batch.and_then(|batch| project(&batch, &output)));
    let mut left = plan.limit.unwrap_or(usize::MAX);
    let limited = projected.map(move |batch| {
        batch.map(|batch| {
            let taken = batch.num_rows().min(left);
            left -= taken;
            (batch.slice(0, taken), left > 0)
        })
    });
    // The batch that reaches the limit is the last one.
    let bounded = limited.scan(true, |more, batch| {
        let wanted = *more;
        *more = !matches!(&batch, Ok((_, false)) | Err(_));
        futures::future::ready(wanted.then(|| batch.map(|(batch, _)| batch)))
    });
    Box::pin(RecordBatchStreamAdapter::new(plan.output, bounded))
}

/// Rows of the engine with the types that the plan reads.
fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column(batch.schema_ref().index_of(field.name())?);
        arrow::compute::cast(column, field.data_type())
    });
    let columns = columns.collect::<std::result::Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

fn project(batch: &RecordBatch, output: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let column = |f: &arrow::datatypes::FieldRef| match batch.column_by_name(f.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(f.data_type(), rows),
    };
    let columns: Vec<ArrayRef> = output.fields().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(output),
        columns,
        &options,
    )?)
}

fn came_from_files(error: &DataFusionError) -> bool {
    matches!(
        error.find_root(),
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) | DataFusionError::External(_)
    )
}
