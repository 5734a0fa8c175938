//! Dropping a region: its group at once, its objects as soon as the bucket lets us.
//!
//! A marker file remembers the drop across restarts; it is written before anything is removed, and goes last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use greptime_object_store::store_error;
use greptime_types::{Error, RegionId, Result};
use object_store::ObjectStore;

use super::Datanode;
use super::identity::{remove_durably, write_durably};
use crate::defences::Defence;
use crate::manifest::RegionPath;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

impl Datanode {
    /// The region goes on elsewhere: only what is on this node is forgotten.
    pub async fn drop_replica(self: &Arc<Self>, id: RegionId) -> Result<()> {
        if let Some(region) = self.regions.remove(id) {
            region.close("its replica on this node was dropped");
        }
        self.log.drop_region(id).await?;
        tracing::info!(region = %id, "replica dropped");
        Ok(())
    }

    /// Stops the region's group and forgets its log; its objects are deleted in the background.
    pub async fn drop_region(self: &Arc<Self>, id: RegionId) -> Result<()> {
        if self.is_being_dropped(id) && self.regions.find(id).is_none() {
            return Ok(());
        }
        let marker = self.drop_marker(id);
        if let Some(dir) = marker.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::internal(format!("{}: {e}", dir.display())))?;
        }
        if Defence::DropIsRemembered.holds() {
            write_durably(&marker, b"")?;
        }
        self.finish_drop(id).await
    }

    /// Continues after the marker is there.
    async fn finish_drop(self: &Arc<Self>, id: RegionId) -> Result<()> {
        let region = self.regions.remove(id);
        if let Some(region) = &region {
            region.close("it was dropped");
        }
        self.log.drop_region(id).await?;
        tracing::info!(region = %id, "region dropped; deleting its objects");
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            // A flush or compaction that is under way ends first: it would put files where nobody looks any more.
            if let Some(region) = region.filter(|_| Defence::DropWaitsForUploads.holds()) {
                drop(region.compaction.lock().await);
                drop(region.files.lock().await);
            }
            node.delete_objects(id).await;
        });
        Ok(())
    }

    /// Drops that a restart interrupted.
    pub(super) async fn resume_drops(self: &Arc<Self>) -> Result<()> {
        let Ok(markers) = std::fs::read_dir(self.data_dir.path("dropping")) else {
            return Ok(());
        };
        let names = markers.filter_map(|m| m.ok()?.file_name().into_string().ok());
        for id in names
            .filter_map(|name| name.parse::<u64>().ok())
            .map(RegionId::from_u64)
        {
            self.finish_drop(id).await?;
        }
        Ok(())
    }

    pub(super) fn is_being_dropped(&self, id: RegionId) -> bool {
        self.drop_marker(id).exists()
    }

    fn drop_marker(&self, id: RegionId) -> PathBuf {
        self.data_dir.path("dropping").join(id.as_u64().to_string())
    }

    async fn delete_objects(&self, id: RegionId) {
        let mut retry = FIRST_RETRY;
        loop {
            let deleted = self.delete_prefix(id).await;
            match deleted.and_then(|()| remove_durably(&self.drop_marker(id))) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(region = %id, %error, "objects of a dropped region remain; trying again");
                }
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn delete_prefix(&self, id: RegionId) -> Result<()> {
        let RegionPath(prefix) = RegionPath::of(id);
        let (store, prefix) = (&self.flusher.bucket.store, self.flusher.bucket.key(&prefix));
        let failed = |e: object_store::Error| store_error(&format!("deleting {prefix}"), &e);
        let listed = store.list(Some(&prefix)).map_ok(|meta| meta.location).boxed();
        store
            .delete_stream(listed)
            .try_for_each(|_| futures::future::ready(Ok(())))
            .await
            .map_err(failed)
    }
}
