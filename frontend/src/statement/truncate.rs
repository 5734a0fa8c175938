//! `TRUNCATE TABLE`: an entry in the log of each region, delivered as a write is, so that it happens once.

use datafusion::arrow::array::RecordBatch;
use greptime_proto::v1::WriteOp;
use greptime_rows::SeriesBatch;
use greptime_types::Result;

use super::Executor;
use super::ddl::writable_database;
use crate::query::Session;
use crate::sql::TableName;

impl Executor {
    /// How many rows there were is not known.
    pub(super) async fn truncate(&self, session: &Session, tables: &[TableName]) -> Result<u64> {
        for name in tables {
            let catalog = self.router().view.catalog();
            let table = catalog.expect_table(writable_database(session, name)?, &name.name)?;
            let deadline = self.router().deadline_in(self.config.write_timeout);
            let nothing = RecordBatch::new_empty(table.schema.to_arrow());
            let nothing = SeriesBatch::from_named(&nothing, &table.schema)?;
            self.ingestor
                .to_all_regions(table, &nothing, WriteOp::Truncate, deadline)
                .await?;
        }
        Ok(0)
    }
}
