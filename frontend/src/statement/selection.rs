//! The rows that a DELETE or an UPDATE is about, as a query.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{self, Expr, SetExpr, TableFactor};
use greptime_types::{Error, Result, TableInfo};

use super::Executor;
use super::ddl::writable_database;
use crate::query::Session;
use crate::sql::{Lexer, Statement, TableName, parse_statements, quoted};

/// One table of a DELETE or UPDATE, under the name that its conditions use.
pub(super) struct Target {
    pub table: Arc<TableInfo>,
    alias: Option<ast::TableAlias>,
}

impl Executor {
    pub(super) fn target(&self, session: &Session, factor: &TableFactor) -> Result<Target> {
        let TableFactor::Table { name, alias, .. } = factor else {
            return Err(Error::unsupported("DELETE and UPDATE take the name of a table"));
        };
        let name = TableName::try_from(name)?;
        let database = writable_database(session, &name)?;
        let table = self
            .router()
            .view
            .catalog()
            .expect_table(database, &name.name)?
            .clone();
        if table.options.append_mode {
            return Err(Error::unsupported(format!(
                "rows of table {}, which is in append mode, have no identity to be found by again",
                table.full_name()
            )));
        }
        Ok(Target {
            table,
            alias: alias.clone(),
        })
    }
}

impl Target {
    /// `SELECT items FROM table WHERE condition`. The condition is taken as it was parsed, whatever it has in it.
    pub fn query(&self, items: Vec<ast::SelectItem>, condition: Option<&Expr>) -> Result<Statement> {
        let from = format!(
            "SELECT 1 FROM {}.{}",
            quoted(&self.table.database),
            quoted(&self.table.name)
        );
        let wrong = || Error::internal("a selection is not a query");
        let mut parsed = parse_statements(&from, Lexer::Standard)?;
        let Some(Statement::Query(mut statement)) = parsed.pop() else {
            return Err(wrong());
        };
        let ast::Statement::Query(query) = statement.as_mut() else {
            return Err(wrong());
        };
        let SetExpr::Select(select) = query.body.as_mut() else {
            return Err(wrong());
        };
        select.projection = items;
        select.selection = condition.cloned();
        if let Some(TableFactor::Table { alias, .. }) = select.from.first_mut().map(|t| &mut t.relation) {
            // Without an alias the conditions may still say the table's own name.
            *alias = self.alias.clone();
        }
        Ok(Statement::Query(statement))
    }
}

/// A column of the target under its own name.
pub(super) fn item(name: &str) -> ast::SelectItem {
    ast::SelectItem::UnnamedExpr(Expr::Identifier(ast::Ident::with_quote('"', name)))
}
