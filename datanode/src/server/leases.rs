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

    /// No read of these regions is answered without asking a majority any more, in the terms that they are in.
    pub(super) fn give_up_all_leases(&self) {
        for region in self.regions.all() {
            region.give_up_lease();
        }
    }
}
