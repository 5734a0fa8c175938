//! Windows of time: files of one window are merged with each other, and never with those of another.

use crate::manifest::FileMeta;

const DAY: i64 = 24 * 3600;

/// Lengths that are chosen among, in seconds. Each divides the next, so a longer window has shorter ones as a whole.
const LENGTHS: [i64; 8] = [
    3600,
    2 * 3600,
    12 * 3600,
    DAY,
    7 * DAY,
    28 * DAY,
    364 * DAY,
    3640 * DAY,
];
/// A window is not made longer than this only because little is written.
const LONGEST_FOR_LITTLE: i64 = 7 * DAY;
/// With a time to live of four windows, a file is gone a quarter of it late at most.
const WINDOWS_PER_TTL: i64 = 4;
/// A window that is in use is given up for a longer one when it holds this little of what it should.
const TOO_EMPTY: i128 = 4;
/// So many flushes of more than a window are no accident.
const ENOUGH_WIDE: usize = 4;

/// What the choice depends on, beside the files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowPolicy {
    /// Set by the table, in the unit of the time index; then nothing is chosen.
    pub fixed: Option<i64>,
    /// Units of the time index in a second.
    pub per_second: i64,
    /// A window should hold this much.
    pub bytes: u64,
    /// Time to live in the unit of the time index.
    pub ttl: Option<i64>,
}

/// Which window a time is in.
pub fn index_of(time: i64, window: i64) -> i64 {
    time.div_euclid(window.max(1))
}

/// Whether a file has rows of more than one window.
pub fn is_wide(file: &FileMeta, window: i64) -> bool {
    index_of(file.min_time, window) != index_of(file.max_time, window)
}

/// The length of a region's windows, in the unit of its time index.
///
/// Long enough to hold `bytes` at the rate of the data, and two flushes; once files were merged, the length stays,
/// unless it turns out far too short. It is never shortened: large windows cost nothing, since runs that are large
/// are left alone.
pub fn choose(files: &[&FileMeta], policy: &WindowPolicy) -> i64 {
    if let Some(fixed) = policy.fixed {
        return fixed.max(1);
    }
    let unit = policy.per_second.max(1);
    let Some(used) = in_use(files, unit) else {
        return by_rate(files, policy).max(by_span(files, unit));
    };
    let files = usual(files, used);
    let (by_rate, by_span) = (by_rate(&files, policy), by_span(&files, unit));
    let is_too_empty = bytes_in(&files, used) * TOO_EMPTY < i128::from(policy.bytes);
    match by_rate.max(by_span) {
        wanted if wanted > used && (is_too_empty || by_span > used) => wanted,
        _ => used,
    }
}

/// Without the files that reach over several windows, as those with a few late rows do, unless that is how most
/// flushes are.
fn usual<'a>(files: &[&'a FileMeta], used: i64) -> Vec<&'a FileMeta> {
    let flushed = files.iter().filter(|f| f.level == 0);
    let wide = flushed.clone().filter(|f| is_wide(f, used)).count();
    let most = wide >= ENOUGH_WIDE && wide * 2 > flushed.count();
    files
        .iter()
        .filter(|f| most || !is_wide(f, used))
        .copied()
        .collect()
}

/// The shortest that holds the wanted bytes.
fn by_rate(files: &[&FileMeta], policy: &WindowPolicy) -> i64 {
    let unit = policy.per_second.max(1);
    let longest = match policy.ttl {
        Some(ttl) => LONGEST_FOR_LITTLE.min((ttl / unit / WINDOWS_PER_TTL).max(LENGTHS[0])),
        None => LONGEST_FOR_LITTLE,
    };
    let allowed = LENGTHS.iter().filter(|&&length| length <= longest);
    let enough = |&&length: &&i64| bytes_in(files, length * unit) >= i128::from(policy.bytes);
    let last = allowed.clone().next_back();
    allowed.clone().find(enough).or(last).map_or(LENGTHS[0], |l| *l) * unit
}

/// The shortest that holds two flushes.
fn by_span(files: &[&FileMeta], unit: i64) -> i64 {
    let mut spans: Vec<i128> = files.iter().filter(|f| f.level == 0).map(|f| span(f)).collect();
    spans.sort_unstable();
    let median = spans.get(spans.len() / 2).copied().unwrap_or(0);
    let longest = LENGTHS[LENGTHS.len() - 1];
    let fits = |&&length: &&i64| i128::from(length) * i128::from(unit) >= 2 * median;
    LENGTHS.iter().find(fits).copied().unwrap_or(longest) * unit
}

/// The shortest that nearly all merged bytes fit into: the one that they were merged for, or a shorter one.
fn in_use(files: &[&FileMeta], unit: i64) -> Option<i64> {
    let merged: Vec<&&FileMeta> = files.iter().filter(|f| f.level > 0).collect();
    let total: u64 = merged.iter().map(|f| f.bytes).sum();
    let lengths = LENGTHS.iter().map(|length| length * unit);
    let mut fitting = lengths.filter(|&length| {
        let narrow = merged.iter().filter(|f| !is_wide(f, length));
        let bytes: u64 = narrow.map(|f| f.bytes).sum();
        u128::from(bytes) * 4 >= u128::from(total) * 3
    });
    fitting.next().filter(|_| !merged.is_empty())
}

/// Bytes in a window at the average rate over the time that files cover.
fn bytes_in(files: &[&FileMeta], window: i64) -> i128 {
    let bytes: i128 = files.iter().map(|f| i128::from(f.bytes)).sum();
    bytes * i128::from(window) / covered(files).max(1)
}

/// How much time the files cover together.
fn covered(files: &[&FileMeta]) -> i128 {
    let mut ranges: Vec<(i64, i64)> = files.iter().map(|f| (f.min_time, f.max_time)).collect();
    ranges.sort_unstable();
    let (mut covered, mut end) = (0, i128::MIN);
    for (from, to) in ranges {
        let (from, to) = (i128::from(from).max(end), i128::from(to) + 1);
        covered += (to - from).max(0);
        end = end.max(to);
    }
    covered
}

fn span(file: &FileMeta) -> i128 {
    i128::from(file.max_time) - i128::from(file.min_time)
}

/// The times at which what spans `from..=to` is cut, so that each piece lies in one window. At most `pieces`: what
/// spans more windows is cut into equal parts of several windows, which are cut again later.
pub fn cuts(from: i64, to: i64, window: i64, pieces: usize) -> Vec<i64> {
    let (first, last) = (
        i128::from(index_of(from, window)),
        i128::from(index_of(to, window)),
    );
    let windows = last - first + 1;
    let step = (windows + pieces.max(1) as i128 - 1) / pieces.max(1) as i128;
    let starts = (1..).map(|n| (first + n * step) * i128::from(window));
    starts
        .take_while(|start| *start <= i128::from(to))
        .filter_map(|start| i64::try_from(start).ok())
        .collect()
}
