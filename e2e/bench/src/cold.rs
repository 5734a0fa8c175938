//! How long our server takes to be ready on much data: many files, and a long log.

use std::time::Duration;

use greptime_clock::SharedClock;

use crate::data::encode::batches;
use crate::data::{Data, Shape};
use crate::load;
use crate::peers::Database;
use crate::peers::ours::Ours;
use crate::queries::HOUR_MS;
use crate::report::{Better, OURS};
use crate::suite::{BATCH, Suite};

/// Tables that the files are spread over.
const TABLES: usize = 20;
/// Files of different windows of time are not merged with each other.
const WINDOW_MS: i64 = 32 * 86_400_000;
const FIRST_MS: i64 = 0;
/// The log is filled with rows of so many hosts, one hour at a time.
const LOG_HOSTS: usize = 1000;
const LOG_POINTS: usize = 360;
/// A log that does not grow to the wanted size within this is measured as it is.
const LOG_LIMIT: Duration = Duration::from_secs(900);
/// The log is measured at these parts of the wanted length.
const LOG_SHARES: [u64; 3] = [4, 2, 1];

/// How much there is to open.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub files: usize,
    pub log_mebibytes: u64,
}

/// Makes the files, then an ever longer log, and each time kills the server and starts it again.
pub fn run(suite: &mut Suite, size: Size) -> anyhow::Result<()> {
    let purge = format!(
        "datanode.log_purge_threshold={}MiB",
        2 * size.log_mebibytes + 1024
    );
    // The log is cut by size only; at the default it would never become so long.
    let flags: Vec<String> = suite
        .plan
        .flags
        .iter()
        .cloned()
        .chain([
            "--set".into(),
            purge,
            "--set".into(),
            "datanode.log_limit=0".into(),
        ])
        .collect();
    let place = suite.place.clone();
    let mut ours = Ours::start(&suite.plan.server, &flags, &place)?;
    suite.say("cold start: an empty server for comparison");
    let empty = ours.crash_and_restart()?;
    suite.say(&format!("cold start: makes {} files", size.files));
    make_files(&mut ours, size.files, &place.clock)?;
    let (name, unit) = ("cold start, empty: until ready", "s");
    suite
        .report
        .row(name, unit, Better::Lower)
        .set(OURS, empty.as_secs_f64());
    let mut log = Log::before(&place.clock);
    let mut starts = vec![start(suite, &mut ours)?];
    for share in LOG_SHARES {
        let mebibytes = size.log_mebibytes / share;
        suite.say(&format!("cold start: fills the log to {mebibytes} MiB"));
        log.fill(suite, &mut ours, mebibytes)?;
        starts.push(start(suite, &mut ours)?);
    }
    if let Some(seconds) = slope(&starts) {
        let row = suite
            .report
            .row("cold start: each further GiB of log", "s", Better::Lower);
        row.set(OURS, seconds);
    }
    ours.stop()
}

/// Kills the server and starts it again. MiB of log, and seconds until it was ready.
fn start(suite: &mut Suite, ours: &mut Ours) -> anyhow::Result<(f64, f64)> {
    let (files, log) = (ours.parquet_files().len(), ours.disk().log >> 20);
    let ready = ours.crash_and_restart()?;
    let clock = &suite.place.clock;
    let asked = clock.now();
    ours.sql("SELECT count(*) FROM cold_0")?;
    let first = clock.now() - asked;
    let what = format!("cold start, {files} files and a log of {log} MiB");
    for (name, value) in [("until ready", ready), ("first count(*)", first)] {
        let row = suite.report.row(&format!("{what}: {name}"), "s", Better::Lower);
        row.set(OURS, value.as_secs_f64());
    }
    Ok((log as f64, ready.as_secs_f64()))
}

/// Seconds for each further GiB of log: the line of the least squares through all starts.
fn slope(starts: &[(f64, f64)]) -> Option<f64> {
    let mean = |of: fn(&(f64, f64)) -> f64| starts.iter().map(of).sum::<f64>() / starts.len() as f64;
    let (log, ready) = (mean(|s| s.0), mean(|s| s.1));
    let both: f64 = starts.iter().map(|s| (s.0 - log) * (s.1 - ready)).sum();
    let square: f64 = starts.iter().map(|s| (s.0 - log).powi(2)).sum();
    (square > 0.0).then(|| both / square * 1024.0)
}

/// One small file per flush: each round writes a window of time of every table.
fn make_files(ours: &mut Ours, files: usize, clock: &SharedClock) -> anyhow::Result<()> {
    let Some(target) = ours.line_protocol() else {
        anyhow::bail!("there is no line protocol")
    };
    for round in 0..files.div_ceil(TABLES) {
        let time_ms = FIRST_MS + round as i64 * WINDOW_MS;
        let lines = (0..TABLES).map(|table| format!("cold_{table},host=a value={round}i {time_ms}000000\n"));
        load::run(&target, &[lines.collect::<String>().into_bytes()], 1, clock)?;
        for table in 0..TABLES {
            ours.sql(&format!("ADMIN flush_table('cold_{table}')"))?;
        }
    }
    Ok(())
}

/// Rows that make the log long, one hour after the other.
struct Log {
    next_ms: i64,
}

impl Log {
    fn before(clock: &SharedClock) -> Self {
        let next_ms = clock.wall_ms() / HOUR_MS * HOUR_MS - 400 * 24 * HOUR_MS;
        Self { next_ms }
    }

    /// Writes until the log has its length on disk, or the time is over.
    fn fill(&mut self, suite: &Suite, ours: &mut Ours, mebibytes: u64) -> anyhow::Result<()> {
        let Some(target) = ours.line_protocol() else {
            anyhow::bail!("there is no line protocol")
        };
        let clock = &suite.place.clock;
        let start = clock.now();
        while ours.disk().log >> 20 < mebibytes && clock.now() - start < LOG_LIMIT {
            let shape = Shape {
                hosts: LOG_HOSTS,
                points: LOG_POINTS,
                start_ms: self.next_ms,
                seed: suite.plan.seed,
            };
            let bodies = batches(&Data::generate(shape), BATCH);
            load::run(&target, &bodies, suite.plan.connections, clock)?;
            self.next_ms += HOUR_MS;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_a_line_and_of_one_point_there_is_none() {
        let line = [(0.0, 0.5), (512.0, 1.0), (1024.0, 1.5)];
        assert_eq!(slope(&line), Some(1.0));
        assert_eq!(slope(&line[..1]), None);
    }
}
