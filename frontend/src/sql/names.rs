//! Names of things: lowercase unless quoted.

use std::fmt;

use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart};
use greptime_types::{Error, Result};

/// The one catalog; three-part names start with it.
pub const CATALOG: &str = "greptime";

/// A table may have hundreds of columns; an error lists so many.
const MAX_LISTED: usize = 20;

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

/// That there is no such column, with the nearest of those that there are. `place` is empty or names the table
/// (` in public.cpu`).
pub fn unknown_column<S: AsRef<str>>(name: &str, place: &str, known: &[S]) -> Error {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let rest = match nearest(name, &known) {
        _ if known.is_empty() => String::new(),
        Some(other) => format!(", did you mean `{other}`? There are {}", listed(&known)),
        None => format!("; there are {}", listed(&known)),
    };
    Error::invalid(format!("column `{name}` does not exist{place}{rest}"))
}

/// Names in a sentence.
pub fn listed(names: &[&str]) -> String {
    let mut shown: Vec<String> = names.iter().take(MAX_LISTED).map(|n| format!("`{n}`")).collect();
    match names.len().saturating_sub(MAX_LISTED) {
        0 => {}
        more => shown.push(format!("and {more} more")),
    }
    shown.join(", ")
}

/// The name that differs least, if it does not differ in more than half of its letters. Tables in front of a dot
/// do not count.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_lowercase();
    let wanted = last(name);
    let distances = known.iter().map(|k| {
        let other = last(k);
        let longer = wanted.chars().count().max(other.chars().count());
        (levenshtein(&wanted, &other), longer, *k)
    });
    distances
        .filter(|(distance, longer, _)| distance * 2 <= *longer)
        .min_by_key(|(distance, ..)| *distance)
        .map(|(.., k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_column_is_named() {
        let known = ["host", "ts", "usage_user", "usage_system"];
        let all = "`host`, `ts`, `usage_user`, `usage_system`";
        for (name, message) in [
            (
                "usage_usr",
                format!(", did you mean `usage_user`? There are {all}"),
            ),
            ("HOST", format!(", did you mean `host`? There are {all}")),
            ("c.hst", format!(", did you mean `host`? There are {all}")),
            ("temperature", format!("; there are {all}")),
        ] {
            let expected = format!("column `{name}` does not exist in public.cpu{message}");
            assert_eq!(unknown_column(name, " in public.cpu", &known).message, expected);
        }
        let none: [&str; 0] = [];
        assert_eq!(
            unknown_column("a", "", &none).message,
            "column `a` does not exist"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..23).map(|n| format!("c{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(listed(&names).ends_with("`c18`, `c19`, and 3 more"));
    }
}
