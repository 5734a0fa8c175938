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

use datafusion::arrow::array::RecordBatch;
use futures::future::join_all;
use greptime_proto::v1::WriteOp;
use greptime_rows::SeriesBatch;
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
        let batch = SeriesBatch::from_named(batch, &table.schema)?;
        self.write_series(table, batch, op, deadline).await
    }

    /// The same, for rows whose tags are numbered already.
    pub async fn write_series(
        &self,
        table: &TableInfo,
        batch: SeriesBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<u64> {
        let time = table.schema.time_index();
        if batch.column(time.id).is_none() {
            return Err(Error::invalid(format!(
                "the rows have no time: column `{}` is missing",
                time.name
            )));
        }
        let batch = match op == WriteOp::Put && table.options.merge_mode == MergeMode::LastNonNull {
            true => adapt::explicit_nulls(&table.schema, batch)?,
            false => batch,
        };
        let size = batch.bytes().div_ceil(UNIT);
        let units = u32::try_from(size)
            .unwrap_or(u32::MAX)
            .clamp(1, self.budget_units);
        let waiting = self.budget.acquire_many(units);
        let _permit = tokio::time::timeout(self.router.time_left(deadline), waiting)
            .await
            .map_err(|_| Error::exhausted("too many writes are under way; try again later"))?
            .map_err(|_| Error::unavailable("this frontend is shutting down"))?;
        let rows = batch.num_rows() as u64;
        let parts = split::split(&table.schema, &table.partition, batch)?;
        let cut = |part: &SeriesBatch| part.bytes() > self.part_bytes;
        let several = parts.len() > 1 || parts.iter().any(|(_, part)| cut(part));
        let writes = parts
            .iter()
            .map(|(number, part)| self.write_region(table, *number, part, op, deadline));
        let mut failed = None;
        for result in join_all(writes).await {
            failed = failed.or(result.err());
        }
        match failed {
            None => Ok(rows),
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
        batch: &SeriesBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<()> {
        let rows = batch.num_rows();
        let parts = batch
            .bytes()
            .max(1)
            .div_ceil(self.part_bytes)
            .clamp(1, rows.max(1));
        let step = rows.div_ceil(parts).max(1);
        if parts == 1 {
            return self.deliver(table, number, batch, op, deadline).await;
        }
        for start in (0..rows).step_by(step) {
            let part = batch.slice(start, step.min(rows - start))?;
            self.deliver(table, number, &part, op, deadline).await?;
        }
        Ok(())
    }

    /// Says the same to every region of a table.
    pub async fn to_all_regions(
        &self,
        table: &TableInfo,
        rows: &SeriesBatch,
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
        rows: &SeriesBatch,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<()> {
        let write = RegionWrite {
            region: RegionId::new(table.id, number),
            schema: &table.schema,
            op,
            rows,
            encoded: rows.encode()?,
        };
        self.router.write(write, deadline).await.map(drop)
    }
}
