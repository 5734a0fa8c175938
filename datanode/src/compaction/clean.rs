//! Deleting files: those that an edit removed, and those that no edit ever named.
//!
//! Only by the current leader, and only once an edit of its own epoch is known: then no writer of an older epoch can
//! add an edit any more, so what the view does not name, and was named by an older epoch, never will be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use greptime_object_store::{Bucket, store_error};
use greptime_types::{RegionId, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::job::{Change, Compactor};
use crate::defences::Defence;
use crate::manifest::{RegionPath, View};
use crate::region::{Region, leading_view};
use crate::sst::key_of;

/// Files that are deleted in one round.
pub const MAX_DELETES: usize = 1000;

/// What is known of files that are to be deleted.
#[derive(Debug, Default)]
pub struct Cleaning {
    /// When this process first knew that a file was removed, by the monotonic clock. A restart counts anew, so no
    /// wall clock can shorten the time that readers have.
    seen: BTreeMap<String, Duration>,
    /// Deleted from the bucket; the next edit says so.
    gone: BTreeSet<String>,
    /// Own uploads that no edit will ever name.
    abandoned: BTreeSet<String>,
    /// When the prefix is listed next.
    next_listing: Option<Duration>,
}

impl Cleaning {
    /// For the next edit of `view`.
    pub(super) fn deleted(&self, view: &View) -> Vec<String> {
        let known = self.gone.iter().filter(|name| view.removed.contains_key(*name));
        known.cloned().collect()
    }

    pub(super) fn adopted(&mut self, view: &View) {
        self.gone.retain(|name| view.removed.contains_key(name));
        self.seen.retain(|name, _| view.removed.contains_key(name));
    }

    /// Removed files of `home` whose grace period is over.
    fn due(&mut self, view: &View, home: RegionId, now: Duration, grace: Duration) -> Vec<String> {
        let mut due = Vec::new();
        for (name, region) in &view.removed {
            let since = *self.seen.entry(name.clone()).or_insert(now);
            let over = now.saturating_sub(since) >= grace || !Defence::RemovedFilesHaveGrace.holds();
            // A file of another region is that region's to delete.
            if over && *region == home && !self.gone.contains(name) {
                due.push(name.clone());
            }
        }
        due.truncate(MAX_DELETES);
        due
    }
}

/// An object below a region's prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Without directory and extension.
    pub name: String,
    pub modified_ms: i64,
}

/// Files among the listed that nothing names and nothing can come to name: of a lower epoch than `epoch`, in a view
/// that has an edit of `epoch`, and older than `grace_ms`. A listing may lag: what it lacks is found another time,
/// and what is gone already is deleted once more.
pub fn orphans(listed: &[Listed], view: &View, epoch: u64, now_ms: i64, grace_ms: i64) -> Vec<String> {
    if view.epoch != epoch && Defence::ClaimBeforeDeleting.holds() {
        return Vec::new();
    }
    let is_orphan = |file: &&Listed| {
        let made_in = file.name.split_once('-').and_then(|(e, _)| e.parse::<u64>().ok());
        let is_named = view.files.contains_key(&file.name) || view.removed.contains_key(&file.name);
        let is_old = now_ms.saturating_sub(file.modified_ms) >= grace_ms;
        made_in.is_some_and(|e| e < epoch || !Defence::OrphansAreOfLowerEpochs.holds())
            && (!is_named || !Defence::OrphansAreNotNamed.holds())
            && (is_old || !Defence::OrphansAreOld.holds())
    };
    let names = listed.iter().filter(is_orphan).map(|f| f.name.clone());
    names.take(MAX_DELETES).collect()
}

/// How long files are kept.
#[derive(Clone, Copy, Debug)]
pub struct CleanPolicy {
    /// Between the removal of a file and its deletion: for readers that have an older view.
    pub grace: Duration,
    /// Between listings of a region's prefix.
    pub listing: Duration,
}

impl Compactor {
    /// Deletes what is due; returns how many files.
    pub async fn clean(&self, region: &Arc<Region>, policy: CleanPolicy) -> Result<usize> {
        let (epoch, view) = leading_view(region)?;
        let now = match Defence::GraceIgnoresTheWallClock.holds() {
            true => self.clock.now(),
            false => Duration::from_millis(self.clock.wall_ms().unsigned_abs()),
        };
        let abandoned: Vec<String> = region.cleaning.lock().abandoned.iter().cloned().collect();
        let mut count = self.delete(region, &abandoned).await;
        let due = region.cleaning.lock().due(&view, region.id(), now, policy.grace);
        if !due.is_empty() && self.claim(region, epoch).await? {
            let deleted = self.delete(region, &due).await;
            self.metrics.files_deleted.inc_by(deleted as u64);
            count += deleted;
        }
        if self.is_listing_due(region, now, policy) {
            count += self.collect(region, epoch, policy).await?;
        }
        Ok(count)
    }

    fn is_listing_due(&self, region: &Region, now: Duration, policy: CleanPolicy) -> bool {
        let mut cleaning = region.cleaning.lock();
        let next = *cleaning.next_listing.get_or_insert(now + policy.grace);
        let due = now >= next;
        if due {
            cleaning.next_listing = Some(now + policy.listing);
        }
        due
    }

    /// Lists the region's files and deletes the orphans among them.
    pub async fn collect(&self, region: &Arc<Region>, epoch: u64, policy: CleanPolicy) -> Result<usize> {
        let listed = list(&self.flusher.bucket, region.id()).await?;
        let foreign = |f: &Listed| {
            let (_, view) = leading_view(region).ok()?;
            Some(!view.files.contains_key(&f.name) && !view.removed.contains_key(&f.name))
        };
        if !listed.iter().any(|f| foreign(f) == Some(true)) || !self.claim(region, epoch).await? {
            return Ok(0);
        }
        let found = {
            // No flush is between its upload and its edit while this is held.
            let _one_at_a_time = region.files.lock().await;
            let (current, view) = leading_view(region)?;
            if current != epoch {
                return Ok(0);
            }
            let grace_ms = i64::try_from(policy.grace.as_millis()).unwrap_or(i64::MAX);
            orphans(&listed, &view, epoch, self.clock.wall_ms(), grace_ms)
        };
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
        if view.epoch == epoch || !Defence::ClaimBeforeDeleting.holds() {
            return Ok(true);
        }
        self.commit(region, epoch, &Change::default(), |_| true).await
    }

    /// Deletes files of the region; returns how many are gone. The others are tried again.
    async fn delete(&self, region: &Region, names: &[String]) -> usize {
        let mut gone = 0;
        for name in names {
            if delete_file(&self.flusher.bucket, region.id(), name).await {
                let mut cleaning = region.cleaning.lock();
                cleaning.abandoned.remove(name);
                cleaning.gone.insert(name.clone());
                gone += 1;
            }
        }
        gone
    }
}

/// Deletes own uploads that no edit names or will name; what cannot be deleted now is tried again.
pub(crate) async fn discard(bucket: &Bucket, region: &Region, names: Vec<String>) {
    for name in names {
        if Defence::VoidUploadsAreDeleted.holds() && !delete_file(bucket, region.id(), &name).await {
            region.cleaning.lock().abandoned.insert(name);
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
