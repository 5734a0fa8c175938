//! What a scan has to read, and which filters may be applied where.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use greptime_query::{RegionScanSpec, into_datafusion};
use greptime_types::{ColumnSchema, Error, Result as OurResult, Semantic, TableSchema};

use super::filter::{Filters, classify};
use crate::defences::Defence;
use crate::schema::engine_schema;

/// The decisions of one scan.
#[derive(Debug)]
pub struct ScanPlan {
    /// Columns of the output, as plans see them.
    pub output: SchemaRef,
    /// All filters that could be compiled; those on rows over `looked_at`.
    pub filters: Filters,
    pub looked_at: SchemaRef,
    /// Only when all filters are applied here.
    pub limit: Option<usize>,
}

impl ScanPlan {
    pub fn new(spec: &RegionScanSpec, table: &TableSchema) -> Result<Self> {
        check_columns(spec, table).map_err(into_datafusion)?;
        let compiler = Compiler {
            schema: DFSchema::try_from(table.to_arrow())?,
        };
        let (mut compiled, mut complete) = (Vec::new(), true);
        for filter in spec.filters.iter().flat_map(split_conjunction) {
            // What cannot be evaluated here is evaluated by the plan above.
            match compiler.compile(unqualified(filter.clone())?) {
                Some(filter) => compiled.push(filter),
                None => complete = false,
            }
        }
        let mut filters = filters_of(&compiled, table);
        let looked_at = bind_rows(&mut filters, &table.to_arrow())?;
        Ok(Self {
            output: spec.output_schema()?,
            filters,
            looked_at,
            limit: spec.limit.filter(|_| complete),
        })
    }
}

/// The plan names columns, so each name must still be the column that the planner saw.
fn check_columns(spec: &RegionScanSpec, table: &TableSchema) -> OurResult<()> {
    let same = |seen: &&ColumnSchema| {
        let now = table.column(&seen.name);
        now.is_some_and(|now| now.id == seen.id && now.column_type == seen.column_type)
    };
    match spec.schema.columns.iter().find(|seen| !same(seen)) {
        Some(changed) if Defence::PlannedColumnsAreChecked.holds() => Err(Error::conflict(format!(
            "column `{}` was changed while the query was planned; plan it again",
            changed.name
        ))),
        _ => Ok(()),
    }
}

/// The named columns, the time index, and for merging what says which row is which.
pub fn read_schema(table: &TableSchema, names: &BTreeSet<&str>, merged: bool) -> SchemaRef {
    let wanted = |column: &greptime_types::ColumnSchema| {
        names.contains(column.name.as_str())
            || column.semantic == Semantic::Timestamp
            || (merged && column.semantic == Semantic::Tag)
    };
    engine_schema(table, wanted, merged)
}

/// Compiled filters by what they look at.
pub fn filters_of(conjuncts: &[Arc<dyn PhysicalExpr>], table: &TableSchema) -> Filters {
    let is_tag = |name: &str| table.primary_key.iter().any(|tag| tag == name);
    classify(
        conjuncts,
        table.time_unit().to_arrow(),
        &table.time_index().name,
        is_tag,
    )
}

/// Lets the filter on rows look at just its own columns, which are returned.
fn bind_rows(filters: &mut Filters, table: &SchemaRef) -> Result<SchemaRef> {
    let names: BTreeSet<String> = filters
        .rows
        .iter()
        .flat_map(collect_columns)
        .map(|c| c.name().to_owned())
        .collect();
    let fields = table
        .fields()
        .iter()
        .filter(|f| names.contains(f.name()))
        .cloned();
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    if let Some(rows) = &mut filters.rows {
        *rows = reassign_expr_columns(Arc::clone(rows), &schema)?;
    }
    Ok(schema)
}

/// Filters name columns of one table; the reader knows them without it.
fn unqualified(filter: Expr) -> Result<Expr> {
    let strip = |expr: Expr| match expr {
        Expr::Column(column) if column.relation.is_some() => Ok(Transformed::yes(Expr::Column(
            Column::new_unqualified(column.name),
        ))),
        other => Ok(Transformed::no(other)),
    };
    filter.transform(strip).map(|t| t.data)
}

struct Compiler {
    schema: DFSchema,
}

impl Compiler {
    fn compile(&self, filter: Expr) -> Option<Arc<dyn PhysicalExpr>> {
        let expr =
            create_physical_expr(&filter, &self.schema, &ExecutionProps::new(), &Default::default()).ok()?;
        let boolean = expr.data_type(self.schema.as_arrow()).ok()? == DataType::Boolean;
        boolean.then_some(expr)
    }
}
