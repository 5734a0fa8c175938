//! The filters of a query, by what they look at.
//!
//! A filter on tags holds for all rows of a series or for none, and a range of time is one stretch of each series. Both
//! are decided without looking at rows. What remains is evaluated row by row, on rows that survived overwriting.

use std::sync::Arc;

use arrow::datatypes::{SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, conjunction_opt, split_conjunction};

/// Times that are wanted, both ends included, in the unit of the time index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    pub from: i64,
    pub to: i64,
}

impl TimeRange {
    pub const ALL: Self = Self {
        from: i64::MIN,
        to: i64::MAX,
    };

    pub const NONE: Self = Self {
        from: i64::MAX,
        to: i64::MIN,
    };

    pub fn is_empty(self) -> bool {
        self.from > self.to
    }

    pub fn overlaps(self, min: i64, max: i64) -> bool {
        self.from <= max && self.to >= min
    }

    pub fn contains(self, min: i64, max: i64) -> bool {
        self.from <= min && self.to >= max
    }

    pub fn and(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            to: self.to.min(other.to),
        }
    }
}

/// Filters that all hold for the rows that are wanted.
#[derive(Clone, Debug)]
pub struct Filters {
    pub time: TimeRange,
    /// Looks at tags only.
    pub tags: Option<Arc<dyn PhysicalExpr>>,
    /// Everything else.
    pub rows: Option<Arc<dyn PhysicalExpr>>,
}

impl Filters {
    /// What rows of `schema` have to pass, as far as it is known before they are read: what a volatile function says of
    /// minima and maxima says nothing of rows.
    pub fn pruning(&self, schema: &SchemaRef) -> Option<Arc<dyn PhysicalExpr>> {
        let rows = self.rows.iter().flat_map(split_conjunction);
        let settled = rows.filter(|filter| !is_volatile(filter)).cloned();
        // A column that a region does not have yet is not in its schema.
        conjunction_opt(settled.filter_map(|filter| reassign_expr_columns(filter, schema).ok()))
    }
}

/// Sorts filters by what they look at. `time` is the time index, in `unit`.
pub fn classify(
    conjuncts: &[Arc<dyn PhysicalExpr>],
    unit: TimeUnit,
    time: &str,
    is_tag: impl Fn(&str) -> bool,
) -> Filters {
    let (mut tags, mut rows, mut range) = (Vec::new(), Vec::new(), TimeRange::ALL);
    for filter in conjuncts {
        let columns = collect_columns(filter);
        if let Some(times) = time_range(filter, unit, time) {
            range = range.and(times);
        } else if !columns.is_empty() && columns.iter().all(|c| is_tag(c.name())) && !is_volatile(filter) {
            tags.push(Arc::clone(filter));
        } else {
            rows.push(Arc::clone(filter));
        }
    }
    Filters {
        time: range,
        tags: conjunction_opt(tags),
        rows: conjunction_opt(rows),
    }
}

fn is_volatile(filter: &Arc<dyn PhysicalExpr>) -> bool {
    let mut volatile = false;
    let _ = filter.apply(|expr| {
        volatile |= expr.is_volatile_node();
        Ok(TreeNodeRecursion::Continue)
    });
    volatile
}

/// A comparison of the time index with a constant of its own type.
fn time_range(filter: &Arc<dyn PhysicalExpr>, unit: TimeUnit, time: &str) -> Option<TimeRange> {
    let comparison = filter.downcast_ref::<BinaryExpr>()?;
    let is_time = |e: &Arc<dyn PhysicalExpr>| e.downcast_ref::<Column>().is_some_and(|c| c.name() == time);
    let (constant, op) = if is_time(comparison.left()) {
        (comparison.right(), *comparison.op())
    } else if is_time(comparison.right()) {
        (comparison.left(), comparison.op().swap()?)
    } else {
        return None;
    };
    let value = timestamp_of(constant.downcast_ref::<Literal>()?.value(), unit)?;
    let all = TimeRange::ALL;
    Some(match op {
        Operator::Eq => TimeRange {
            from: value,
            to: value,
        },
        Operator::Gt => match value.checked_add(1) {
            Some(from) => TimeRange { from, ..all },
            None => TimeRange { from: 1, to: 0 },
        },
        Operator::GtEq => TimeRange { from: value, ..all },
        Operator::Lt => match value.checked_sub(1) {
            Some(to) => TimeRange { to, ..all },
            None => TimeRange { from: 1, to: 0 },
        },
        Operator::LtEq => TimeRange { to: value, ..all },
        _ => return None,
    })
}

