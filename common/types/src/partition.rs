//! Partition rules: which region holds a row.
//!
//! A rule is a list of boolean expressions over columns, one per region, which must cover everything and
//! overlap nowhere. The check works on ordinals instead of values: between and on the constants that a column
//! is compared with, every row behaves alike, so one representative of each such interval decides.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A constant in a rule, or the value of a column in a row. NULL lies below every value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Null,
    Int(i64),
    UInt(u64),
    Float(f64),
    /// Compared bytewise.
    String(String),
}

impl Value {
    /// A total order among values of one column; numbers compare across their kinds.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Null, Self::Null) => Ordering::Equal,
            (Self::Null, _) => Ordering::Less,
            (_, Self::Null) => Ordering::Greater,
            (Self::String(a), Self::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::String(_), _) => Ordering::Greater,
            (_, Self::String(_)) => Ordering::Less,
            (Self::Float(a), b) => a.total_cmp(&b.as_f64()),
            (a, Self::Float(b)) => a.as_f64().total_cmp(b),
            (a, b) => a.as_i128().cmp(&b.as_i128()),
        }
    }

    fn as_i128(&self) -> i128 {
        match self {
            Self::Int(v) => i128::from(*v),
            Self::UInt(v) => i128::from(*v),
            _ => 0,
        }
    }

    fn as_f64(&self) -> f64 {
        match self {
            Self::Float(v) => *v,
            other => other.as_i128() as f64,
        }
    }

    fn is_integer(&self) -> bool {
        matches!(self, Self::Int(_) | Self::UInt(_))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Int(v) => write!(f, "{v}"),
            Self::UInt(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v}"),
            Self::String(v) => write!(f, "'{}'", v.replace('\'', "''")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    #[serde(rename = "=")]
    Eq,
    #[serde(rename = "!=")]
    NotEq,
    #[serde(rename = "<")]
    Lt,
    #[serde(rename = "<=")]
    LtEq,
    #[serde(rename = ">")]
    Gt,
    #[serde(rename = ">=")]
    GtEq,
}

impl Op {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Eq => ordering.is_eq(),
            Self::NotEq => ordering.is_ne(),
            Self::Lt => ordering.is_lt(),
            Self::LtEq => ordering.is_le(),
            Self::Gt => ordering.is_gt(),
            Self::GtEq => ordering.is_ge(),
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::NotEq => "!=",
            Self::Lt => "<",
            Self::LtEq => "<=",
            Self::Gt => ">",
            Self::GtEq => ">=",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionExpr {
    Compare { column: String, op: Op, value: Value },
    And(Box<PartitionExpr>, Box<PartitionExpr>),
    Or(Box<PartitionExpr>, Box<PartitionExpr>),
}

/// Each level of an expression is two of JSON, which is read to a depth of 128.
const MAX_DEPTH: usize = 32;

impl PartitionExpr {
    pub fn compare(column: impl Into<String>, op: Op, value: Value) -> Self {
        Self::Compare {
            column: column.into(),
            op,
            value,
        }
    }

    /// Levels of AND and OR, with the comparisons below them.
    fn depth(&self) -> usize {
        match self {
            Self::Compare { .. } => 1,
            Self::And(a, b) | Self::Or(a, b) => 1 + a.depth().max(b.depth()),
        }
    }

    /// Whether the row whose columns `lookup` gives belongs here. NULL compares as the lowest value.
    pub fn matches(&self, lookup: &dyn Fn(&str) -> Value) -> bool {
        self.decide(&|column, op, value| op.holds(lookup(column).compare(value)))
    }

    fn decide(&self, leaf: &dyn Fn(&str, Op, &Value) -> bool) -> bool {
        match self {
            Self::Compare { column, op, value } => leaf(column, *op, value),
            Self::And(a, b) => a.decide(leaf) && b.decide(leaf),
            Self::Or(a, b) => a.decide(leaf) || b.decide(leaf),
        }
    }

    fn rename_column(&mut self, from: &str, to: &str) {
        match self {
            Self::Compare { column, .. } if column == from => *column = to.to_owned(),
            Self::Compare { .. } => {}
            Self::And(a, b) | Self::Or(a, b) => {
                a.rename_column(from, to);
                b.rename_column(from, to);
            }
        }
    }

    fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a str, &'a Value)) {
        match self {
            Self::Compare { column, value, .. } => see(column, value),
            Self::And(a, b) | Self::Or(a, b) => {
                a.visit(see);
                b.visit(see);
            }
        }
    }
}

impl fmt::Display for PartitionExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { column, op, value } => write!(f, "{column} {} {value}", op.symbol()),
            Self::And(a, b) => {
                let side = |e: &Self| match e {
                    Self::Or(..) => format!("({e})"),
                    _ => e.to_string(),
                };
                write!(f, "{} AND {}", side(a), side(b))
            }
            Self::Or(a, b) => write!(f, "{a} OR {b}"),
        }
    }
}

