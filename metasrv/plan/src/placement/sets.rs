//! Which datanodes hold a region: sets of ordinals, spread over zones and evenly over the ordinals.
//!
//! Each next member comes from the zone that has the least for its size, and is the least loaded there. Going by the
//! loads of the datanodes alone ends unevenly: the last that have room may all be in one zone.

use std::cmp::Ordering;
use std::collections::BTreeSet;

/// The living datanodes as dense ordinals.
pub(super) struct Ground {
    /// Zone of each, numbered from 0 without gaps.
    pub(super) zones: Vec<usize>,
    /// Replicas that each has already.
    pub(super) replicas: Vec<usize>,
}

/// The order in which members of a zone are taken: fewest replicas of this table, then fewest replicas, then lowest
/// ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    of_this_table: usize,
    replicas: usize,
    ordinal: usize,
}

#[derive(Debug, Default)]
struct Zone {
    members: Vec<Score>,
    of_this_table: usize,
}

impl Zone {
    fn least(&self, set: &[(usize, usize)]) -> Option<Score> {
        let free = |s: &&Score| !set.iter().any(|(_, ordinal)| *ordinal == s.ordinal);
        self.members.iter().filter(free).min().copied()
    }

    /// Whose share of the table is smaller.
    fn by_share(&self, other: &Self) -> Ordering {
        (self.of_this_table * other.members.len()).cmp(&(other.of_this_table * self.members.len()))
    }
}

/// `count` sets of `size` distinct ordinals. `size` is at most the number of ordinals.
pub(super) fn sets(count: usize, size: usize, ground: &Ground) -> Vec<Vec<usize>> {
    let mut zones: Vec<Zone> = vec![];
    for (ordinal, (zone, replicas)) in ground.zones.iter().zip(&ground.replicas).enumerate() {
        if *zone >= zones.len() {
            zones.resize_with(zone + 1, Zone::default);
        }
        zones[*zone].members.push(Score {
            of_this_table: 0,
            replicas: *replicas,
            ordinal,
        });
    }
    (0..count).map(|_| next_set(size, &mut zones)).collect()
}

fn next_set(size: usize, zones: &mut [Zone]) -> Vec<usize> {
    let mut set: Vec<(usize, usize)> = Vec::with_capacity(size);
    while set.len() < size {
        let best = zones
            .iter()
            .enumerate()
            .filter(|(zone, _)| keeps_apart(&set, *zone, size, zones.len()))
            .filter_map(|(zone, members)| Some((zone, members.least(&set)?)))
            .min_by(|(a, least_of_a), (b, least_of_b)| {
                zones[*a].by_share(&zones[*b]).then(least_of_a.cmp(least_of_b))
            });
        let Some((zone, member)) = best else { break };
        set.push((zone, member.ordinal));
        zones[zone].of_this_table += 1;
    }
    debug_assert_eq!(
        set.len(),
        size,
        "the caller has as many living datanodes as replicas"
    );
    for (zone, ordinal) in &set {
        let members = zones[*zone].members.iter_mut();
        for score in members.filter(|s| s.ordinal == *ordinal) {
            score.of_this_table += 1;
            score.replicas += 1;
        }
    }
    set.into_iter().map(|(_, ordinal)| ordinal).collect()
}

/// Whether a set may go on in `zone`, so that in the end it covers as many zones as it can.
fn keeps_apart(set: &[(usize, usize)], zone: usize, size: usize, zones: usize) -> bool {
    let covered: BTreeSet<usize> = set.iter().map(|(zone, _)| *zone).collect();
    let left = size - set.len();
    let lacking = size.min(zones) - covered.len();
    !covered.contains(&zone) || left > lacking
}
