//! Where the time of an outage goes, from what metasrv has logged about it. Of a move, it is the [`Handover`].
//!
//! ```text
//! fault ──detect──▶ verdict ──campaign──▶ order ──elect──▶ leader reported ──resend──▶ first acknowledgement
//! ```
//!
//! Verdict and order are lines of metasrv's log, of whichever one leads. That a leader was reported is seen by asking metasrv, so `elect` and
//! `resend` are as exact as it is asked often. `elect` is the election, the commit of the first entry and the report
//! to metasrv; `resend` is the route to the frontend and the write that it sends again.

mod handover;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::time::Instant;

pub use handover::Handover;

/// By both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: Instant,
    wall: DateTime<Utc>,
}

impl Moment {
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: Utc::now(),
        }
    }

    /// Milliseconds from this moment to another.
    pub fn until(&self, other: Instant) -> f64 {
        other.saturating_duration_since(self.at).as_secs_f64() * 1000.0
    }
}

/// A line of a log in JSON, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    timestamp: String,
    message: String,
    node: Option<u64>,
    region: Option<String>,
    phase: Option<String>,
    /// Whether a datanode leads.
    leads: Option<bool>,
    term: Option<u64>,
    /// The term of a leader, as routes have it.
    epoch: Option<u64>,
}

/// What is logged from now on, by some processes.
pub struct LogTail {
    /// With how long each is already.
    files: Vec<(PathBuf, u64)>,
}

impl LogTail {
    pub fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let length = |file: &Path| file.metadata().map_or(0, |m| m.len());
        Self {
            files: files.map(|file| (file.to_owned(), length(file))).collect(),
        }
    }

    /// The lines of all, in the order of their times.
    pub fn read(&self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for (file, from) in &self.files {
            let mut file = File::open(file)?;
            file.seek(SeekFrom::Start(*from))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            // Whatever is no such line was not written by a logger.
            lines.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
        lines.sort_by_key(Line::time);
        Ok(lines)
    }
}

/// Milliseconds of each step, of those that were seen.
pub type Steps = BTreeMap<String, f64>;

/// Of an outage, in their order.
const STEPS: [&str; 4] = ["detect", "campaign", "elect", "resend"];
/// All that there are, in the order in which they are told. `end` is from SIGTERM to the end of a process, `move` from
/// the order to move a region until it is done, of which the others are phases; `gap_at` is from that order to the beginning
/// of the gap. [`LEAD`] is from the death of metasrv or etcd until a metasrv led again. [`TAKE_OVER`] is from metasrv's
/// order to the acknowledgement; `yield`, `commit` and `route` are parts of it that only a [`Handover`] tells apart.
pub const NAMES: [&str; 16] = [
    "end",
    LEAD,
    "detect",
    "campaign",
    "yield",
    "elect",
    "commit",
    "route",
    "resend",
    TAKE_OVER,
    "move",
    "joining",
    "warming",
    "handing_over",
    "leaving",
    "gap_at",
];

pub const TAKE_OVER: &str = "take_over";
pub const LEAD: &str = "lead";

/// The outage of one region.
pub struct Outage<'a> {
    pub began: Moment,
    pub victim: usize,
    pub region: &'a str,
    /// When metasrv was seen to know another leader.
    pub led: Option<Instant>,
    /// What was acknowledged first after that.
    pub acknowledged: Option<Instant>,
}

impl Outage<'_> {
    pub fn steps(&self, lines: &[Line]) -> Steps {
        let first = |is_it: &dyn Fn(&Line) -> bool| {
            let times = lines.iter().filter(|line| is_it(line));
            times
                .filter_map(|line| self.since(line))
                .find(|time| *time >= 0.0)
        };
        let verdict = first(&|line| line.is_verdict_of(self.victim));
        let order = first(&|line| line.is_order_for(self.region));
        let led = self.led.map(|at| self.began.until(at));
        let acknowledged = self.acknowledged.map(|at| self.began.until(at));
        between(&STEPS, &[Some(0.0), verdict, order, led, acknowledged])
    }

    /// How many orders to lead the region, or to hand it over, it took.
    pub fn orders(&self, lines: &[Line]) -> usize {
        let led = self.led.map_or(f64::INFINITY, |at| self.began.until(at));
        let times = lines.iter().filter(|line| line.is_order_for(self.region));
        let times = times.filter_map(|line| self.since(line));
        times.filter(|time| (0.0..led).contains(time)).count()
    }

    fn since(&self, line: &Line) -> Option<f64> {
        line.since(self.began)
    }
}

/// From each moment to the next one, where both are known, under the name of what ended then.
fn between(names: &[&str], moments: &[Option<f64>]) -> Steps {
    let mut steps = Steps::new();
    for (name, pair) in names.iter().zip(moments.windows(2)) {
        if let [Some(from), Some(to)] = pair {
            // It may have been seen later than what followed from it.
            steps.insert((*name).to_owned(), (to - from).max(0.0));
        }
    }
    steps
}