/// One region's share of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Region number; never used twice in a table.
    pub region: u32,
    /// `None` is everything: the only partition of an unpartitioned table.
    pub expr: Option<PartitionExpr>,
}

/// How a table is cut into regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionRule {
    pub columns: Vec<String>,
    pub partitions: Vec<Partition>,
}

/// More combinations than this are refused: the check is exhaustive.
const MAX_COMBINATIONS: usize = 1_000_000;

impl PartitionRule {
    /// One region for everything.
    pub fn single() -> Self {
        Self {
            columns: vec![],
            partitions: vec![Partition {
                region: 0,
                expr: None,
            }],
        }
    }

    /// A rule from its expressions, region `i` for expression `i`, checked for gaps and overlaps.
    pub fn new(columns: Vec<String>, exprs: Vec<PartitionExpr>) -> Result<Self> {
        if exprs.is_empty() {
            return Ok(Self {
                columns,
                ..Self::single()
            });
        }
        check_columns(&columns, &exprs)?;
        check_cover(&columns, &exprs)?;
        let partitions = exprs
            .into_iter()
            .enumerate()
            .map(|(number, expr)| Partition {
                region: number as u32,
                expr: Some(expr),
            })
            .collect();
        let rule = Self { columns, partitions };
        rule.check_depth()?;
        Ok(rule)
    }

    /// Refuses rules that are nested deeper than the JSON of a record can be read back.
    pub fn check_depth(&self) -> Result<()> {
        let depth = |p: &Partition| p.expr.as_ref().map_or(0, PartitionExpr::depth);
        match self.partitions.iter().find(|p| depth(p) > MAX_DEPTH) {
            Some(deep) => Err(Error::invalid(format!(
                "the rule of partition {} joins {} conditions in a row; at most {MAX_DEPTH} can be stored",
                deep.region,
                depth(deep)
            ))),
            None => Ok(()),
        }
    }

    /// The same rule for a column that has another name now.
    pub fn rename_column(&mut self, from: &str, to: &str) {
        for column in self.columns.iter_mut().filter(|c| *c == from) {
            *column = to.to_owned();
        }
        for expr in self.partitions.iter_mut().filter_map(|p| p.expr.as_mut()) {
            expr.rename_column(from, to);
        }
    }

    /// Region number of a row.
    pub fn route(&self, lookup: &dyn Fn(&str) -> Value) -> Result<u32> {
        self.partitions
            .iter()
            .find(|p| p.expr.as_ref().is_none_or(|e| e.matches(lookup)))
            .map(|p| p.region)
            .ok_or_else(|| Error::internal("a row belongs to no partition although the rule was checked"))
    }
}

fn check_columns(columns: &[String], exprs: &[PartitionExpr]) -> Result<()> {
    let mut unknown = None;
    let mut mixed = None;
    let mut kinds: BTreeMap<&str, bool> = BTreeMap::new();
    for expr in exprs {
        expr.visit(&mut |column, value| {
            if !columns.iter().any(|c| c == column) {
                unknown.get_or_insert(column);
            }
            let is_string = matches!(value, Value::String(_));
            if *value == Value::Null || *kinds.entry(column).or_insert(is_string) != is_string {
                mixed.get_or_insert(column);
            }
        });
    }
    if let Some(column) = unknown {
        return Err(Error::invalid(format!(
            "partition rule uses column `{column}`, which PARTITION ON COLUMNS ({}) does not name",
            columns.join(", ")
        )));
    }
    if let Some(column) = mixed {
        return Err(Error::invalid(format!(
            "partition rule compares column `{column}` with NULL or with values of different types"
        )));
    }
    Ok(())
}

