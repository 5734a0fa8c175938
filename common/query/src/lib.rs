//! The part of a query plan that runs beside a region: its leaf, and how it crosses the wire.
//!
//! The frontend plans a query as if it held the tables itself. What can run beside a region is a subtree of
//! physical operators over one [`RegionScan`]; [`encode_plan`] turns it into the `plan` of a `QueryRequest`, and
//! [`decode_plan`] gives it back at the datanode with the leaf replaced by whatever [`ResolveScan`] makes of it.
//! Plans of both run in the memory of a [`QueryPool`].

mod codec;
mod error;
mod json;
mod memory;
mod prepared;
mod report;
mod scan;
#[cfg(test)]
mod testing;
mod turns;

pub use codec::{decode_plan, encode_plan};
pub use error::{from_datafusion, into_datafusion};
pub use json::json_functions;
pub use memory::{QueryPool, SpillLimit, sort_reserve};
pub use prepared::{PreparedPlan, bind_expr, decode_values, encode_values, has_parameters, parameter};
pub use report::{Measure, MeasureKind, OperatorReport, RegionReport, RegionRows, ReportSlot, operators_of};
pub use scan::{RegionScan, RegionScanSpec, ResolveScan, in_region};
pub use turns::{in_short_turns, shorten_turn};

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

/// What plans call that DataFusion does not have; to be known where they are decoded.
pub fn plan_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = json_functions();
    functions.push(prepared::parameter_function());
    functions
}
