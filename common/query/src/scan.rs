//! The leaf: which rows and columns of which region.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use greptime_types::{RegionId, TableSchema};

/// What to read of one region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionScanSpec {
    pub region_id: RegionId,
    /// The columns as the planner saw them. The region may already have more; it answers with these, and with
    /// NULL for those that a file or row does not have.
    pub schema: Arc<TableSchema>,
    /// Rows with equal tags and time are all returned instead of the newest.
    pub append_mode: bool,
    /// Positions in `schema.columns`, in the order of the output; `None` is all of them.
    pub projection: Option<Vec<usize>>,
    /// All of them hold for the rows that are wanted. A region uses what it can (the plan filters again), but
    /// only where this cannot change which of two rows with the same identity is the newest: a filter on a field
    /// is applied after overwriting.
    pub filters: Vec<Expr>,
    /// So many rows are enough. More do no harm, fewer only if there are no more.
    pub limit: Option<usize>,
}

impl RegionScanSpec {
    /// Columns of the output: the table's, projected.
    pub fn output_schema(&self) -> Result<SchemaRef> {
        let all = self.schema.to_arrow();
        match &self.projection {
            None => Ok(all),
            Some(columns) => Ok(Arc::new(Schema::project(&all, columns)?)),
        }
    }
}

impl RegionScanSpec {
    /// For people: what is wanted, which is the same in all regions.
    pub fn wanted(&self) -> String {
        let mut wanted = Vec::new();
        if let Some(projection) = &self.projection {
            let name = |i: &usize| self.schema.columns.get(*i).map_or("?", |c| c.name.as_str());
            let names: Vec<&str> = projection.iter().map(name).collect();
            wanted.push(format!("projection=[{}]", names.join(", ")));
        }
        if !self.filters.is_empty() {
            let filters: Vec<String> = self.filters.iter().map(ToString::to_string).collect();
            wanted.push(format!("filters=[{}]", filters.join(", ")));
        }
        wanted.extend(self.limit.map(|limit| format!("limit={limit}")));
        wanted.join(", ")
    }
}

impl fmt::Display for RegionScanSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region={}", self.region_id)?;
        match self.wanted() {
            wanted if wanted.is_empty() => Ok(()),
            wanted => write!(f, ", {wanted}"),
        }
    }
}

/// Makes the real scan of a leaf, where the region is.
pub trait ResolveScan: Send + Sync + fmt::Debug {
    /// The plan must have the schema `spec.output_schema()`, and one partition or several.
    fn resolve(&self, spec: RegionScanSpec) -> Result<Arc<dyn ExecutionPlan>>;
}

/// A leaf that stands for the scan of a region; only its resolution can be executed.
#[derive(Debug)]
pub struct RegionScan {
    spec: RegionScanSpec,
    properties: Arc<PlanProperties>,
}

impl RegionScan {
    pub fn try_new(spec: RegionScanSpec) -> Result<Self> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(spec.output_schema()?),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            spec,
            properties: Arc::new(properties),
        })
    }

    pub fn spec(&self) -> &RegionScanSpec {
        &self.spec
    }
}

/// The plan with its leaf over another region.
pub fn in_region(plan: &Arc<dyn ExecutionPlan>, region: RegionId) -> Result<Arc<dyn ExecutionPlan>> {
    let placed = Arc::clone(plan).transform_up(|node| match node.downcast_ref::<RegionScan>() {
        Some(scan) => {
            let spec = RegionScanSpec {
                region_id: region,
                ..scan.spec.clone()
            };
            let scan: Arc<dyn ExecutionPlan> = Arc::new(RegionScan::try_new(spec)?);
            Ok(Transformed::yes(scan))
        }
        None => Ok(Transformed::no(node)),
    })?;
    Ok(placed.data)
}

impl DisplayAs for RegionScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionScan: {}", self.spec)
    }
}

impl ExecutionPlan for RegionScan {
    fn name(&self) -> &'static str {
        "RegionScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!(
            "the scan of region {} can only be executed where the region is",
            self.spec.region_id
        )
    }
}
