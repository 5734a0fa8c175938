//! Followers give way to leaders.
//!
//! A hot follower applies what its leader writes and cannot refuse it, while what it holds is a copy: the log has it all.
//! So when rows in memory come near the limit, followers keep the log only, the largest first, until there is room again.
//! Whoever is elected meanwhile reads its log first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use greptime_log::Input;
use greptime_types::RegionId;
use parking_lot::Mutex;

use super::Datanode;

/// Followers that gave way, with the bytes that they held.
#[derive(Debug, Default)]
pub(super) struct Cooled(Mutex<BTreeMap<RegionId, u64>>);

impl Cooled {
    /// Whether a follower may hold rows in memory again, of which there are `room` more bytes. It is forgotten if so.
    fn may_be_hot(&self, region: RegionId, room: u64) -> bool {
        let mut cooled = self.0.lock();
        let fits = cooled.get(&region).is_none_or(|bytes| *bytes <= room);
        if fits {
            cooled.remove(&region);
        }
        fits
    }
}

/// Which followers give way so that `excess` bytes are free.
fn to_cool(mut followers: Vec<(RegionId, u64)>, excess: u64) -> Vec<(RegionId, u64)> {
    followers.sort_by_key(|(region, bytes)| (Reverse(*bytes), *region));
    let mut left = excess;
    let gives_way = |(_, bytes): &(RegionId, u64)| {
        let is_needed = left > 0 && *bytes > 0;
        left = left.saturating_sub(*bytes);
        is_needed
    };
    followers.into_iter().take_while(gives_way).collect()
}

impl Datanode {
    /// Above the middle between the limits, followers give way until memory is at the soft one.
    pub(super) fn cool_followers(&self) {
        let (soft, hard) = (self.config.memtable_soft_limit, self.config.memtable_hard_limit);
        let used = self.budget.used();
        if used <= soft + (hard - soft) / 2 {
            return;
        }
        let all = self.regions.all();
        let hot = all
            .iter()
            .filter(|r| r.with_state(|s| s.follows() && s.status().is_hot));
        let followers = hot
            .map(|r| (r.id(), r.with_state(|s| s.memory()) as u64))
            .collect();
        for (region, bytes) in to_cool(followers, used - soft) {
            let input = Input::Role {
                region,
                is_hot: false,
            };
            if self.words.try_send(vec![input]).is_ok() {
                self.cooled.0.lock().insert(region, bytes);
                self.metrics.followers_cooled.inc();
                tracing::warn!(%region, bytes, used, "a follower keeps the log only: rows in memory come near the limit");
            }
        }
    }

    /// Whether a follower may do as metasrv says, which says it again and again.
    pub(super) fn may_be_hot(&self, region: RegionId) -> bool {
        let room = self.config.memtable_soft_limit.saturating_sub(self.budget.used());
        self.cooled.may_be_hot(region, room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(number: u32) -> RegionId {
        RegionId::new(1024, number)
    }

    #[test]
    fn the_largest_give_way_and_no_more_than_needed() {
        let followers = vec![(region(0), 10), (region(1), 30), (region(2), 0), (region(3), 30)];
        let cooled = |excess| {
            let cooled = to_cool(followers.clone(), excess);
            cooled.iter().map(|(r, _)| r.number()).collect::<Vec<_>>()
        };
        assert_eq!(cooled(0), [] as [u32; 0]);
        assert_eq!(cooled(1), [1]);
        assert_eq!(cooled(31), [1, 3]);
        assert_eq!(cooled(1_000), [1, 3, 0]);
    }

    #[test]
    fn who_gave_way_waits_until_what_it_held_has_room() {
        let cooled = Cooled::default();
        cooled.0.lock().insert(region(1), 30);
        assert!(cooled.may_be_hot(region(0), 0));
        assert!(!cooled.may_be_hot(region(1), 29));
        assert!(cooled.may_be_hot(region(1), 30));
        assert!(cooled.may_be_hot(region(1), 0), "it is as any other again");
    }
}
