//! Which partitions can have rows that pass the filters.
//!
//! Between and on the constants that a column is compared with, by the rule or by a filter, all its values
//! behave alike; so one representative of each such interval, and NULL, decides. A partition is left out if
//! every combination of representatives that lies in it surely fails a filter.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use greptime_types::partition::Op;
use greptime_types::{ColumnType, PartitionExpr, PartitionRule, TableSchema, Value};

/// With more combinations than this nothing is pruned; looking would cost more than it saves.
const MAX_COMBINATIONS: usize = 20_000;

/// Region numbers, in the order of the rule.
pub fn partitions_for(schema: &TableSchema, rule: &PartitionRule, filters: &[Expr]) -> Vec<u32> {
    let all = || rule.partitions.iter().map(|p| p.region).collect::<Vec<_>>();
    if rule.partitions.len() < 2 || filters.is_empty() {
        return all();
    }
    let filters: Vec<Filter> = filters
        .iter()
        .map(|f| Filter::from_expr(schema, rule, f))
        .collect();
    let axes: Vec<Axis> = rule
        .columns
        .iter()
        .map(|c| Axis::new(c, rule, &filters))
        .collect();
    let combinations = axes
        .iter()
        .try_fold(1usize, |n, axis| n.checked_mul(axis.points()));
    let Some(combinations) = combinations.filter(|n| *n <= MAX_COMBINATIONS) else {
        return all();
    };
    let mut found = BTreeSet::new();
    for mut rest in 0..combinations {
        let mut point = Vec::with_capacity(axes.len());
        for axis in &axes {
            point.push(rest % axis.points());
            rest /= axis.points();
        }
        if filters.iter().any(|f| f.decide(&axes, &point) == Truth::No) {
            continue;
        }
        let home = rule.partitions.iter().find(|p| match &p.expr {
            None => true,
            Some(expr) => contains(expr, &axes, &point),
        });
        found.extend(home.map(|p| p.region));
    }
    all()
        .into_iter()
        .filter(|region| found.contains(region))
        .collect()
}

/// Constants of one column in ascending order. Point 0 is NULL; then come, alternating, the open interval below
/// constant 0, constant 0, the interval between 0 and 1, and so on to the interval above the last.
struct Axis<'a> {
    column: &'a str,
    constants: Vec<Value>,
}

impl<'a> Axis<'a> {
    fn new(column: &'a str, rule: &PartitionRule, filters: &[Filter]) -> Self {
        let mut constants = Vec::new();
        for partition in &rule.partitions {
            if let Some(expr) = &partition.expr {
                rule_constants(expr, column, &mut constants);
            }
        }
        filters.iter().for_each(|f| f.constants(column, &mut constants));
        constants.sort_by(Value::compare);
        constants.dedup_by(|a, b| a.compare(b).is_eq());
        Self { column, constants }
    }

    fn points(&self) -> usize {
        2 * self.constants.len() + 2
    }

    fn compare(&self, point: usize, constant: &Value) -> Option<Ordering> {
        if point == 0 {
            return None;
        }
        let index = self.constants.iter().position(|c| c.compare(constant).is_eq())?;
        Some((point - 1).cmp(&(2 * index + 1)))
    }
}

fn rule_constants(expr: &PartitionExpr, column: &str, into: &mut Vec<Value>) {
    match expr {
        PartitionExpr::Compare { column: c, value, .. } if c == column => into.push(value.clone()),
        PartitionExpr::Compare { .. } => {}
        PartitionExpr::And(a, b) | PartitionExpr::Or(a, b) => {
            rule_constants(a, column, into);
            rule_constants(b, column, into);
        }
    }
}

fn holds(op: Op, ordering: Ordering) -> bool {
    match op {
        Op::Eq => ordering.is_eq(),
        Op::NotEq => ordering.is_ne(),
        Op::Lt => ordering.is_lt(),
        Op::LtEq => ordering.is_le(),
        Op::Gt => ordering.is_gt(),
        Op::GtEq => ordering.is_ge(),
    }
}

/// In rules NULL is below every value.
fn contains(expr: &PartitionExpr, axes: &[Axis], point: &[usize]) -> bool {
    match expr {
        PartitionExpr::And(a, b) => contains(a, axes, point) && contains(b, axes, point),
        PartitionExpr::Or(a, b) => contains(a, axes, point) || contains(b, axes, point),
        PartitionExpr::Compare { column, op, value } => axes
            .iter()
            .zip(point)
            .find(|(axis, _)| axis.column == column)
            .is_some_and(|(axis, p)| holds(*op, axis.compare(*p, value).unwrap_or(Ordering::Less))),
    }
}

/// Of a filter: `No` if it is surely false or NULL, `Yes` if surely true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

/// What of a filter is about the partition columns; the rest is `Unknown`.
#[derive(Debug)]
enum Filter {
    Unknown,
    Const(bool),
    Compare { column: String, op: Op, value: Value },
    IsNull { column: String, negated: bool },
    All(Vec<Filter>),
    Any(Vec<Filter>),
}

