//! Times as text, in UTC.

const DAY_MS: i64 = 86_400_000;

/// `2023-11-15T00:00:00Z`; parts of a second are cut off.
pub fn rfc3339(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(DAY_MS));
    let second = ms.rem_euclid(DAY_MS) / 1000;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

/// Milliseconds since 1970 of `2023-11-15T00:00:00.000000Z` or of the same with fewer parts of a second.
pub fn parse(text: &str) -> Option<i64> {
    let (date, time) = text.trim_end_matches('Z').split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (whole, part) = time.split_once('.').unwrap_or((time, ""));
    let mut whole = whole.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (whole.next()?.ok()?, whole.next()?.ok()?, whole.next()?.ok()?);
    let ms: i64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    Some(days(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

/// Days since 1970 to a date of the Gregorian calendar (Howard Hinnant, "chrono-compatible date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_read_as_they_should() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_208_000_000), "2024-02-29T12:00:00Z");
        assert_eq!(parse("2024-02-29T12:00:00.250000Z"), Some(1_709_208_000_250));
        assert_eq!(parse("yesterday"), None);
    }

    proptest! {
        #[test]
        fn text_of_a_time_is_read_as_that_time(second in 0i64..4_000_000_000) {
            prop_assert_eq!(parse(&rfc3339(second * 1000)), Some(second * 1000));
        }
    }
}