/// One column's representatives: position `2i + 1` is constant `i`, position `2i` the gap below it.
struct Axis<'a> {
    column: &'a str,
    constants: Vec<&'a Value>,
    positions: Vec<usize>,
}

impl<'a> Axis<'a> {
    fn new(column: &'a str, exprs: &'a [PartitionExpr]) -> Self {
        let mut constants: Vec<&Value> = Vec::new();
        for expr in exprs {
            expr.visit(&mut |c, value| {
                if c == column {
                    constants.push(value);
                }
            });
        }
        constants.sort_by(|a, b| a.compare(b));
        constants.dedup_by(|a, b| a.compare(b).is_eq());
        let positions = (0..=2 * constants.len())
            .filter(|&p| !is_empty_gap(&constants, p))
            .collect();
        Self {
            column,
            constants,
            positions,
        }
    }

    fn compare(&self, position: usize, constant: &Value) -> Ordering {
        let index = self
            .constants
            .iter()
            .position(|c| c.compare(constant).is_eq())
            .expect("every constant of a rule is on its axis");
        position.cmp(&(2 * index + 1))
    }

    /// The representative in words, e.g. `host < 'a'` or `'a' < host < 'b'`.
    fn describe(&self, position: usize) -> String {
        let (column, at) = (self.column, position / 2);
        if position % 2 == 1 {
            return format!("{column} = {}", self.constants[at]);
        }
        match (
            at.checked_sub(1).map(|i| self.constants[i]),
            self.constants.get(at),
        ) {
            (None, None) => format!("any {column}"),
            (None, Some(high)) => format!("{column} < {high}"),
            (Some(low), None) => format!("{column} > {low}"),
            (Some(low), Some(high)) => format!("{low} < {column} < {high}"),
        }
    }
}

/// Between two neighbouring integers there is nothing.
fn is_empty_gap(constants: &[&Value], position: usize) -> bool {
    if position % 2 == 1 || position == 0 {
        return false;
    }
    match (constants.get(position / 2 - 1), constants.get(position / 2)) {
        (Some(a), Some(b)) => a.is_integer() && b.is_integer() && b.as_i128() - a.as_i128() == 1,
        _ => false,
    }
}

fn check_cover(columns: &[String], exprs: &[PartitionExpr]) -> Result<()> {
    let axes: Vec<Axis> = columns.iter().map(|c| Axis::new(c, exprs)).collect();
    let combinations = axes
        .iter()
        .try_fold(1usize, |n, axis| n.checked_mul(axis.positions.len()));
    if combinations.is_none_or(|n| n > MAX_COMBINATIONS) {
        return Err(Error::invalid(
            "partition rule has too many distinct bounds; use fewer columns or bounds",
        ));
    }
    let mut gaps = BTreeSet::new();
    for mut rest in 0..combinations.unwrap_or(0) {
        let point: Vec<usize> = axes
            .iter()
            .map(|axis| {
                let position = axis.positions[rest % axis.positions.len()];
                rest /= axis.positions.len();
                position
            })
            .collect();
        let mut owners = exprs.iter().filter(|expr| contains(expr, &axes, &point));
        match (owners.next(), owners.next()) {
            (None, _) => {
                gaps.insert(describe(&axes, &point));
            }
            (Some(a), Some(b)) => {
                return Err(Error::invalid(format!(
                    "partitions overlap: {} belongs to `{a}` and to `{b}`",
                    describe(&axes, &point)
                )));
            }
            (Some(_), None) => {}
        }
    }
    match gaps.first() {
        None => Ok(()),
        Some(gap) => Err(Error::invalid(format!(
            "partitions leave a gap: {gap} belongs to none"
        ))),
    }
}

