//! `INSERT INTO … VALUES` and `INSERT INTO … SELECT`.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{self, Expr, SetExpr, TableObject};
use futures::StreamExt;
use greptime_proto::v1::WriteOp;
use greptime_query::from_datafusion;
use greptime_types::{Error, Result, TableInfo};

use super::Executor;
use super::ddl::writable_database;
use crate::ingest::cells::{batch_from_rows, cell_of, default_of};
use crate::ingest::literal::{Cell, column_from_array, column_from_cells};
use crate::query::Session;
use crate::route::Deadline;
use crate::sql::{Statement, TableName, fold, listed, quoted, unknown_column};

impl Executor {
    pub(super) async fn insert(&self, session: &Session, insert: &ast::Insert) -> Result<u64> {
        let table = self.insert_target(session, insert)?;
        let source = insert
            .source
            .as_ref()
            .ok_or_else(|| Error::invalid("INSERT needs VALUES or a SELECT"))?;
        let names = insert_columns(&table, insert)?;
        check_required(&table, &names)?;
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
                return Err(Error::invalid(format!(
                    "row {} has {} values, {}; write one value for each column",
                    number + 1,
                    row.len(),
                    takes(table, names)
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
        let planned = self.plan(session, &query).await;
        let planned = planned.map_err(|e| source_names(e, table, names))?;
        let mut rows = planned.execute().await?;
        check_source(table, names, &rows.schema())?;
        let mut written = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|e| from_datafusion(&e))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = cast_batch(table, names, &batch, self.router().clock.wall_ms())?;
            let deadline = self.router().deadline_in(self.config.write_timeout);
            written += self.ingestor.write(table, &batch, WriteOp::Put, deadline).await?;
        }
        Ok(written)
    }
}

pub(super) fn is_default(word: &ast::Ident) -> bool {
    word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default")
}

/// The columns that an INSERT names, or all of them.
pub fn insert_columns(table: &TableInfo, insert: &ast::Insert) -> Result<Vec<String>> {
    let known: Vec<&str> = table.schema.columns.iter().map(|c| c.name.as_str()).collect();
    if insert.columns.is_empty() {
        return Ok(known.into_iter().map(str::to_string).collect());
    }
    let mut names = Vec::new();
    for column in &insert.columns {
        let ident = column.0.last().and_then(|part| part.as_ident());
        let name = fold(ident.ok_or_else(|| Error::invalid(format!("`{column}` is not a column")))?);
        if table.schema.column(&name).is_none() {
            return Err(unknown_column(
                &name,
                &format!(" in {}", table.full_name()),
                &known,
            ));
        }
        if names.contains(&name) {
            return Err(Error::invalid(format!(
                "column `{name}` of {} is named twice; name each column once",
                table.full_name()
            )));
        }
        names.push(name);
    }
    Ok(names)
}

/// What an INSERT expects, in words.
fn takes(table: &TableInfo, names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().map(String::as_str).collect();
    let (table, count) = (table.full_name(), names.len());
    format!("INSERT INTO {table} ({}) takes {count}", listed(&shown))
}

/// A column that is not named gets its default, or NULL.
fn check_required(table: &TableInfo, names: &[String]) -> Result<()> {
    let mut columns = table.schema.columns.iter();
    let missing = columns.find(|c| c.default.is_none() && !c.nullable && !names.contains(&c.name));
    match missing {
        None => Ok(()),
        Some(column) => Err(Error::invalid(format!(
            "column `{}` of {} must have a value; name it in the column list of INSERT",
            column.name,
            table.full_name()
        ))),
    }
}

/// DataFusion refuses two values of one name, although INSERT takes them by their positions.
fn source_names(error: Error, table: &TableInfo, names: &[String]) -> Error {
    if !error.message.contains("require unique expression names") {
        return error;
    }
    let named: Vec<String> = names.iter().map(|n| format!("… AS {}", quoted(n))).collect();
    Error::invalid(format!(
        "{}, and two values of the SELECT have the same name; name each one after its column: SELECT {}",
        takes(table, names),
        named.join(", ")
    ))
}

/// Whether the columns of a SELECT fit those that they are for; asked before the first row is read.
pub(super) fn check_source(table: &TableInfo, names: &[String], source: &Schema) -> Result<()> {
    let given = source.fields();
    if given.len() != names.len() {
        let takes = takes(table, names);
        let given_names: Vec<&str> = given.iter().map(|f| f.name().as_str()).collect();
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let advice = match (given_names.get(wanted.len()..), wanted.get(given_names.len()..)) {
            (Some(extra), _) => format!(
                "nothing takes {}; name a column for each value, or select fewer",
                listed(extra)
            ),
            (_, missing) => format!(
                "nothing is left for {}; select a value for each column, or name fewer",
                listed(missing.unwrap_or_default())
            ),
        };
        return Err(Error::invalid(format!(
            "the SELECT gives {} columns, {takes}: {advice}",
            given.len()
        )));
    }
    for (name, field) in names.iter().zip(given.iter()) {
        let Some(column) = table.schema.column(name) else {
            continue;
        };
        if !can_cast(field.data_type(), &column.column_type.to_arrow()) {
            let target = column.column_type.sql_name();
            return Err(Error::invalid(format!(
                "column `{name}` of {} is {target}, the SELECT gives `{}` for it, which is {}; write CAST(… AS \
                 {target})",
                table.full_name(),
                field.name(),
                sql_type(field.data_type())
            )));
        }
    }
    Ok(())
}

/// The rows of a query under the names and types of the table's columns.
fn cast_batch(table: &TableInfo, names: &[String], batch: &RecordBatch, now_ms: i64) -> Result<RecordBatch> {
    let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
    for column in &table.schema.columns {
        let target = column.column_type.to_arrow();
        let array = match names.iter().position(|n| *n == column.name) {
            Some(position) => column_from_array(column, batch.column(position)).map_err(|e| {
                Error::invalid(format!(
                    "{}; leave such rows of {} out of the SELECT",
                    e.message,
                    table.full_name()
                ))
            })?,
            None if column.default.is_none() && column.nullable => continue,
            None => {
                let default = default_of(column, now_ms)?;
                column_from_cells(column, vec![&default; batch.num_rows()].into_iter())?
            }
        };
        if !column.nullable && array.null_count() > 0 {
            return Err(Error::invalid(format!(
                "column `{}` of {} cannot be NULL; leave such rows out of the SELECT",
                column.name,
                table.full_name()
            )));
        }
        fields.push(Field::new(&column.name, target, column.nullable));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|e| Error::internal(e.to_string()))
}

/// Casts between kinds (a time to a text, a text to a number) are asked for, not done silently.
fn can_cast(from: &DataType, to: &DataType) -> bool {
    let numbers = |t: &DataType| t.is_numeric();
    let texts = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let times = |t: &DataType| t.is_temporal();
    from == to
        || *from == DataType::Null
        || (numbers(from) && numbers(to))
        || (texts(from) && (texts(to) || times(to) || *to == DataType::Binary))
        || (times(from) && times(to))
        || (*from == DataType::Int64 && times(to))
        || (texts(from) && matches!(to, DataType::FixedSizeList(..)))
}

/// A type as SQL writes it, if a column can have it.
fn sql_type(data_type: &DataType) -> String {
    use greptime_types::{ColumnType as C, TimeUnit as U};
    static PLAIN: [C; 14] = [
        C::Boolean,
        C::Int8,
        C::Int16,
        C::Int32,
        C::Int64,
        C::UInt8,
        C::UInt16,
        C::UInt32,
        C::UInt64,
        C::Float32,
        C::Float64,
        C::String,
        C::Binary,
        C::Date,
    ];
    let times = [U::Second, U::Millisecond, U::Microsecond, U::Nanosecond].map(C::Timestamp);
    if let DataType::Decimal128(precision, scale) = data_type {
        return C::Decimal(*precision, *scale).sql_name();
    }
    let found = PLAIN.iter().chain(&times).find(|t| t.to_arrow() == *data_type);
    found.map_or_else(|| data_type.to_string(), |t| t.sql_name())
}
