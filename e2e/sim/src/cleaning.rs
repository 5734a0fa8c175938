//! Deleting files, as `compaction::clean` of the datanode does.

use std::rc::Rc;
use std::time::Duration;

use greptime_rules::{CleanPolicy, Listed, Uploads, is_foreign, may_delete, orphans};
use greptime_types::Result;

use crate::datanode::Datanode;
use crate::files::{FileChange, leading_view};
use crate::message::{Object, Operation};
use crate::region::Region;
use crate::trace::Branch;

/// Shorter than in earnest, as everything here is.
const POLICY: CleanPolicy = CleanPolicy {
    grace: Duration::from_secs(3),
    listing: Duration::from_secs(4),
};

impl Datanode {
    pub async fn clean(self: &Rc<Self>, region: &Rc<Region>) -> Result<()> {
        let (epoch, view) = leading_view(region)?;
        let now = self.sim.clock(self.me);
        let abandoned = region.cleaning.borrow().abandoned();
        self.delete(region, &abandoned).await;
        let due = region
            .cleaning
            .borrow_mut()
            .due(&view, region.id, now, POLICY.grace);
        if !due.is_empty() && self.claim(region, epoch).await? {
            self.sim.hit(Branch::RemovedFilesAreDeleted);
            self.delete(region, &due).await;
        }
        let is_due = region.cleaning.borrow_mut().is_listing_due(now, POLICY);
        if is_due {
            self.collect(region, epoch).await?;
        }
        Ok(())
    }

    async fn collect(self: &Rc<Self>, region: &Rc<Region>, epoch: u64) -> Result<()> {
        let Ok(Object::Listed(listed)) = self.bucket.ask(region.id, Operation::List).await else {
            return Ok(());
        };
        let listed: Vec<Listed> = listed
            .into_iter()
            .map(|(name, modified_ms)| Listed { name, modified_ms })
            .collect();
        let (_, view) = leading_view(region)?;
        let is_any = listed.iter().any(|file| is_foreign(&view, &file.name));
        if !is_any || !self.claim(region, epoch).await? {
            return Ok(());
        }
        let found = {
            // No flush is between its upload and its edit while this is held.
            let _one_at_a_time = region.files.take(&self.sim).await;
            let (current, view) = leading_view(region)?;
            if current != epoch {
                return Ok(());
            }
            let grace_ms = POLICY.grace.as_millis() as i64;
            orphans(&listed, &view, epoch, self.sim.wall_ms(self.me), grace_ms)
        };
        if !found.is_empty() {
            self.sim.hit(Branch::OrphansAreDeleted);
        }
        self.delete(region, &found).await;
        Ok(())
    }

    /// Makes sure that an edit of `epoch` is known.
    async fn claim(self: &Rc<Self>, region: &Rc<Region>, epoch: u64) -> Result<bool> {
        let (current, view) = leading_view(region)?;
        if current != epoch {
            return Ok(false);
        }
        if may_delete(&view, epoch) {
            return Ok(true);
        }
        self.sim.hit(Branch::ClaimBeforeDeleting);
        self.commit_files(region, epoch, &FileChange::default(), |_| true)
            .await
    }

    async fn delete(&self, region: &Region, names: &[String]) {
        for name in names {
            if self.bucket.delete_file(region.id, name).await {
                region.cleaning.borrow_mut().gone(name);
            }
        }
    }

    /// Deletes own uploads that no adopted edit names, if it is known that none will.
    pub async fn discard(&self, region: &Region, names: Vec<String>, known: Uploads) {
        if !known.are_deleted() {
            return;
        }
        for name in names {
            if !self.bucket.delete_file(region.id, &name).await {
                region.cleaning.borrow_mut().abandon(name);
            }
        }
    }
}
