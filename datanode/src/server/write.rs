//! One write, from the request to the acknowledgement.

use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::UInt32Array;
use bytes::Bytes;
use greptime_log::Proposal;
use greptime_proto::v1;
use greptime_rows::{Encoded, SeriesBatch};
use greptime_types::format::{GIVEN_UP_FORMAT, SERIES_FORMAT};
use greptime_types::{Error, Finished, RegionId, RequestId, Result, TableSchema};

use super::Datanode;
use crate::defences::Defence;
use crate::metrics::Reason;
use crate::region::{
    Region, RegionEntry, RowOp, TruncateEntry, WriteEntry, check_rows, check_version, read_rows,
};

impl Datanode {
    /// Writes rows to a region. Success means: on disk, committed, and visible to every later query.
    pub async fn write(&self, request: v1::WriteRequest) -> Result<v1::WriteResponse> {
        let deadline = self.check_header(request.header.as_ref())?;
        let result = within(deadline, self.write_rows(request)).await;
        if let Err(error) = &result {
            let reason = format!("{:?}", error.kind);
            self.metrics
                .write_rejected
                .get_or_create(&Reason { reason })
                .inc();
        }
        result
    }

    async fn write_rows(&self, request: v1::WriteRequest) -> Result<v1::WriteResponse> {
        self.check_alive()?;
        self.check_space()?;
        let id = request
            .request_id
            .ok_or_else(|| Error::invalid("a write without a request id"))?;
        let id = RequestId::from(id);
        let Some(op) = row_op(request.op)? else {
            return self.truncate(request, id).await;
        };
        let size = (request.rows.len() + request.series.len()) as u64;
        if size > self.config.max_write_size {
            return Err(Error::invalid(format!(
                "a write of {size} bytes to one region exceeds the limit of {}; send smaller batches",
                self.config.max_write_size
            )));
        }
        let region = self.regions.get(RegionId::from_u64(request.region_id))?;
        let admitted = region.admit(request.epoch, request.schema_version)?;
        if Defence::StaleRowsAreRefusedAtOnce.holds() {
            check_version(region.id(), request.schema_version, &admitted.table)?;
        }
        let finished = self.finished(&request);
        let encoded = Encoded {
            series: request.series,
            rows: request.rows,
        };
        // Writes that wait hold their rows, so they wait in the memory that they will need.
        let mut reservation = self.budget.reserve(size)?;
        self.wait_for_room(&region).await?;
        let rows = read_rows(&encoded, &admitted.table)?;
        check_rows(&rows, &admitted.table, op)?;
        reservation.correct(size.max(rows.bytes() as u64))?;
        let encoded = self.in_cluster_format(encoded, &rows, &admitted.table.schema)?;
        let mut answer = v1::WriteResponse {
            affected_rows: rows.num_rows() as u64,
            epoch: admitted.epoch,
            sequence: 0,
            duplicate: false,
        };
        let entry = RegionEntry::Write(WriteEntry {
            request: id,
            finished,
            schema_version: request.schema_version,
            op,
            rows: encoded,
        });
        let data = entry.encode()?;
        if region.begin(id, rows)?.was_applied()? {
            return Ok(v1::WriteResponse {
                duplicate: true,
                ..answer
            });
        }
        let proposal = Proposal {
            region: region.id(),
            data,
            request: Some(id),
            held: Some(Box::new(reservation)),
        };
        let queued = self.log.propose(proposal).inspect_err(|_| region.refused(id))?;
        let applied = queued.await?;
        self.metrics.rows_written.inc_by(if applied.duplicate {
            0
        } else {
            answer.affected_rows
        });
        answer.epoch = applied.term;
        answer.sequence = applied.index;
        answer.duplicate = applied.duplicate;
        Ok(answer)
    }

    /// Waits while memory is getting full, or files are too many: flushes and compactions have to keep up.
    async fn wait_for_room(&self, region: &Region) -> Result<()> {
        let delay = self.budget.delay();
        if !delay.is_zero() {
            self.metrics.writes_delayed.inc();
            tokio::time::sleep(delay).await;
        }
        self.wait_for_compactions(region).await
    }

