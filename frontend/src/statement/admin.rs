//! `ADMIN …`: asked of each region, several at a time.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{FutureExt, StreamExt, TryStreamExt};
use greptime_types::{Error, RegionId, Result};

use super::Executor;
use super::ddl::writable_database;
use crate::query::Session;
use crate::route::Deadline;
use crate::sql::{Admin, AdminJob, AdminTarget};

/// Regions that work for one statement at the same time.
const AT_ONCE: usize = 8;

/// One row for each region; known without doing anything.
pub fn admin_columns(admin: &Admin) -> SchemaRef {
    let numbers: &[&str] = match admin.job {
        AdminJob::Flush => &["flushed_index"],
        AdminJob::Compact => &["files_before", "files_after", "bytes_read", "bytes_written"],
    };
    let region = Field::new("region", DataType::Utf8, false);
    let numbers = numbers.iter().map(|n| Field::new(*n, DataType::UInt64, false));
    Arc::new(Schema::new(
        std::iter::once(region).chain(numbers).collect::<Vec<_>>(),
    ))
}

impl Executor {
    pub(super) async fn admin(&self, session: &Session, admin: &Admin) -> Result<SendableRecordBatchStream> {
        let regions: Vec<RegionId> = match &admin.target {
            AdminTarget::Region(region) => vec![*region],
            AdminTarget::Table(name) => {
                let catalog = self.router().view.catalog();
                let table = catalog.expect_table(writable_database(session, name)?, &name.name)?;
                table.regions().collect()
            }
        };
        let deadline = self.router().deadline_in(self.config.query_timeout);
        let work: Vec<_> = regions
            .iter()
            .map(|region| self.one_region(admin.job, *region, deadline).boxed())
            .collect();
        let results: Vec<Vec<u64>> = futures::stream::iter(work)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let schema = admin_columns(admin);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(
            regions
                .iter()
                .map(|r| Some(r.to_string()))
                .collect::<StringArray>(),
        )];
        for i in 0..schema.fields().len() - 1 {
            columns.push(Arc::new(UInt64Array::from_iter_values(
                results.iter().map(|r| r[i]),
            )));
        }
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
        let batch = batch.map_err(|e| Error::internal(e.to_string()))?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::iter([Ok(batch)]),
        )))
    }

    async fn one_region(&self, job: AdminJob, region: RegionId, deadline: Deadline) -> Result<Vec<u64>> {
        match job {
            AdminJob::Flush => {
                let done = self.router().flush(region, deadline).await?;
                Ok(vec![done.flushed_index])
            }
            AdminJob::Compact => {
                let done = self.router().compact(region, deadline).await?;
                Ok(vec![
                    done.files_before,
                    done.files_after,
                    done.bytes_read,
                    done.bytes_written,
                ])
            }
        }
    }
}
