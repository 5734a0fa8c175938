//! `UPDATE … SET … WHERE`: the rows are read with their new values, and written back whole, batch by batch.

use datafusion::arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{self, AssignmentTarget, Expr};
use futures::StreamExt;
use greptime_proto::v1::WriteOp;
use greptime_query::from_datafusion;
use greptime_types::{Error, MergeMode, Result, Semantic, TableInfo};

use super::Executor;
use super::insert::{cast_batch, check_source, is_default};
use super::selection::item;
use crate::query::Session;
use crate::sql::{Lexer, Statement, fold, parse_statements, quoted, unknown_column};

impl Executor {
    pub(super) async fn update(&self, session: &Session, update: &ast::Update) -> Result<u64> {
        let target = self.target(session, &update.table.relation)?;
        let table = &target.table;
        let set = assignments(table, &update.assignments)?;
        let merges = table.options.merge_mode == MergeMode::LastNonNull;
        let of_row = |c: &&greptime_types::ColumnSchema| {
            // Where fields are merged one by one, those that are not set may stay unsaid.
            c.semantic != Semantic::Field || !merges || set.iter().any(|(name, _)| *name == c.name)
        };
        let names: Vec<String> = table
            .schema
            .columns
            .iter()
            .filter(of_row)
            .map(|c| c.name.clone())
            .collect();
        let value = |name: &String| match set.iter().find(|(column, _)| column == name) {
            Some((_, expr)) => ast::SelectItem::ExprWithAlias {
                expr: expr.clone(),
                alias: ast::Ident::with_quote('"', name),
            },
            None => item(name),
        };
        let query = target.query(names.iter().map(value).collect(), update.selection.as_ref())?;
        let mut rows = self.query(session, &query).await?;
        check_source(table, &names, &rows.schema())?;
        let mut updated = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|e| from_datafusion(&e))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = cast_batch(table, &names, &batch, self.router().clock.wall_ms())?;
            if merges {
                check_no_null(table, &set, &batch)?;
            }
            let deadline = self.router().deadline_in(self.config.write_timeout);
            updated += self.ingestor.write(table, &batch, WriteOp::Put, deadline).await?;
        }
        Ok(updated)
    }
}

/// What is set, by the name of the column.
fn assignments(table: &TableInfo, assignments: &[ast::Assignment]) -> Result<Vec<(String, Expr)>> {
    let mut set: Vec<(String, Expr)> = Vec::new();
    for assignment in assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else {
            return Err(Error::unsupported(
                "UPDATE sets one column at a time: SET a = …, b = …",
            ));
        };
        let ident = name.0.last().and_then(|part| part.as_ident());
        let name = fold(ident.ok_or_else(|| Error::invalid(format!("`{name}` is not a column")))?);
        let known: Vec<&str> = table.schema.columns.iter().map(|c| c.name.as_str()).collect();
        let Some(column) = table.schema.column(&name) else {
            return Err(unknown_column(
                &name,
                &format!(" in {}", table.full_name()),
                &known,
            ));
        };
        if column.semantic != Semantic::Field {
            return Err(Error::unsupported(format!(
                "column `{name}` of {} is part of what identifies a row and cannot be set; INSERT the row anew and \
                 DELETE the old one",
                table.full_name()
            )));
        }
        if set.iter().any(|(other, _)| *other == name) {
            return Err(Error::invalid(format!("column `{name}` is set twice")));
        }
        let value = match &assignment.value {
            Expr::Identifier(word) if is_default(word) => default_expr(column.default.as_deref())?,
            other => other.clone(),
        };
        set.push((name, value));
    }
    Ok(set)
}

/// The default as an expression.
fn default_expr(default: Option<&str>) -> Result<Expr> {
    let text = default.unwrap_or("NULL");
    let parsed = parse_statements(&format!("SELECT {text}"), Lexer::Standard)?;
    if let Some(Statement::Query(query)) = parsed.first()
        && let ast::Statement::Query(query) = query.as_ref()
        && let ast::SetExpr::Select(select) = query.body.as_ref()
        && let Some(ast::SelectItem::UnnamedExpr(expr)) = select.projection.first()
    {
        return Ok(expr.clone());
    }
    Err(Error::internal(format!("the default {text} is no expression")))
}

/// NULL is "not said" where fields are merged, so setting it would silently do nothing.
fn check_no_null(table: &TableInfo, set: &[(String, Expr)], batch: &RecordBatch) -> Result<()> {
    let null = |name: &str| batch.column_by_name(name).is_some_and(|c| c.null_count() > 0);
    match set.iter().find(|(name, _)| null(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Error::invalid(format!(
            "UPDATE would set `{name}` to NULL, which never replaces a value in table {} (merge_mode = \
             'last_non_null'); DELETE the row and INSERT it anew. Use {} IS NOT NULL to leave such rows out",
            table.full_name(),
            quoted(name)
        ))),
    }
}
