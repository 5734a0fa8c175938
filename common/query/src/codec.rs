//! A subtree over one region as bytes: DataFusion's protobuf for its operators, ours for the leaf.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{not_impl_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{Serializeable, physical_plan_from_bytes_with_extension_codec};
use datafusion_proto::physical_plan::{
    AsExecutionPlan, PhysicalExtensionCodec, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use greptime_types::{RegionId, TableSchema, format};
use prost::Message;

use crate::error::into_datafusion;
use crate::scan::{RegionScan, RegionScanSpec, ResolveScan};

/// What travels: the format of our own part, and DataFusion's bytes.
#[derive(Clone, PartialEq, Message)]
struct PlanEnvelope {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(bytes = "bytes", tag = "2")]
    plan: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ScanNode {
    #[prost(uint64, tag = "1")]
    region_id: u64,
    /// `greptime_types::TableSchema`.
    #[prost(string, tag = "2")]
    schema_json: String,
    #[prost(bool, tag = "3")]
    append_mode: bool,
    /// Whether `projection` is given; an empty one is not the same as none.
    #[prost(bool, tag = "4")]
    projected: bool,
    #[prost(uint32, repeated, tag = "5")]
    projection: Vec<u32>,
    /// `datafusion_expr::Expr` each.
    #[prost(bytes = "vec", repeated, tag = "6")]
    filters: Vec<Vec<u8>>,
    #[prost(uint64, optional, tag = "7")]
    limit: Option<u64>,
}

impl ScanNode {
    fn encode_spec(spec: &RegionScanSpec) -> Result<Self> {
        let filters = spec
            .filters
            .iter()
            .map(|f| f.to_bytes().map(|b| b.to_vec()))
            .collect::<Result<_>>()?;
        Ok(Self {
            region_id: spec.region_id.as_u64(),
            schema_json: serde_json::to_string(spec.schema.as_ref())
                .map_err(|e| DataFusionError::External(e.into()))?,
            append_mode: spec.append_mode,
            projected: spec.projection.is_some(),
            projection: spec.projection.iter().flatten().map(|i| *i as u32).collect(),
            filters,
            limit: spec.limit.map(|l| l as u64),
        })
    }

    fn decode_spec(self, ctx: &TaskContext) -> Result<RegionScanSpec> {
        let schema: TableSchema =
            serde_json::from_str(&self.schema_json).map_err(|e| DataFusionError::External(e.into()))?;
        let filters = self
            .filters
            .iter()
            .map(|f| Expr::from_bytes_with_ctx(f, ctx))
            .collect::<Result<_>>()?;
        Ok(RegionScanSpec {
            region_id: RegionId::from_u64(self.region_id),
            schema: Arc::new(schema),
            append_mode: self.append_mode,
            projection: self
                .projected
                .then(|| self.projection.iter().map(|i| *i as usize).collect()),
            filters,
            limit: self.limit.map(|l| l as usize),
        })
    }
}

/// Encodes and decodes the leaf; without `resolve` it stays as it is.
#[derive(Debug)]
struct RegionCodec {
    resolve: Option<Arc<dyn ResolveScan>>,
}

impl PhysicalExtensionCodec for RegionCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        _: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = ScanNode::decode(buf).map_err(|e| DataFusionError::External(e.into()))?;
        let spec = node.decode_spec(ctx)?;
        match &self.resolve {
            Some(resolve) => resolve.resolve(spec),
            None => Ok(Arc::new(RegionScan::try_new(spec)?)),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match node.downcast_ref::<RegionScan>() {
            Some(scan) => ScanNode::encode_spec(scan.spec())?
                .encode(buf)
                .map_err(|e| DataFusionError::External(e.into())),
            None => not_impl_err!("{} cannot run beside a region", node.name()),
        }
    }
}

/// A subtree as bytes. An error means that it cannot travel as a whole (an operator or function that has no
/// encoding, expressions that nest too deep), and the caller sends a smaller one.
pub fn encode_plan(plan: &Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    let codec = RegionCodec { resolve: None };
    let node = PhysicalPlanNode::try_from_physical_plan(Arc::clone(plan), &codec)?;
    let bytes = Bytes::from(node.encode_to_vec());
    // The decoder bounds recursion, the encoder does not; better a smaller plan here than a failed one there.
    PhysicalPlanNode::decode(bytes.as_ref()).map_err(|e| DataFusionError::External(e.into()))?;
    let envelope = PlanEnvelope {
        format: format::FORMAT_VERSION,
        plan: bytes,
    };
    Ok(envelope.encode_to_vec().into())
}

/// The subtree again, over what `resolve` makes of its leaf. `ctx` knows the functions.
pub fn decode_plan(
    bytes: &[u8],
    ctx: &TaskContext,
    resolve: Arc<dyn ResolveScan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let resolve = Some(resolve);
    decode_with(&RegionCodec { resolve }, bytes, ctx)
}

/// The subtree again, over its leaf.
pub(crate) fn decode_unresolved(bytes: &[u8], ctx: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    decode_with(&RegionCodec { resolve: None }, bytes, ctx)
}

fn decode_with(codec: &RegionCodec, bytes: &[u8], ctx: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    let envelope = PlanEnvelope::decode(bytes).map_err(|e| DataFusionError::External(e.into()))?;
    if envelope.format == 0 {
        return plan_err!("these bytes are not a region plan");
    }
    format::check("the query plan", envelope.format).map_err(into_datafusion)?;
    physical_plan_from_bytes_with_extension_codec(&envelope.plan, ctx, codec)
}

#[cfg(test)]
mod tests;
