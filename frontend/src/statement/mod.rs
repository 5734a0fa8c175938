//! Statements, carried out: from a parsed statement to rows or a count.

mod admin;
mod alter;
mod ddl;
mod delete;
mod insert;
mod selection;
mod show;
mod truncate;
mod update;

pub use insert::insert_columns;

use admin::admin_columns;

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use greptime_types::{Error, ErrorKind, Result};

use crate::config::FrontendConfig;
use crate::ingest::Ingestor;
use crate::metrics::FrontendMetrics;
use crate::query::engine::{Planned, expect_database};
use crate::query::{Engine, Session};
use crate::route::router::first_rows;
use crate::route::{Ddl, Router};
use crate::sql::Statement;

/// How often a query is planned while its tables are altered.
const ATTEMPTS: usize = 5;

pub enum Output {
    Rows(SendableRecordBatchStream),
    Affected(u64),
    /// The session has another database now.
    Database(String),
}

pub struct Executor {
    pub engine: Arc<Engine>,
    pub ingestor: Arc<Ingestor>,
    pub ddl: Ddl,
    pub config: FrontendConfig,
    pub metrics: FrontendMetrics,
}

impl Executor {
    fn router(&self) -> &Arc<Router> {
        &self.engine.router
    }

    pub async fn execute(&self, session: &Session, statement: &Statement) -> Result<Output> {
        let router = self.router();
        match statement {
            Statement::Query(_) => self.query(session, statement).await.map(Output::Rows),
            Statement::Insert(insert) => {
                let rows = self.insert(session, insert).await?;
                self.metrics.ingested(session.protocol.name(), rows);
                Ok(Output::Affected(rows))
            }
            Statement::Delete(delete) => self.delete(session, delete).await.map(Output::Affected),
            Statement::Update(update) => self.update(session, update).await.map(Output::Affected),
            Statement::Truncate(tables) => self.truncate(session, tables).await.map(Output::Affected),
            Statement::Show(show) => self.show(session, show).await.map(Output::Rows),
            Statement::Describe(table) => self.describe(session, table).await.map(Output::Rows),
            Statement::Admin(admin) => self.admin(session, admin).await.map(Output::Rows),
            Statement::Use(database) => {
                expect_database(&router.view.catalog(), database)?;
                Ok(Output::Database(database.clone()))
            }
            Statement::Ignored(_) => Ok(Output::Affected(0)),
            ddl => self.run_ddl(session, ddl).await.map(Output::Affected),
        }
    }

    /// The columns that a statement will answer with; `None` if it gives no rows.
    pub async fn columns_of(&self, session: &Session, statement: &Statement) -> Result<Option<SchemaRef>> {
        match statement {
            Statement::Query(_) => {
                let planned = self.plan(session, statement).await?;
                Ok(Some(planned.columns()))
            }
            Statement::Admin(admin) => Ok(Some(admin_columns(admin))),
            Statement::Show(_) | Statement::Describe(_) => match self.execute(session, statement).await? {
                Output::Rows(rows) => Ok(Some(rows.schema())),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The rows of a query. If a table was altered between planning and reading, it is planned anew, unless rows were
    /// given out.
    async fn query(&self, session: &Session, statement: &Statement) -> Result<SendableRecordBatchStream> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let revision = self.router().view.catalog().revision;
            let rows = self.plan(session, statement).await?.execute().await?;
            match first_rows(rows).await {
                Err(error)
                    if error.kind == ErrorKind::Conflict
                        && attempts > 0
                        && self.router().view.catalog().revision > revision => {}
                result => return result,
            }
        }
    }

    /// Plans a query, with its deadline running from now.
    pub async fn plan(&self, session: &Session, statement: &Statement) -> Result<Planned> {
        let Statement::Query(query) = statement else {
            return Err(Error::internal("not a query"));
        };
        let deadline = self.router().deadline_in(self.config.query_timeout);
        self.engine.plan(session, query, deadline).await
    }
}
