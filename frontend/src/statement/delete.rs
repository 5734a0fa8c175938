//! `DELETE FROM … WHERE`: the identities of the rows are read, and written back as deleted, batch by batch.

use datafusion::arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{self, FromTable};
use futures::StreamExt;
use greptime_proto::v1::WriteOp;
use greptime_query::from_datafusion;
use greptime_types::{Error, Result};

use super::Executor;
use super::selection::item;
use crate::query::Session;

impl Executor {
    pub(super) async fn delete(&self, session: &Session, delete: &ast::Delete) -> Result<u64> {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let from = from
            .first()
            .ok_or_else(|| Error::invalid("DELETE needs a table"))?;
        let target = self.target(session, &from.relation)?;
        let schema = &target.table.schema;
        let keys = schema.primary_key.iter().chain([&schema.time_index().name]);
        let items = keys.map(|name| item(name)).collect();
        let query = target.query(items, delete.selection.as_ref())?;
        let mut rows = self.query(session, &query).await?;
        let mut deleted = 0;
        while let Some(batch) = rows.next().await {
            let batch: RecordBatch = batch.map_err(|e| from_datafusion(&e))?;
            if batch.num_rows() > 0 {
                let deadline = self.router().deadline_in(self.config.write_timeout);
                deleted += self
                    .ingestor
                    .write(&target.table, &batch, WriteOp::Delete, deadline)
                    .await?;
            }
        }
        Ok(deleted)
    }
}
