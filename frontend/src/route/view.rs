//! What this frontend knows of the cluster, shared by everything that needs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use greptime_proto::v1::{CatalogUpdate, RouteUpdate};
use greptime_types::format::OLDEST_CLUSTER_FORMAT;
use greptime_types::{Error, RegionId, Result};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::catalog::Catalog;
use super::table::{RegionRoute, RouteTable};

pub struct View {
    catalog: watch::Sender<Arc<Catalog>>,
    routes: RwLock<RouteTable>,
    /// Counts changes of `routes`, for those who wait.
    routes_changed: watch::Sender<u64>,
    cluster_id: RwLock<String>,
    /// What may be sent, as metasrv said last.
    format: AtomicU32,
}

impl Default for View {
    fn default() -> Self {
        Self {
            catalog: watch::Sender::new(Arc::default()),
            routes: RwLock::default(),
            routes_changed: watch::Sender::new(0),
            cluster_id: RwLock::default(),
            format: AtomicU32::new(OLDEST_CLUSTER_FORMAT),
        }
    }
}

impl View {
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    pub fn update_catalog(&self, update: &CatalogUpdate) -> Result<()> {
        let next = self.catalog().after(update)?;
        self.catalog.send_replace(Arc::new(next));
        Ok(())
    }

    /// Waits until the catalog has reached `revision`.
    pub async fn await_revision(&self, revision: u64, at_most: Duration) -> Result<Arc<Catalog>> {
        let mut changes = self.catalog.subscribe();
        let reached = changes.wait_for(|catalog| catalog.revision >= revision);
        match tokio::time::timeout(at_most, reached).await {
            Ok(Ok(catalog)) => Ok(Arc::clone(&catalog)),
            _ => Err(Error::deadline(format!(
                "the change was made (catalog revision {revision}), but this frontend has not been told of it yet"
            ))),
        }
    }

    pub fn route(&self, region: RegionId) -> Option<RegionRoute> {
        self.routes.read().get(region).cloned()
    }

    pub fn update_routes(&self, update: &RouteUpdate) {
        self.routes.write().apply(update);
        self.routes_changed.send_modify(|n| *n += 1);
    }

    /// Resolves when a leader of a later epoch than `than` is known.
    pub async fn newer_route(&self, region: RegionId, than: u64) {
        let mut changes = self.routes_changed.subscribe();
        loop {
            changes.mark_unchanged();
            if self
                .route(region)
                .is_some_and(|r| r.leader.is_some() && r.epoch > than)
            {
                return;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    pub fn cluster_id(&self) -> String {
        self.cluster_id.read().clone()
    }

    pub fn format(&self) -> u32 {
        self.format.load(Ordering::SeqCst)
    }

    pub fn set_format(&self, format: u32) {
        self.format
            .store(format.max(OLDEST_CLUSTER_FORMAT), Ordering::SeqCst);
    }

    pub fn set_cluster_id(&self, id: &str) {
        *self.cluster_id.write() = id.to_string();
    }
}
