//! `PARTITION ON COLUMNS (…) (…)`: the user's expressions as a rule.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value as Literal};
use greptime_types::partition::Op;
use greptime_types::{
    ColumnSchema, ColumnType, Error, PartitionExpr, PartitionRule, Result, TableSchema, Value,
};

use super::names::fold;
use crate::ingest::literal::timestamp_from_text;

/// The rule, checked against the table: its columns exist, its constants have their types, it covers everything.
pub fn partition_rule(schema: &TableSchema, columns: Vec<String>, exprs: &[Expr]) -> Result<PartitionRule> {
    for name in &columns {
        if schema.column(name).is_none() {
            return Err(Error::invalid(format!(
                "PARTITION ON COLUMNS names `{name}`, which is not a column"
            )));
        }
    }
    // Two rows of one identity must not lie in two regions: nothing would find the older one any more.
    let outside = columns
        .iter()
        .find(|c| !schema.primary_key.contains(c) && schema.time_index().name != **c);
    if let Some(name) = outside {
        return Err(Error::invalid(format!(
            "PARTITION ON COLUMNS names `{name}`, which is neither in the PRIMARY KEY nor the TIME INDEX"
        )));
    }
    let lowered = exprs
        .iter()
        .map(|e| lower(schema, e))
        .collect::<Result<Vec<_>>>()?;
    PartitionRule::new(columns, lowered)
}

fn lower(schema: &TableSchema, expr: &Expr) -> Result<PartitionExpr> {
    match expr {
        Expr::Nested(inner) => lower(schema, inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => Ok(PartitionExpr::And(
            Box::new(lower(schema, left)?),
            Box::new(lower(schema, right)?),
        )),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Or,
            right,
        } => Ok(PartitionExpr::Or(
            Box::new(lower(schema, left)?),
            Box::new(lower(schema, right)?),
        )),
        Expr::BinaryOp { left, op, right } => {
            let op = compare_op(op).ok_or_else(|| wrong(expr))?;
            match (left.as_ref(), right.as_ref()) {
                (Expr::Identifier(name), constant) => comparison(schema, &fold(name), op, constant),
                (constant, Expr::Identifier(name)) => comparison(schema, &fold(name), mirrored(op), constant),
                _ => Err(wrong(expr)),
            }
        }
        _ => Err(wrong(expr)),
    }
}

fn wrong(expr: &Expr) -> Error {
    Error::invalid(format!(
        "partition rule `{expr}`: write comparisons of a column with a constant, joined by AND and OR"
    ))
}

fn compare_op(op: &BinaryOperator) -> Option<Op> {
    match op {
        BinaryOperator::Eq => Some(Op::Eq),
        BinaryOperator::NotEq => Some(Op::NotEq),
        BinaryOperator::Lt => Some(Op::Lt),
        BinaryOperator::LtEq => Some(Op::LtEq),
        BinaryOperator::Gt => Some(Op::Gt),
        BinaryOperator::GtEq => Some(Op::GtEq),
        _ => None,
    }
}

fn mirrored(op: Op) -> Op {
    match op {
        Op::Lt => Op::Gt,
        Op::LtEq => Op::GtEq,
        Op::Gt => Op::Lt,
        Op::GtEq => Op::LtEq,
        Op::Eq | Op::NotEq => op,
    }
}

fn comparison(schema: &TableSchema, name: &str, op: Op, constant: &Expr) -> Result<PartitionExpr> {
    let column = schema
        .column(name)
        .ok_or_else(|| Error::invalid(format!("partition rule uses `{name}`, which is not a column")))?;
    Ok(PartitionExpr::compare(name, op, constant_of(column, constant)?))
}

/// A constant of the column's own type, so that routing never has to convert.
pub fn constant_of(column: &ColumnSchema, expr: &Expr) -> Result<Value> {
    let (negative, literal) = match expr {
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => (true, expr.as_ref()),
        other => (false, other),
    };
    let Expr::Value(value) = literal else {
        return Err(wrong(expr));
    };
    let mismatch = || {
        Error::invalid(format!(
            "partition rule compares column `{}` of type {} with {expr}",
            column.name,
            column.column_type.sql_name()
        ))
    };
    match (column.column_type, &value.value) {
        (ColumnType::String, Literal::SingleQuotedString(text)) => Ok(Value::String(text.clone())),
        (ColumnType::Timestamp(unit), Literal::SingleQuotedString(text)) => timestamp_from_text(text, unit)
            .map(Value::Int)
            .map_err(|_| mismatch()),
        (ColumnType::Float32 | ColumnType::Float64, Literal::Number(digits, _)) => {
            let value: f64 = digits.parse().map_err(|_| mismatch())?;
            Ok(Value::Float(if negative { -value } else { value }))
        }
        (other, Literal::Number(digits, _)) => {
            let value: i128 = digits.parse().map_err(|_| mismatch())?;
            integer(other, if negative { -value } else { value }).ok_or_else(mismatch)
        }
        _ => Err(mismatch()),
    }
}

fn integer(column_type: ColumnType, value: i128) -> Option<Value> {
    let signed = |min: i64, max: i64| {
        (i128::from(min)..=i128::from(max))
            .contains(&value)
            .then_some(Value::Int(value as i64))
    };
    let unsigned = |max: u64| {
        (0..=i128::from(max))
            .contains(&value)
            .then_some(Value::UInt(value as u64))
    };
    match column_type {
        ColumnType::Int8 => signed(i8::MIN.into(), i8::MAX.into()),
        ColumnType::Int16 => signed(i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int32 => signed(i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int64 | ColumnType::Timestamp(_) => signed(i64::MIN, i64::MAX),
        ColumnType::UInt8 => unsigned(u8::MAX.into()),
        ColumnType::UInt16 => unsigned(u16::MAX.into()),
        ColumnType::UInt32 => unsigned(u32::MAX.into()),
        ColumnType::UInt64 => unsigned(u64::MAX),
        _ => None,
    }
}
