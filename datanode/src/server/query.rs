//! One query beside a region.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt};
use greptime_proto::v1;
use greptime_query::{
    RegionReport, RegionRows, RegionScanSpec, ReportSlot, ResolveScan, decode_plan, decode_values,
    from_datafusion, in_short_turns, into_datafusion, operators_of,
};
use greptime_types::{Error, RegionId, Result};
use tokio::time::Instant;

use super::Datanode;
use crate::defences::Defence;
use crate::region::{Flusher, Region, RegionState, load_manifest};
use crate::scan::{RegionReader, ReloadManifest, ScanExec, accelerate, read_by_time};
use crate::sst::FileSource;

/// How long a majority may take to confirm who leads, before the query is tried elsewhere.
const CONFIRM: Duration = Duration::from_secs(1);

impl Datanode {
    /// Runs a plan over one region. It sees every write that was acknowledged before.
    pub async fn query(&self, request: v1::QueryRequest) -> Result<RegionRows> {
        let started = Instant::now();
        let deadline = self.check_header(request.header.as_ref())?;
        self.check_alive()?;
        self.confirm_lead(&request, deadline).await?;
        let plan = self.explain(&request)?;
        self.metrics.queries.inc();
        let rows = execute_stream(Arc::clone(&plan), self.queries.task_ctx());
        let rows = self.explained(rows.map_err(|e| from_datafusion(&e))?);
        let rows = match deadline {
            None => rows,
            Some(left) => until(rows, left),
        };
        Ok(match request.report {
            false => rows.into(),
            true => reported(rows, plan, self.identity().node_id, started),
        })
    }

    /// The rows, made in short turns; what is said of a limit names our setting.
    fn explained(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let (schema, spill) = (rows.schema(), Arc::clone(&self.spill));
        let runtime = self.queries.runtime_env();
        let rows =
            in_short_turns(rows).map_err(move |error| spill.told(&runtime.disk_manager).explain(error));
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    /// Where others have a vote, one of them may have been made the leader without this node knowing. metasrv may have
    /// promised that nobody is; else a majority is asked.
    async fn confirm_lead(&self, request: &v1::QueryRequest, deadline: Option<Duration>) -> Result<()> {
        let region = self.regions.get(RegionId::from_u64(request.region_id))?;
        if !region.with_state(RegionState::is_replicated) || !Defence::ReadsAreConfirmed.holds() {
            return Ok(());
        }
        let admitted = region.admit(request.epoch, request.schema_version)?;
        if region.is_leased(admitted.epoch, self.clock.now()) {
            self.metrics.queries_under_lease.inc();
            return Ok(());
        }
        let left = deadline.unwrap_or(CONFIRM).min(CONFIRM);
        match tokio::time::timeout(left, self.log.read_index(region.id())).await {
            Ok(confirmed) => confirmed.map(drop),
            Err(_) => Err(Error::unavailable(format!(
                "no majority of region {} confirms that this node leads it; retry",
                region.id()
            ))),
        }
    }

    /// The plan that a query would run.
    pub(crate) fn explain(&self, request: &v1::QueryRequest) -> Result<Arc<dyn ExecutionPlan>> {
        let region = self.regions.get(RegionId::from_u64(request.region_id))?;
        region.admit(request.epoch, request.schema_version)?;
        region.snapshot()?;
        let ctx = self.queries.task_ctx();
        let resolver = Resolver {
            region,
            files: self.files.clone(),
            flusher: self.flusher.clone(),
            now_ms: self.clock.wall_ms(),
            streams: ctx.session_config().target_partitions(),
        };
        let plan = match &request.parameters {
            None => decode_plan(&request.plan, &ctx, Arc::new(resolver)),
            Some(parameters) => self.prepared.get(&request.plan, &ctx).and_then(|plan| {
                let values = decode_values(&parameters.values)?;
                plan.bind(resolver.region.id(), &values, &resolver)
            }),
        };
        let plan = plan.and_then(accelerate).and_then(read_by_time);
        plan.map_err(|e| from_datafusion(&e))
    }
}

/// The rows, and after each batch and at the end what the plan has cost so far: the receiver may stop before the end.
fn reported(
    rows: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
    node: u64,
    started: Instant,
) -> RegionRows {
    let (schema, report) = (rows.schema(), ReportSlot::default());
    let slot = report.clone();
    let ended = futures::stream::iter([None]);
    let rows = rows.map(Some).chain(ended).filter_map(move |batch| {
        slot.set(RegionReport {
            node,
            nanos: started.elapsed().as_nanos() as u64,
            is_complete: batch.is_none(),
            operators: operators_of(plan.as_ref()),
        });
        futures::future::ready(batch)
    });
    let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
    RegionRows { rows, report }
}

/// The rows, or an error once the deadline has passed.
fn until(rows: SendableRecordBatchStream, left: Duration) -> SendableRecordBatchStream {
    let (schema, end) = (rows.schema(), Instant::now() + left);
    let bounded = futures::stream::try_unfold(rows, move |mut rows| async move {
        match tokio::time::timeout_at(end, rows.next()).await {
            Ok(Some(batch)) => Ok(Some((batch?, rows))),
            Ok(None) => Ok(None),
            Err(_) => Err(into_datafusion(Error::deadline(
                "the deadline of the query passed",
            ))),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, bounded))
}

/// Puts the region in the place of the leaf.
struct Resolver {
    region: Arc<Region>,
    files: FileSource,
    flusher: Flusher,
    now_ms: i64,
    streams: usize,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({})", self.region.id())
    }
}

impl ResolveScan for Resolver {
    fn resolve(&self, spec: RegionScanSpec) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if spec.region_id != self.region.id() {
            return Err(into_datafusion(Error::invalid(format!(
                "a plan for region {} was sent to region {}",
                spec.region_id,
                self.region.id()
            ))));
        }
        let reader = RegionReader {
            region: Arc::clone(&self.region),
            files: self.files.clone(),
            manifest: Arc::new(Reload {
                flusher: self.flusher.clone(),
            }),
            table: self.region.with_state(|s| Arc::clone(s.table())),
            now_ms: self.now_ms,
            streams: self.streams,
            metrics: Arc::default(),
        };
        let scan = Arc::new(ScanExec::try_new(spec, Arc::new(reader))?);
        // The plan above is made for one stream.
        Ok(Arc::new(CoalescePartitionsExec::new(scan)))
    }
}

struct Reload {
    flusher: Flusher,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload")
    }
}

#[async_trait]
impl ReloadManifest for Reload {
    async fn reload(&self, region: &Arc<Region>) -> Result<()> {
        load_manifest(&self.flusher, region).await
    }
}
