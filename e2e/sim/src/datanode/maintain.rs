//! What goes on in the background: flushes, merges, deletions, loads of manifests.

use std::rc::Rc;
use std::time::Duration;

use greptime_log::Input;
use greptime_rules::{Quiet, QuietPolicy};

use super::Datanode;
use crate::entry::Entry;
use crate::region::{Region, State};
use crate::rules::holds;
use crate::trace::Branch;

/// Four times as long as in earnest, which nobody notices, and cheaper.
const TICK: Duration = Duration::from_millis(200);
/// Sooner than in earnest, and later than the longest write and its copies are on the way.
const QUIET: QuietPolicy = QuietPolicy {
    kept: 0,
    after: Duration::from_secs(16),
};
const FLUSH_ROWS: usize = 30;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY_OF_A_LEADER: Duration = Duration::from_secs(1);

impl Datanode {
    pub(super) async fn maintain(self: Rc<Self>) {
        loop {
            let now = self.sim.clock(self.me);
            for region in self.regions() {
                if region.read(State::leading_epoch).is_err() {
                    continue;
                }
                let age = region.read(|s| s.oldest_row()).map(|at| now.saturating_sub(at));
                let is_due = age.is_some_and(|age| age >= self.machine.flush_age)
                    || region.read(|s| s.is_flushing() || s.has_truncated_files() || s.rows() >= FLUSH_ROWS)
                    || (self.is_full() && region.read(|s| s.rows() > 0));
                if is_due && region.files.is_free() {
                    self.flush_in_background(&region);
                }
                self.tidy_in_background(&region);
            }
            self.forget_the_quiet();
            self.sim.sleep(TICK).await;
        }
    }

    fn forget_the_quiet(self: &Rc<Self>) {
        for region in self.regions() {
            if region.read(State::leading_epoch).is_err() {
                *region.quiet.borrow_mut() = Quiet::default();
                continue;
            }
            let quiet = |s: &State| region.quiet.borrow_mut().look(s.requests(), TICK, &QUIET);
            let quiet = region.read(quiet);
            if quiet.is_empty() {
                continue;
            }
            self.sim.hit(Branch::TheQuietAreForgotten);
            let (id, data) = (region.id, Entry::Forget(quiet).encode());
            // Nobody waits for it: what is not committed is found quiet again.
            self.tell(vec![Input::Propose {
                region: id,
                token: 0,
                data,
            }]);
        }
    }

    fn flush_in_background(self: &Rc<Self>, region: &Rc<Region>) {
        if region.is_flushing.replace(true) {
            return;
        }
        let (node, region) = (Rc::clone(self), Rc::clone(region));
        self.sim.spawn(self.me, async move {
            if node.flush(&region).await.is_err() {
                node.sim.hit(Branch::FlushFails);
                node.sim.sleep(FIRST_RETRY).await;
            }
            region.is_flushing.set(false);
        });
    }

    fn tidy_in_background(self: &Rc<Self>, region: &Rc<Region>) {
        if region.is_compacting.replace(true) {
            return;
        }
        let (node, region) = (Rc::clone(self), Rc::clone(region));
        self.sim.spawn(self.me, async move {
            // What fails is tried again with the next look.
            let _ = node.compact(&region).await;
            let _ = node.clean(&region).await;
            node.sim.sleep(FIRST_RETRY).await;
            region.is_compacting.set(false);
        });
    }

    /// Loads the manifest if it should be known here.
    pub(super) fn look_at_manifest(self: &Rc<Self>, region: &Rc<Region>) {
        if !region.read(State::wants_manifest) {
            return;
        }
        if region.is_loading.replace(true) {
            region.asked_again.put(&self.sim, ());
            return;
        }
        let (node, region) = (Rc::clone(self), Rc::clone(region));
        self.sim.spawn(self.me, async move {
            let mut retry = FIRST_RETRY;
            loop {
                region.is_loading.set(false);
                if !region.read(State::wants_manifest) || region.is_loading.replace(true) {
                    return;
                }
                if node.load_manifest(&region).await.is_err() {
                    retry = node.wait_to_load(&region, retry).await;
                }
            }
        });
    }

    /// How long to wait the next time.
    async fn wait_to_load(&self, region: &Region, retry: Duration) -> Duration {
        let until = self.sim.after(self.me, retry);
        while region.asked_again.take(&self.sim, until).await.is_some() {
            if holds("NewLeaderLoadsAtOnce") {
                self.sim.hit(Branch::NewLeaderLoadsAtOnce);
                region.asked_again.clear();
                return FIRST_RETRY;
            }
        }
        let longest = match region.read(State::leading_epoch) {
            Ok(_) => LAST_RETRY_OF_A_LEADER,
            Err(_) => LAST_RETRY,
        };
        (retry * 2).min(longest)
    }
}
