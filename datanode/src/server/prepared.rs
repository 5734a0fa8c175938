//! Prepared plans, kept as they were decoded.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use foyer::{Cache, CacheBuilder};
use greptime_query::PreparedPlan;

/// Plans that are kept: the forms of all queries of some frontends.
const PLANS: usize = 1024;

struct Kept {
    bytes: Bytes,
    plan: PreparedPlan,
}

/// Bounded by the number of plans.
pub struct PreparedPlans {
    plans: Cache<u64, Arc<Kept>>,
}

impl Default for PreparedPlans {
    fn default() -> Self {
        let plans = CacheBuilder::new(PLANS).with_name("prepared plans").build();
        Self { plans }
    }
}

impl PreparedPlans {
    pub fn get(&self, bytes: &Bytes, ctx: &TaskContext) -> Result<PreparedPlan> {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        // Another plan may have the same hash.
        if let Some(kept) = self.plans.get(&hash).filter(|kept| kept.value().bytes == *bytes) {
            return Ok(kept.value().plan.clone());
        }
        let plan = PreparedPlan::decode(bytes, ctx)?;
        let kept = Kept {
            // A copy, since the bytes that came may be a part of something large.
            bytes: Bytes::copy_from_slice(bytes),
            plan: plan.clone(),
        };
        self.plans.insert(hash, Arc::new(kept));
        Ok(plan)
    }
}
