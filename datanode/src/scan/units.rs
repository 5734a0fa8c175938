//! Which runs of rows must be merged, and which can be read as they are.
//!
//! Two runs can have rows of one identity only where they overlap in time. There they are merged; everywhere else a run
//! is read without looking at any other.

use std::collections::{BTreeMap, BTreeSet};

use super::filter::TimeRange;

/// A run that has no identity twice: a file, or sorted rows in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub min_time: i64,
    pub max_time: i64,
}

/// Runs that are read together, and the times of them that are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Positions in the list of spans, ascending. More than one: they are merged.
    pub spans: Vec<usize>,
    /// Disjoint and ascending.
    pub times: Vec<TimeRange>,
}

/// A run is read once for each unit that it is in; beyond this factor everything that hangs together is merged.
const MAX_READS: usize = 3;

/// Units that have every row of every span in `wanted` once. With `apart`, no two runs have the same identity.
pub fn units(spans: &[Span], wanted: TimeRange, apart: bool) -> Vec<Unit> {
    let spans: Vec<(usize, TimeRange)> = spans
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let own = TimeRange {
                from: s.min_time,
                to: s.max_time,
            };
            (i, own.and(wanted))
        })
        .filter(|(_, times)| !times.is_empty())
        .collect();
    if apart {
        return spans
            .iter()
            .map(|(i, times)| unit(vec![*i], vec![*times]))
            .collect();
    }
    let stretches = stretches(&spans);
    let fine = by_time(&stretches);
    let reads: usize = fine.iter().map(|unit| unit.spans.len()).sum();
    match reads <= MAX_READS * spans.len() {
        true => fine,
        false => connected(&stretches),
    }
}

fn unit(spans: Vec<usize>, times: Vec<TimeRange>) -> Unit {
    Unit { spans, times }
}

/// Times, and the spans that all of these times belong to.
type Stretch = (TimeRange, BTreeSet<usize>);

/// Cuts time wherever a span begins or ends.
fn stretches(spans: &[(usize, TimeRange)]) -> Vec<Stretch> {
    // The end of a span is the point after it, which may lie beyond the last time there is.
    let mut changes: BTreeMap<i128, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (i, times) in spans {
        changes.entry(i128::from(times.from)).or_default().0.push(*i);
        changes.entry(i128::from(times.to) + 1).or_default().1.push(*i);
    }
    let (mut active, mut stretches, mut from) = (BTreeSet::new(), Vec::new(), 0_i128);
    for (at, (begin, end)) in changes {
        if !active.is_empty() {
            // Both lie between ends of spans, which are i64.
            let times = TimeRange {
                from: from as i64,
                to: (at - 1) as i64,
            };
            stretches.push((times, active.clone()));
        }
        for i in end {
            active.remove(&i);
        }
        active.extend(begin);
        from = at;
    }
    stretches
}

/// What one span has alone is a unit; stretches of several spans become one unit with those that share a span.
fn by_time(stretches: &[Stretch]) -> Vec<Unit> {
    let mut alone: BTreeMap<usize, Vec<TimeRange>> = BTreeMap::new();
    let mut merged: Vec<Unit> = Vec::new();
    for (times, spans) in stretches {
        if let (1, Some(only)) = (spans.len(), spans.first()) {
            alone.entry(*only).or_default().push(*times);
            continue;
        }
        let (sharing, mut others): (Vec<Unit>, Vec<Unit>) = merged
            .into_iter()
            .partition(|unit| unit.spans.iter().any(|i| spans.contains(i)));
        let mut joined = join(sharing);
        joined.times.push(*times);
        joined.spans = joined
            .spans
            .into_iter()
            .chain(spans.iter().copied())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        others.push(joined);
        merged = others;
    }
    let mut all: Vec<Unit> = alone.into_iter().map(|(i, times)| unit(vec![i], times)).collect();
    all.extend(merged);
    all
}

