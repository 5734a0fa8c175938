//! Delivers requests to regions: to the leader, again when it is not taken, until the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use greptime_clock::SharedClock;
use greptime_proto::v1::{
    CompactRequest, CompactResponse, FlushRequest, FlushResponse, QueryParameters, QueryRequest,
    RequestHeader, WriteOp, WriteRequest, WriteResponse,
};
use greptime_query::{RegionRows, from_datafusion};
use greptime_rows::{Encoded, SeriesBatch};
use greptime_types::format::SERIES_FORMAT;
use greptime_types::{Error, RegionId, RequestId, Result, TableInfo, TableSchema};

use super::hold::{Failure, Hold, HoldPolicy, Next};
use super::ids::{RequestIds, Unfinished};
use super::table::Peer;
use super::{Regions, View};
use crate::defences::Defence;
use crate::ingest::adapt::adapt;
use crate::metrics::FrontendMetrics;

/// A point on the clock's scale at which a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Duration);

pub struct Router {
    pub view: Arc<View>,
    pub clock: SharedClock,
    regions: Arc<dyn Regions>,
    ids: RequestIds,
    policy: HoldPolicy,
    held_bytes: AtomicU64,
    metrics: FrontendMetrics,
}

/// Counts a request as held while it lives.
struct Held<'a> {
    router: &'a Router,
    bytes: u64,
}

impl<'a> Held<'a> {
    fn new(router: &'a Router, bytes: u64) -> Self {
        router.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        router.metrics.held.inc();
        Self { router, bytes }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.router.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.router.metrics.held.dec();
    }
}

/// One write to one region.
#[derive(Clone, Debug)]
pub struct RegionWrite<'a> {
    pub region: RegionId,
    /// Of the table when the rows were made.
    pub schema: &'a TableSchema,
    pub op: WriteOp,
    pub rows: &'a SeriesBatch,
    /// The rows as they are sent.
    pub encoded: Encoded,
}

impl RegionWrite<'_> {
    /// The rows as they are to be sent under the newest schema that is known, and its version. They are made anew
    /// only if their names or types have come to mean something else, or if a node of the cluster does not know series
    /// yet.
    fn under(&self, newest: Option<&TableInfo>, format: u32) -> Result<(u64, Encoded)> {
        let knows_series = format >= SERIES_FORMAT || !Defence::OldNodesAreUnderstood.holds();
        let adapted;
        let (schema, rows) = match newest.map(|t| &t.schema) {
            Some(newest) if newest.writes_from > self.schema.version => {
                adapted = adapt(self.rows, self.schema, newest)?;
                (newest, &adapted)
            }
            _ if knows_series => return Ok((self.schema.version, self.encoded.clone())),
            _ => (self.schema, self.rows),
        };
        let encoded = match knows_series {
            true => rows.encode()?,
            false => rows.encode_named(schema)?,
        };
        Ok((schema.version, encoded))
    }
}

/// One part of a query.
#[derive(Clone, Debug)]
pub struct RegionQuery {
    pub region: RegionId,
    pub schema_version: u64,
    pub plan: Bytes,
    /// The constants of a prepared plan.
    pub parameters: Option<QueryParameters>,
    /// Whether the region is to say what it cost.
    pub report: bool,
}

/// The leader that an attempt goes to.
#[derive(Clone)]
struct Target {
    peer: Peer,
    epoch: u64,
}

impl Router {
    pub fn new(
        view: Arc<View>,
        regions: Arc<dyn Regions>,
        clock: SharedClock,
        ids: RequestIds,
        policy: HoldPolicy,
        metrics: FrontendMetrics,
    ) -> Self {
        Self {
            view,
            clock,
            regions,
            ids,
            policy,
            held_bytes: AtomicU64::new(0),
            metrics,
        }
    }

    pub fn deadline_in(&self, timeout: Duration) -> Deadline {
        Deadline(self.clock.now() + timeout)
    }

    pub fn time_left(&self, deadline: Deadline) -> Duration {
        deadline.0.saturating_sub(self.clock.now())
    }