    /// What the frontend has finished, as far as all nodes of the cluster understand it: replicas must agree on it.
    fn finished(&self, request: &v1::WriteRequest) -> Finished {
        let newest = self.cluster_format.load(Ordering::SeqCst);
        match newest >= GIVEN_UP_FORMAT || !Defence::EntriesAreOfTheClusterFormat.holds() {
            true => request.finished(),
            false => Finished::below(request.lowest_unfinished),
        }
    }

    /// Rows for the log, as all nodes of the cluster read them.
    fn in_cluster_format(
        &self,
        encoded: Encoded,
        rows: &SeriesBatch,
        schema: &TableSchema,
    ) -> Result<Encoded> {
        let newest = self.cluster_format.load(Ordering::SeqCst);
        let allowed = encoded.series.is_empty() || newest >= SERIES_FORMAT;
        match allowed || !Defence::EntriesAreOfTheClusterFormat.holds() {
            true => Ok(encoded),
            false => rows.encode_named(schema),
        }
    }

    /// What was taken before waits for space, and nothing more is taken.
    fn check_space(&self) -> Result<()> {
        self.store.full().map_or(Ok(()), |full| Err(full.error()))
    }

    /// Makes an end of everything that was written to a region before.
    async fn truncate(&self, request: v1::WriteRequest, id: RequestId) -> Result<v1::WriteResponse> {
        let region = self.regions.get(RegionId::from_u64(request.region_id))?;
        let admitted = region.admit(request.epoch, request.schema_version)?;
        let entry = RegionEntry::Truncate(TruncateEntry {
            request: id,
            finished: self.finished(&request),
        });
        let mut answer = v1::WriteResponse {
            affected_rows: 0,
            epoch: admitted.epoch,
            sequence: 0,
            duplicate: true,
        };
        let none = SeriesBatch::of_columns(0, vec![], UInt32Array::from(Vec::<u32>::new()), vec![])?;
        if region.begin(id, none)?.was_applied()? {
            return Ok(answer);
        }
        let proposal = Proposal {
            region: region.id(),
            data: entry.encode()?,
            request: Some(id),
            held: None,
        };
        let queued = self.log.propose(proposal).inspect_err(|_| region.refused(id))?;
        let applied = queued.await?;
        answer.epoch = applied.term;
        answer.sequence = applied.index;
        answer.duplicate = applied.duplicate;
        Ok(answer)
    }

    /// Puts an entry without a request id into a region's log.
    pub(super) async fn propose(&self, region: RegionId, data: Bytes) -> Result<()> {
        let proposal = Proposal {
            region,
            data,
            request: None,
            held: None,
        };
        self.log.propose(proposal)?.await.map(drop)
    }

    /// Who asks must mean this very node: addresses are reused. Returns what is left of the deadline.
    pub(super) fn check_header(&self, header: Option<&v1::RequestHeader>) -> Result<Option<Duration>> {
        let header = header.ok_or_else(|| Error::invalid("a request without a header"))?;
        let identity = self.identity();
        if header.target_node != identity.node_id && Defence::RequestNamesItsNode.holds() {
            return Err(Error::unavailable(format!(
                "asked for node {}, this is node {}",
                header.target_node, identity.node_id
            )));
        }
        if header.cluster_id != identity.cluster_id && Defence::RequestNamesItsCluster.holds() {
            return Err(Error::unavailable(format!(
                "asked for cluster `{}`, this node belongs to `{}`",
                header.cluster_id, identity.cluster_id
            )));
        }
        Ok((header.deadline_ms > 0).then(|| Duration::from_millis(header.deadline_ms)))
    }
}

/// `None` is a truncation, which has no rows.
fn row_op(op: i32) -> Result<Option<RowOp>> {
    match v1::WriteOp::try_from(op) {
        Ok(v1::WriteOp::Put) => Ok(Some(RowOp::Put)),
        Ok(v1::WriteOp::Delete) => Ok(Some(RowOp::Delete)),
        Ok(v1::WriteOp::Truncate) => Ok(None),
        Err(_) => Err(Error::unsupported(format!(
            "write operation {op} is unknown to this version"
        ))),
    }
}

/// Waits as long as the caller would. What was begun may still happen.
pub(super) async fn within<T>(
    deadline: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match deadline {
        None => work.await,
        Some(left) => tokio::time::timeout(left, work).await.unwrap_or_else(|_| {
            Err(Error::deadline(
                "the deadline passed; whether the request will still be done is unknown",
            ))
        }),
    }
}
