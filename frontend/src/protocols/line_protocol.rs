//! InfluxDB's line protocol: `measurement,tag=v field=1i,other="x" 1700000000000000000`.
//!
//! A line that does not parse is named with its line and column; the other lines of the batch are written, as
//! InfluxDB does.

mod columns;
mod exact;
mod parse;
mod store;
mod values;

pub use parse::{BadLine, FieldValue, Line, parse_lines};
pub use store::write_lines;

use greptime_types::{Error, Result, TimeUnit};

/// What the numbers at the end of lines count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision(pub TimeUnit);

impl Precision {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "n" | "ns" => Ok(Self(TimeUnit::Nanosecond)),
            "u" | "us" | "µ" => Ok(Self(TimeUnit::Microsecond)),
            "ms" => Ok(Self(TimeUnit::Millisecond)),
            "s" => Ok(Self(TimeUnit::Second)),
            other => Err(Error::invalid(format!(
                "precision `{other}` does not exist; there are ns, us, ms and s"
            ))),
        }
    }
}

/// A time in another unit; `None` if it does not fit. Finer parts are cut off towards the past.
pub fn convert(value: i64, from: TimeUnit, to: TimeUnit) -> Option<i64> {
    let digits = i32::from(to.precision()) - i32::from(from.precision());
    let factor = 10_i64.checked_pow(digits.unsigned_abs())?;
    if digits >= 0 {
        value.checked_mul(factor)
    } else {
        Some(value.div_euclid(factor))
    }
}