fn timestamp_of(value: &ScalarValue, unit: TimeUnit) -> Option<i64> {
    match (value, unit) {
        (ScalarValue::TimestampSecond(v, None), TimeUnit::Second)
        | (ScalarValue::TimestampMillisecond(v, None), TimeUnit::Millisecond)
        | (ScalarValue::TimestampMicrosecond(v, None), TimeUnit::Microsecond)
        | (ScalarValue::TimestampNanosecond(v, None), TimeUnit::Nanosecond) => *v,
        _ => None,
    }
}

/// Intervals of equal length into which an expression puts the time index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// In the unit of the time index.
    pub length: i64,
    /// Where one of the intervals begins.
    pub origin: i64,
}

impl Buckets {
    /// The beginning of the interval that `time` lies in; `None` if it cannot be represented.
    pub fn start_of(self, time: i64) -> Option<i64> {
        let since = i128::from(time) - i128::from(self.origin);
        let start = since.div_euclid(i128::from(self.length)) * i128::from(self.length);
        i64::try_from(start + i128::from(self.origin)).ok()
    }

    /// `date_trunc` of a fixed length or `date_bin` of the time index; `None` for everything else.
    pub fn of(expr: &Arc<dyn PhysicalExpr>, unit: TimeUnit, time: &str) -> Option<Self> {
        let function = expr.downcast_ref::<ScalarFunctionExpr>()?;
        let is_time =
            |e: &Arc<dyn PhysicalExpr>| e.downcast_ref::<Column>().is_some_and(|c| c.name() == time);
        let constant = |e: &Arc<dyn PhysicalExpr>| e.downcast_ref::<Literal>().map(|l| l.value().clone());
        match (function.fun().name(), function.args()) {
            ("date_trunc", [length, column]) if is_time(column) => {
                let length = match constant(length)?.try_as_str()??.to_lowercase().as_str() {
                    "second" => 1,
                    "minute" => 60,
                    "hour" => 3600,
                    "day" => 86_400,
                    _ => return None,
                };
                Self::from_nanoseconds(length * 1_000_000_000, 0, unit)
            }
            ("date_bin", [length, column, rest @ ..]) if is_time(column) && rest.len() <= 1 => {
                let length = fixed_nanoseconds(&constant(length)?)?;
                let origin = match rest {
                    [origin] => match constant(origin)? {
                        ScalarValue::TimestampNanosecond(Some(origin), _) => origin,
                        _ => return None,
                    },
                    _ => 0,
                };
                Self::from_nanoseconds(length, origin, unit)
            }
            _ => None,
        }
    }

    /// Only if the length and the origin are whole numbers of the unit.
    fn from_nanoseconds(length: i64, origin: i64, unit: TimeUnit) -> Option<Self> {
        let one = match unit {
            TimeUnit::Second => 1_000_000_000,
            TimeUnit::Millisecond => 1_000_000,
            TimeUnit::Microsecond => 1000,
            TimeUnit::Nanosecond => 1,
        };
        (length >= one && length % one == 0 && origin % one == 0).then_some(Self {
            length: length / one,
            origin: origin / one,
        })
    }
}