/// How long a region was in each phase of its move, in milliseconds.
pub fn phases(lines: &[Line], region: &str, began: Moment) -> Steps {
    let of_region = lines.iter().filter(|line| line.region.as_deref() == Some(region));
    let entered = of_region.filter_map(|line| {
        let phase = match line.message.as_str() {
            // Or it waits for others first, which is rare and goes in here.
            "a region moves" => "joining",
            "a region moves on" => line.phase.as_deref()?,
            _ => return None,
        };
        Some((phase, line.since(began)?))
    });
    let entered: Vec<(&str, f64)> = entered.collect();
    let mut steps = Steps::new();
    for pair in entered.windows(2) {
        *steps.entry(pair[0].0.to_owned()).or_default() += pair[1].1 - pair[0].1;
    }
    steps
}

impl Line {
    fn time(&self) -> Option<DateTime<Utc>> {
        let time = DateTime::parse_from_rfc3339(&self.timestamp).ok()?;
        Some(time.with_timezone(&Utc))
    }

    /// Milliseconds from a moment to the line.
    fn since(&self, began: Moment) -> Option<f64> {
        let passed = self.time()? - began.wall;
        Some(passed.num_microseconds()? as f64 / 1000.0)
    }

    /// Being suspect is none.
    fn is_verdict_of(&self, node: usize) -> bool {
        let is_bad = ["datanode is dead", "datanode is unwell"].map(|text| self.message.starts_with(text));
        is_bad.contains(&true) && self.node == Some(node as u64)
    }

    fn is_order_for(&self, region: &str) -> bool {
        let orders = ["telling a replica to campaign", "telling a leader to hand over"];
        orders.contains(&self.message.as_str()) && self.region.as_deref() == Some(region)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines() -> Vec<Line> {
        let text = r#"{"timestamp":"2026-01-01T00:00:00.900000Z","level":"WARN","message":"datanode is dead: long ago","node":1}
            {"timestamp":"2026-01-01T00:00:01.005000Z","level":"WARN","message":"datanode is suspect: silent","node":1}
            {"timestamp":"2026-01-01T00:00:01.020000Z","level":"WARN","message":"datanode is dead: refused","node":1}
            {"timestamp":"2026-01-01T00:00:01.020500Z","message":"telling a replica to campaign","region":"1024:2","node":0}
            {"timestamp":"2026-01-01T00:00:01.021500Z","message":"telling a replica to campaign","region":"1024:1","node":2}"#;
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    #[test]
    fn steps_are_the_times_between_what_was_logged_after_the_fault() {
        let wall = DateTime::parse_from_rfc3339("2026-01-01T00:00:01Z").unwrap();
        let began = Moment {
            at: Instant::now(),
            wall: wall.with_timezone(&Utc),
        };
        let mut outage = Outage {
            began,
            victim: 1,
            region: "1024:1",
            led: Some(began.at + Duration::from_millis(30)),
            acknowledged: Some(began.at + Duration::from_millis(34)),
        };
        let steps = outage.steps(&lines());
        let wanted = [
            ("detect", 20.0),
            ("campaign", 1.5),
            ("elect", 8.5),
            ("resend", 4.0),
        ];
        assert_eq!(steps, wanted.map(|(name, ms)| (name.to_owned(), ms)).into());
        assert_eq!(outage.orders(&lines()), 1);
        outage.region = "1024:9";
        let steps = outage.steps(&lines());
        assert_eq!(steps.keys().collect::<Vec<_>>(), ["detect", "resend"]);
    }

    #[test]
    fn what_several_have_logged_is_read_in_the_order_of_its_times() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a.log", "b.log"].map(|name| dir.path().join(name));
        let line = |seconds: u32, message: &str| {
            format!("{{\"timestamp\":\"2026-01-01T00:00:{seconds:02}Z\",\"message\":\"{message}\"}}\n")
        };
        std::fs::write(&files[0], line(1, "before")).unwrap();
        let tail = LogTail::of(files.iter().map(PathBuf::as_path));
        std::fs::write(&files[0], line(1, "before") + &line(3, "third")).unwrap();
        let text = line(2, "second") + "no line of a log\n" + &line(4, "fourth");
        std::fs::write(&files[1], text).unwrap();
        let lines = tail.read().unwrap();
        let messages: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(messages, ["second", "third", "fourth"]);
    }

    #[test]
    fn a_move_is_told_by_its_phases() {
        let text = r#"{"timestamp":"2026-01-01T00:00:01Z","message":"a region moves","region":"1024:0"}
            {"timestamp":"2026-01-01T00:00:01.1Z","message":"a region moves on","region":"1024:0","phase":"joining"}
            {"timestamp":"2026-01-01T00:00:01.2Z","message":"a region moves on","region":"1024:1","phase":"joining"}
            {"timestamp":"2026-01-01T00:00:01.4Z","message":"a region moves on","region":"1024:0","phase":"done"}"#;
        let lines: Vec<Line> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let steps = phases(&lines, "1024:0", Moment::now());
        let names: Vec<(&str, f64)> = steps.iter().map(|(n, ms)| (n.as_str(), ms.round())).collect();
        assert_eq!(names, [("joining", 400.0)]);
    }
}
