//! `ADMIN …`: asked of each region, several at a time, or of metasrv.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{FutureExt, StreamExt, TryStreamExt};
use greptime_proto::v1::{self, ddl_request::Body};
use greptime_types::{Error, RegionId, Result};

use super::Executor;
use super::ddl::writable_database;
use crate::query::{Session, procedures};
use crate::route::Deadline;
use crate::sql::{Admin, AdminJob, AdminTarget, ProcedureRequest};

/// Regions that work for one statement at the same time.
const AT_ONCE: usize = 8;

/// Known without doing anything: a row for each region, or one that tells of a procedure.
pub fn admin_columns(admin: &Admin) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let numbers: &[&str] = match admin {
        Admin::Procedure(_) => return Arc::new(Schema::new(vec![text("procedure_id")])),
        Admin::ProcedureState { .. } => return Arc::new(Schema::new(vec![text("procedure_state")])),
        Admin::Regions { job, .. } => match job {
            AdminJob::Flush => &["flushed_index"],
            AdminJob::Compact => &["files_before", "files_after", "bytes_read", "bytes_written"],
        },
    };
    let numbers = numbers.iter().map(|n| Field::new(*n, DataType::UInt64, false));
    Arc::new(Schema::new(
        std::iter::once(text("region")).chain(numbers).collect::<Vec<_>>(),
    ))
}

impl Executor {
    pub(super) async fn admin(&self, session: &Session, admin: &Admin) -> Result<SendableRecordBatchStream> {
        let columns = match admin {
            Admin::Regions { job, target } => self.of_regions(session, *job, target).await?,
            Admin::Procedure(request) => vec![one_text(self.begin_procedure(request).await?)],
            Admin::ProcedureState { id } => vec![one_text(self.procedure_state(id).await?)],
        };
        let schema = admin_columns(admin);
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
        let batch = batch.map_err(|e| Error::internal(e.to_string()))?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::iter([Ok(batch)]),
        )))
    }

    /// The id of the procedure that was begun, or that does the same already.
    async fn begin_procedure(&self, request: &ProcedureRequest) -> Result<String> {
        let deadline = self.router().deadline_in(self.config.ddl_timeout);
        Ok(self.ddl.run(body(request), deadline).await?.procedure_id)
    }

    /// As JSON.
    async fn procedure_state(&self, id: &str) -> Result<String> {
        let procedures = procedures(self.engine.link.as_ref()).await?;
        let found = procedures.into_iter().find(|p| p.id == id);
        let found = found.ok_or_else(|| Error::not_found(format!("procedure {id} is not known")))?;
        serde_json::to_string(&found.all).map_err(|e| Error::internal(e.to_string()))
    }

    async fn of_regions(
        &self,
        session: &Session,
        job: AdminJob,
        target: &AdminTarget,
    ) -> Result<Vec<ArrayRef>> {
        let regions: Vec<RegionId> = match target {
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
            .map(|region| self.one_region(job, *region, deadline).boxed())
            .collect();
        let results: Vec<Vec<u64>> = futures::stream::iter(work)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let names: StringArray = regions.iter().map(|r| Some(r.to_string())).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(names)];
        for i in 0..results.first().map_or(0, Vec::len) {
            let numbers = results.iter().map(|r| r[i]);
            columns.push(Arc::new(UInt64Array::from_iter_values(numbers)));
        }
        Ok(columns)
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

fn one_text(text: String) -> ArrayRef {
    Arc::new(StringArray::from(vec![text]))
}

/// As metasrv is asked.
fn body(request: &ProcedureRequest) -> Body {
    let ms = |timeout: &Option<Duration>| timeout.map_or(0, |t| t.as_millis() as u64);
    match request {
        ProcedureRequest::MigrateRegion {
            region,
            from,
            to,
            timeout,
        } => Body::MigrateRegion(v1::MigrateRegion {
            region_id: region.as_u64(),
            from_node: *from,
            to_node: *to,
            timeout_ms: ms(timeout),
        }),
        ProcedureRequest::MigrateNode { from, timeout } => Body::MigrateNode(v1::MigrateNode {
            from_node: *from,
            timeout_ms: ms(timeout),
        }),
        ProcedureRequest::Abort { id } => Body::AbortProcedure(v1::AbortProcedure {
            procedure_id: id.clone(),
        }),
        ProcedureRequest::ForceRecoverRegion { region, survivor } => {
            Body::ForceRecoverRegion(v1::ForceRecoverRegion {
                region_id: region.as_u64(),
                survivor_node: *survivor,
            })
        }
    }
}
