//! Changes of the catalog.

use greptime_proto::v1::{
    CreateDatabase, CreateTable as CreateTableRequest, DropDatabase, DropTable, ddl_request::Body,
};
use greptime_types::{ColumnSchema, Error, Result};

use super::Executor;
use super::alter::alter_database;
use crate::ingest::auto::{new_table, to_json};
use crate::ingest::cells::default_of;
use crate::ingest::literal::column_from_cells;
use crate::query::Session;
use crate::query::catalog::VIRTUAL_DATABASES;
use crate::sql::{CreateTable, Statement, TableName};

impl Executor {
    /// Returns the number of rows that MySQL would report.
    pub(super) async fn run_ddl(&self, session: &Session, statement: &Statement) -> Result<u64> {
        let deadline = self.router().deadline_in(self.config.ddl_timeout);
        match statement {
            Statement::CreateDatabase {
                name,
                if_not_exists,
                options,
            } => {
                let options = options.clone().into_iter().collect();
                let (name, if_not_exists) = (name.clone(), *if_not_exists);
                self.ddl
                    .run(
                        Body::CreateDatabase(CreateDatabase {
                            name,
                            if_not_exists,
                            options,
                        }),
                        deadline,
                    )
                    .await?;
                Ok(1)
            }
            Statement::DropDatabase { name, if_exists } => {
                let (name, if_exists) = (name.clone(), *if_exists);
                self.ddl
                    .run(Body::DropDatabase(DropDatabase { name, if_exists }), deadline)
                    .await?;
                Ok(0)
            }
            Statement::CreateTable(create) => {
                self.ddl
                    .run(self.create_table(session, create)?, deadline)
                    .await?;
                Ok(0)
            }
            Statement::DropTable { tables, if_exists } => {
                for table in tables {
                    let database = writable_database(session, table)?.to_string();
                    let body = DropTable {
                        database,
                        name: table.name.clone(),
                        if_exists: *if_exists,
                    };
                    self.ddl.run(Body::DropTable(body), deadline).await?;
                }
                Ok(0)
            }
            Statement::AlterTable { table, changes } => {
                if let Some(body) = self.alter_table(session, table, changes)? {
                    self.ddl.run(body, deadline).await?;
                }
                Ok(0)
            }
            Statement::AlterDatabase { name, options } => {
                self.ddl.run(alter_database(name, options), deadline).await?;
                Ok(0)
            }
            other => Err(Error::internal(format!(
                "{} is no change of the catalog",
                other.tag()
            ))),
        }
    }

    fn create_table(&self, session: &Session, create: &CreateTable) -> Result<Body> {
        let database = writable_database(session, &create.table)?;
        create.schema.columns.iter().try_for_each(check_default)?;
        let (schema, partition) = (create.schema.clone(), create.partition.clone());
        let table = new_table(
            database,
            &create.table.name,
            schema,
            partition,
            create.options.clone(),
        );
        Ok(Body::CreateTable(CreateTableRequest {
            table_json: to_json(&table)?,
            if_not_exists: create.if_not_exists,
        }))
    }
}

/// The database of a table that is about to be changed.
pub fn writable_database<'a>(session: &'a Session, table: &'a TableName) -> Result<&'a str> {
    let database = table.database_or(&session.database);
    if VIRTUAL_DATABASES.contains(&database) {
        return Err(Error::permission_denied(format!("`{database}` can only be read")));
    }
    Ok(database)
}

/// A default that does not fit its column would make every later write fail.
pub(super) fn check_default(column: &ColumnSchema) -> Result<()> {
    if column.default.is_none() {
        return Ok(());
    }
    let cell = default_of(column, 0)?;
    let cells = [&cell];
    column_from_cells(column, cells.into_iter())
        .map(drop)
        .map_err(|e| e.context("DEFAULT"))
}
