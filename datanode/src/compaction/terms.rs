//! What a table says about the life of its rows, in the unit of its time index.

use std::time::Duration;

use greptime_types::{TIME_WINDOW, TableInfo, Ttl};

/// Units of the time index in a second.
pub fn per_second(table: &TableInfo) -> i64 {
    10_i64.pow(u32::from(table.schema.time_unit().precision()))
}

/// A wall clock's milliseconds in the unit of the time index.
pub fn in_unit(table: &TableInfo, ms: i64) -> i64 {
    let scaled = i128::from(ms) * i128::from(per_second(table)) / 1000;
    scaled.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn length(table: &TableInfo, duration: Duration) -> i64 {
    let units = duration.as_nanos() * per_second(table) as u128 / 1_000_000_000;
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// How long rows live; `None` is for ever.
pub fn ttl(table: &TableInfo) -> Option<i64> {
    match table.ttl() {
        Ttl::Forever => None,
        Ttl::Instant => Some(0),
        Ttl::For(duration) => Some(length(table, duration)),
    }
}

/// Rows before it have lived their time: the same rows that queries do not show.
pub fn ttl_cutoff(table: &TableInfo, now_ms: i64) -> Option<i64> {
    table.ttl().cutoff(now_ms, table.schema.time_unit())
}

/// The length of windows that the table asks for.
pub fn window(table: &TableInfo) -> Option<i64> {
    let text = table.options.extra.get(TIME_WINDOW)?;
    let duration = humantime::parse_duration(text).ok()?;
    Some(length(table, duration)).filter(|units| *units > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::table;

    #[test]
    fn a_time_to_live_is_told_in_the_unit_of_the_time_index() {
        let mut table = table(1, false);
        let mut cutoff = |ttl: &str| {
            table.options.ttl = Some(ttl.parse().unwrap());
            ttl_cutoff(&table, 100_000_000)
        };
        assert_eq!(cutoff("1d"), Some(13_600_000));
        assert_eq!(cutoff("instant"), Some(i64::MAX));
        assert_eq!(cutoff("forever"), None);
        assert_eq!(cutoff("0s"), None);
        table.options.ttl = None;
        assert_eq!(ttl_cutoff(&table, 1), None);
    }
}
