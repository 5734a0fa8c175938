//! `INSERT INTO … VALUES` and `INSERT INTO … SELECT`.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{self, Expr, SetExpr, TableObject};
use futures::StreamExt;
use greptime_proto::v1::WriteOp;
use greptime_query::from_datafusion;
use greptime_types::{Error, Result, TableInfo, TableSchema};

use super::Executor;
use super::ddl::writable_database;
use crate::ingest::cells::{batch_from_rows, cell_of, default_of};
use crate::ingest::literal::{Cell, column_from_cells};
use crate::query::Session;
use crate::route::Deadline;
use crate::sql::{Statement, TableName, fold};

impl Executor {
    pub(super) async fn insert(&self, session: &Session, insert: &ast::Insert) -> Result<u64> {
        let table = self.insert_target(session, insert)?;
        let source = insert
            .source
            .as_ref()
            .ok_or_else(|| Error::invalid("INSERT needs VALUES or a SELECT"))?;
        let names = insert_columns(&table.schema, insert)?;
        let deadline = self.router().deadline_in(self.config.write_timeout);
        match source.body.as_ref() {
            SetExpr::Values(values) => {
                let batch = self
                    .values_batch(session, &table, &names, values, deadline)
                    .await?;
                self.ingestor.write(&table, &batch, WriteOp::Put, deadline).await
            }
            _ => self.insert_select(session, &table, &names, source).await,
        }
    }

    /// The table that an INSERT writes to.
    pub fn insert_target(&self, session: &Session, insert: &ast::Insert) -> Result<Arc<TableInfo>> {
        let TableObject::TableName(name) = &insert.table else {
            return Err(Error::unsupported("INSERT INTO takes the name of a table"));
        };
        if insert.on.is_some() || insert.returning.is_some() || insert.overwrite {
            return Err(Error::unsupported(
                "INSERT without ON CONFLICT, RETURNING and OVERWRITE: a row replaces the one with its tags and time",
            ));
        }
        let name = TableName::try_from(name)?;
        let catalog = self.router().view.catalog();
        catalog
            .expect_table(writable_database(session, &name)?, &name.name)
            .cloned()
    }

    async fn values_batch(
        &self,
        session: &Session,
        table: &TableInfo,
        names: &[String],
        values: &ast::Values,
        deadline: Deadline,
    ) -> Result<RecordBatch> {
        let mut rows = Vec::with_capacity(values.rows.len());
        for (number, row) in values.rows.iter().enumerate() {
            if row.len() != names.len() {
                let (found, expected) = (row.len(), names.len());
                return Err(Error::invalid(format!(
                    "row {} has {found} values, the column list has {expected}",
                    number + 1
                )));
            }
            let mut cells = Vec::with_capacity(row.len());
            for expr in row.iter() {
                cells.push(match expr {
                    Expr::Identifier(word) if is_default(word) => None,
                    _ => match cell_of(expr) {
                        Some(cell) => Some(cell),
                        None => Some(self.evaluate(session, expr, deadline).await?),
                    },
                });
            }
            rows.push(cells);
        }
        batch_from_rows(&table.schema, names, &rows, self.router().clock.wall_ms())
    }

    /// A value that has to be computed, like `now() - INTERVAL '1 hour'`.
    async fn evaluate(&self, session: &Session, expr: &Expr, deadline: Deadline) -> Result<Cell> {
        let batches = self
            .engine
            .rows_of(session, &format!("SELECT {expr}"), deadline)
            .await?;
        let row = batches.iter().find(|b| b.num_rows() > 0);
        let row = row.ok_or_else(|| Error::invalid(format!("{expr} has no value")))?;
        ScalarValue::try_from_array(row.column(0), 0)
            .map(Cell::Scalar)
            .map_err(|e| from_datafusion(&e))
    }

    /// Rows are written as the query gives them; what was written before a failure stays.
    async fn insert_select(
        &self,
        session: &Session,
        table: &TableInfo,
        names: &[String],
        source: &ast::Query,
    ) -> Result<u64> {
        let query = Statement::Query(Box::new(ast::Statement::Query(Box::new(source.clone()))));
        let mut rows = self.plan(session, &query).await?.execute().await?;
        if rows.schema().fields().len() != names.len() {
            let (found, expected) = (rows.schema().fields().len(), names.len());
            return Err(Error::invalid(format!(
                "the SELECT gives {found} columns, INSERT names {expected}"
            )));
        }
        let mut written = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|e| from_datafusion(&e))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = cast_batch(&table.schema, names, &batch, self.router().clock.wall_ms())?;
            let deadline = self.router().deadline_in(self.config.write_timeout);
            written += self.ingestor.write(table, &batch, WriteOp::Put, deadline).await?;
        }
        Ok(written)
    }
}

fn is_default(word: &ast::Ident) -> bool {
    word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default")
}

/// The columns that an INSERT names, or all of them.
pub fn insert_columns(schema: &TableSchema, insert: &ast::Insert) -> Result<Vec<String>> {
    if insert.columns.is_empty() {
        return Ok(schema.columns.iter().map(|c| c.name.clone()).collect());
    }
    let mut names = Vec::new();
    for column in &insert.columns {
        let ident = column.0.last().and_then(|part| part.as_ident());
        let name = fold(ident.ok_or_else(|| Error::invalid(format!("`{column}` is not a column")))?);
        if schema.column(&name).is_none() {
            return Err(Error::invalid(format!(
                "column `{name}` does not exist in the table"
            )));
        }
        if names.contains(&name) {
            return Err(Error::invalid(format!("column `{name}` is named twice")));
        }
        names.push(name);
    }
    Ok(names)
}

/// The rows of a query under the names and types of the table's columns.
fn cast_batch(
    schema: &TableSchema,
    names: &[String],
    batch: &RecordBatch,
    now_ms: i64,
) -> Result<RecordBatch> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
    for column in &schema.columns {
        let target = column.column_type.to_arrow();
        let array = match names.iter().position(|n| *n == column.name) {
            Some(position) => {
                let array = batch.column(position);
                check_cast(&column.name, array.data_type(), &target)?;
                cast_with_options(array, &target, &strict)
                    .map_err(|e| Error::invalid(format!("column `{}`: {e}", column.name)))?
            }
            None if column.default.is_none() && column.nullable => continue,
            None => {
                let default = default_of(column, now_ms)?;
                column_from_cells(column, vec![&default; batch.num_rows()].into_iter())?
            }
        };
        if !column.nullable && array.null_count() > 0 {
            return Err(Error::invalid(format!("column `{}` cannot be NULL", column.name)));
        }
        fields.push(Field::new(&column.name, target, column.nullable));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|e| Error::internal(e.to_string()))
}

/// Casts between kinds (a time to a text, a text to a number) are asked for, not done silently.
fn check_cast(column: &str, from: &DataType, to: &DataType) -> Result<()> {
    let numbers = |t: &DataType| t.is_numeric();
    let texts = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let times = |t: &DataType| t.is_temporal();
    let same = from == to
        || *from == DataType::Null
        || (numbers(from) && numbers(to))
        || (texts(from) && (texts(to) || times(to) || *to == DataType::Binary))
        || (times(from) && times(to))
        || (*from == DataType::Int64 && times(to));
    match same {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "column `{column}` is {to}, the SELECT gives {from}; use CAST"
        ))),
    }
}