/// An interval without months.
fn fixed_nanoseconds(interval: &ScalarValue) -> Option<i64> {
    match interval {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 => i64::from(i.days)
            .checked_mul(86_400_000_000_000)?
            .checked_add(i.nanoseconds),
        ScalarValue::IntervalDayTime(Some(i)) => i64::from(i.days)
            .checked_mul(86_400_000)?
            .checked_add(i64::from(i.milliseconds))?
            .checked_mul(1_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray};
    use arrow::datatypes::TimestampMillisecondType;
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::execution_props::ExecutionProps;
    use datafusion::physical_expr::create_physical_expr;
    use datafusion::prelude::{SessionContext, col, lit};
    use proptest::prelude::*;

    use super::*;

    fn rows(times: &[i64]) -> RecordBatch {
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(times.to_vec()));
        RecordBatch::try_from_iter([("ts", times)]).unwrap()
    }

    fn compile(expr: &datafusion::prelude::Expr, schema: &SchemaRef) -> Arc<dyn PhysicalExpr> {
        let schema = DFSchema::try_from(Arc::clone(schema)).unwrap();
        let (expr, props) = (expr.clone(), ExecutionProps::new());
        create_physical_expr(&expr, &schema, &props, &Default::default()).unwrap()
    }

    /// An expression of SQL over `ts`.
    async fn sql(text: &str) -> Arc<dyn PhysicalExpr> {
        let ctx = SessionContext::new();
        ctx.register_batch("t", rows(&[])).unwrap();
        let frame = ctx.sql(&format!("SELECT {text} FROM t")).await.unwrap();
        let plan = frame.create_physical_plan().await.unwrap();
        let projection = plan.downcast_ref::<datafusion::physical_plan::projection::ProjectionExec>();
        match projection {
            Some(projection) => Arc::clone(&projection.expr()[0].expr),
            None => panic!("{text}: {plan:?}"),
        }
    }

    #[test]
    fn comparisons_with_the_time_are_ranges_and_the_rest_is_sorted_by_columns() {
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![
            arrow::datatypes::Field::new("host", arrow::datatypes::DataType::Utf8, true),
            arrow::datatypes::Field::new(
                "ts",
                arrow::datatypes::DataType::Timestamp(TimeUnit::Millisecond, None),
                true,
            ),
            arrow::datatypes::Field::new("usage", arrow::datatypes::DataType::Float64, true),
        ]));
        let time = |ms| lit(ScalarValue::TimestampMillisecond(Some(ms), None));
        let conjuncts = [
            col("ts").gt_eq(time(5)),
            time(9).gt(col("ts")),
            col("host").eq(lit("a")),
            col("host").eq(lit("a")).or(col("usage").gt(lit(1.0))),
            col("usage").gt(lit(2.0)),
        ];
        let compiled: Vec<_> = conjuncts.iter().map(|c| compile(c, &schema)).collect();
        let filters = classify(&compiled, TimeUnit::Millisecond, "ts", |name| name == "host");
        assert_eq!(filters.time, TimeRange { from: 5, to: 8 });
        assert_eq!(filters.tags.unwrap().to_string(), "host@0 = a");
        assert_eq!(
            filters.rows.unwrap().to_string(),
            "(host@0 = a OR usage@2 > 1) AND usage@2 > 2"
        );
    }

    #[test]
    fn a_range_at_the_end_of_time_is_empty_and_not_everything() {
        let schema = rows(&[]).schema();
        let max = lit(ScalarValue::TimestampMillisecond(Some(i64::MAX), None));
        let filter = compile(&col("ts").gt(max), &schema);
        let filters = classify(&[filter], TimeUnit::Millisecond, "ts", |_| false);
        assert!(filters.time.is_empty());
    }

    #[tokio::test]
    async fn intervals_of_changing_length_are_left_to_others() {
        for text in [
            "date_trunc('month', ts)",
            "date_trunc('week', ts)",
            "date_bin(INTERVAL '1 month', ts)",
            "ts",
        ] {
            if text != "ts" {
                assert_eq!(
                    Buckets::of(&sql(text).await, TimeUnit::Millisecond, "ts"),
                    None,
                    "{text}"
                );
            }
        }
        let found = Buckets::of(&sql("date_trunc('hour', ts)").await, TimeUnit::Millisecond, "ts");
        assert_eq!(
            found,
            Some(Buckets {
                length: 3_600_000,
                origin: 0
            })
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn intervals_begin_where_the_function_says(
            times in prop::collection::vec(-5_000_000_000_000_i64..5_000_000_000_000, 1..40),
            kind in 0..5_usize,
        ) {
            let text = [
                "date_trunc('second', ts)",
                "date_trunc('minute', ts)",
                "date_trunc('day', ts)",
                "date_bin(INTERVAL '7 minutes', ts)",
                "date_bin(INTERVAL '2 hours 30 minutes', ts, TIMESTAMP '2001-01-01T00:00:01Z')",
            ][kind];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let expr = runtime.block_on(sql(text));
            let buckets = Buckets::of(&expr, TimeUnit::Millisecond, "ts").unwrap();
            let batch = rows(&times);
            let expected = expr.evaluate(&batch).unwrap().into_array(times.len()).unwrap();
            let expected = expected.as_primitive::<TimestampMillisecondType>();
            for (i, time) in times.iter().enumerate() {
                prop_assert_eq!(buckets.start_of(*time), Some(expected.value(i)), "{} of {}", text, time);
            }
        }
    }
}
