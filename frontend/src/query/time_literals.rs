//! `ts > 1700000000000`: a number beside a time counts in the time's own unit.
//!
//! DataFusion refuses to compare the two; GreptimeDB's users and dashboards write it.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

/// Must come before the coercion of types.
#[derive(Debug, Default)]
pub struct TimeLiterals;

impl AnalyzerRule for TimeLiterals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|expr| rewrite(expr, &schema))?;
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(analyzed.data)
    }

    fn name(&self) -> &'static str {
        "time_literals"
    }
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let (left, right) = match (time_of(&left, schema), time_of(&right, schema)) {
                (Some(time), None) => (left, Box::new(as_time(*right, &time))),
                (None, Some(time)) => (Box::new(as_time(*left, &time)), right),
                _ => (left, right),
            };
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between {
            expr,
            negated,
            low,
            high,
        }) => {
            let (low, high) = match time_of(&expr, schema) {
                Some(time) => (Box::new(as_time(*low, &time)), Box::new(as_time(*high, &time))),
                None => (low, high),
            };
            Transformed::yes(Expr::Between(Between {
                expr,
                negated,
                low,
                high,
            }))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let list = match time_of(&expr, schema) {
                Some(time) => list.into_iter().map(|e| as_time(e, &time)).collect(),
                None => list,
            };
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        other => Transformed::no(other),
    })
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(
        op,
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom
    )
}

/// The type of an expression that is a time.
fn time_of(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    expr.get_type(schema)
        .ok()
        .filter(|t| matches!(t, DataType::Timestamp(..)))
}

fn as_time(expr: Expr, time: &DataType) -> Expr {
    let (Expr::Literal(value, metadata), DataType::Timestamp(unit, zone)) = (&expr, time) else {
        return expr;
    };
    let number = match value {
        ScalarValue::Int64(Some(number)) => *number,
        ScalarValue::UInt64(Some(number)) => match i64::try_from(*number) {
            Ok(number) => number,
            Err(_) => return expr,
        },
        _ => return expr,
    };
    let (number, zone) = (Some(number), zone.clone());
    let value = match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(number, zone),
        TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(number, zone),
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(number, zone),
        TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(number, zone),
    };
    Expr::Literal(value, metadata.clone())
}
