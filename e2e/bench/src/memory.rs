//! Resident memory with a million series that nobody writes to any more.

use std::time::Duration;

use anyhow::Context;

use crate::load;
use crate::measure;
use crate::peers::Database;
use crate::report::{Better, OURS};
use crate::suite::{BATCH, Suite};

const SERIES: usize = 1_000_000;
/// Series are idle once nothing was written for so long.
const IDLE: Duration = Duration::from_secs(20);
const TAKERS: [&str; 3] = [OURS, "VictoriaMetrics", "InfluxDB"];

/// One sample for each of a million series, then silence.
pub fn run(suite: &mut Suite) -> anyhow::Result<()> {
    let bodies = bodies(SERIES, suite.place.clock.wall_ms() - 3_600_000);
    for name in TAKERS {
        let Some(mut database) = suite.start(name)? else {
            continue;
        };
        suite.say(&format!("{name}: {SERIES} series"));
        if let Err(error) = one(suite, database.as_mut(), &bodies) {
            suite
                .report
                .leave_out(name, "a million series", &format!("{error:#}"));
        }
    }
    Ok(())
}

fn one(suite: &mut Suite, database: &mut dyn Database, bodies: &[Vec<u8>]) -> anyhow::Result<()> {
    let target = database.line_protocol().context("it takes no line protocol")?;
    load::run(&target, bodies, suite.plan.connections, &suite.place.clock)?;
    std::thread::sleep(IDLE);
    let usage = measure::usage(database.pid())?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut tell = |name: &str, bytes: u64| {
        suite
            .report
            .row(name, "MiB", Better::Lower)
            .set(database.name(), mebibytes(bytes));
    };
    tell("memory: a million series, idle", usage.resident);
    tell("memory: a million series, peak", usage.peak_resident);
    Ok(())
}

/// One line for each series.
fn bodies(series: usize, time_ms: i64) -> Vec<Vec<u8>> {
    let numbers: Vec<usize> = (0..series).collect();
    let line = |n: &usize| {
        format!(
            "series,host=host_{n},zone=zone_{} value={n}i {time_ms}000000\n",
            n % 100
        )
    };
    numbers
        .chunks(BATCH)
        .map(|chunk| chunk.iter().map(line).collect::<String>().into_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_one_line() {
        let bodies = bodies(BATCH + 1, 5);
        assert_eq!(bodies.len(), 2);
        assert_eq!(
            bodies[1],
            b"series,host=host_10000,zone=zone_0 value=10000i 5000000\n"
        );
    }
}
