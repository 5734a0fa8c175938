//! Prepared plans, kept as they were decoded.

use bytes::Bytes;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use foyer::{Cache, CacheBuilder};
use greptime_query::PreparedPlan;

/// Plans that are kept: the forms of all queries of some frontends.
const PLANS: usize = 1024;

/// Bounded by the number of plans.
pub struct PreparedPlans {
    plans: Cache<Bytes, PreparedPlan>,
}

impl Default for PreparedPlans {
    fn default() -> Self {
        let plans = CacheBuilder::new(PLANS).with_name("prepared plans").build();
        Self { plans }
    }
}

impl PreparedPlans {
    pub fn get(&self, bytes: &Bytes, ctx: &TaskContext) -> Result<PreparedPlan> {
        if let Some(kept) = self.plans.get(bytes) {
            return Ok(kept.value().clone());
        }
        let plan = PreparedPlan::decode(bytes, ctx)?;
        // A copy, since the bytes that came may be a part of something large.
        self.plans.insert(Bytes::copy_from_slice(bytes), plan.clone());
        Ok(plan)
    }
}
