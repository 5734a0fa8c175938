//! Rows of untyped values as a batch of a table.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use greptime_types::{ColumnSchema, Error, Result, TableSchema};

use super::literal::{Cell, column_from_cells};

/// A literal of SQL; `None` if the expression has to be computed.
pub fn cell_of(expr: &ast::Expr) -> Option<Cell> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Null => Some(Cell::Null),
            ast::Value::Boolean(value) => Some(Cell::Bool(*value)),
            ast::Value::Number(digits, _) => Some(Cell::Number(digits.clone())),
            ast::Value::SingleQuotedString(text)
            | ast::Value::DoubleQuotedString(text)
            | ast::Value::EscapedStringLiteral(text)
            | ast::Value::NationalStringLiteral(text) => Some(Cell::Text(text.clone())),
            ast::Value::HexStringLiteral(digits) => bytes_of_hex(digits).map(Cell::Bytes),
            _ => None,
        },
        ast::Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => match cell_of(expr)? {
            Cell::Number(digits) => match digits.strip_prefix('-') {
                Some(positive) => Some(Cell::Number(positive.to_string())),
                None => Some(Cell::Number(format!("-{digits}"))),
            },
            _ => None,
        },
        ast::Expr::Nested(inner) => cell_of(inner),
        _ => None,
    }
}

pub fn bytes_of_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok())
        .collect()
}

/// What a column gets when a row does not say; `now_ms` is the time for `now()`.
pub fn default_of(column: &ColumnSchema, now_ms: i64) -> Result<Cell> {
    let Some(text) = &column.default else {
        if column.nullable {
            return Ok(Cell::Null);
        }
        return Err(Error::invalid(format!(
            "column `{}` must have a value: it has no default",
            column.name
        )));
    };
    let word = text.trim().trim_end_matches("()").to_lowercase();
    if word == "now" || word == "current_timestamp" {
        return Ok(Cell::Scalar(ScalarValue::TimestampMillisecond(
            Some(now_ms),
            None,
        )));
    }
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql(text)
        .and_then(|mut p| p.parse_expr());
    parsed.ok().as_ref().and_then(cell_of).ok_or_else(|| {
        Error::unsupported(format!(
            "default of column `{}`: {text} is neither a literal nor now()",
            column.name
        ))
    })
}

/// A batch with the named columns (each a column of the table), plus those that have a default or must not be
/// NULL. `rows` are as long as `names`; `None` is DEFAULT.
pub fn batch_from_rows(
    schema: &TableSchema,
    names: &[String],
    rows: &[Vec<Option<Cell>>],
    now_ms: i64,
) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for column in &schema.columns {
        let position = names.iter().position(|n| *n == column.name);
        if position.is_none() && column.default.is_none() && column.nullable {
            continue;
        }
        let needs_default = position.is_none_or(|p| rows.iter().any(|row| row[p].is_none()));
        let default = if needs_default {
            default_of(column, now_ms)?
        } else {
            Cell::Null
        };
        let cells: Vec<&Cell> = match position {
            Some(position) => rows
                .iter()
                .map(|row| row[position].as_ref().unwrap_or(&default))
                .collect(),
            None => vec![&default; rows.len()],
        };
        arrays.push(column_from_cells(column, cells.into_iter())?);
        fields.push(Field::new(
            &column.name,
            column.column_type.to_arrow(),
            column.nullable,
        ));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|e| Error::internal(format!("rows do not make a batch: {e}")))
}
