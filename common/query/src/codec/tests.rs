use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::DataType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::displayable;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::prelude::SessionContext;

use super::*;
use crate::testing::{Keep, cpu};

fn scan(spec: RegionScanSpec) -> Arc<dyn ExecutionPlan> {
    Arc::new(RegionScan::try_new(spec).unwrap())
}

fn round_trip(plan: &Arc<dyn ExecutionPlan>, resolve: impl ResolveScan + 'static) -> Arc<dyn ExecutionPlan> {
    let bytes = encode_plan(plan).unwrap();
    decode_plan(&bytes, &SessionContext::new().task_ctx(), Arc::new(resolve)).unwrap()
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

#[test]
fn a_leaf_arrives_as_it_was_sent() {
    for spec in [
        cpu(),
        RegionScanSpec {
            projection: None,
            limit: None,
            filters: vec![],
            append_mode: true,
            ..cpu()
        },
        RegionScanSpec {
            projection: Some(vec![]),
            ..cpu()
        },
    ] {
        let back = round_trip(&scan(spec.clone()), Keep);
        assert_eq!(back.downcast_ref::<RegionScan>().unwrap().spec(), &spec);
    }
}

#[test]
fn a_filter_a_partial_aggregate_and_a_top_k_travel() {
    let leaf = scan(cpu());
    let schema = leaf.schema();
    let usage = expressions::col("usage", &schema).unwrap();
    let predicate = expressions::binary(
        Arc::clone(&usage),
        datafusion::logical_expr::Operator::Gt,
        expressions::lit(0.5),
        &schema,
    );
    let filter: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(predicate.unwrap(), leaf).unwrap());
    let sort = PhysicalSortExpr::new(Arc::clone(&usage), SortOptions::default());
    let top: Arc<dyn ExecutionPlan> =
        Arc::new(SortExec::new([sort].into(), Arc::clone(&filter)).with_fetch(Some(3)));
    assert_eq!(shown(&round_trip(&top, Keep)), shown(&top));

    let count = AggregateExprBuilder::new(count_udaf(), vec![usage])
        .schema(Arc::clone(&schema))
        .alias("n")
        .build()
        .unwrap();
    let host = expressions::col("host", &schema).unwrap();
    let group = PhysicalGroupBy::new_single(vec![(host, "host".into())]);
    let partial = AggregateExec::try_new(
        AggregateMode::Partial,
        group,
        vec![Arc::new(count)],
        vec![None],
        filter,
        schema,
    );
    let partial: Arc<dyn ExecutionPlan> = Arc::new(partial.unwrap());
    assert_eq!(shown(&round_trip(&partial, Keep)), shown(&partial));
}

#[test]
fn the_leaf_is_replaced_where_the_region_is() {
    #[derive(Debug)]
    struct Memory;
    impl ResolveScan for Memory {
        fn resolve(&self, spec: RegionScanSpec) -> Result<Arc<dyn ExecutionPlan>> {
            assert_eq!(spec.output_schema()?.field(1).data_type(), &DataType::Float64);
            Ok(MemorySourceConfig::try_new_exec(
                &[vec![]],
                spec.output_schema()?,
                None,
            )?)
        }
    }
    let plan = round_trip(&scan(cpu()), Memory);
    assert_eq!(plan.schema(), cpu().output_schema().unwrap());
    plan.execute(0, SessionContext::new().task_ctx()).unwrap();
}

#[test]
fn a_leaf_in_the_frontend_cannot_be_executed() {
    let result = scan(cpu()).execute(0, SessionContext::new().task_ctx());
    let error = result.err().expect("must be refused").to_string();
    assert!(error.contains("1024:2"), "{error}");
}

#[test]
fn a_newer_format_is_refused_naming_both_versions() {
    let bytes = encode_plan(&scan(cpu())).unwrap();
    let mut envelope = PlanEnvelope::decode(bytes).unwrap();
    envelope.format = 99;
    let ctx = SessionContext::new().task_ctx();
    let error = decode_plan(&envelope.encode_to_vec(), &ctx, Arc::new(Keep)).unwrap_err();
    let error = crate::from_datafusion(&error);
    assert_eq!(error.kind, greptime_types::ErrorKind::Unsupported);
    assert!(error.message.contains("99"), "{error}");
    decode_plan(b"nonsense", &ctx, Arc::new(Keep)).unwrap_err();
}

#[test]
fn too_deep_a_plan_is_refused_by_the_sender() {
    let leaf = scan(cpu());
    let schema = leaf.schema();
    let mut predicate = expressions::lit(true);
    for _ in 0..200 {
        predicate = expressions::not(predicate).unwrap();
    }
    let _ = schema;
    let filter: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(predicate, leaf).unwrap());
    encode_plan(&filter).unwrap_err();
}
