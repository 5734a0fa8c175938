//! Which files may be deleted: those that an edit removed, and those that no edit ever named.
//!
//! Only by the current leader, and only once an edit of its own epoch is known: then no writer of an older epoch can
//! add an edit any more, so what the view does not name, and was named by an older epoch, never will be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_types::RegionId;

use crate::defences::Defence;
use crate::view::View;

/// Files that are deleted in one round.
pub const MAX_DELETES: usize = 1000;

/// How long files are kept.
#[derive(Clone, Copy, Debug)]
pub struct CleanPolicy {
    /// Between the removal of a file and its deletion: for readers that have an older view.
    pub grace: Duration,
    /// Between listings of a region's prefix.
    pub listing: Duration,
}

/// What is known of files that are to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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
    pub fn deleted(&self, view: &View) -> Vec<String> {
        let known = self.gone.iter().filter(|name| view.removed.contains_key(*name));
        known.cloned().collect()
    }

    pub fn adopted(&mut self, view: &View) {
        self.gone.retain(|name| view.removed.contains_key(name));
        self.seen.retain(|name, _| view.removed.contains_key(name));
    }

    /// An own upload that no edit will name could not be deleted.
    pub fn abandon(&mut self, name: String) {
        self.abandoned.insert(name);
    }

    pub fn abandoned(&self) -> Vec<String> {
        self.abandoned.iter().cloned().collect()
    }

    /// A file has gone from the bucket.
    pub fn gone(&mut self, name: &str) {
        self.abandoned.remove(name);
        self.gone.insert(name.to_owned());
    }

    /// Removed files of `home` whose grace period is over.
    pub fn due(&mut self, view: &View, home: RegionId, now: Duration, grace: Duration) -> Vec<String> {
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

    /// Whether the prefix is to be listed now; if so, the next time is set.
    pub fn is_listing_due(&mut self, now: Duration, policy: CleanPolicy) -> bool {
        let next = *self.next_listing.get_or_insert(now + policy.grace);
        let due = now >= next;
        if due {
            self.next_listing = Some(now + policy.listing);
        }
        due
    }
}

/// Whether a leader may delete: it knows an edit of its own epoch. If it does not, it puts one first.
pub fn may_delete(view: &View, epoch: u64) -> bool {
    view.epoch == epoch || !Defence::ClaimBeforeDeleting.holds()
}

/// An object below a region's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listed {
    /// Without directory and extension.
    pub name: String,
    pub modified_ms: i64,
}

/// Whether the view says nothing of a file.
pub fn is_foreign(view: &View, name: &str) -> bool {
    !view.files.contains_key(name) && !view.removed.contains_key(name)
}

/// Files among the listed that nothing names and nothing can come to name: of a lower epoch than `epoch`, in a view
/// that has an edit of `epoch`, and older than `grace_ms`. A listing may lag: what it lacks is found another time,
/// and what is gone already is deleted once more.
pub fn orphans(listed: &[Listed], view: &View, epoch: u64, now_ms: i64, grace_ms: i64) -> Vec<String> {
    if !may_delete(view, epoch) {
        return Vec::new();
    }
    let is_orphan = |file: &&Listed| {
        let made_in = file.name.split_once('-').and_then(|(e, _)| e.parse::<u64>().ok());
        let is_old = now_ms.saturating_sub(file.modified_ms) >= grace_ms;
        made_in.is_some_and(|e| e < epoch || !Defence::OrphansAreOfLowerEpochs.holds())
            && (is_foreign(view, &file.name) || !Defence::OrphansAreNotNamed.holds())
            && (is_old || !Defence::OrphansAreOld.holds())
    };
    let names = listed.iter().filter(is_orphan).map(|f| f.name.clone());
    names.take(MAX_DELETES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn young_files_are_no_orphans() {
        let view = View {
            epoch: 2,
            ..View::default()
        };
        let listed = Listed {
            name: "1-one".into(),
            modified_ms: 10,
        };
        assert_eq!(orphans(std::slice::from_ref(&listed), &view, 2, 20, 11), [""; 0]);
        assert_eq!(orphans(&[listed], &view, 2, 20, 10), ["1-one"]);
    }
}
