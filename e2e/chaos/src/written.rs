//! Which rows were written while which fault was at work, and which of them are not as they were acknowledged.
//!
//! The kinds of faults take turns, so a row belongs to a fault by its time: to the one that was at work when the row
//! was due, however late its answer came.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::faults::Fault;
use crate::load::{Damage, FIRST_TIME, HOSTS, Load, Wrong};

/// Rows that are read back at once: an answer of about a megabyte.
const AT_ONCE: usize = 50_000;

#[derive(Default)]
pub struct Written {
    /// In their order: the fault, and for each region the time of the first row that is not its own any more.
    stretches: Vec<(Fault, Vec<i64>)>,
    /// For each region, up to where rows were read back.
    checked: Vec<i64>,
    wrong: BTreeSet<(usize, Wrong)>,
}

/// Of the rows of one fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub errors: u64,
    pub damage: Damage,
}

impl Written {
    /// The rows before these that belong to no fault yet belong to this one.
    pub fn note(&mut self, fault: Fault, ends: Vec<i64>) {
        match self.stretches.last_mut() {
            Some((last, to)) if *last == fault => *to = ends,
            _ => self.stretches.push((fault, ends)),
        }
    }

    /// Reads rows back: those that were not yet, or all.
    pub async fn read_back(&mut self, load: &Load, cluster: &Cluster, all: bool) -> Result<()> {
        let Some((_, ends)) = self.stretches.last().cloned() else {
            return Ok(());
        };
        if all || self.checked.is_empty() {
            self.checked = vec![FIRST_TIME; HOSTS.len()];
        }
        for (region, end) in ends.into_iter().enumerate() {
            for times in parts(self.checked[region]..end) {
                let found = load.read_back(cluster, region, &times).await?;
                self.found(region, &times, found);
            }
            self.checked[region] = end;
        }
        Ok(())
    }

    /// In the place of what was found of these rows before.
    fn found(&mut self, region: usize, times: &Range<i64>, wrong: Vec<Wrong>) {
        self.wrong
            .retain(|(of, wrong)| *of != region || !times.contains(&wrong.time()));
        self.wrong.extend(wrong.into_iter().map(|wrong| (region, wrong)));
    }

    /// What came of the rows of each fault. `failed`: of each region, the times of the rows whose write has failed.
    pub fn tally(&self, failed: &[Vec<i64>]) -> BTreeMap<Fault, Tally> {
        let mut tallies = BTreeMap::<Fault, Tally>::new();
        for (region, times) in failed.iter().enumerate() {
            for fault in times.iter().filter_map(|time| self.fault_of(region, *time)) {
                tallies.entry(fault).or_default().errors += 1;
            }
        }
        for (region, wrong) in &self.wrong {
            let Some(fault) = self.fault_of(*region, wrong.time()) else {
                continue;
            };
            let damage = &mut tallies.entry(fault).or_default().damage;
            match wrong {
                Wrong::Lost(_) => damage.lost += 1,
                Wrong::Doubled(_) => damage.doubled += 1,
            }
        }
        tallies
    }

    fn fault_of(&self, region: usize, time: i64) -> Option<Fault> {
        let before = self.stretches.partition_point(|(_, ends)| ends[region] <= time);
        self.stretches.get(before).map(|(fault, _)| *fault)
    }
}

fn parts(times: Range<i64>) -> impl Iterator<Item = Range<i64>> {
    let end = times.end;
    times
        .step_by(AT_ONCE)
        .map(move |start| start..end.min(start + AT_ONCE as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_kills_and_a_stop() -> Written {
        let mut written = Written::default();
        written.note(Fault::Kill, vec![10, 20]);
        written.note(Fault::Kill, vec![15, 25]);
        written.note(Fault::Stop, vec![30, 40]);
        written.note(Fault::Kill, vec![50, 60]);
        written
    }

    #[test]
    fn a_row_belongs_to_the_fault_that_was_at_work_when_it_was_due() {
        let written = two_kills_and_a_stop();
        assert_eq!(written.stretches.len(), 3);
        let of = |written: &Written, time| written.fault_of(0, time);
        assert_eq!(
            [3, 14, 15, 29, 30, 50].map(|time| of(&written, time)),
            [
                Some(Fault::Kill),
                Some(Fault::Kill),
                Some(Fault::Stop),
                Some(Fault::Stop),
                Some(Fault::Kill),
                None
            ]
        );
        assert_eq!(written.fault_of(1, 24), Some(Fault::Kill));
    }

    #[test]
    fn errors_and_damage_are_told_apart_by_fault_and_what_is_read_again_counts_once() {
        let mut written = two_kills_and_a_stop();
        written.found(0, &(0..50), vec![Wrong::Lost(16), Wrong::Doubled(40)]);
        written.found(1, &(0..60), vec![Wrong::Lost(26)]);
        // One of them was only late.
        written.found(0, &(10..30), vec![]);
        let tallies = written.tally(&[vec![16, 17, 31], vec![99]]);
        let stop = Tally {
            errors: 2,
            damage: Damage { lost: 1, doubled: 0 },
        };
        let kill = Tally {
            errors: 1,
            damage: Damage { lost: 0, doubled: 1 },
        };
        assert_eq!(tallies, [(Fault::Kill, kill), (Fault::Stop, stop)].into());
    }

    #[test]
    fn parts_have_every_time_once() {
        let whole = 7..7 + 2 * AT_ONCE as i64 + 1;
        let parts: Vec<Range<i64>> = parts(whole.clone()).collect();
        assert_eq!((parts.len(), parts[0].start), (3, whole.start));
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(parts[2], whole.end - 1..whole.end);
    }
}