    /// Writes once, however often it has to be sent: all attempts carry the same request id.
    pub async fn write(&self, write: RegionWrite<'_>, deadline: Deadline) -> Result<WriteResponse> {
        let unfinished = self.ids.begin();
        let bytes = (write.encoded.series.len() + write.encoded.rows.len()) as u64;
        let attempt = |target: Target| {
            self.write_once(&write, self.id_of(&unfinished), target, deadline)
                .boxed()
        };
        let answer = self
            .deliver((write.region, None), bytes, deadline, &attempt)
            .await?;
        unfinished.answered();
        Ok(answer)
    }

    /// Of one attempt.
    fn id_of(&self, write: &Unfinished) -> RequestId {
        if Defence::AttemptsShareTheId.holds() {
            return write.id();
        }
        let another = self.ids.begin();
        let id = another.id();
        another.answered();
        id
    }

    async fn write_once(
        &self,
        write: &RegionWrite<'_>,
        id: RequestId,
        target: Target,
        deadline: Deadline,
    ) -> Result<WriteResponse> {
        let catalog = self.view.catalog();
        let newest = catalog.table_by_id(write.region.table());
        let (schema_version, encoded) = write.under(newest, self.view.format())?;
        let finished = self.ids.finished();
        let request = WriteRequest {
            header: Some(self.header(&target, deadline)),
            region_id: write.region.as_u64(),
            epoch: target.epoch,
            request_id: Some(id.into()),
            lowest_unfinished: finished.lowest_unfinished,
            given_up: finished.given_up.into_iter().map(Into::into).collect(),
            schema_version,
            op: write.op.into(),
            rows: encoded.rows,
            series: encoded.series,
        };
        // A route that changes meanwhile means that this leader may never answer; the id makes it safe to ask
        // the next one.
        tokio::select! {
            answer = self.regions.write(&target.peer, request) => answer,
            () = self.view.newer_route(write.region, target.epoch) => {
                Err(Error::unavailable(format!("region {} has a new leader", write.region)))
            }
        }
    }

    /// Starts a query. It is asked again until its first rows have come, not after: they cannot be taken back.
    pub async fn query(&self, query: RegionQuery, deadline: Deadline) -> Result<RegionRows> {
        let bytes = query.plan.len() as u64;
        let attempt = |target: Target| self.query_once(&query, target, deadline).boxed();
        let made_for = Some(query.schema_version);
        self.deliver((query.region, made_for), bytes, deadline, &attempt)
            .await
    }

    async fn query_once(
        &self,
        query: &RegionQuery,
        target: Target,
        deadline: Deadline,
    ) -> Result<RegionRows> {
        let request = QueryRequest {
            header: Some(self.header(&target, deadline)),
            region_id: query.region.as_u64(),
            epoch: target.epoch,
            plan: query.plan.clone(),
            schema_version: query.schema_version,
            report: query.report,
            parameters: query.parameters.clone(),
        };
        let answer = self.regions.query(&target.peer, request).await?;
        let rows = first_rows(answer.rows).await?;
        Ok(RegionRows { rows, ..answer })
    }

    /// Puts everything that a region has in memory into files; returns the index up to which rows are in files.
    pub async fn flush(&self, region: RegionId, deadline: Deadline) -> Result<FlushResponse> {
        let attempt = |target: Target| {
            async move {
                let header = Some(self.header(&target, deadline));
                let region_id = region.as_u64();
                self.regions
                    .flush(&target.peer, FlushRequest { header, region_id })
                    .await
            }
            .boxed()
        };
        self.deliver((region, None), 0, deadline, &attempt).await
    }

    /// Merges the files of a region.
    pub async fn compact(&self, region: RegionId, deadline: Deadline) -> Result<CompactResponse> {
        let attempt = |target: Target| {
            async move {
                let header = Some(self.header(&target, deadline));
                let region_id = region.as_u64();
                self.regions
                    .compact(&target.peer, CompactRequest { header, region_id })
                    .await
            }
            .boxed()
        };
        self.deliver((region, None), 0, deadline, &attempt).await
    }

    fn header(&self, target: &Target, deadline: Deadline) -> RequestHeader {
        RequestHeader {
            cluster_id: self.view.cluster_id(),
            target_node: target.peer.node,
            deadline_ms: self.time_left(deadline).as_millis().max(1) as u64,
        }
    }

    /// The error with what metasrv says of a region that has lost its majority.
    fn explained(&self, region: RegionId, mut error: Error) -> Error {
        let trouble = self.view.route(region).map(|route| route.trouble);
        if let Some(trouble) = trouble.filter(|trouble| !trouble.is_empty()) {
            error.message = format!("{}; {trouble}", error.message);
        }
        error
    }

