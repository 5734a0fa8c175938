//! `DELETE FROM … WHERE`: the identities of the rows are read, and written back as deleted.

use datafusion::arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{self, FromTable, TableFactor};
use futures::StreamExt;
use greptime_proto::v1::WriteOp;
use greptime_query::from_datafusion;
use greptime_types::{Error, Result};

use super::Executor;
use super::ddl::writable_database;
use crate::query::Session;
use crate::sql::{Lexer, TableName, parse_statements, quoted};

impl Executor {
    pub(super) async fn delete(&self, session: &Session, delete: &ast::Delete) -> Result<u64> {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let Some(TableFactor::Table { name, .. }) = from.first().map(|t| &t.relation) else {
            return Err(Error::unsupported("DELETE takes the name of a table"));
        };
        let name = TableName::try_from(name)?;
        let database = writable_database(session, &name)?;
        let catalog = self.router().view.catalog();
        let table = catalog.expect_table(database, &name.name)?;
        if table.options.append_mode {
            return Err(Error::unsupported(
                "rows of a table in append mode have no identity to delete by",
            ));
        }
        let time = &table.schema.time_index().name;
        let keys: Vec<String> = table
            .schema
            .primary_key
            .iter()
            .chain([time])
            .map(|c| quoted(c))
            .collect();
        let condition = delete
            .selection
            .as_ref()
            .map(|e| format!(" WHERE {e}"))
            .unwrap_or_default();
        let sql = format!(
            "SELECT {} FROM {}.{}{condition}",
            keys.join(", "),
            quoted(database),
            quoted(&name.name)
        );
        let query = parse_statements(&sql, Lexer::Standard)?;
        let query = query
            .first()
            .ok_or_else(|| Error::internal("DELETE made no query"))?;
        let mut rows = self.plan(session, query).await?.execute().await?;
        let mut deleted = 0;
        while let Some(batch) = rows.next().await {
            let batch: RecordBatch = batch.map_err(|e| from_datafusion(&e))?;
            if batch.num_rows() > 0 {
                let deadline = self.router().deadline_in(self.config.write_timeout);
                deleted += self
                    .ingestor
                    .write(table, &batch, WriteOp::Delete, deadline)
                    .await?;
            }
        }
        Ok(deleted)
    }
}