fn contains(expr: &PartitionExpr, axes: &[Axis], point: &[usize]) -> bool {
    expr.decide(&|column, op, value| {
        let (axis, position) = axes
            .iter()
            .zip(point)
            .find(|(axis, _)| axis.column == column)
            .expect("columns were checked");
        op.holds(axis.compare(*position, value))
    })
}

fn describe(axes: &[Axis], point: &[usize]) -> String {
    axes.iter()
        .zip(point)
        .map(|(axis, p)| axis.describe(*p))
        .collect::<Vec<_>>()
        .join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cmp(op: Op, value: &str) -> PartitionExpr {
        PartitionExpr::compare("host", op, Value::String(value.into()))
    }

    fn and(a: PartitionExpr, b: PartitionExpr) -> PartitionExpr {
        PartitionExpr::And(Box::new(a), Box::new(b))
    }

    fn int(op: Op, value: i64) -> PartitionExpr {
        PartitionExpr::compare("n", op, Value::Int(value))
    }

    fn rule(exprs: Vec<PartitionExpr>) -> Result<PartitionRule> {
        PartitionRule::new(vec!["host".into()], exprs)
    }

    #[test]
    fn three_ranges_cover_everything_and_route_rows() {
        let rule = rule(vec![
            cmp(Op::Lt, "host_3"),
            and(cmp(Op::GtEq, "host_3"), cmp(Op::Lt, "host_6")),
            cmp(Op::GtEq, "host_6"),
        ])
        .unwrap();
        let region = |host: Value| rule.route(&|_| host.clone()).unwrap();
        assert_eq!(region(Value::Null), 0);
        assert_eq!(region(Value::String("host_10".into())), 0);
        assert_eq!(region(Value::String("host_3".into())), 1);
        assert_eq!(region(Value::String("host_9".into())), 2);
    }

    #[test]
    fn a_gap_is_named() {
        let error = rule(vec![cmp(Op::Lt, "a"), cmp(Op::Gt, "a")]).unwrap_err();
        assert_eq!(
            error.message,
            "partitions leave a gap: host = 'a' belongs to none"
        );
        let error = rule(vec![cmp(Op::Lt, "a"), cmp(Op::GtEq, "b")]).unwrap_err();
        assert!(
            error.message.contains("'a' < host < 'b'") || error.message.contains("host = 'a'"),
            "{error}"
        );
    }

    #[test]
    fn an_overlap_is_named() {
        let error = rule(vec![cmp(Op::LtEq, "a"), cmp(Op::GtEq, "a")]).unwrap_err();
        assert_eq!(
            error.message,
            "partitions overlap: host = 'a' belongs to `host <= 'a'` and to `host >= 'a'`"
        );
    }

    #[test]
    fn between_neighbouring_integers_there_is_no_gap() {
        let columns = vec!["n".to_string()];
        PartitionRule::new(columns.clone(), vec![int(Op::LtEq, 2), int(Op::GtEq, 3)]).unwrap();
        PartitionRule::new(columns, vec![int(Op::LtEq, 2), int(Op::GtEq, 4)]).unwrap_err();
    }

    #[test]
    fn two_columns_are_checked_together() {
        let columns = vec!["host".to_string(), "n".to_string()];
        let quadrants = |corner: bool| {
            let mut exprs = vec![
                and(cmp(Op::Lt, "m"), int(Op::Lt, 0)),
                and(cmp(Op::Lt, "m"), int(Op::GtEq, 0)),
                and(cmp(Op::GtEq, "m"), int(Op::Lt, 0)),
            ];
            if corner {
                exprs.push(and(cmp(Op::GtEq, "m"), int(Op::GtEq, 0)));
            }
            exprs
        };
        PartitionRule::new(columns.clone(), quadrants(true)).unwrap();
        let error = PartitionRule::new(columns, quadrants(false)).unwrap_err();
        assert!(error.message.contains("gap"), "{error}");
    }

    #[test]
    fn a_column_outside_of_the_clause_is_refused() {
        let error = PartitionRule::new(vec!["other".into()], vec![cmp(Op::Lt, "a")]).unwrap_err();
        assert!(error.message.contains("`host`"), "{error}");
    }
}
