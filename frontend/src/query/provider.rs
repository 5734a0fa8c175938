//! A table as DataFusion sees it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion_proto::bytes::Serializeable;
use greptime_query::{RegionScan, RegionScanSpec};
use greptime_types::{RegionId, TableInfo};

use super::exec::RegionQueryExec;
use super::pruning::partitions_for;
use crate::route::Router;

pub struct RegionTable {
    table: Arc<TableInfo>,
    schema: SchemaRef,
    router: Arc<Router>,
}

impl RegionTable {
    pub fn new(table: Arc<TableInfo>, router: Arc<Router>) -> Self {
        Self {
            schema: table.schema.to_arrow(),
            table,
            router,
        }
    }

    /// The regions that can have rows for which the filters hold.
    pub fn regions_for(&self, filters: &[Expr]) -> Vec<RegionId> {
        let numbers = partitions_for(&self.table.schema, &self.table.partition, filters);
        let id = |number| RegionId::new(self.table.id, number);
        numbers.into_iter().map(id).collect()
    }

    pub fn is_partitioned(&self) -> bool {
        self.table.partition.partitions.len() > 1
    }
}

/// The regions of the only table of a plan whose filters have parameters; travels in the session's extensions.
pub struct ChosenRegions(pub Vec<RegionId>);

impl std::fmt::Debug for RegionTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegionTable({})", self.table.full_name())
    }
}

#[async_trait]
impl TableProvider for RegionTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let regions = match session.config().get_extension::<ChosenRegions>() {
            Some(chosen) => chosen.0.clone(),
            None => self.regions_for(filters),
        };
        let Some(first) = regions.first() else {
            let schema = match projection {
                Some(columns) => Arc::new(Schema::project(&self.schema, columns)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        };
        let spec = RegionScanSpec {
            region_id: *first,
            schema: Arc::new(self.table.schema.clone()),
            append_mode: self.table.options.append_mode,
            projection: projection.cloned(),
            filters: filters.to_vec(),
            limit,
        };
        let mut plan: Arc<dyn ExecutionPlan> = Arc::new(RegionScan::try_new(spec)?);
        if let Some(limit) = limit {
            plan = Arc::new(LocalLimitExec::new(plan, limit));
        }
        let (table, router) = (Arc::clone(&self.table), Arc::clone(&self.router));
        Ok(Arc::new(RegionQueryExec::try_new(plan, regions, table, router)?))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match can_travel(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }
}

/// The filter with some constant for each parameter: those of a plan that is kept get theirs before it is run.
fn with_constants(filter: &Expr) -> Result<Expr> {
    let constant = |expr: Expr| match &expr {
        Expr::Placeholder(parameter) => {
            let kind = parameter
                .field
                .as_ref()
                .map_or(&DataType::Utf8, |f| f.data_type());
            Ok(Transformed::yes(Expr::Literal(
                ScalarValue::try_from(kind)?,
                None,
            )))
        }
        _ => Ok(Transformed::no(expr)),
    };
    filter.clone().transform(constant).map(|filter| filter.data)
}

/// Whether a region can evaluate the filter: it has an encoding, and means the same there.
fn can_travel(filter: &Expr) -> bool {
    let mut local = false;
    let _ = filter.apply(|expr| {
        local |= matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::ScalarVariable(..)
        );
        Ok(if local {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    !local && !filter.is_volatile() && with_constants(filter).is_ok_and(|filter| filter.to_bytes().is_ok())
}
