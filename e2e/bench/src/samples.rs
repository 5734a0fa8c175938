//! Bytes that a sample of a real node exporter takes, written by Prometheus remote write.

use std::path::Path;

use anyhow::Context;

use crate::data::exporter::replay;
use crate::data::remote_write::{Point, encode};
use crate::load;
use crate::peers::Database;
use crate::report::{Better, OURS, Report};
use crate::suite::Suite;

/// As Prometheus scrapes by default in most installations.
const INTERVAL_MS: i64 = 15_000;
/// The newest sample is so old, so that no database takes it for the future.
const AGE_MS: i64 = 3_600_000;
/// Samples of a request; Prometheus sends as many at most.
const PER_REQUEST: usize = 2000;
const TAKERS: [&str; 3] = [OURS, "VictoriaMetrics", "InfluxDB"];

/// Replays `scrapes` into everybody who takes remote write.
pub fn run(suite: &mut Suite, scrapes: &Path) -> anyhow::Result<()> {
    let recorded = std::fs::read_to_string(scrapes).with_context(|| scrapes.display().to_string())?;
    let replayed = replay(&recorded, suite.place.clock.wall_ms() - AGE_MS, INTERVAL_MS)?;
    // Not every database keeps infinities and NaN.
    let points: Vec<Point> = replayed
        .into_iter()
        .flatten()
        .filter(|p| p.value.is_finite())
        .collect();
    let bodies = points
        .chunks(PER_REQUEST)
        .map(encode)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let note = format!("node exporter: {} samples, {INTERVAL_MS} ms apart", points.len());
    suite.report.notes.push(note);
    for name in TAKERS {
        let Some(mut database) = suite.start(name)? else {
            continue;
        };
        suite.say(&format!(
            "{name}: writes {} samples of a node exporter",
            points.len()
        ));
        let result = fill(suite, database.as_mut(), &bodies, points.len());
        if let Err(error) = result {
            suite
                .report
                .leave_out(name, "node exporter", &format!("{error:#}"));
        }
    }
    Ok(())
}

fn fill(
    suite: &mut Suite,
    database: &mut dyn Database,
    bodies: &[Vec<u8>],
    samples: usize,
) -> anyhow::Result<()> {
    let target = database.remote_write().context("it takes no remote write")?;
    // One connection, since samples of a series must come in order.
    load::run(&target, bodies, 1, &suite.place.clock)?;
    database.await_samples(samples)?;
    let refused = database.compact()?;
    let name = database.name();
    if let Some(refused) = refused {
        suite
            .report
            .notes
            .push(format!("{name}: node exporter: not merged on demand: {refused}"));
    }
    tell(&mut suite.report, database, samples);
    Ok(())
}

fn tell(report: &mut Report, database: &dyn Database, samples: usize) {
    if !database.files_complete(samples) {
        let reason = "samples are still in the log only";
        report.leave_out(database.name(), "node exporter: kept on disk", reason);
        return;
    }
    let row = report.row("node exporter: kept on disk", "bytes per sample", Better::Lower);
    row.set(database.name(), database.disk().kept as f64 / samples as f64);
}
