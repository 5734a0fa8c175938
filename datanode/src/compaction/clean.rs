//! Deleting files: those that an edit removed, and those that no edit ever named. Which, is for [`greptime_rules`] to
//! say.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use greptime_object_store::{Bucket, store_error};
pub use greptime_rules::{CleanPolicy, Cleaning, Listed, orphans};
use greptime_rules::{Uploads, is_foreign, may_delete};
use greptime_types::{RegionId, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::job::{Change, Compactor};
use crate::defences::Defence;
use crate::manifest::RegionPath;
use crate::region::{Region, leading_view};
use crate::sst::key_of;

impl Compactor {
    /// Deletes what is due; returns how many files.
    pub async fn clean(&self, region: &Arc<Region>, policy: CleanPolicy) -> Result<usize> {
        let (epoch, view) = leading_view(region)?;
        let now = match Defence::GraceIgnoresTheWallClock.holds() {
            true => self.clock.now(),
            false => Duration::from_millis(self.clock.wall_ms().unsigned_abs()),
        };
        let abandoned = region.cleaning.lock().abandoned();
        let mut count = self.delete(region, &abandoned).await;
        let due = region.cleaning.lock().due(&view, region.id(), now, policy.grace);
        if !due.is_empty() && self.claim(region, epoch).await? {
            let deleted = self.delete(region, &due).await;
            self.metrics.files_deleted.inc_by(deleted as u64);
            count += deleted;
        }
        let is_listing_due = region.cleaning.lock().is_listing_due(now, policy);
        if is_listing_due {
            count += self.collect(region, epoch, policy).await?;
        }
        Ok(count)
    }

    /// Lists the region's files and deletes the orphans among them.
    pub async fn collect(&self, region: &Arc<Region>, epoch: u64, policy: CleanPolicy) -> Result<usize> {
        let listed = list(&self.flusher.bucket, region.id()).await?;
        let Ok((_, view)) = leading_view(region) else {
            return Ok(0);
        };
        if !listed.iter().any(|f| is_foreign(&view, &f.name)) || !self.claim(region, epoch).await? {
            return Ok(0);
        }
        // It has an edit of this epoch, so none of a lower one can follow and name a file that it does not.
        let (current, view) = leading_view(region)?;
        if current != epoch {
            return Ok(0);
        }
        let grace_ms = i64::try_from(policy.grace.as_millis()).unwrap_or(i64::MAX);
        let found = orphans(&listed, &view, epoch, self.clock.wall_ms(), grace_ms);
        if !found.is_empty() {
            tracing::info!(region = %region.id(), files = found.len(), "deleting files that no edit names");
        }
        let deleted = self.delete(region, &found).await;
        self.metrics.orphans_deleted.inc_by(deleted as u64);
        Ok(deleted)
    }

    /// Makes sure that an edit of `epoch` is known.
    async fn claim(&self, region: &Arc<Region>, epoch: u64) -> Result<bool> {
        let (current, view) = leading_view(region)?;
        if current != epoch {
            return Ok(false);
        }
        if may_delete(&view, epoch) {
            return Ok(true);
        }
        self.commit(region, epoch, &Change::default(), |_| true).await
    }

    /// Deletes files of the region; returns how many are gone. The others are tried again.
    async fn delete(&self, region: &Region, names: &[String]) -> usize {
        let mut gone = 0;
        for name in names {
            if delete_file(&self.flusher.bucket, region.id(), name).await {
                region.cleaning.lock().gone(name);
                gone += 1;
            }
        }
        gone
    }
}

/// Deletes own uploads that no edit names, if none will; what cannot be deleted now is tried again.
pub(crate) async fn discard(bucket: &Bucket, region: &Region, names: Vec<String>, uploads: Uploads) {
    if !uploads.are_deleted() {
        return;
    }
    for name in names {
        if !delete_file(bucket, region.id(), &name).await {
            region.cleaning.lock().abandon(name);
        }
    }
}

async fn delete_file(bucket: &Bucket, home: RegionId, name: &str) -> bool {
    let key = key_of(bucket, home, name);
    match bucket.store.delete(&key).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => true,
        Err(error) => {
            tracing::warn!(region = %home, file = %key, %error, "a file could not be deleted; trying again later");
            false
        }
    }
}

async fn list(bucket: &Bucket, region: RegionId) -> Result<Vec<Listed>> {
    let RegionPath(prefix) = RegionPath::of(region);
    let prefix = bucket.key(&format!("{prefix}/sst"));
    let objects = bucket.store.list(Some(&prefix)).map_ok(|meta| Listed {
        name: name_of(&meta.location),
        modified_ms: meta.last_modified.timestamp_millis(),
    });
    let objects: Vec<_> = objects.collect().await;
    let listed: object_store::Result<Vec<Listed>> = objects.into_iter().collect();
    listed.map_err(|e| store_error(&format!("listing {prefix}"), &e))
}

fn name_of(key: &Path) -> String {
    let file = key.filename().unwrap_or_default();
    file.strip_suffix(".parquet").unwrap_or(file).to_owned()
}
