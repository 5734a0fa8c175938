//! `UPDATE … SET … WHERE`: the rows are read with their new values, and written back whole, batch by batch.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::sql::sqlparser::ast::{self, AssignmentTarget, Expr};
use futures::StreamExt;
use greptime_proto::v1::WriteOp;
use greptime_query::from_datafusion;
use greptime_types::{ColumnSchema, Error, MergeMode, Result, Semantic, TableInfo};

use super::Executor;
use super::insert::{check_source, is_default};
use super::selection::item;
use crate::ingest::cells::{cell_of, default_of};
use crate::ingest::literal::{column_from_array, column_from_cells};
use crate::query::Session;
use crate::sql::{fold, quoted, unknown_column};

/// A new value of a column.
enum NewValue {
    /// One value for all rows, which fits as it would in an INSERT.
    Constant(ArrayRef),
    /// Of the row as it was.
    Computed(Box<Expr>),
}

impl Executor {
    /// The table that an UPDATE writes to.
    pub fn update_target(&self, session: &Session, update: &ast::Update) -> Result<Arc<TableInfo>> {
        self.target(session, &update.table.relation)
            .map(|target| target.table)
    }

    pub(super) async fn update(&self, session: &Session, update: &ast::Update) -> Result<u64> {
        let target = self.target(session, &update.table.relation)?;
        let table = &target.table;
        let set = assignments(table, &update.assignments, self.router().clock.wall_ms())?;
        let merges = table.options.merge_mode == MergeMode::LastNonNull;
        let constant = |name: &str| matches!(find(&set, name), Some(NewValue::Constant(_)));
        let is_read = |c: &&ColumnSchema| {
            // Where fields are merged one by one, those that are not set may stay unsaid.
            let wanted = c.semantic != Semantic::Field || !merges || find(&set, &c.name).is_some();
            wanted && !constant(&c.name)
        };
        let columns = table.schema.columns.iter();
        let names: Vec<String> = columns.filter(is_read).map(|c| c.name.clone()).collect();
        let value = |name: &String| match find(&set, name) {
            Some(NewValue::Computed(expr)) => ast::SelectItem::ExprWithAlias {
                expr: expr.as_ref().clone(),
                alias: ast::Ident::with_quote('"', name),
            },
            _ => item(name),
        };
        let items = names.iter().map(value).collect();
        let query = target.query(items, update.selection.as_ref())?;
        let mut rows = self.query(session, &query).await?;
        check_source(table, &names, &rows.schema())?;
        let mut updated = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|e| from_datafusion(&e))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = new_rows(table, &names, &set, &batch)?;
            if merges {
                check_no_null(table, &set, &batch)?;
            }
            let deadline = self.router().deadline_in(self.config.write_timeout);
            updated += self.ingestor.write(table, &batch, WriteOp::Put, deadline).await?;
        }
        Ok(updated)
    }
}

type Assignments = Vec<(String, NewValue)>;

fn find<'a>(set: &'a Assignments, name: &str) -> Option<&'a NewValue> {
    set.iter()
        .find(|(column, _)| column == name)
        .map(|(_, value)| value)
}

/// The rows as they are written: what was read, and the constants.
fn new_rows(
    table: &TableInfo,
    names: &[String],
    set: &Assignments,
    read: &RecordBatch,
) -> Result<RecordBatch> {
    let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
    for column in &table.schema.columns {
        let array = match (
            find(set, &column.name),
            names.iter().position(|n| *n == column.name),
        ) {
            (Some(NewValue::Constant(value)), _) => {
                let everywhere = UInt32Array::from(vec![0; read.num_rows()]);
                take(value, &everywhere, None).map_err(|e| Error::internal(e.to_string()))?
            }
            (_, Some(position)) => column_from_array(column, read.column(position))?,
            (_, None) => continue,
        };
        if !column.nullable && array.null_count() > 0 {
            return Err(Error::invalid(format!(
                "UPDATE would set column `{}` of {} to NULL, and it must have a value",
                column.name,
                table.full_name()
            )));
        }
        fields.push(Field::new(
            &column.name,
            array.data_type().clone(),
            column.nullable,
        ));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| Error::internal(e.to_string()))
}

/// What is set, by the name of the column.
fn assignments(table: &TableInfo, assignments: &[ast::Assignment], now_ms: i64) -> Result<Assignments> {
    let mut set: Assignments = Vec::new();
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
        let cell = match &assignment.value {
            Expr::Identifier(word) if is_default(word) => Some(default_of(column, now_ms)?),
            other => cell_of(other),
        };
        let value = match cell {
            Some(cell) => NewValue::Constant(column_from_cells(column, [&cell].into_iter())?),
            None => NewValue::Computed(Box::new(assignment.value.clone())),
        };
        set.push((name, value));
    }
    Ok(set)
}

/// NULL is "not said" where fields are merged, so setting it would silently do nothing.
fn check_no_null(table: &TableInfo, set: &Assignments, batch: &RecordBatch) -> Result<()> {
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
