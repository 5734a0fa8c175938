//! What a scan has to read, and which filters may be applied where.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt, create_physical_expr};
use greptime_query::{RegionScanSpec, into_datafusion};
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{ColumnSchema, Error, Result as OurResult};

use crate::region::Snapshot;
use crate::schema::marks;

/// Under which the query runtime knows the bucket.
pub const STORE_URL: &str = "greptime://bucket";

/// The decisions of one scan.
#[derive(Debug)]
pub struct ScanPlan {
    /// What is read: projected columns, those of filters, and for overwriting the key, sequence and operation.
    pub schema: SchemaRef,
    /// Columns of the output.
    pub output: SchemaRef,
    /// Holds for every wanted row and looks only at the identity, so it may be applied before overwriting:
    /// all rows of an identity pass or none does.
    pub before: Option<Arc<dyn PhysicalExpr>>,
    /// All filters that could be compiled, for rows that survived overwriting.
    pub after: Option<Arc<dyn PhysicalExpr>>,
    /// Only when all filters are applied here.
    pub limit: Option<usize>,
}

impl ScanPlan {
    pub fn new(spec: &RegionScanSpec, snapshot: &Snapshot) -> Result<Self> {
        check_columns(spec, snapshot).map_err(into_datafusion)?;
        let output = spec.output_schema()?;
        let filters: Vec<Expr> = spec
            .filters
            .iter()
            .flat_map(split_conjunction)
            .cloned()
            .map(unqualified)
            .collect::<Result<_>>()?;
        let mut names: BTreeSet<String> = output.fields().iter().map(|f| f.name().clone()).collect();
        for filter in &filters {
            names.extend(filter.column_refs().into_iter().map(|c| c.name.clone()));
        }
        let schema = read_schema(&names, snapshot);
        let compiler = Compiler {
            schema: DFSchema::try_from(Arc::clone(&schema))?,
        };
        let (mut before, mut after, mut complete) = (Vec::new(), Vec::new(), true);
        for filter in &filters {
            // What cannot be evaluated here is evaluated by the plan above.
            let Some(expr) = compiler.compile(filter) else {
                complete = false;
                continue;
            };
            let on_identity = filter
                .column_refs()
                .iter()
                .all(|c| snapshot.key.contains(&c.name));
            if (on_identity || snapshot.key.append_mode) && !filter.is_volatile() {
                before.push(Arc::clone(&expr));
            }
            after.push(expr);
        }
        Ok(Self {
            schema,
            output,
            before: conjunction_opt(before),
            after: conjunction_opt(after),
            limit: spec.limit.filter(|_| complete),
        })
    }
}

/// The plan names columns, so each name must still be the column that the planner saw.
fn check_columns(spec: &RegionScanSpec, snapshot: &Snapshot) -> OurResult<()> {
    let table = &snapshot.table.schema;
    let same = |seen: &&ColumnSchema| {
        let now = table.column(&seen.name);
        now.is_some_and(|now| now.id == seen.id && now.column_type == seen.column_type)
    };
    match spec.schema.columns.iter().find(|seen| !same(seen)) {
        None => Ok(()),
        Some(changed) => Err(Error::conflict(format!(
            "column `{}` of table {} was changed while the query was planned; plan it again",
            changed.name,
            snapshot.table.full_name()
        ))),
    }
}

/// The named columns as the region has them, and what overwriting needs. A column that the region does not have
/// is left out: the output fills it with NULL.
fn read_schema(names: &BTreeSet<String>, snapshot: &Snapshot) -> SchemaRef {
    let table = &snapshot.table.schema;
    let time = &table.time_index().name;
    let needed = |name: &String| {
        // One column at least, to count rows by.
        names.contains(name) || name == time || (!snapshot.key.append_mode && snapshot.key.contains(name))
    };
    let columns = table.columns.iter().filter(|c| needed(&c.name));
    let mut fields: Vec<Field> = columns
        .map(|c| Field::new(&c.name, c.column_type.to_arrow(), true).with_metadata(marks(c)))
        .collect();
    if !snapshot.key.append_mode {
        fields.push(Field::new(SEQUENCE_COLUMN, DataType::UInt64, true));
        fields.push(Field::new(OP_COLUMN, DataType::UInt8, true));
    }
    Arc::new(Schema::new(fields))
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
    fn compile(&self, filter: &Expr) -> Option<Arc<dyn PhysicalExpr>> {
        let expr =
            create_physical_expr(filter, &self.schema, &ExecutionProps::new(), &Default::default()).ok()?;
        let boolean = expr.data_type(self.schema.as_arrow()).ok()? == DataType::Boolean;
        boolean.then_some(expr)
    }
}