fn join(units: Vec<Unit>) -> Unit {
    let mut joined = unit(vec![], vec![]);
    for unit in units {
        joined.spans.extend(unit.spans);
        joined.times.extend(unit.times);
    }
    joined.times.sort_by_key(|t| t.from);
    joined
}

/// Spans that overlap, directly or through others, as one unit.
fn connected(stretches: &[Stretch]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut last: BTreeSet<usize> = BTreeSet::new();
    for (times, spans) in stretches {
        match units.last_mut() {
            Some(unit) if !last.is_disjoint(spans) => {
                let known: BTreeSet<usize> = unit.spans.iter().chain(spans).copied().collect();
                unit.spans = known.into_iter().collect();
                if let Some(before) = unit.times.last_mut() {
                    before.to = times.to;
                }
            }
            _ => units.push(unit(spans.iter().copied().collect(), vec![*times])),
        }
        last.clone_from(spans);
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(min_time: i64, max_time: i64) -> Span {
        Span { min_time, max_time }
    }

    fn times(from: i64, to: i64) -> TimeRange {
        TimeRange { from, to }
    }

    #[test]
    fn runs_that_follow_each_other_are_read_as_they_are() {
        let found = units(&[span(0, 9), span(10, 19)], TimeRange::ALL, false);
        assert_eq!(
            found,
            [
                unit(vec![0], vec![times(0, 9)]),
                unit(vec![1], vec![times(10, 19)])
            ]
        );
    }

    #[test]
    fn only_the_times_that_two_runs_share_are_merged() {
        let found = units(&[span(0, 10), span(10, 20), span(20, 30)], TimeRange::ALL, false);
        assert_eq!(
            found,
            [
                unit(vec![0], vec![times(0, 9)]),
                unit(vec![1], vec![times(11, 19)]),
                unit(vec![2], vec![times(21, 30)]),
                unit(vec![0, 1, 2], vec![times(10, 10), times(20, 20)]),
            ]
        );
    }

    #[test]
    fn many_overlaps_are_merged_as_a_whole() {
        let spans: Vec<Span> = (0..20).map(|i| span(i, i + 200)).collect();
        let found = units(&spans, TimeRange::ALL, false);
        let reads: usize = found.iter().map(|u| u.spans.len()).sum();
        assert!(reads <= MAX_READS * spans.len(), "{found:?}");
    }

    proptest! {
        /// Every time of every span is in exactly one unit with it, and with all others that have this time.
        #[test]
        fn every_row_is_read_once_and_with_all_that_it_must_be_compared_with(
            spans in prop::collection::vec((-20..20_i64, 0..15_i64), 0..12),
            wanted in (-25..25_i64, 0..40_i64),
            edge in any::<bool>(),
        ) {
            let mut spans: Vec<Span> = spans.into_iter().map(|(min, length)| span(min, min + length)).collect();
            if edge {
                spans.push(span(18, i64::MAX));
                spans.push(span(i64::MIN, -18));
            }
            let wanted = times(wanted.0, wanted.0 + wanted.1);
            let found = units(&spans, wanted, false);
            for at in -30..60_i64 {
                for (i, span) in spans.iter().enumerate() {
                    let has = (span.min_time..=span.max_time).contains(&at) && wanted.contains(at, at);
                    let reading: Vec<&Unit> = found
                        .iter()
                        .filter(|u| u.spans.contains(&i) && u.times.iter().any(|t| t.contains(at, at)))
                        .collect();
                    if !has {
                        continue;
                    }
                    prop_assert_eq!(reading.len(), 1, "time {} of span {}: {:?}", at, i, found);
                    for (other, overlapping) in spans.iter().enumerate() {
                        if (overlapping.min_time..=overlapping.max_time).contains(&at) {
                            prop_assert!(reading[0].spans.contains(&other));
                        }
                    }
                }
            }
            for unit in &found {
                prop_assert!(unit.times.windows(2).all(|t| t[0].to < t[1].from), "{:?}", unit);
            }
        }
    }
}
