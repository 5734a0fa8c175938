//! Leases for reads, as metasrv promises them in the answers to beats.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use greptime_proto::v1::{RegionReport, RegionRole, Tock};
use greptime_rules::Grant;
use greptime_types::RegionId;
use parking_lot::Mutex;

use super::Datanode;

/// Beats whose answers may come. Older ones promise nothing any more.
const OPEN_BEATS: usize = 16;

/// Who has heard no answer to its beats for so long, or whose append has waited for so long, is about to be replaced. Less
/// than what metasrv takes for a sign of it (`deaf_after`, `slow_append`), so that there is no lease to be waited for then.
const CANNOT_LEAD_AFTER: Duration = Duration::from_millis(150);

/// Beats of one session, by number.
#[derive(Debug, Default)]
pub(super) struct SentBeats(Mutex<BTreeMap<u64, Sent>>);

#[derive(Debug)]
struct Sent {
    /// By the clock of this process, and not after it was sent.
    at: Duration,
    /// What it said that this node leads, with terms.
    led: Vec<(RegionId, u64)>,
}

impl SentBeats {
    /// A new session counts from 1 again.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Before a beat is sent. `reports`: the very ones that metasrv has, for it names the regions for which it does *not*
    /// promise anything.
    pub(super) fn begin(&self, number: u64, at: Duration, reports: &[RegionReport]) {
        let leads = reports.iter().filter(|r| r.role() == RegionRole::Leader);
        let led = leads
            .map(|r| (RegionId::from_u64(r.region_id), r.epoch))
            .collect();
        let mut beats = self.0.lock();
        beats.insert(number, Sent { at, led });
        while beats.len() > OPEN_BEATS {
            beats.pop_first();
        }
    }

    /// How long ago the first beat was sent that has not been answered, nor any after it.
    fn unanswered(&self, now: Duration) -> Duration {
        let beats = self.0.lock();
        let first = beats.first_key_value();
        first.map_or(Duration::ZERO, |(_, sent)| now.saturating_sub(sent.at))
    }

    /// The answer to a beat; what was sent before it promises nothing more.
    fn answered(&self, number: u64) -> Option<Sent> {
        let mut beats = self.0.lock();
        let sent = beats.remove(&number);
        *beats = beats.split_off(&number);
        sent
    }
}

impl Datanode {
    /// metasrv has answered a beat.
    pub(super) fn take_leases(&self, tock: &Tock) {
        let Some(sent) = self.beats.answered(tock.number) else {
            return;
        };
        if tock.lease_ms == 0 || self.is_stopping() {
            return;
        }
        let received = self.clock.now();
        let without: HashSet<u64> = tock.without_lease.iter().copied().collect();
        for (id, term) in sent.led {
            let Some(region) = self.regions.find(id) else {
                continue;
            };
            if !without.contains(&id.as_u64()) {
                region.lease(Grant {
                    term,
                    sent: sent.at,
                    received,
                    length: Duration::from_millis(tock.lease_ms),
                });
            }
        }
    }

    /// Before a beat of `now` is sent: the regions that it says this node leads and of which it gives up every lease,
    /// because it sees that it cannot lead. Others are to take over at once.
    pub(super) fn renounce(
        &self,
        now: Duration,
        oldest_append: Duration,
        reports: &[RegionReport],
    ) -> Vec<u64> {
        let is_deaf = self.beats.unanswered(now) >= CANNOT_LEAD_AFTER;
        let hangs = oldest_append >= CANNOT_LEAD_AFTER;
        if !is_deaf && !hangs && !self.peers.is_cut_off() {
            return Vec::new();
        }
        let led = reports.iter().filter(|r| r.role() == RegionRole::Leader);
        let given_up = led.filter_map(|r| self.regions.find(RegionId::from_u64(r.region_id)));
        given_up
            .map(|region| {
                region.renounce_lease(now);
                region.id().as_u64()
            })
            .collect()
    }

    /// No read of these regions is answered without asking a majority any more, in the terms that they are in.
    pub(super) fn give_up_all_leases(&self) {
        for region in self.regions.all() {
            region.give_up_lease();
        }
    }
}
