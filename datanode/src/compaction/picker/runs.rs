//! The runs of a window, and which of them become one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{MIXED, Policy, Question, SETTLED, Why, index_of};
use crate::manifest::FileMeta;

/// A run in a quiet window is merged with larger ones when they are at most this many times larger.
const WORTH_JOINING: u64 = 4;

/// Files of a window that share no identity.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    pub files: Vec<&'a FileMeta>,
    pub bytes: u64,
    level: u32,
}

/// Runs by window of their newest row, each window's by sequence.
pub fn windows_of<'a>(files: &[&'a FileMeta], length: i64) -> BTreeMap<i64, Vec<Run<'a>>> {
    let mut grouped: BTreeMap<i64, Vec<&FileMeta>> = BTreeMap::new();
    for file in files {
        grouped
            .entry(index_of(file.max_time, length))
            .or_default()
            .push(file);
    }
    grouped
        .into_iter()
        .map(|(window, files)| (window, runs_of(files)))
        .collect()
}

fn runs_of(mut files: Vec<&FileMeta>) -> Vec<Run<'_>> {
    files.sort_by_key(|f| (f.min_sequence, f.max_sequence, &f.name));
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut newest = 0;
    for file in files {
        match runs.last_mut() {
            Some(run) if file.min_sequence <= newest => {
                run.bytes += file.bytes;
                run.level = run.level.max(file.level);
                run.files.push(file);
                newest = newest.max(file.max_sequence);
            }
            _ => {
                newest = file.max_sequence;
                runs.push(Run {
                    bytes: file.bytes,
                    level: file.level,
                    files: vec![file],
                });
            }
        }
    }
    runs
}

impl Run<'_> {
    pub fn is_full(&self, policy: &Policy) -> bool {
        self.bytes >= policy.max_file_bytes
    }

    /// Whether two files may have rows of one identity.
    pub fn is_mixed(&self) -> bool {
        let newer = |a: &FileMeta, b: &FileMeta| a.min_sequence > b.max_sequence;
        let may_share = |a: &FileMeta, b: &FileMeta| {
            a.min_time <= b.max_time && b.min_time <= a.max_time && (newer(a, b) || newer(b, a))
        };
        let mut pairs = self.files.iter().enumerate();
        pairs.any(|(i, a)| self.files[i + 1..].iter().any(|b| may_share(a, b)))
    }
}

/// Consecutive runs for which `wanted` holds.
fn stretches<'a, 'b>(runs: &'b [Run<'a>], wanted: impl Fn(&Run<'a>) -> bool) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        match found.last_mut() {
            _ if !wanted(run) => {}
            Some(last) if last.end == i => last.end = i + 1,
            _ => found.push(i..i + 1),
        }
    }
    found
}

/// In a window that is written to: which runs become one, and how many there are too many.
pub fn active(runs: &[Run<'_>], policy: &Policy) -> Option<(Range<usize>, usize)> {
    let young = |r: &Run<'_>| !r.is_full(policy) && r.level < SETTLED;
    let settled = |r: &Run<'_>| !r.is_full(policy) && r.level >= SETTLED;
    let open = |r: &Run<'_>| !r.is_full(policy);
    let allowed = policy.active_runs.max(1);
    let newer = stretches(runs, young).into_iter().map(|s| (s, 1));
    let older = stretches(runs, settled).into_iter().map(|s| (s, 2));
    // They may alternate, though they hardly do.
    let mixed = stretches(runs, open).into_iter().map(|s| (s, MIXED));
    let found = newer.chain(older).chain(mixed).find_map(|(stretch, factor)| {
        let excess = stretch.len().checked_sub(factor * allowed)?;
        (excess > 0).then(|| (least_merged(runs, stretch), excess))
    });
    found.or_else(|| {
        let all = runs.iter().filter(|r| open(r)).count();
        let excess = all.checked_sub(MIXED * allowed).filter(|excess| *excess > 0)?;
        Some((scattered(runs, policy)?, excess))
    })
}

/// Of many runs between which full ones lie, so that nowhere many follow each other: those that do, or else two and the
/// full ones between them. Otherwise writers would be slowed down for what nobody merges.
fn scattered(runs: &[Run<'_>], policy: &Policy) -> Option<Range<usize>> {
    let stretches = stretches(runs, |r| !r.is_full(policy));
    let longest = stretches.iter().max_by_key(|s| (s.len(), s.start))?;
    if longest.len() > 1 {
        return Some(least_merged(runs, longest.clone()));
    }
    let pairs = stretches.windows(2).map(|pair| pair[0].start..pair[1].end);
    pairs.min_by_key(|range| runs[range.clone()].iter().map(|r| r.bytes).sum::<u64>())
}

/// The longest row of neighbours of the lowest level that has two.
fn least_merged(runs: &[Run<'_>], within: Range<usize>) -> Range<usize> {
    let levels: BTreeSet<u32> = runs[within.clone()].iter().map(|r| r.level).collect();
    for level in levels {
        let low = stretches(&runs[within.clone()], |r| r.level <= level);
        let longest = low.into_iter().max_by_key(|s| (s.len(), s.start));
        if let Some(found) = longest.filter(|s| s.len() > 1) {
            return within.start + found.start..within.start + found.end;
        }
    }
    within
}

/// In a window that is not written to any more.
pub fn inactive(window: i64, runs: &[Run<'_>], policy: &Policy) -> Option<(Range<usize>, usize, Why)> {
    let open = stretches(runs, |r| !r.is_full(policy));
    let allowed = policy.inactive_runs.max(1);
    if let Some(stretch) = open.iter().find(|s| s.len() > allowed) {
        let (excess, count) = (stretch.len() - allowed, stretch.len());
        let why = Why::Runs { window, runs: count };
        return Some((cheapest(runs, stretch.clone(), excess + 1), excess, why));
    }
    for stretch in open.iter().filter(|s| s.len() > 1) {
        let sizes = runs[stretch.clone()].iter().map(|r| r.bytes);
        let largest = sizes.clone().max().unwrap_or(0);
        let others = sizes.sum::<u64>() - largest;
        if others.saturating_mul(WORTH_JOINING) >= largest {
            return Some((stretch.clone(), 0, Why::Small { window }));
        }
    }
    None
}

/// The `count` neighbours with the fewest bytes.
fn cheapest(runs: &[Run<'_>], within: Range<usize>, count: usize) -> Range<usize> {
    let starts = within.start..=within.end - count;
    let cost = |start: &usize| -> u64 { runs[*start..start + count].iter().map(|r| r.bytes).sum() };
    let start = starts.min_by_key(cost).unwrap_or(within.start);
    start..start + count
}

/// The newest runs of the range that fit into one merge; two at least, if there are two.
pub fn bounded(runs: &[Run<'_>], range: Range<usize>, question: &Question<'_>) -> Range<usize> {
    let policy = question.policy;
    let (mut start, mut files, mut bytes) = (range.end, 0, 0_u64);
    while start > range.start {
        let next = &runs[start - 1];
        files += next.files.len();
        bytes = bytes.saturating_add(next.bytes);
        let fits = files <= policy.max_inputs && (bytes <= policy.max_merge_bytes || question.everything);
        if !fits && range.end - start >= 2 {
            break;
        }
        start -= 1;
    }
    start..range.end
}
