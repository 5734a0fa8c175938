//! `SHOW …`: what users ask for, and what drivers send unasked.

use datafusion::sql::sqlparser::ast::{self, Ident, ShowStatementFilter, ShowStatementOptions};
use greptime_types::{Error, Result};

use super::TableName;
use super::names::{fold, single};

/// A `LIKE` pattern: `%` and `_`, letters of any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Like(pub String);

impl Like {
    pub fn matches(&self, text: &str) -> bool {
        fn go(pattern: &[char], text: &[char]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some(('%', rest)) => (0..=text.len()).any(|skip| go(rest, &text[skip..])),
                Some((c, rest)) => text.first().is_some_and(|t| *c == '_' || c == t) && go(rest, &text[1..]),
            }
        }
        let chars = |s: &str| s.to_lowercase().chars().collect::<Vec<_>>();
        go(&chars(&self.0), &chars(text))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    Databases {
        like: Option<Like>,
    },
    Tables {
        database: Option<String>,
        like: Option<Like>,
        full: bool,
    },
    CreateTable(TableName),
    CreateDatabase(String),
    Columns {
        table: TableName,
        like: Option<Like>,
        full: bool,
    },
    Index(TableName),
    /// `SHOW VARIABLES` of MySQL, by pattern.
    Variables {
        like: Option<Like>,
    },
    /// `SHOW name` of PostgreSQL.
    Variable(String),
    /// Lists that are always empty here, by the columns they would have.
    Empty(&'static [&'static str]),
    Engines,
}

/// Lowers what `sqlparser` made of a SHOW; `None` if it is not one of ours.
pub fn lower_show(statement: &ast::Statement) -> Option<Result<Show>> {
    use ast::Statement as S;
    let show = match statement {
        S::ShowDatabases { show_options, .. } | S::ShowSchemas { show_options, .. } => {
            like_of(show_options).map(|like| Show::Databases { like })
        }
        S::ShowTables {
            show_options, full, ..
        } => tables(show_options, *full),
        S::ShowCreate {
            obj_type: ast::ShowCreateObject::Table,
            obj_name,
        } => TableName::try_from(obj_name).map(Show::CreateTable),
        S::ShowColumns {
            show_options, full, ..
        } => columns(show_options, *full),
        S::ShowVariables { filter, .. } => filter_of(filter.as_ref()).map(|like| Show::Variables { like }),
        S::ShowStatus { .. } => Ok(Show::Empty(&["Variable_name", "Value"])),
        S::ShowProcessList { .. } => Ok(Show::Empty(&[
            "Id", "User", "Host", "db", "Command", "Time", "State", "Info",
        ])),
        S::ShowViews { .. } => Ok(Show::Empty(&["Views"])),
        S::ShowCollation { .. } => Ok(Show::Empty(&[
            "Collation",
            "Charset",
            "Id",
            "Default",
            "Compiled",
            "Sortlen",
        ])),
        S::ShowCharset(_) => Ok(Show::Empty(&[
            "Charset",
            "Description",
            "Default collation",
            "Maxlen",
        ])),
        S::ShowVariable { variable } => words(variable),
        _ => return None,
    };
    Some(show)
}

fn filter_of(filter: Option<&ShowStatementFilter>) -> Result<Option<Like>> {
    match filter {
        None => Ok(None),
        Some(ShowStatementFilter::Like(p) | ShowStatementFilter::ILike(p)) => Ok(Some(Like(p.clone()))),
        Some(ShowStatementFilter::Where(expr)) => where_names(expr).map(Some),
        Some(other) => Err(Error::unsupported(format!("SHOW … {other}"))),
    }
}

/// `WHERE Variable_name = 'x'`, as some drivers write LIKE.
fn where_names(expr: &ast::Expr) -> Result<Like> {
    if let ast::Expr::BinaryOp {
        op: ast::BinaryOperator::Eq,
        right,
        ..
    } = expr
        && let ast::Expr::Value(value) = right.as_ref()
        && let Some(text) = value.clone().into_string()
    {
        return Ok(Like(text));
    }
    Err(Error::unsupported(format!("SHOW … WHERE {expr}; use LIKE")))
}

fn like_of(options: &ShowStatementOptions) -> Result<Option<Like>> {
    let filter = match &options.filter_position {
        Some(
            ast::ShowStatementFilterPosition::Infix(filter)
            | ast::ShowStatementFilterPosition::Suffix(filter),
        ) => Some(filter),
        None => None,
    };
    filter_of(filter)
}

fn tables(options: &ShowStatementOptions, full: bool) -> Result<Show> {
    let database = match options.show_in.as_ref().and_then(|i| i.parent_name.as_ref()) {
        None => None,
        Some(name) => Some(single(name)?),
    };
    Ok(Show::Tables {
        database,
        like: like_of(options)?,
        full,
    })
}

fn columns(options: &ShowStatementOptions, full: bool) -> Result<Show> {
    let name = options.show_in.as_ref().and_then(|i| i.parent_name.as_ref());
    let name = name.ok_or_else(|| Error::invalid("SHOW COLUMNS needs FROM and a table"))?;
    Ok(Show::Columns {
        table: TableName::try_from(name)?,
        like: like_of(options)?,
        full,
    })
}

/// Whatever `sqlparser` does not know arrives as a list of words.
fn words(variable: &[Ident]) -> Result<Show> {
    let words: Vec<String> = variable.iter().map(fold).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["index" | "indexes" | "keys", "from" | "in", table @ ..] => named(table).map(Show::Index),
        ["create", "database" | "schema", name] => Ok(Show::CreateDatabase((*name).to_string())),
        ["warnings"] | ["errors"] => Ok(Show::Empty(&["Level", "Code", "Message"])),
        ["engines"] | ["storage", "engines"] => Ok(Show::Engines),
        ["plugins"] => Ok(Show::Empty(&["Name", "Status", "Type", "Library", "License"])),
        ["privileges"] => Ok(Show::Empty(&["Privilege", "Context", "Comment"])),
        ["triggers", ..] => Ok(Show::Empty(&["Trigger", "Event", "Table", "Statement", "Timing"])),
        ["function" | "procedure", "status", ..] => Ok(Show::Empty(&["Db", "Name", "Type"])),
        other => Ok(Show::Variable(other.join("_"))),
    }
}

fn named(words: &[&str]) -> Result<TableName> {
    let text = words.join("");
    let mut parts = text.split('.').map(str::to_string);
    match (parts.next(), parts.next()) {
        (Some(name), None) if !name.is_empty() => Ok(TableName { database: None, name }),
        (Some(database), Some(name)) => Ok(TableName {
            database: Some(database),
            name,
        }),
        _ => Err(Error::invalid("SHOW INDEX needs FROM and a table")),
    }
}
