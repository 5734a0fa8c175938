//! Plans that are made once, and run with other constants each time.
//!
//! In a prepared plan [`parameter`] stands for each constant of the filters, and no region is named. It is encoded
//! once, and decoded once where it runs; [`PreparedPlan::bind`] puts a region and constants in.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, exec_err, internal_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};
use datafusion::physical_expr::expressions::{InListExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion_proto::protobuf;
use greptime_types::RegionId;
use prost::Message;

use crate::codec::{decode_unresolved, encode_plan};
use crate::scan::{RegionScan, RegionScanSpec, ResolveScan, in_region};

const NAME: &str = "parameter";

/// `parameter(n, NULL)`: the constant of number `n`, of the type of the NULL. It is replaced before a plan is run; until
/// then nothing may be concluded from it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Parameter {
    signature: Signature,
}

static PARAMETER: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::any(2, Volatility::Volatile);
    Arc::new(ScalarUDF::from(Parameter { signature }))
});

impl ScalarUDFImpl for Parameter {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [_, kind] => Ok(kind.clone()),
            _ => plan_err!("{NAME} has a number and a type"),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("a prepared plan was run without constants")
    }
}

/// What decoding a prepared plan needs to know.
pub(crate) fn parameter_function() -> Arc<ScalarUDF> {
    Arc::clone(&PARAMETER)
}

/// Stands for constant `number`, counted from zero.
pub fn parameter(number: usize, kind: &DataType) -> Result<Expr> {
    let kind = Expr::Literal(ScalarValue::try_from(kind)?, None);
    Ok(PARAMETER.call(vec![lit(number as u64), kind]))
}

fn value_at(number: Option<&ScalarValue>, values: &[ScalarValue]) -> Result<ScalarValue> {
    let number = match number {
        Some(ScalarValue::UInt64(Some(number))) => usize::try_from(*number).ok(),
        _ => None,
    };
    match number.and_then(|number| values.get(number)) {
        Some(value) => Ok(value.clone()),
        None => plan_err!(
            "a prepared plan has more parameters than the {} constants",
            values.len()
        ),
    }
}

/// The expression with its constants.
pub fn bind_expr(expr: Expr, values: &[ScalarValue]) -> Result<Expr> {
    let bound = expr.transform_up(|expr| match &expr {
        Expr::ScalarFunction(call) if call.func.inner().is::<Parameter>() => {
            let number = match call.args.first() {
                Some(Expr::Literal(number, _)) => Some(number),
                _ => None,
            };
            let value = value_at(number, values)?;
            Ok(Transformed::yes(Expr::Literal(value, None)))
        }
        _ => Ok(Transformed::no(expr)),
    })?;
    Ok(bound.data)
}

fn as_parameter(expr: &Arc<dyn PhysicalExpr>) -> Option<&ScalarFunctionExpr> {
    expr.downcast_ref::<ScalarFunctionExpr>()
        .filter(|call| call.fun().inner().is::<Parameter>())
}

fn bind_predicate(
    predicate: &Arc<dyn PhysicalExpr>,
    values: &[ScalarValue],
    schema: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let bound = Arc::clone(predicate).transform_up(|expr| {
        if let Some(call) = as_parameter(&expr) {
            let number = call.args().first().and_then(|n| n.downcast_ref::<Literal>());
            let value = value_at(number.map(Literal::value), values)?;
            let value: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(value));
            return Ok(Transformed::yes(value));
        }
        // A list of constants is looked up, one of other expressions is compared one by one.
        if let Some(list) = expr.downcast_ref::<InListExpr>() {
            let (expr, values) = (Arc::clone(list.expr()), list.list().to_vec());
            let list: Arc<dyn PhysicalExpr> =
                Arc::new(InListExpr::try_new(expr, values, list.negated(), schema)?);
            return Ok(Transformed::yes(list));
        }
        Ok(Transformed::no(expr))
    })?;
    Ok(bound.data)
}

/// Whether an operator itself has parameters.
pub fn has_parameters(node: &dyn ExecutionPlan) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(&mut |root| {
        root.apply(|expr| {
            found |= as_parameter(expr).is_some();
            Ok(match found {
                true => TreeNodeRecursion::Stop,
                false => TreeNodeRecursion::Continue,
            })
        })
    })?;
    Ok(found)
}

/// A chain of operators over one [`RegionScan`], of no region and with parameters in its filters.
#[derive(Clone, Debug)]
pub struct PreparedPlan {
    plan: Arc<dyn ExecutionPlan>,
}

impl PreparedPlan {
    /// `None` if the plan cannot be given constants.
    pub fn new(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Self>> {
        let mut bindable = true;
        plan.apply(|node| {
            let has_place = node.is::<FilterExec>() || !has_parameters(node.as_ref())?;
            bindable &= has_place && node.children().len() <= 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let plan = in_region(plan, RegionId::from_u64(0))?;
        Ok(bindable.then_some(Self { plan }))
    }

    pub fn encode(&self) -> Result<Bytes> {
        encode_plan(&self.plan)
    }

    /// `ctx` knows the functions.
    pub fn decode(bytes: &[u8], ctx: &TaskContext) -> Result<Self> {
        let plan = decode_unresolved(bytes, ctx)?;
        Ok(Self { plan })
    }

    /// The plan with constants, over what `resolve` makes of the scan of `region`. Everything in it is new, so that it
    /// can be run beside others of this plan.
    pub fn bind(
        &self,
        region: RegionId,
        values: &[ScalarValue],
        resolve: &dyn ResolveScan,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        bind_node(
            &self.plan,
            &|scan| {
                let filters = scan.filters.iter().cloned();
                let filters = filters.map(|filter| bind_expr(filter, values));
                resolve.resolve(RegionScanSpec {
                    region_id: region,
                    filters: filters.collect::<Result<_>>()?,
                    ..scan.clone()
                })
            },
            values,
        )
    }
}

fn bind_node(
    node: &Arc<dyn ExecutionPlan>,
    resolve: &impl Fn(&RegionScanSpec) -> Result<Arc<dyn ExecutionPlan>>,
    values: &[ScalarValue],
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(scan) = node.downcast_ref::<RegionScan>() {
        return resolve(scan.spec());
    }
    let children = node.children();
    let [child] = children.as_slice() else {
        return internal_err!("{} has {} inputs beside a region", node.name(), children.len());
    };
    let child = bind_node(child, resolve, values)?;
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let predicate = bind_predicate(filter.predicate(), values, &child.schema())?;
        let filter = FilterExecBuilder::from(filter).with_input(child);
        return Ok(Arc::new(filter.with_predicate(predicate).build()?));
    }
    // What operators count, and what a sort for the first rows has found, they share with their copies until reset.
    let keep = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    Arc::clone(node)
        .reset_state()?
        .replace_children(vec![child], keep)
}

/// Constants on their way to a region.
pub fn encode_values(values: &[ScalarValue]) -> Result<Vec<Bytes>> {
    let encode = |value: &ScalarValue| {
        let value =
            protobuf::ScalarValue::try_from(value).map_err(|e| DataFusionError::External(e.into()))?;
        Ok(value.encode_to_vec().into())
    };
    values.iter().map(encode).collect()
}

pub fn decode_values(values: &[Bytes]) -> Result<Vec<ScalarValue>> {
    let decode = |value: &Bytes| {
        let value =
            protobuf::ScalarValue::decode(value.as_ref()).map_err(|e| DataFusionError::External(e.into()))?;
        ScalarValue::try_from(&value).map_err(|e| DataFusionError::External(e.into()))
    };
    values.iter().map(decode).collect()
}

#[cfg(test)]
mod tests;
