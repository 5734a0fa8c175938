//! The regions on this node, as the log loop and requests find them.

use std::collections::BTreeMap;
use std::sync::Arc;

use greptime_clock::SharedClock;
use greptime_proto::v1::RegionReport;
use greptime_types::{Error, RegionId, RequestId, Result};
use parking_lot::RwLock;

use crate::log::{Applied, Apply, CommittedEntry, GroupStatus};
use crate::region::Region;

pub struct Regions {
    map: RwLock<BTreeMap<RegionId, Arc<Region>>>,
    clock: SharedClock,
}

impl Regions {
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            map: RwLock::default(),
            clock,
        })
    }

    /// The region, or that this node does not have it, which a request with a stale route retries elsewhere.
    pub fn get(&self, id: RegionId) -> Result<Arc<Region>> {
        self.find(id)
            .ok_or_else(|| Error::unavailable(format!("region {id} is not on this node")))
    }

    pub fn find(&self, id: RegionId) -> Option<Arc<Region>> {
        self.map.read().get(&id).cloned()
    }

    pub fn insert(&self, region: Arc<Region>) {
        self.map.write().insert(region.id(), region);
    }

    pub fn remove(&self, id: RegionId) -> Option<Arc<Region>> {
        self.map.write().remove(&id)
    }

    pub fn all(&self) -> Vec<Arc<Region>> {
        self.map.read().values().cloned().collect()
    }

    pub fn reports(&self) -> Vec<RegionReport> {
        self.all()
            .iter()
            .map(|region| region.with_state(|s| s.report()))
            .collect()
    }
}

impl Apply for Regions {
    fn apply(&self, region: RegionId, entry: &CommittedEntry) -> Result<Applied> {
        self.get(region)?.apply(entry, self.clock.now())
    }

    fn refused(&self, region: RegionId, request: RequestId) {
        if let Some(region) = self.find(region) {
            region.refused(request);
        }
    }

    fn status(&self, region: RegionId, status: GroupStatus) {
        if let Some(region) = self.find(region) {
            region.set_status(status);
        }
    }
}
