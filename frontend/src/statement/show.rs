//! `SHOW …` and `DESCRIBE`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use greptime_types::partition::Op;
use greptime_types::{Error, MergeMode, PartitionExpr, Result, Semantic, TableInfo};

use super::Executor;
use crate::query::Session;
use crate::query::catalog::VIRTUAL_DATABASES;
use crate::query::engine::expect_database;
use crate::query::functions::{POSTGRES_VERSION, VARIABLES};
use crate::query::information_schema::{TABLES, key_of};
use crate::query::metric::{TIME_COLUMN, VALUE_COLUMN};
use crate::sql::{Like, Show, TableName, quoted};

/// Rows of text under the given names.
fn text_rows(names: &[&str], rows: Vec<Vec<Option<String>>>) -> Result<SendableRecordBatchStream> {
    let column = |i: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.get(i).and_then(Option::as_deref)),
        ))
    };
    let columns = names.iter().enumerate().map(|(i, name)| (*name, column(i), true));
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| Error::internal(e.to_string()))?;
    let schema = batch.schema();
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter([Ok(batch)]),
    )))
}

fn some(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

fn matches(like: Option<&Like>, name: &str) -> bool {
    like.is_none_or(|l| l.matches(name))
}

impl Executor {
    pub(super) async fn show(&self, session: &Session, show: &Show) -> Result<SendableRecordBatchStream> {
        let catalog = self.router().view.catalog();
        match show {
            Show::Databases { like } => {
                let own = catalog.databases().map(|d| d.name.as_str());
                let names = own.chain(VIRTUAL_DATABASES).filter(|n| matches(like.as_ref(), n));
                text_rows(&["Database"], names.map(|n| vec![some(n)]).collect())
            }
            Show::Tables { database, like, full } => {
                self.show_tables(
                    database.as_deref().unwrap_or(&session.database),
                    like.as_ref(),
                    *full,
                )
                .await
            }
            Show::CreateTable(name) => {
                let table = self.table(session, name)?;
                let rows = vec![vec![some(&table.name), some(create_table_text(&table))]];
                text_rows(&["Table", "Create Table"], rows)
            }
            Show::CreateDatabase(name) => {
                expect_database(&catalog, name)?;
                let mut text = format!("CREATE DATABASE IF NOT EXISTS {}", quoted(name));
                if let Some(database) = catalog.database(name).filter(|d| !d.options.is_empty()) {
                    let _ = write!(
                        text,
                        "\nWITH(\n{}\n)",
                        options_text(&database.options).join(",\n")
                    );
                }
                text_rows(
                    &["Database", "Create Database"],
                    vec![vec![some(name), some(text)]],
                )
            }
            Show::Columns { table, like, full } => {
                self.show_columns(session, table, like.as_ref(), *full).await
            }
            Show::Index(name) => self.show_index(session, name),
            Show::Variables { like } => {
                let known = VARIABLES.iter().filter(|(name, _)| matches(like.as_ref(), name));
                let rows = known
                    .map(|(name, value)| vec![some(*name), some(*value)])
                    .collect();
                text_rows(&["Variable_name", "Value"], rows)
            }
            Show::Variable(name) => text_rows(&[name], vec![vec![some(postgres_variable(name))]]),
            Show::Empty(names) => text_rows(names, vec![]),
            Show::Engines => {
                let comment = "Storage engine for time-series data";
                let row = vec![some("mito"), some("DEFAULT"), some(comment), some("NO")];
                text_rows(&["Engine", "Support", "Comment", "Transactions"], vec![row])
            }
        }
    }

    fn table(&self, session: &Session, name: &TableName) -> Result<Arc<TableInfo>> {
        let catalog = self.router().view.catalog();
        catalog
            .expect_table(name.database_or(&session.database), &name.name)
            .cloned()
    }

    async fn show_tables(
        &self,
        database: &str,
        like: Option<&Like>,
        full: bool,
    ) -> Result<SendableRecordBatchStream> {
        let catalog = self.router().view.catalog();
        expect_database(&catalog, database)?;
        let mut names: Vec<(String, &str)> = if VIRTUAL_DATABASES.contains(&database) {
            TABLES.iter().map(|n| ((*n).to_string(), "SYSTEM VIEW")).collect()
        } else {
            let mut all: Vec<_> = catalog
                .tables_of(database)
                .map(|t| (t.name.clone(), "BASE TABLE"))
                .collect();
            let metrics = self.engine.metrics.names(&self.engine, database).await;
            all.extend(metrics.into_iter().map(|name| (name, "VIEW")));
            all
        };
        names.retain(|(name, _)| matches(like, name));
        names.sort();
        let rows = names
            .into_iter()
            .map(|(name, kind)| vec![Some(name), some(kind)])
            .collect();
        let title = format!("Tables_in_{database}");
        match full {
            true => text_rows(&[&title, "Table_type"], rows),
            false => text_rows(&["Tables"], rows),
        }
    }

    async fn show_columns(
        &self,
        session: &Session,
        name: &TableName,
        like: Option<&Like>,
        full: bool,
    ) -> Result<SendableRecordBatchStream> {
        let table = self.table(session, name)?;
        let columns = table.schema.columns.iter().filter(|c| matches(like, &c.name));
        let rows = columns.map(|c| {
            let nullable = if c.nullable { "Yes" } else { "No" };
            let mut row = vec![
                some(&c.name),
                some(c.column_type.sql_name().to_lowercase()),
                some(nullable),
                some(key_of(c.semantic)),
                c.default.clone(),
                some(""),
            ];
            if full {
                row.extend([some("utf8_bin"), some(""), some("select,insert")]);
            }
            row
        });
        let names = [
            "Field",
            "Type",
            "Null",
            "Key",
            "Default",
            "Extra",
            "Collation",
            "Comment",
            "Privileges",
        ];
        text_rows(if full { &names } else { &names[..6] }, rows.collect())
    }

    fn show_index(&self, session: &Session, name: &TableName) -> Result<SendableRecordBatchStream> {
        let table = self.table(session, name)?;
        let keys = table
            .schema
            .primary_key
            .iter()
            .map(|key| (key.as_str(), "PRIMARY"));
        let time = [(table.schema.time_index().name.as_str(), "TIME INDEX")];
        let rows = keys.chain(time).enumerate().map(|(position, (column, index))| {
            vec![
                some(&table.name),
                some("1"),
                some(index),
                some((position + 1).to_string()),
                some(column),
            ]
        });
        text_rows(
            &["Table", "Non_unique", "Key_name", "Seq_in_index", "Column_name"],
            rows.collect(),
        )
    }

    /// As GreptimeDB prints it.
    pub(super) async fn describe(
        &self,
        session: &Session,
        name: &TableName,
    ) -> Result<SendableRecordBatchStream> {
        const NAMES: [&str; 6] = ["Column", "Type", "Key", "Null", "Default", "Semantic Type"];
        let database = name.database_or(&session.database);
        let catalog = self.router().view.catalog();
        if let Some(table) = catalog.table(database, &name.name) {
            let rows = table.schema.columns.iter().map(|c| {
                vec![
                    some(&c.name),
                    some(c.column_type.sql_name()),
                    some(if c.semantic == Semantic::Field { "" } else { "PRI" }),
                    some(if c.nullable { "YES" } else { "NO" }),
                    some(c.default.clone().unwrap_or_default()),
                    some(c.semantic.label()),
                ]
            });
            return text_rows(&NAMES, rows.collect());
        }
        // Not a table of the catalog: a metric, or one of information_schema.
        let sql = format!(
            "SELECT * FROM {}.{} LIMIT 0",
            quoted(database),
            quoted(&name.name)
        );
        let statements = crate::sql::parse_statements(&sql, crate::sql::Lexer::Standard)?;
        let planned = match statements.first() {
            Some(statement) => self.plan(session, statement).await?,
            None => return Err(Error::internal("DESCRIBE made no query")),
        };
        let columns = planned.columns();
        let rows = columns.fields().iter().map(|field| {
            let semantic = match field.name().as_str() {
                TIME_COLUMN => Semantic::Timestamp.label(),
                VALUE_COLUMN => Semantic::Field.label(),
                _ => Semantic::Tag.label(),
            };
            let nullable = if field.is_nullable() { "YES" } else { "NO" };
            let type_name = field.data_type().to_string();
            vec![
                some(field.name()),
                some(type_name),
                some(""),
                some(nullable),
                some(""),
                some(semantic),
            ]
        });
        text_rows(&NAMES, rows.collect())
    }
}

/// Settings that PostgreSQL's drivers ask for at the start.
fn postgres_variable(name: &str) -> &str {
    match name {
        "server_version" => POSTGRES_VERSION,
        "server_encoding" | "client_encoding" => "UTF8",
        "timezone" | "time_zone" => "UTC",
        "transaction_isolation" | "transaction_isolation_level" | "default_transaction_isolation" => {
            "read committed"
        }
        "standard_conforming_strings" => "on",
        "search_path" => "public",
        "datestyle" => "ISO, MDY",
        "max_identifier_length" => "63",
        _ => "",
    }
}

/// A statement that makes the same table again.
pub fn create_table_text(table: &TableInfo) -> String {
    let schema = &table.schema;
    let mut text = format!("CREATE TABLE IF NOT EXISTS {} (\n", quoted(&table.name));
    for column in &schema.columns {
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        let default = column
            .default
            .as_ref()
            .map(|d| format!(" DEFAULT {d}"))
            .unwrap_or_default();
        let (name, sql_type) = (quoted(&column.name), column.column_type.sql_name());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name} {sql_type} {null}{default},");
    }
    let _ = write!(text, "  TIME INDEX ({})", quoted(&schema.time_index().name));
    if !schema.primary_key.is_empty() {
        let keys: Vec<String> = schema.primary_key.iter().map(|k| quoted(k)).collect();
        let _ = write!(text, ",\n  PRIMARY KEY ({})", keys.join(", "));
    }
    text.push_str("\n)\n");
    let exprs: Vec<String> = table
        .partition
        .partitions
        .iter()
        .filter_map(|p| p.expr.as_ref())
        .map(|e| format!("  {}", rule_text(e)))
        .collect();
    if !exprs.is_empty() {
        let columns: Vec<String> = table.partition.columns.iter().map(|c| quoted(c)).collect();
        let _ = writeln!(
            text,
            "PARTITION ON COLUMNS ({}) (\n{}\n)",
            columns.join(", "),
            exprs.join(",\n")
        );
    }
    text.push_str("ENGINE=mito");
    let mut options: Vec<String> = vec![];
    if table.options.append_mode {
        options.push("  'append_mode' = 'true'".into());
    }
    if table.options.merge_mode != MergeMode::LastRow {
        options.push(format!("  'merge_mode' = '{}'", table.options.merge_mode.name()));
    }
    options.extend(table.options.ttl.as_ref().map(|ttl| format!("  'ttl' = '{ttl}'")));
    options.extend(options_text(&table.options.extra));
    if !options.is_empty() {
        let _ = write!(text, "\nWITH(\n{}\n)", options.join(",\n"));
    }
    text
}

fn options_text(options: &BTreeMap<String, String>) -> Vec<String> {
    let option = |(k, v): (&String, &String)| format!("  '{k}' = '{}'", v.replace('\'', "''"));
    options.iter().map(option).collect()
}

/// The rule with quoted names, as it must be written to be read again.
fn rule_text(expr: &PartitionExpr) -> String {
    let side = |e: &PartitionExpr| match e {
        PartitionExpr::Or(..) => format!("({})", rule_text(e)),
        _ => rule_text(e),
    };
    match expr {
        PartitionExpr::And(a, b) => format!("{} AND {}", side(a), side(b)),
        PartitionExpr::Or(a, b) => format!("{} OR {}", rule_text(a), rule_text(b)),
        PartitionExpr::Compare { column, op, value } => {
            let symbol = match op {
                Op::Eq => "=",
                Op::NotEq => "!=",
                Op::Lt => "<",
                Op::LtEq => "<=",
                Op::Gt => ">",
                Op::GtEq => ">=",
            };
            format!("{} {symbol} {value}", quoted(column))
        }
    }
}
