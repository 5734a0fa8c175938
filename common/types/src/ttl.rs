//! How long rows are kept.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::schema::TimeUnit;

/// The table option `ttl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Ttl {
    #[default]
    Forever,
    /// Rows are taken and never kept.
    Instant,
    /// A row ends so long after the time of its time index. Whole milliseconds, at least one.
    For(Duration),
}

impl Ttl {
    /// The lowest time that is still shown at `now_ms` (milliseconds since 1970), in the unit of the time index.
    /// `None`: everything is. For [`Ttl::Instant`] it is the end of time.
    ///
    /// Never too high: what lies a part of a unit below the exact moment still counts.
    pub fn cutoff(self, now_ms: i64, unit: TimeUnit) -> Option<i64> {
        let age = match self {
            Self::Forever => return None,
            Self::Instant => return Some(i64::MAX),
            Self::For(age) => age,
        };
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let ms = i128::from(now_ms) - i128::from(age_ms);
        let exact = match unit {
            TimeUnit::Second => ms.div_euclid(1000),
            TimeUnit::Millisecond => ms,
            TimeUnit::Microsecond => ms * 1000,
            TimeUnit::Nanosecond => ms * 1_000_000,
        };
        Some(exact.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
    }
}

impl FromStr for Ttl {
    type Err = Error;

    /// `forever`, `instant`, or a duration like `30d` or `1h 30m`; nothing and zero are `forever`, as in GreptimeDB.
    fn from_str(text: &str) -> Result<Self> {
        let wanted = text.trim().to_lowercase();
        match wanted.as_str() {
            "" | "forever" => return Ok(Self::Forever),
            "instant" => return Ok(Self::Instant),
            _ => {}
        }
        // A month is `M` and a minute `m`, so the text is read as it was written.
        let age = humantime::parse_duration(text.trim()).map_err(|e| {
            Error::invalid(format!(
                "ttl = '{text}': {e}; write a duration like '30d' or '1h 30m', 'forever' or 'instant'"
            ))
        })?;
        match age.as_millis() {
            0 if age.is_zero() => Ok(Self::Forever),
            0 => Err(Error::invalid(format!(
                "ttl = '{text}' is below a millisecond; write 'instant' to keep nothing"
            ))),
            ms => Ok(Self::For(Duration::from_millis(
                u64::try_from(ms).unwrap_or(u64::MAX),
            ))),
        }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Instant => f.write_str("instant"),
            Self::For(age) => write!(f, "{}", humantime::format_duration(*age)),
        }
    }
}

impl TryFrom<String> for Ttl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> Self {
        ttl.to_string()
    }
}

/// Of a stored record. Texts were once kept unread; one that says nothing keeps the rows.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Ttl>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(n: u64) -> Ttl {
        Ttl::For(Duration::from_secs(n * 86_400))
    }

    #[test]
    fn ttls_are_read_as_greptimedb_writes_them() {
        for (text, ttl) in [
            ("30d", days(30)),
            ("7days", days(7)),
            ("1h 30m", Ttl::For(Duration::from_secs(5400))),
            ("forever", Ttl::Forever),
            ("FOREVER", Ttl::Forever),
            ("", Ttl::Forever),
            ("0s", Ttl::Forever),
            ("instant", Ttl::Instant),
        ] {
            let read: Ttl = text.parse().unwrap();
            assert_eq!(read, ttl, "{text}");
            assert_eq!(read.to_string().parse::<Ttl>().unwrap(), ttl, "{text}");
        }
    }

    #[test]
    fn a_wrong_ttl_says_how_to_write_it() {
        for text in ["soon", "30", "-1d", "1ns", "99999999999999999999y"] {
            let error = text.parse::<Ttl>().unwrap_err();
            assert!(error.message.contains("write"), "{text}: {error}");
        }
    }

    #[test]
    fn the_cutoff_is_in_the_unit_of_the_table_and_never_too_high() {
        let ttl = Ttl::For(Duration::from_millis(1500));
        assert_eq!(ttl.cutoff(10_000, TimeUnit::Second), Some(8));
        assert_eq!(ttl.cutoff(0, TimeUnit::Second), Some(-2));
        assert_eq!(ttl.cutoff(10_000, TimeUnit::Millisecond), Some(8500));
        assert_eq!(ttl.cutoff(10_000, TimeUnit::Microsecond), Some(8_500_000));
        assert_eq!(ttl.cutoff(10_000, TimeUnit::Nanosecond), Some(8_500_000_000));
        assert_eq!(Ttl::Forever.cutoff(10_000, TimeUnit::Second), None);
        assert_eq!(Ttl::Instant.cutoff(10_000, TimeUnit::Second), Some(i64::MAX));
        let ages = Ttl::For(Duration::MAX);
        assert_eq!(ages.cutoff(0, TimeUnit::Nanosecond), Some(i64::MIN));
        assert_eq!(days(1).cutoff(i64::MAX, TimeUnit::Nanosecond), Some(i64::MAX));
    }
}
