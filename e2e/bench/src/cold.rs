//! How long our server takes to be ready on much data: many files, and a long log.

use std::time::Duration;

use greptime_clock::SharedClock;

use crate::data::encode::batches;
use crate::data::{Data, Shape};
use crate::load;
use crate::peers::Database;
use crate::peers::ours::Ours;
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

/// How much there is to open.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub files: usize,
    pub log_mebibytes: u64,
}

/// Makes the data, kills the server, and starts it again.
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
        .chain(["--set".into(), purge])
        .collect();
    let place = suite.place.clone();
    let mut ours = Ours::start(&suite.plan.server, &flags, &place)?;
    suite.say("cold start: an empty server for comparison");
    let empty = ours.crash_and_restart()?;
    suite.say(&format!("cold start: makes {} files", size.files));
    make_files(&mut ours, size.files, &place.clock)?;
    suite.say(&format!(
        "cold start: fills the log to {} MiB",
        size.log_mebibytes
    ));
    fill_log(suite, &mut ours, size.log_mebibytes)?;
    let (files, log) = (ours.parquet_files().len(), ours.disk().log >> 20);
    let ready = ours.crash_and_restart()?;
    let start = place.clock.now();
    ours.sql("SELECT count(*) FROM cpu")?;
    let first = place.clock.now() - start;
    let what = format!("cold start, {files} files and a log of {log} MiB");
    for (name, value) in [
        ("until ready", ready),
        ("first count(*)", first),
        ("empty, until ready", empty),
    ] {
        let row = suite.report.row(&format!("{what}: {name}"), "s", Better::Lower);
        row.set(OURS, value.as_secs_f64());
    }
    ours.stop()
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

fn fill_log(suite: &Suite, ours: &mut Ours, mebibytes: u64) -> anyhow::Result<()> {
    let Some(target) = ours.line_protocol() else {
        anyhow::bail!("there is no line protocol")
    };
    let clock = &suite.place.clock;
    let start = clock.now();
    let hour_ms = 3_600_000;
    let mut start_ms = clock.wall_ms() / hour_ms * hour_ms - 400 * 24 * hour_ms;
    while ours.disk().log >> 20 < mebibytes && clock.now() - start < LOG_LIMIT {
        let shape = Shape {
            hosts: LOG_HOSTS,
            points: LOG_POINTS,
            start_ms,
            seed: suite.plan.seed,
        };
        load::run(
            &target,
            &batches(&Data::generate(shape), BATCH),
            suite.plan.connections,
            clock,
        )?;
        start_ms += hour_ms;
    }
    Ok(())
}
