//! SQL as text: GreptimeDB's grammar on top of `sqlparser`, lowered to our own statements.

mod admin;
mod alter;
mod create;
mod names;
pub mod params;
mod parser;
mod partition;
mod show;
mod types;

pub use admin::{Admin, AdminJob, AdminTarget, ProcedureRequest};
pub use names::{CATALOG, TableName, fold, listed, quoted, unknown_column};
pub use parser::{Lexer, parse_statements};
pub use partition::constant_of;
pub use show::{Like, Show};

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast;
use greptime_types::{Change, PartitionRule, TableOptions, TableSchema};

/// One statement. Queries and writes keep the parser's tree, since their parameters are bound in it.
#[derive(Clone, Debug)]
pub enum Statement {
    CreateTable(Box<CreateTable>),
    CreateDatabase {
        name: String,
        if_not_exists: bool,
        options: BTreeMap<String, String>,
    },
    DropTable {
        tables: Vec<TableName>,
        if_exists: bool,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
    },
    AlterTable {
        table: TableName,
        changes: Vec<Change>,
    },
    AlterDatabase {
        name: String,
        /// `None` unsets.
        options: BTreeMap<String, Option<String>>,
    },
    Truncate(Vec<TableName>),
    Update(Box<ast::Update>),
    Insert(Box<ast::Insert>),
    Delete(Box<ast::Delete>),
    /// SELECT, VALUES, WITH, and EXPLAIN of them.
    Query(Box<ast::Statement>),
    Show(Show),
    Describe(TableName),
    Use(String),
    /// `ADMIN f(…)`: work that a person asks for.
    Admin(Admin),
    /// Accepted without effect: SET, BEGIN, COMMIT and the like, which drivers send unasked. The word is the
    /// command tag of the answer.
    Ignored(&'static str),
}

impl Statement {
    /// Whether it gives rows.
    pub fn is_query(&self) -> bool {
        matches!(
            self,
            Self::Query(_) | Self::Show(_) | Self::Describe(_) | Self::Admin(_)
        )
    }

    /// What PostgreSQL calls the command.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::CreateTable(_) => "CREATE TABLE",
            Self::CreateDatabase { .. } => "CREATE DATABASE",
            Self::DropTable { .. } => "DROP TABLE",
            Self::DropDatabase { .. } => "DROP DATABASE",
            Self::AlterTable { .. } => "ALTER TABLE",
            Self::AlterDatabase { .. } => "ALTER DATABASE",
            Self::Truncate(_) => "TRUNCATE TABLE",
            Self::Update(_) => "UPDATE",
            Self::Insert(_) => "INSERT",
            Self::Delete(_) => "DELETE",
            Self::Query(_) | Self::Describe(_) => "SELECT",
            Self::Show(_) => "SHOW",
            Self::Use(_) => "SET",
            Self::Admin(_) => "ADMIN",
            Self::Ignored(tag) => tag,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    pub table: TableName,
    pub if_not_exists: bool,
    pub schema: TableSchema,
    pub partition: PartitionRule,
    pub options: TableOptions,
}

#[cfg(test)]
mod tests;
