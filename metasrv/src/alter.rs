//! `ALTER TABLE` and `ALTER DATABASE`.

use greptime_proto::v1;
use greptime_types::{Change, DatabaseInfo, Error, Result, TableInfo, TableState};

use crate::catalog::{Catalog, Edit};
use crate::ddl::{check_name, parse, response};
use crate::driver::MOST_TABLES;
use crate::server::Metasrv;

impl Metasrv {
    pub(crate) async fn alter_table(&self, request: v1::AlterTable) -> Result<v1::DdlResponse> {
        let changes: Vec<Change> = parse("changes", &request.changes_json)?;
        let (mut id, mut changed) = (0, false);
        let catalog = self
            .change(|catalog| {
                let table = catalog
                    .table_by_name(&request.database, &request.name)
                    .filter(|t| t.state == TableState::Ready)
                    .ok_or_else(|| {
                        Error::not_found(format!(
                            "table `{}.{}` does not exist",
                            request.database, request.name
                        ))
                    })?;
                id = table.id;
                let Some(next) = table.altered(&changes)? else {
                    return Ok(vec![]);
                };
                check_new_name(catalog, table, &next)?;
                changed = true;
                Ok(vec![Edit::PutTable(next)])
            })
            .await?;
        Ok(response(&catalog, id, changed))
    }

    /// The database first, so that tables that are made meanwhile have the new options; then its tables, as many at
    /// a time as one change may touch. Whoever repeats it goes on where it ended.
    pub(crate) async fn alter_database(&self, request: v1::AlterDatabase) -> Result<v1::DdlResponse> {
        let mut changed = false;
        loop {
            let mut over = true;
            let catalog = self
                .change(|catalog| {
                    let database = catalog.databases.get(&request.name).ok_or_else(|| {
                        Error::not_found(format!("database `{}` does not exist", request.name))
                    })?;
                    let next = altered_database(database, &request)?;
                    let mut edits = inheriting(catalog, &next)?;
                    if next != *database {
                        edits.insert(0, Edit::PutDatabase(next));
                    }
                    over = edits.len() <= MOST_TABLES;
                    edits.truncate(MOST_TABLES);
                    changed |= !edits.is_empty();
                    Ok(edits)
                })
                .await?;
            if over {
                return Ok(response(&catalog, 0, changed));
            }
        }
    }
}

fn check_new_name(catalog: &Catalog, table: &TableInfo, next: &TableInfo) -> Result<()> {
    if next.name == table.name {
        return Ok(());
    }
    check_name("table", &next.name)?;
    match catalog.table_by_name(&next.database, &next.name) {
        Some(_) => Err(Error::already_exists(format!(
            "table `{}` already exists",
            next.full_name()
        ))),
        None => Ok(()),
    }
}

fn altered_database(database: &DatabaseInfo, request: &v1::AlterDatabase) -> Result<DatabaseInfo> {
    let mut next = database.clone();
    next.options.extend(request.set.clone());
    for key in &request.unset {
        next.options.remove(key);
    }
    next.validate()?;
    Ok(next)
}

/// The tables of a database that do not know its TTL yet.
fn inheriting(catalog: &Catalog, database: &DatabaseInfo) -> Result<Vec<Edit>> {
    let change = [Change::SetDatabaseTtl { ttl: database.ttl() }];
    let tables = catalog.tables.values();
    let here = tables.filter(|t| t.database == database.name && t.state != TableState::Dropping);
    here.filter_map(|table| table.altered(&change).transpose())
        .map(|next| next.map(Edit::PutTable))
        .collect()
}
