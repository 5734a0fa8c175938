//! Tables and columns that come into being because somebody writes to them.

use std::sync::Arc;

use greptime_proto::v1::{AlterTable, CreateTable, ddl_request::Body};
use greptime_types::{
    Change, ColumnSchema, Error, PartitionRule, Result, Semantic, TableInfo, TableOptions, TableSchema,
    TableState,
};
use tokio::sync::Mutex;

use crate::route::{Catalog, Ddl, Deadline};

/// A table as a writer needs it. An existing one may have more.
#[derive(Clone, Debug)]
pub struct WantedTable {
    pub name: String,
    /// Tags in the order of the primary key, if the table has to be made; one time index.
    pub columns: Vec<ColumnSchema>,
    /// Of a table that has to be made.
    pub partition: PartitionRule,
}

pub struct AutoSchema {
    ddl: Ddl,
    /// One change at a time: of many writers that miss the same column, the first asks and the others find it.
    changing: Mutex<()>,
}

impl AutoSchema {
    pub fn new(ddl: Ddl) -> Self {
        Self {
            ddl,
            changing: Mutex::new(()),
        }
    }

    /// The table, with all of the wanted columns. A column that exists with another type is left as it is: what
    /// to do with its rows is for the protocol to decide.
    pub async fn ensure(
        &self,
        database: &str,
        wanted: &WantedTable,
        deadline: Deadline,
    ) -> Result<Arc<TableInfo>> {
        if let Some(table) = satisfied(&self.ddl.view.catalog(), database, wanted) {
            return Ok(table);
        }
        let _one = self.changing.lock().await;
        let catalog = self.ddl.view.catalog();
        if let Some(table) = satisfied(&catalog, database, wanted) {
            return Ok(table);
        }
        let body = match catalog.table(database, &wanted.name) {
            None => {
                if catalog.database(database).is_none() {
                    return Err(Error::not_found(format!(
                        "database `{database}` does not exist; create it first"
                    )));
                }
                create(database, wanted)?
            }
            Some(table) => add_columns(table, wanted)?,
        };
        let done = self.ddl.run(body, deadline).await?;
        let catalog = done.catalog;
        // The table may have been made by another frontend with other columns.
        let table = catalog.expect_table(database, &wanted.name)?;
        if satisfied(&catalog, database, wanted).is_none() {
            let done = self.ddl.run(add_columns(table, wanted)?, deadline).await?;
            return done.catalog.expect_table(database, &wanted.name).cloned();
        }
        Ok(Arc::clone(table))
    }
}

fn satisfied(catalog: &Catalog, database: &str, wanted: &WantedTable) -> Option<Arc<TableInfo>> {
    let table = catalog.table(database, &wanted.name)?;
    missing(table, wanted).next().is_none().then(|| Arc::clone(table))
}

fn missing<'a>(table: &'a TableInfo, wanted: &'a WantedTable) -> impl Iterator<Item = &'a ColumnSchema> {
    wanted
        .columns
        .iter()
        .filter(|c| c.semantic != Semantic::Timestamp && table.schema.column(&c.name).is_none())
}

fn create(database: &str, wanted: &WantedTable) -> Result<Body> {
    let tags = wanted
        .columns
        .iter()
        .filter(|c| c.semantic == Semantic::Tag)
        .map(|c| c.name.clone());
    let schema = TableSchema::new(wanted.columns.clone(), tags.collect())?;
    let table = new_table(
        database,
        &wanted.name,
        schema,
        wanted.partition.clone(),
        TableOptions::default(),
    );
    Ok(Body::CreateTable(CreateTable {
        table_json: to_json(&table)?,
        if_not_exists: true,
    }))
}

/// A table that metasrv has not seen yet: it gives the id and the time.
pub fn new_table(
    database: &str,
    name: &str,
    schema: TableSchema,
    partition: PartitionRule,
    options: TableOptions,
) -> TableInfo {
    TableInfo {
        format: greptime_types::format::FORMAT_VERSION,
        id: 0,
        database: database.to_string(),
        name: name.to_string(),
        schema,
        options,
        partition,
        state: TableState::Creating,
        created_ms: 0,
        database_ttl: None,
    }
}

fn add_columns(table: &TableInfo, wanted: &WantedTable) -> Result<Body> {
    let add = |column: &ColumnSchema| Change::AddColumn {
        column: column.clone(),
        if_not_exists: true,
    };
    let changes: Vec<Change> = missing(table, wanted).map(add).collect();
    Ok(Body::AlterTable(AlterTable {
        database: table.database.clone(),
        name: table.name.clone(),
        changes_json: to_json(&changes)?,
    }))
}

pub fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))
}
