//! Names of things: lowercase unless quoted.

use std::fmt;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart};
use greptime_types::{Error, Result};

/// The one catalog; three-part names start with it.
pub const CATALOG: &str = "greptime";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// `None` is the database of the session.
    pub database: Option<String>,
    pub name: String,
}

impl TableName {
    /// The database to look in.
    pub fn database_or<'a>(&'a self, session: &'a str) -> &'a str {
        self.database.as_deref().unwrap_or(session)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{database}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl TryFrom<&ObjectName> for TableName {
    type Error = Error;

    fn try_from(name: &ObjectName) -> Result<Self> {
        let mut parts = parts_of(name)?;
        let table = parts.pop().unwrap_or_default();
        let database = parts.pop();
        match (parts.pop(), parts.is_empty()) {
            (None, _) => Ok(Self {
                database,
                name: table,
            }),
            (Some(catalog), true) if catalog == CATALOG => Ok(Self {
                database,
                name: table,
            }),
            _ => Err(Error::not_found(format!(
                "`{name}`: the only catalog is `{CATALOG}`"
            ))),
        }
    }
}

fn parts_of(name: &ObjectName) -> Result<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Ok(fold(ident)),
            ObjectNamePart::Function(_) => Err(Error::unsupported(format!("`{name}` is not a plain name"))),
        })
        .collect()
}

/// A name of one part, as of a database or a column.
pub fn single(name: &ObjectName) -> Result<String> {
    let mut parts = parts_of(name)?;
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) if parts == [CATALOG] => Ok(last),
        _ => Err(Error::invalid(format!("`{name}` should be a name without dots"))),
    }
}

pub fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Names that could not be told from a keyword or a number, or would be folded, are shown in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
