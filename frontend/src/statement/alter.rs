//! `ALTER TABLE` and `ALTER DATABASE`, as requests to metasrv.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use greptime_proto::v1::{AlterDatabase, AlterTable, ddl_request::Body};
use greptime_types::{Change, ColumnSchema, ColumnType, Error, Result, TableInfo};

use super::Executor;
use super::ddl::{check_default, writable_database};
use crate::ingest::auto::to_json;
use crate::ingest::cells::default_of;
use crate::ingest::literal::column_from_cells;
use crate::query::Session;
use crate::sql::TableName;

impl Executor {
    /// `None` if the table is so already.
    pub(super) fn alter_table(
        &self,
        session: &Session,
        name: &TableName,
        changes: &[Change],
    ) -> Result<Option<Body>> {
        let database = writable_database(session, name)?;
        let catalog = self.router().view.catalog();
        let table = catalog.expect_table(database, &name.name)?;
        let now_ms = self.router().clock.wall_ms();
        let mut changes = changes.to_vec();
        for change in &mut changes {
            if let Change::AddColumn { column, .. } = change {
                check_default(column)?;
                column.absent = absent_of(column, now_ms)?;
            }
        }
        // Checked here for the sake of the message; metasrv checks again.
        let Some(next) = table.altered(&changes)? else {
            return Ok(None);
        };
        check_defaults(table, &next)?;
        Ok(Some(Body::AlterTable(AlterTable {
            database: database.to_string(),
            name: name.name.clone(),
            changes_json: to_json(&changes)?,
        })))
    }
}

/// A default that does not fit the new type of its column would make every later write fail.
fn check_defaults(old: &TableInfo, new: &TableInfo) -> Result<()> {
    let changed = |c: &&ColumnSchema| {
        let before = old.schema.columns.iter().find(|o| o.id == c.id);
        before.is_some_and(|before| before.column_type != c.column_type)
    };
    new.schema
        .columns
        .iter()
        .filter(changed)
        .try_for_each(check_default)
}

/// The default of a new column as rows that are there already show it: evaluated now, once, as a text.
fn absent_of(column: &ColumnSchema, now_ms: i64) -> Result<Option<String>> {
    if column.default.is_none() {
        return Ok(None);
    }
    if matches!(column.column_type, ColumnType::Vector(_) | ColumnType::Binary) {
        return Err(Error::unsupported(format!(
            "column `{}`: a {} column cannot be added with a default; add it without, and UPDATE",
            column.name,
            column.column_type.sql_name()
        )));
    }
    let cell = default_of(column, now_ms)?;
    let value = column_from_cells(column, [&cell].into_iter())?;
    let text = cast(&value, &DataType::Utf8).map_err(|e| Error::invalid(e.to_string()))?;
    let text = text.as_string::<i32>();
    Ok(text.is_valid(0).then(|| text.value(0).to_owned()))
}

pub(super) fn alter_database(name: &str, options: &BTreeMap<String, Option<String>>) -> Body {
    let (mut set, mut unset) = (std::collections::HashMap::new(), Vec::new());
    for (key, value) in options {
        match value {
            Some(value) => drop(set.insert(key.clone(), value.clone())),
            None => unset.push(key.clone()),
        }
    }
    Body::AlterDatabase(AlterDatabase {
        name: name.to_owned(),
        set,
        unset,
    })
}
