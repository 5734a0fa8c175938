//! The rule that moves operators to the regions.
//!
//! From the scan upwards, an operator with one input moves into the regions' plan if it gives the same result
//! whether it sees all rows or each region's on their own. With one region, that is every operator.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use greptime_query::encode_plan;

use super::exec::RegionQueryExec;

/// One rule, in two places of the optimizer.
#[derive(Debug)]
pub enum PushToRegions {
    /// Over one region, as much as can move; before rows are dealt out to streams.
    Whole,
    /// Over any number of regions; the last change of a plan.
    Parts,
}

impl PhysicalOptimizerRule for PushToRegions {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let moved = match self {
            Self::Whole => plan.transform_up(|node| absorb(node, |regions| regions == 1))?,
            Self::Parts => plan
                .transform_up(|node| absorb(node, |_| true))?
                .data
                .transform_up(show)?,
        };
        Ok(moved.data)
    }

    fn name(&self) -> &'static str {
        "PushToRegions"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// From now on the regions' plan is shown, since no rule will look into it any more.
fn show(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    match node.downcast_ref::<RegionQueryExec>() {
        Some(regions) => Ok(Transformed::yes(Arc::new(regions.shown()?))),
        None => Ok(Transformed::no(node)),
    }
}

fn absorb(
    node: Arc<dyn ExecutionPlan>,
    wanted: impl Fn(usize) -> bool,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let children = node.children();
    let [child] = children.as_slice() else {
        return Ok(Transformed::no(node));
    };
    let Some(regions) = child.downcast_ref::<RegionQueryExec>() else {
        return Ok(Transformed::no(node));
    };
    let count = regions.regions().len();
    if !wanted(count) || !runs_beside_regions(node.as_ref(), count) || !is_self_contained(node.as_ref())? {
        return Ok(Transformed::no(node));
    }
    let below = vec![Arc::clone(regions.plan())];
    let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    let moved = Arc::clone(&node).replace_children(below, recompute)?;
    // What has no encoding stays here, with everything above it.
    if encode_plan(&moved).is_err() {
        return Ok(Transformed::no(node));
    }
    let moved = regions.with_plan(moved)?;
    Ok(Transformed::yes(Arc::new(moved)))
}

fn runs_beside_regions(node: &dyn ExecutionPlan, regions: usize) -> bool {
    let alone = regions == 1;
    if node.is::<FilterExec>() {
        // A filter that stops after n rows would stop after n in each region: never too few.
        return true;
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return alone || *aggregate.mode() == AggregateMode::Partial;
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return alone || sort.preserve_partitioning();
    }
    node.is::<ProjectionExec>() || node.is::<LocalLimitExec>() || (alone && node.is::<GlobalLimitExec>())
}

/// Whether its expressions mean something elsewhere: not the result of a subquery of this plan, nor a filter
/// that another operator of this plan keeps changing.
fn is_self_contained(node: &dyn ExecutionPlan) -> Result<bool> {
    let mut contained = true;
    let mut look = |root: &Arc<dyn PhysicalExpr>| {
        root.apply(|expr| {
            if expr.is::<ScalarSubqueryExpr>() || expr.is::<DynamicFilterPhysicalExpr>() {
                contained = false;
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    };
    // A sort that keeps the first n has a filter of its own making, which nobody else sees.
    match node.downcast_ref::<SortExec>() {
        Some(sort) => sort.expr().iter().try_for_each(|e| look(&e.expr).map(drop))?,
        None => node.apply_expressions(&mut look).map(drop)?,
    }
    Ok(contained)
}
