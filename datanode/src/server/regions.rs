//! The regions on this node, as the log loop and requests find them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use greptime_clock::SharedClock;
use greptime_log::{Applied, Apply, CommittedEntry, GroupStatus, Membership};
use greptime_proto::v1::RegionReport;
use greptime_types::{Error, RegionId, RequestId, Result};
use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc};

use crate::region::Region;

pub struct Regions {
    map: RwLock<BTreeMap<RegionId, Arc<Region>>>,
    clock: SharedClock,
    /// Gets regions whose manifest must be loaded.
    wanting: mpsc::UnboundedSender<Arc<Region>>,
    /// Told when a region has come to lead, or does not lead any more.
    news: Arc<Notify>,
}

impl Regions {
    /// The receiver gets each region whose manifest is to be loaded; once, until [`Region::end_loading`].
    pub fn new(clock: SharedClock) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Region>>) {
        let (wanting, wanted) = mpsc::unbounded_channel();
        let regions = Self {
            map: RwLock::default(),
            clock,
            wanting,
            news: Arc::default(),
        };
        (Arc::new(regions), wanted)
    }

    pub fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    fn look_at_manifest(&self, region: &Arc<Region>) {
        if region.with_state(|s| s.wants_manifest()) && region.begin_loading() {
            // At the end of the node nobody loads any more.
            let _ = self.wanting.send(Arc::clone(region));
        }
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
        let region = self.get(region)?;
        let applied = region.apply(entry, self.clock.now());
        if entry.data.is_empty() {
            // With the first entry of its term a leader begins to serve.
            if let Ok(term) = region.with_state(|s| s.leading_epoch()) {
                tracing::debug!(region = %region.id(), term, "a region is served in a new term");
            }
            self.look_at_manifest(&region);
            self.news.notify_one();
        }
        applied
    }

    fn refused(&self, region: RegionId, request: RequestId) {
        if let Some(region) = self.find(region) {
            region.refused(request);
        }
    }

    fn status(&self, region: RegionId, status: GroupStatus) {
        if let Some(region) = self.find(region) {
            let before = region.with_state(|s| s.status());
            region.set_status(status);
            if before.leads != status.leads {
                let (leads, term) = (status.leads, status.term);
                tracing::info!(region = %region.id(), leads, term, "leadership of a region has changed");
            }
            if (before.leads, before.term, before.is_hot) != (status.leads, status.term, status.is_hot) {
                self.look_at_manifest(&region);
                self.news.notify_one();
            }
        }
    }

    fn members(&self, region: RegionId, members: Membership) {
        if let Some(region) = self.find(region) {
            region.set_members(members);
        }
    }

    fn restored(&self, region: RegionId, checkpoint: Bytes) {
        if let Some(region) = self.find(region) {
            region.restore(&checkpoint);
        }
    }

    fn trimmed(&self, region: RegionId, checkpoint: Bytes) {
        if let Some(region) = self.find(region) {
            region.trimmed(&checkpoint);
            self.look_at_manifest(&region);
        }
    }
}
