//! The first rows by time: what may be among them is read first, and nothing after it.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as Named, ScalarValue};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use super::ScanExec;
use super::units::Span;

/// An operator above keeps the first rows by time.
#[derive(Debug)]
pub struct ByTime {
    pub descending: bool,
    /// Of the rows that it is given.
    rows: SchemaRef,
    /// The time among them.
    time: String,
    /// What a row has to pass to be kept, which says more with each row that is.
    bound: OnceLock<Arc<dyn PhysicalExpr>>,
}

impl ByTime {
    /// Whether a row between these times may still be kept.
    pub fn wants(&self, times: Span) -> bool {
        let Some(bound) = self.bound.get() else {
            return true;
        };
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&self.rows))
            .try_build(Arc::clone(bound));
        // What cannot be said in minima and maxima leaves nothing out.
        let kept = predicate.and_then(|predicate| predicate.prune(&Times { of: self, times }));
        !kept.is_ok_and(|kept| kept.first() == Some(&false))
    }
}

/// What is known of rows between two times.
struct Times<'a> {
    of: &'a ByTime,
    times: Span,
}

impl Times<'_> {
    fn value(&self, column: &Named, time: i64) -> Option<ArrayRef> {
        let field = self.of.rows.field_with_name(&self.of.time).ok()?;
        let value = (column.name == self.of.time).then(|| Int64Array::from(vec![time]))?;
        cast(&value, field.data_type()).ok()
    }
}

impl PruningStatistics for Times<'_> {
    fn min_values(&self, column: &Named) -> Option<ArrayRef> {
        self.value(column, self.times.min_time)
    }

    fn max_values(&self, column: &Named) -> Option<ArrayRef> {
        self.value(column, self.times.max_time)
    }

    fn num_containers(&self) -> usize {
        1
    }

    fn null_counts(&self, column: &Named) -> Option<ArrayRef> {
        let none = Arc::new(UInt64Array::from(vec![0]));
        (column.name == self.of.time).then_some(none as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _: &Named, _: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// The plan, in which a top-k by time tells the scan below it what it can still use.
pub fn read_by_time(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let read = plan.transform_down(|node| {
        Ok(match told(&node)? {
            Some(told) => Transformed::new(told, true, TreeNodeRecursion::Jump),
            None => Transformed::no(node),
        })
    })?;
    Ok(read.data)
}

fn told(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(sort) = node
        .downcast_ref::<SortExec>()
        .filter(|sort| sort.fetch().is_some())
    else {
        return Ok(None);
    };
    let order = sort.expr().first();
    let Some(column) = order.expr.downcast_ref::<Column>() else {
        return Ok(None);
    };
    let by_time = Arc::new(ByTime {
        descending: order.options.descending,
        rows: sort.input().schema(),
        time: column.name().to_owned(),
        bound: OnceLock::new(),
    });
    let Some(below) = tell(sort.input(), column.index(), &by_time)? else {
        return Ok(None);
    };
    let told = over(node, below)?;
    // That of the operator that runs: one over another input may have made a new one.
    let Some(bound) = told.dynamic_expressions_produced().into_iter().next() else {
        return Ok(None);
    };
    Ok(by_time.bound.set(bound).is_ok().then_some(told))
}

/// The plan with its scan told, if it gives all rows of it that pass, and `column` is the time of the scan.
fn tell(
    node: &Arc<dyn ExecutionPlan>,
    column: usize,
    by_time: &Arc<ByTime>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = node.downcast_ref::<ScanExec>() {
        let is_time = scan.schema().field(column).name() == &scan.table().time_index().name;
        let is_told = is_time && scan.limit().is_none();
        return Ok(is_told.then(|| Arc::new(scan.by_time(Arc::clone(by_time))) as _));
    }
    let below = if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let expr = projection.expr().get(column);
        expr.and_then(|e| e.expr.downcast_ref::<Column>())
            .map(Column::index)
    } else if let Some(filter) = node.downcast_ref::<FilterExec>().filter(|f| f.fetch().is_none()) {
        match filter.projection() {
            Some(projection) => projection.get(column).copied(),
            None => Some(column),
        }
    } else {
        node.downcast_ref::<CoalescePartitionsExec>()
            .filter(|joined| joined.fetch().is_none())
            .map(|_| column)
    };
    let children = node.children();
    let (Some(column), [input]) = (below, children.as_slice()) else {
        return Ok(None);
    };
    match tell(input, column, by_time)? {
        Some(input) => over(node, input).map(Some),
        None => Ok(None),
    }
}

/// An operator of one input over another one.
pub fn over(node: &Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(node).replace_children(vec![input], recompute)
}
