//! Fills one database after the other with the same rows, and measures what that costs.

use anyhow::Context;
use greptime_clock::SharedClock;

use crate::data::FIELDS;
use crate::load::{self, Loaded};
use crate::measure::{self, Usage};
use crate::peers::{Database, Disk};
use crate::report::{Better, OURS, Report};

/// What one database did with the rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ingested {
    pub loaded: Loaded,
    pub before: Usage,
    /// When every row could be read.
    pub visible: Usage,
    /// When files had been merged.
    pub settled: Usage,
    pub disk: Disk,
    /// False if rows were still in memory and log only, so that the size of the files says nothing.
    pub files_complete: bool,
}

/// Loads `batches` of `rows` rows in all.
pub fn fill(
    database: &mut dyn Database,
    batches: &[Vec<u8>],
    rows: usize,
    connections: usize,
    clock: &SharedClock,
) -> anyhow::Result<(Ingested, Option<String>)> {
    let target = database.line_protocol().context("it takes no line protocol")?;
    let before = measure::usage(database.pid())?;
    let loaded = load::run(&target, batches, connections, clock)?;
    database.await_visible(rows)?;
    let visible = measure::usage(database.pid())?;
    let refused = database.compact()?;
    let settled = measure::usage(database.pid())?;
    let disk = database.disk();
    let files_complete = database.files_complete(rows);
    Ok((
        Ingested {
            loaded,
            before,
            visible,
            settled,
            disk,
            files_complete,
        },
        refused,
    ))
}

/// Adds the rows of `ingested` to the report. `what` says which data.
pub fn tell(report: &mut Report, what: &str, database: &str, rows: usize, ingested: &Ingested) {
    let millions = rows as f64 / 1e6;
    let samples = (rows * FIELDS.len()) as f64;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let cpu = |after: &Usage| (after.cpu_seconds - ingested.before.cpu_seconds) / millions;
    let mut tell = |name: &str, unit, better, value: f64| {
        report
            .row(&format!("ingest {what}: {name}"), unit, better)
            .set(database, value);
    };
    tell(
        "rows/s",
        "rows/s",
        Better::Higher,
        rows as f64 / ingested.loaded.seconds,
    );
    tell(
        "CPU until readable",
        "s per million rows",
        Better::Lower,
        cpu(&ingested.visible),
    );
    tell(
        "CPU until merged",
        "s per million rows",
        Better::Lower,
        cpu(&ingested.settled),
    );
    tell(
        "peak memory",
        "MiB",
        Better::Lower,
        mebibytes(ingested.visible.peak_resident),
    );
    tell(
        "written to disk",
        "bytes per sample",
        Better::Lower,
        ingested.settled.written as f64 / samples,
    );
    if ingested.files_complete {
        tell(
            "kept on disk",
            "bytes per sample",
            Better::Lower,
            ingested.disk.kept as f64 / samples,
        );
    }
    if database == OURS {
        tell("log on disk", "MiB", Better::Lower, mebibytes(ingested.disk.log));
    }
    if !ingested.files_complete {
        let name = format!("ingest {what}: kept on disk");
        report.leave_out(database, &name, "rows are still in the log only");
    }
    if ingested.loaded.retries > 0 {
        report.notes.push(format!(
            "{database}: {what}: {} batches were sent again",
            ingested.loaded.retries
        ));
    }
}

/// Counters of ours that other databases do not have. Their names are looked for, since not every version has all.
pub fn tell_ours(report: &mut Report, what: &str, database: &mut dyn Database) {
    let requests = database.metric("greptime_object_store_requests_total");
    let mut metric = |name: &str| database.metric(&format!("greptime_datanode_{name}"));
    let flushed = metric("flush_bytes_total");
    let compacted = metric("compaction_bytes_written_total");
    if let (Some(flushed), Some(compacted)) = (flushed, compacted)
        && flushed > 0.0
    {
        let name = format!("ingest {what}: write amplification of merges");
        let row = report.row(&name, "bytes written per byte flushed", Better::Lower);
        row.set(OURS, (flushed + compacted) / flushed);
    }
    let flushes = metric("flush_seconds_count");
    if let (Some(requests), Some(flushes)) = (requests, flushes)
        && flushes > 0.0
    {
        let name = format!("ingest {what}: object store requests per flush, with merges");
        report
            .row(&name, "requests", Better::Lower)
            .set(OURS, requests / flushes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_the_rows_and_not_of_the_start() {
        let usage = |cpu_seconds, written| Usage {
            cpu_seconds,
            written,
            ..Usage::default()
        };
        let ingested = Ingested {
            loaded: Loaded {
                seconds: 4.0,
                retries: 0,
            },
            before: usage(1.0, 0),
            visible: usage(7.0, 0),
            settled: usage(9.0, 40_000_000),
            disk: Disk {
                kept: 10_000_000,
                log: 0,
            },
            files_complete: true,
        };
        let mut report = Report::default();
        tell(&mut report, "400 hosts", OURS, 2_000_000, &ingested);
        let value = |name: &str| {
            report
                .results
                .iter()
                .find(|r| r.name.ends_with(name))
                .unwrap()
                .ours
                .unwrap()
        };
        assert_eq!(value("rows/s"), 500_000.0);
        assert_eq!(value("CPU until readable"), 3.0);
        assert_eq!(value("CPU until merged"), 4.0);
        assert_eq!(value("kept on disk"), 0.5);
        assert_eq!(value("written to disk"), 2.0);
    }
}