    fn target(&self, region: RegionId) -> Option<Target> {
        let route = self.view.route(region)?;
        route.leader.map(|peer| Target {
            peer,
            epoch: route.epoch,
        })
    }

    /// Attempt, hold, attempt again: what [`Hold`] says. `made_for` is the schema version of a request that cannot be
    /// made to fit a later one.
    async fn deliver<'a, T: Send>(
        &self,
        (region, made_for): (RegionId, Option<u64>),
        bytes: u64,
        deadline: Deadline,
        attempt: &(dyn Fn(Target) -> BoxFuture<'a, Result<T>> + Sync),
    ) -> Result<T> {
        let mut hold = Hold::new(self.policy, region, deadline.0);
        let mut held = None;
        loop {
            let target = self.target(region);
            let result = match &target {
                None => Err(Error::unavailable(format!("region {region} has no leader"))),
                Some(target) => tokio::time::timeout(self.time_left(deadline), attempt(target.clone()))
                    .await
                    .unwrap_or_else(|_| {
                        Err(Error::deadline(format!("region {region} did not answer in time")))
                    }),
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            held.get_or_insert_with(|| Held::new(self, bytes));
            let catalog = self.view.catalog();
            let writes_from = catalog.table_by_id(region.table()).map(|t| t.schema.writes_from);
            let failure = Failure {
                tried_epoch: target.as_ref().map(|t| t.epoch),
                known_epoch: self.target(region).map(|t| t.epoch),
                table_exists: writes_from.is_some(),
                stale: made_for.is_some_and(|version| writes_from > Some(version)),
                held_bytes: self.held_bytes.load(Ordering::Relaxed),
                error,
            };
            tracing::debug!(%region, error = %failure.error, epoch = ?failure.tried_epoch, "attempt failed");
            match hold.after(self.clock.now(), failure) {
                Next::GiveUp(error) => return Err(self.explained(region, error)),
                Next::Again { after } => tokio::time::sleep(after).await,
                Next::AwaitRoute { than, at_most } => {
                    let newer = self.view.newer_route(region, than);
                    let _ = tokio::time::timeout(at_most, newer).await;
                }
            }
            self.metrics.retries.inc();
        }
    }
}

/// Waits for the first batch, so that a failure before it can still be retried.
pub async fn first_rows(mut rows: SendableRecordBatchStream) -> Result<SendableRecordBatchStream> {
    let first: Option<DataFusionResult<RecordBatch>> = rows.next().await;
    match first {
        Some(Err(error)) => Err(from_datafusion(&error)),
        first => {
            let schema = rows.schema();
            let all = futures::stream::iter(first).chain(rows);
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, all)))
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, StringArray, TimestampMillisecondArray, UInt32Array};
    use greptime_types::{ColumnSchema, ColumnType, Semantic, TimeUnit};

    use super::*;

    #[test]
    fn rows_have_their_tags_themselves_while_a_node_does_not_know_series() {
        let time = ColumnType::Timestamp(TimeUnit::Millisecond);
        let columns = vec![
            ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
            ColumnSchema::new("ts", time, Semantic::Timestamp),
        ];
        let schema = TableSchema::new(columns, vec!["host".into()]).unwrap();
        let hosts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1, 2]));
        let id = |name: &str| schema.column(name).unwrap().id;
        let keys = UInt32Array::from(vec![0, 0]);
        let rows =
            SeriesBatch::of_columns(1, vec![(id("host"), hosts)], keys, vec![(id("ts"), times)]).unwrap();
        let write = RegionWrite {
            region: RegionId::new(1, 0),
            schema: &schema,
            op: WriteOp::Put,
            rows: &rows,
            encoded: rows.encode().unwrap(),
        };
        let (_, sent) = write.under(None, 1).unwrap();
        assert!(sent.series.is_empty());
        let named = greptime_rows::decode(&sent.rows).unwrap();
        assert_eq!(named, rows.to_named(&schema).unwrap());
        let (_, sent) = write.under(None, SERIES_FORMAT).unwrap();
        assert_eq!(SeriesBatch::decode(&sent).unwrap(), rows);
    }
}
