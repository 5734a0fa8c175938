use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::TimeUnit as ArrowUnit;
use datafusion::common::DFSchema;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::col;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_expr::{PhysicalSortExpr, create_physical_expr, expressions};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{collect, displayable};
use datafusion::prelude::SessionContext;

use super::*;
use crate::testing::{Keep, cpu};

fn scan(region: RegionId, filters: Vec<Expr>) -> Arc<dyn ExecutionPlan> {
    let spec = RegionScanSpec {
        region_id: region,
        projection: None,
        filters,
        limit: None,
        ..cpu()
    };
    Arc::new(RegionScan::try_new(spec).unwrap())
}

/// The newest three rows that a filter lets through.
fn newest(region: RegionId, filter: &Expr) -> Arc<dyn ExecutionPlan> {
    let scan = scan(region, vec![filter.clone()]);
    let schema = DFSchema::try_from(scan.schema().as_ref().clone()).unwrap();
    let predicate =
        create_physical_expr(filter, &schema, &ExecutionProps::new(), &Default::default()).unwrap();
    let filtered = Arc::new(FilterExec::try_new(predicate, scan).unwrap());
    let order = PhysicalSortExpr {
        expr: expressions::col("ts", filtered.schema().as_ref()).unwrap(),
        options: SortOptions::default().desc(),
    };
    let sort = SortExec::new([order].into(), filtered).with_fetch(Some(3));
    Arc::new(sort)
}

fn time(ms: i64) -> ScalarValue {
    ScalarValue::TimestampMillisecond(Some(ms), None)
}

fn context() -> SessionContext {
    let ctx = SessionContext::new();
    for function in crate::plan_functions() {
        ctx.register_udf(function.as_ref().clone());
    }
    ctx
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

/// Of one prepared plan, as it is where the regions are.
fn arrived(plan: &Arc<dyn ExecutionPlan>) -> PreparedPlan {
    let bytes = PreparedPlan::new(plan).unwrap().unwrap().encode().unwrap();
    PreparedPlan::decode(&bytes, &context().task_ctx()).unwrap()
}

fn filter(host: Expr, from: Expr) -> Expr {
    col("host").eq(host).and(col("ts").gt_eq(from))
}

#[test]
fn a_prepared_plan_with_constants_is_the_plan_of_those_constants() {
    let milliseconds = DataType::Timestamp(ArrowUnit::Millisecond, None);
    let (host, from) = (
        parameter(0, &DataType::Utf8).unwrap(),
        parameter(1, &milliseconds).unwrap(),
    );
    let prepared = arrived(&newest(RegionId::new(7, 7), &filter(host, from)));
    for (host, ms, region) in [
        ("a", 5, RegionId::new(1024, 0)),
        ("b", -5, RegionId::new(1024, 3)),
    ] {
        let constants = [ScalarValue::from(host), time(ms)];
        let bytes = encode_values(&constants).unwrap();
        let constants = decode_values(&bytes).unwrap();
        let bound = prepared.bind(region, &constants, &Keep).unwrap();
        let planned = newest(region, &filter(lit(host), lit(time(ms))));
        assert_eq!(shown(&bound), shown(&planned));
    }
}

/// Three rows with the times 1 to 3.
#[derive(Debug)]
struct Rows;

impl ResolveScan for Rows {
    fn resolve(&self, spec: RegionScanSpec) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = spec.output_schema()?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a"; 3])),
            Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3])),
            Arc::new(Float64Array::from(vec![0.5; 3])),
        ];
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?)
    }
}

#[tokio::test]
async fn what_one_statement_has_found_does_not_cut_another() {
    let milliseconds = DataType::Timestamp(ArrowUnit::Millisecond, None);
    let before = col("ts").lt(parameter(0, &milliseconds).unwrap());
    let prepared = arrived(&newest(RegionId::new(7, 7), &before));
    for (before, expected) in [(9, 3), (3, 2), (2, 1), (9, 3)] {
        let bound = prepared
            .bind(RegionId::new(1, 0), &[time(before)], &Rows)
            .unwrap();
        let rows = collect(bound, context().task_ctx()).await.unwrap();
        let rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, expected, "before {before}");
    }
}

#[test]
fn a_list_of_constants_is_looked_up() {
    let hosts = (0..20).map(|n| parameter(n, &DataType::Utf8).unwrap()).collect();
    let prepared = arrived(&newest(RegionId::new(7, 7), &col("host").in_list(hosts, true)));
    let constants: Vec<ScalarValue> = (0..20).map(|n| ScalarValue::from(n.to_string())).collect();
    let bound = prepared.bind(RegionId::new(1, 0), &constants, &Keep).unwrap();
    let mut looked_up = false;
    bound
        .apply(|node| {
            if let Some(filter) = node.downcast_ref::<FilterExec>() {
                let list = filter.predicate().downcast_ref::<InListExpr>().unwrap();
                let constants = list.list().iter().map(|e| lit_of(e)).collect();
                let hosts = Arc::clone(list.expr());
                let fresh = InListExpr::try_new(hosts, constants, true, &filter.input().schema()).unwrap();
                // Equality of lists includes what they are looked up in.
                looked_up = format!("{list:?}") == format!("{fresh:?}");
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
    assert!(looked_up, "{}", shown(&bound));
}

fn lit_of(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(expr.downcast_ref::<Literal>().unwrap().clone())
}

#[test]
fn constants_that_are_missing_are_an_error() {
    let host = parameter(1, &DataType::Utf8).unwrap();
    let prepared = arrived(&newest(RegionId::new(7, 7), &col("host").eq(host)));
    let one = [ScalarValue::from("a")];
    let error = prepared.bind(RegionId::new(1, 0), &one, &Keep).unwrap_err();
    assert!(
        error.to_string().contains("more parameters than the 1"),
        "{error}"
    );
}

#[test]
fn a_parameter_that_is_not_in_a_filter_cannot_be_prepared() {
    let input = scan(RegionId::new(1, 0), vec![]);
    let schema = DFSchema::try_from(input.schema().as_ref().clone()).unwrap();
    let constant = parameter(0, &DataType::Utf8).unwrap();
    let expr = create_physical_expr(&constant, &schema, &ExecutionProps::new(), &Default::default()).unwrap();
    let alias = "x".to_owned();
    let projection = ProjectionExec::try_new(vec![ProjectionExpr { expr, alias }], input).unwrap();
    let plan: Arc<dyn ExecutionPlan> = Arc::new(projection);
    assert!(PreparedPlan::new(&plan).unwrap().is_none());
}
