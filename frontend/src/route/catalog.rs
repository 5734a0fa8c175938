//! The catalog as metasrv pushed it.

use std::collections::BTreeMap;
use std::sync::Arc;

use greptime_proto::v1::CatalogUpdate;
use greptime_types::{DatabaseInfo, Error, Result, TableId, TableInfo, TableState, format};

/// One revision; a new one replaces it as a whole, so that a statement sees one catalog from start to end.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub revision: u64,
    databases: BTreeMap<String, Arc<DatabaseInfo>>,
    tables: BTreeMap<TableId, Arc<TableInfo>>,
    /// Database, then name, to the table that is ready under it.
    names: BTreeMap<String, BTreeMap<String, TableId>>,
}

impl Catalog {
    /// The catalog after an update. An update that this program cannot read changes nothing.
    pub fn after(&self, update: &CatalogUpdate) -> Result<Self> {
        let mut next = if update.complete {
            Self::default()
        } else {
            self.clone()
        };
        for json in &update.databases_json {
            let database: DatabaseInfo = parse("database", json)?;
            format::check(&format!("database `{}`", database.name), database.format)?;
            next.databases.insert(database.name.clone(), Arc::new(database));
        }
        for name in &update.dropped_databases {
            next.databases.remove(name);
        }
        for json in &update.tables_json {
            let table: TableInfo = parse("table", json)?;
            format::check(&format!("table `{}`", table.full_name()), table.format)?;
            next.tables.insert(table.id, Arc::new(table));
        }
        for id in &update.dropped_tables {
            next.tables.remove(id);
        }
        next.revision = update.revision;
        next.index_names();
        Ok(next)
    }

    fn index_names(&mut self) {
        self.names.clear();
        for table in self.tables.values().filter(|t| t.state == TableState::Ready) {
            self.names
                .entry(table.database.clone())
                .or_default()
                .insert(table.name.clone(), table.id);
        }
    }

    pub fn databases(&self) -> impl Iterator<Item = &Arc<DatabaseInfo>> {
        self.databases.values()
    }

    pub fn database(&self, name: &str) -> Option<&Arc<DatabaseInfo>> {
        self.databases.get(name)
    }

    /// A table that users can see.
    pub fn table(&self, database: &str, name: &str) -> Option<&Arc<TableInfo>> {
        self.tables.get(self.names.get(database)?.get(name)?)
    }

    /// As `table`, with an error that says what is missing.
    pub fn expect_table(&self, database: &str, name: &str) -> Result<&Arc<TableInfo>> {
        if self.database(database).is_none() {
            return Err(Error::not_found(format!("database `{database}` does not exist")));
        }
        self.table(database, name)
            .ok_or_else(|| Error::not_found(format!("table `{database}.{name}` does not exist")))
    }

    /// Tables of a database by name.
    pub fn tables_of(&self, database: &str) -> impl Iterator<Item = &Arc<TableInfo>> {
        self.names
            .get(database)
            .into_iter()
            .flatten()
            .filter_map(|(_, id)| self.tables.get(id))
    }

    /// A table in any state.
    pub fn table_by_id(&self, id: TableId) -> Option<&TableInfo> {
        self.tables.get(&id).map(Arc::as_ref)
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| {
        Error::unsupported(format!(
            "metasrv sent a {what} that this version cannot read: {e}"
        ))
    })
}
