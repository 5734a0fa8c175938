//! Windows of time. They have one width, which doubles when rows are spread over too many of them.

use std::collections::BTreeSet;

use arrow::array::BooleanArray;
use greptime_types::TimeUnit;

/// A time divided by the width, rounded down.
pub type Window = i64;

/// Windows of a memtable. Each becomes a file, so rows from all over time must not make thousands.
pub const MOST: usize = 32;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A day.
pub fn first_width(unit: TimeUnit) -> i64 {
    DAY_SECONDS * 10_i64.pow(u32::from(unit.precision()))
}

/// The width, doubled until the windows that are `known` and those of `times` are few.
pub fn wide_enough(width: i64, known: impl Iterator<Item = Window>, times: &[i64]) -> i64 {
    let starts: Vec<i64> = known.map(|w| w.saturating_mul(width)).collect();
    let mut wide = width;
    while !fits(wide, &starts, times) {
        match wide.checked_mul(2) {
            Some(wider) => wide = wider,
            None => break,
        }
    }
    wide
}

fn fits(width: i64, starts: &[i64], times: &[i64]) -> bool {
    let mut windows: BTreeSet<i64> = starts.iter().map(|t| t.div_euclid(width)).collect();
    let mut last = None;
    for time in times {
        let window = time.div_euclid(width);
        if last != Some(window) {
            windows.insert(window);
            last = Some(window);
        }
        if windows.len() > MOST {
            return false;
        }
    }
    windows.len() <= MOST
}

/// The windows that the times lie in, each with its rows; the rows are left out if there is one window.
pub fn split(times: &[i64], width: i64) -> Vec<(Window, BooleanArray)> {
    let (low, high) = times
        .iter()
        .fold((i64::MAX, i64::MIN), |(l, h), t| (l.min(*t), h.max(*t)));
    if times.is_empty() {
        return vec![];
    }
    let (first, last) = (low.div_euclid(width), high.div_euclid(width));
    if first == last {
        return vec![(first, BooleanArray::from(Vec::<bool>::new()))];
    }
    let windows: BTreeSet<i64> = times.iter().map(|t| t.div_euclid(width)).collect();
    let mask = |window: i64| {
        times
            .iter()
            .map(|t| Some(t.div_euclid(width) == window))
            .collect()
    };
    windows.into_iter().map(|window| (window, mask(window))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_day_are_one_window_and_those_of_two_are_two() {
        let day = first_width(TimeUnit::Millisecond);
        assert_eq!(split(&[0, day - 1], day).len(), 1);
        let two = split(&[0, day, -1], day);
        let windows: Vec<_> = two
            .iter()
            .map(|(window, rows)| (*window, rows.true_count()))
            .collect();
        assert_eq!(windows, [(-1, 1), (0, 1), (1, 1)]);
    }

    #[test]
    fn rows_from_all_over_time_make_few_windows() {
        let width = first_width(TimeUnit::Nanosecond);
        let times: Vec<i64> = (-500..500)
            .map(|i| i * (i64::MAX / 501))
            .chain([i64::MIN, i64::MAX])
            .collect();
        let wide = wide_enough(width, std::iter::empty(), &times);
        assert!(split(&times, wide).len() <= MOST);
        assert_eq!(wide % width, 0);
        assert_eq!(wide_enough(width, [3, 4].into_iter(), &[0]), width);
    }
}
