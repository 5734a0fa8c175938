//! What DataFusion's operators keep without asking the memory pool, and where they give wrong rows when it refuses.
//!
//! * A window over all rows of a partition (`sum(x) OVER ()`) collects its input before it gives the first row, and
//!   asks nobody. [`CountedExec`] asks for it.
//! * A join without equal columns that keeps rows of its left side goes on in parts when its left side does not fit.
//!   Then each stream of the right side decides for itself which rows of the left have found no partner. With one
//!   stream that is right.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::common::{JoinType, internal_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;

/// The batches as they come, and all of them in one.
const WINDOW_COPIES: usize = 2;

/// The last change of a plan: no other rule knows what it puts in.
#[derive(Debug)]
pub struct BoundMemory;

impl PhysicalOptimizerRule for BoundMemory {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.transform_up(bound)?.data)
    }

    fn name(&self) -> &'static str {
        "BoundMemory"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn bound(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(children) = bounded_children(&node) else {
        return Ok(Transformed::no(node));
    };
    let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Ok(Transformed::yes(node.replace_children(children, recompute)?))
}

/// What an operator should stand on instead; `None` if it may stay as it is.
fn bounded_children(node: &Arc<dyn ExecutionPlan>) -> Option<Vec<Arc<dyn ExecutionPlan>>> {
    let children: Vec<Arc<dyn ExecutionPlan>> = node.children().into_iter().cloned().collect();
    if node.is::<WindowAggExec>() {
        let counted = |input| Arc::new(CountedExec::new(input)) as Arc<dyn ExecutionPlan>;
        return Some(children.into_iter().map(counted).collect());
    }
    let join = node.downcast_ref::<NestedLoopJoinExec>()?;
    let keeps_left = matches!(
        join.join_type(),
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
    );
    let [left, right] = <[_; 2]>::try_from(children).ok()?;
    if !keeps_left || right.output_partitioning().partition_count() <= 1 {
        return None;
    }
    let one_stream: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(right));
    Some(vec![left, one_stream])
}

/// Rows that the operator above keeps until the last one has come, counted as long as they come. From then on it
/// is a moment until that operator gives its rows and forgets them.
#[derive(Debug)]
struct CountedExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl CountedExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(input.properties());
        Self { input, properties }
    }
}

impl DisplayAs for CountedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountedExec")
    }
}

impl ExecutionPlan for CountedExec {
    fn name(&self) -> &'static str {
        "CountedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(input))),
            Err(_) => internal_err!("CountedExec has one child"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let kept = MemoryConsumer::new(format!("WindowAggExec[{partition}]")).register(context.memory_pool());
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        // Batches may be slices of one, which is counted once.
        let mut counter = RecordBatchMemoryCounter::new();
        let counted = rows.map(move |batch| -> Result<RecordBatch> {
            let batch = batch?;
            kept.try_grow(WINDOW_COPIES * counter.count_batch(&batch))?;
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }
}
