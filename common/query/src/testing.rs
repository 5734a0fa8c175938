//! What the tests of this crate share.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::{col, lit};
use datafusion::physical_plan::ExecutionPlan;
use greptime_types::{ColumnSchema, ColumnType, RegionId, Semantic, TableSchema, TimeUnit};

use crate::scan::{RegionScan, RegionScanSpec, ResolveScan};

/// Keeps the spec in the plan, so that a test sees what arrived.
#[derive(Debug)]
pub struct Keep;

impl ResolveScan for Keep {
    fn resolve(&self, spec: RegionScanSpec) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(RegionScan::try_new(spec)?))
    }
}

pub fn cpu() -> RegionScanSpec {
    let schema = TableSchema::new(
        vec![
            ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
            ColumnSchema::new(
                "ts",
                ColumnType::Timestamp(TimeUnit::Millisecond),
                Semantic::Timestamp,
            ),
            ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
        ],
        vec!["host".into()],
    )
    .unwrap();
    RegionScanSpec {
        region_id: RegionId::new(1024, 2),
        schema: Arc::new(schema),
        append_mode: false,
        projection: Some(vec![0, 2]),
        filters: vec![col("host").eq(lit("a")), col("usage").gt(lit(0.5))],
        limit: Some(10),
    }
}
