//! Rows into regions.
//!
//! A batch of a table is split by its partition rule; the parts go to their regions side by side, those of one
//! region one after the other, so that the order in which a client wrote is the order in which it is stored.

pub mod adapt;
pub mod auto;
pub mod cells;
pub mod literal;
pub mod split;

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::ipc::writer::StreamWriter;
use futures::future::join_all;
use greptime_proto::v1::WriteOp;
use greptime_types::{Error, MergeMode, RegionId, Result, TableInfo};
use tokio::sync::Semaphore;

use crate::route::router::RegionWrite;
use crate::route::{Deadline, Router};

/// The write budget is counted in units of this many bytes, since semaphores count in 32 bits.
const UNIT: usize = 1024;

pub struct Ingestor {
    router: Arc<Router>,
    budget: Semaphore,
    budget_units: u32,
    part_bytes: usize,
}

impl Ingestor {
    pub fn new(router: Arc<Router>, budget_bytes: u64, part_bytes: u64) -> Self {
        let budget_units = u32::try_from(budget_bytes as usize / UNIT)
            .unwrap_or(u32::MAX / 8)
            .max(1);
        let part_bytes = (part_bytes as usize).max(UNIT);
        Self {
            router,
            budget: Semaphore::new(budget_units as usize),
            budget_units,
            part_bytes,
        }
    }

    /// Stores the rows; returns how many. The batch's columns are named and typed as the table's; columns that
    /// it does not have become NULL.
    pub async fn write(
        &self,
        table: &TableInfo,
        batch: &RecordBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<u64> {
        let time = &table.schema.time_index().name;
        if batch.column_by_name(time).is_none() {
            return Err(Error::invalid(format!(
                "the rows have no time: column `{time}` is missing"
            )));
        }
        let explicit;
        let batch = match op == WriteOp::Put && table.options.merge_mode == MergeMode::LastNonNull {
            true => {
                explicit = adapt::explicit_nulls(&table.schema, batch)?;
                &explicit
            }
            false => batch,
        };
        let size = batch.get_array_memory_size().div_ceil(UNIT);
        let units = u32::try_from(size)
            .unwrap_or(u32::MAX)
            .clamp(1, self.budget_units);
        let waiting = self.budget.acquire_many(units);
        let _permit = tokio::time::timeout(self.router.time_left(deadline), waiting)
            .await
            .map_err(|_| Error::exhausted("too many writes are under way; try again later"))?
            .map_err(|_| Error::unavailable("this frontend is shutting down"))?;
        let parts = split::split(&table.schema, &table.partition, batch)?;
        let cut = |part: &RecordBatch| part.get_array_memory_size() > self.part_bytes;
        let several = parts.len() > 1 || parts.iter().any(|(_, part)| cut(part));
        let writes = parts
            .iter()
            .map(|(number, part)| self.write_region(table, *number, part, op, deadline));
        let mut failed = None;
        for result in join_all(writes).await {
            failed = failed.or(result.err());
        }
        match failed {
            None => Ok(batch.num_rows() as u64),
            Some(error) if several => Err(Error::new(
                error.kind,
                format!(
                    "{} (some of the rows may be stored; sending all of them again is safe{})",
                    error.message,
                    if table.options.append_mode {
                        " except in append mode, which this table is in"
                    } else {
                        ""
                    }
                ),
            )),
            Some(error) => Err(error),
        }
    }

    async fn write_region(
        &self,
        table: &TableInfo,
        number: u32,
        rows: &RecordBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<()> {
        let bytes = rows.get_array_memory_size().max(1);
        let parts = bytes.div_ceil(self.part_bytes).clamp(1, rows.num_rows());
        let step = rows.num_rows().div_ceil(parts);
        for start in (0..rows.num_rows()).step_by(step) {
            let part = rows.slice(start, step.min(rows.num_rows() - start));
            self.deliver(table, number, &part, op, deadline).await?;
        }
        Ok(())
    }

    /// Says the same to every region of a table.
    pub async fn to_all_regions(
        &self,
        table: &TableInfo,
        rows: &RecordBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<()> {
        let partitions = table.partition.partitions.iter();
        let writes = partitions.map(|p| self.deliver(table, p.region, rows, op, deadline));
        let results: Result<Vec<()>> = join_all(writes).await.into_iter().collect();
        results.map(drop)
    }

    async fn deliver(
        &self,
        table: &TableInfo,
        number: u32,
        rows: &RecordBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<()> {
        let write = RegionWrite {
            region: RegionId::new(table.id, number),
            schema: &table.schema,
            op,
            rows,
            encoded: to_ipc(rows)?,
        };
        self.router.write(write, deadline).await.map(drop)
    }
}

/// One Arrow IPC stream.
pub fn to_ipc(batch: &RecordBatch) -> Result<Bytes> {
    let encode = || {
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
        writer.write(batch)?;
        writer.into_inner()
    };
    encode()
        .map(Bytes::from)
        .map_err(|e| Error::internal(format!("rows cannot be encoded: {e}")))
}