impl Filter {
    fn from_expr(schema: &TableSchema, rule: &PartitionRule, expr: &Expr) -> Self {
        let lower = |e: &Expr| Self::from_expr(schema, rule, e);
        let column = |e: &Expr| match e {
            Expr::Column(c) if rule.columns.contains(&c.name) => Some(c.name.clone()),
            _ => None,
        };
        let compare = |name: &str, op: Op, value: &Expr| match constant(schema, name, value) {
            Some(value) => Self::Compare {
                column: name.to_string(),
                op,
                value,
            },
            None => Self::Unknown,
        };
        match expr {
            Expr::Alias(alias) => lower(&alias.expr),
            Expr::Literal(ScalarValue::Boolean(value), _) => Self::Const(*value == Some(true)),
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::And,
                right,
            }) => Self::All(vec![lower(left), lower(right)]),
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Or,
                right,
            }) => Self::Any(vec![lower(left), lower(right)]),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                match (column(left), column(right), op_of(*op)) {
                    (Some(name), None, Some(op)) => compare(&name, op, right),
                    (None, Some(name), Some(op)) => compare(&name, mirrored(op), left),
                    _ => Self::Unknown,
                }
            }
            Expr::InList(list) if !list.negated => match column(&list.expr) {
                Some(name) => Self::Any(list.list.iter().map(|v| compare(&name, Op::Eq, v)).collect()),
                None => Self::Unknown,
            },
            Expr::Between(between) if !between.negated => match column(&between.expr) {
                Some(name) => Self::All(vec![
                    compare(&name, Op::GtEq, &between.low),
                    compare(&name, Op::LtEq, &between.high),
                ]),
                None => Self::Unknown,
            },
            Expr::IsNull(inner) => match column(inner) {
                Some(column) => Self::IsNull {
                    column,
                    negated: false,
                },
                None => Self::Unknown,
            },
            Expr::IsNotNull(inner) => match column(inner) {
                Some(column) => Self::IsNull {
                    column,
                    negated: true,
                },
                None => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    fn constants(&self, column: &str, into: &mut Vec<Value>) {
        match self {
            Self::Compare { column: c, value, .. } if c == column => into.push(value.clone()),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|p| p.constants(column, into)),
            _ => {}
        }
    }

    fn decide(&self, axes: &[Axis], point: &[usize]) -> Truth {
        let of = |column: &str| axes.iter().zip(point).find(|(axis, _)| axis.column == column);
        let known = |yes: bool| if yes { Truth::Yes } else { Truth::No };
        match self {
            Self::Unknown => Truth::Maybe,
            Self::Const(value) => known(*value),
            Self::Compare { column, op, value } => match of(column) {
                // A comparison with NULL is NULL, which no filter lets pass.
                Some((axis, p)) => known(axis.compare(*p, value).is_some_and(|o| holds(*op, o))),
                None => Truth::Maybe,
            },
            Self::IsNull { column, negated } => match of(column) {
                Some((_, p)) => known((*p == 0) != *negated),
                None => Truth::Maybe,
            },
            Self::All(parts) => {
                parts
                    .iter()
                    .fold(Truth::Yes, |all, part| match (all, part.decide(axes, point)) {
                        (Truth::No, _) | (_, Truth::No) => Truth::No,
                        (Truth::Yes, Truth::Yes) => Truth::Yes,
                        _ => Truth::Maybe,
                    })
            }
            Self::Any(parts) => {
                parts
                    .iter()
                    .fold(Truth::No, |any, part| match (any, part.decide(axes, point)) {
                        (Truth::Yes, _) | (_, Truth::Yes) => Truth::Yes,
                        (Truth::No, Truth::No) => Truth::No,
                        _ => Truth::Maybe,
                    })
            }
        }
    }
}

fn op_of(op: Operator) -> Option<Op> {
    match op {
        Operator::Eq => Some(Op::Eq),
        Operator::NotEq => Some(Op::NotEq),
        Operator::Lt => Some(Op::Lt),
        Operator::LtEq => Some(Op::LtEq),
        Operator::Gt => Some(Op::Gt),
        Operator::GtEq => Some(Op::GtEq),
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

/// A literal of the column's own type; the planner has converted it already if it could.
fn constant(schema: &TableSchema, column: &str, expr: &Expr) -> Option<Value> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    let column_type = schema.column(column)?.column_type;
    if value.is_null() {
        return None;
    }
    match (column_type, value) {
        (ColumnType::String, value) => value.try_as_str().flatten().map(|s| Value::String(s.to_string())),
        (ColumnType::Timestamp(_), value) if value.data_type() == column_type.to_arrow() => match value {
            ScalarValue::TimestampSecond(v, _)
            | ScalarValue::TimestampMillisecond(v, _)
            | ScalarValue::TimestampMicrosecond(v, _)
            | ScalarValue::TimestampNanosecond(v, _) => v.map(Value::Int),
            _ => None,
        },
        (_, ScalarValue::Int8(Some(v))) => Some(Value::Int((*v).into())),
        (_, ScalarValue::Int16(Some(v))) => Some(Value::Int((*v).into())),
        (_, ScalarValue::Int32(Some(v))) => Some(Value::Int((*v).into())),
        (_, ScalarValue::Int64(Some(v))) => Some(Value::Int(*v)),
        (_, ScalarValue::UInt8(Some(v))) => Some(Value::UInt((*v).into())),
        (_, ScalarValue::UInt16(Some(v))) => Some(Value::UInt((*v).into())),
        (_, ScalarValue::UInt32(Some(v))) => Some(Value::UInt((*v).into())),
        (_, ScalarValue::UInt64(Some(v))) => Some(Value::UInt(*v)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
