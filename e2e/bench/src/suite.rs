//! One run: fill, ask, measure, tell.

use std::path::PathBuf;

use anyhow::Context;

use crate::ask::{self, Rounds};
use crate::cold;
use crate::cold_reads;
use crate::data::encode::batches;
use crate::data::{Data, INTERVAL_MS, Shape, plain};
use crate::ingest;
use crate::measure;
use crate::peers::engines::{Embedded, Engine};
use crate::peers::influxdb::Influx;
use crate::peers::ours::{Ours, READS};
use crate::peers::questdb::QuestDb;
use crate::peers::victoria::Victoria;
use crate::peers::{Database, Place};
use crate::queries::{self, HOUR_MS, Kind};
use crate::report::{Better, OURS, Report, Setup};

/// Rows of a request. The set's own loader takes as many.
pub const BATCH: usize = 10_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Databases that take line protocol, in the order in which they are filled.
const WRITERS: [&str; 4] = [OURS, "VictoriaMetrics", "InfluxDB", "QuestDB"];

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub server: PathBuf,
    /// Further flags of our server.
    pub flags: Vec<String>,
    pub hosts: usize,
    pub hours: usize,
    /// Further numbers of hosts, for ingest only.
    pub more_hosts: Vec<usize>,
    pub runs: usize,
    /// How often point queries are asked once more.
    pub warm: Option<Rounds>,
    pub connections: usize,
    pub seed: u64,
    /// Words; empty for all. Ours is always there.
    pub peers: Vec<String>,
    /// Words; empty for all.
    pub queries: Vec<String>,
    pub parquet: Parquet,
    pub memory: bool,
    /// Recorded scrapes of a node exporter.
    pub scrapes: Option<PathBuf>,
    pub cold: Option<cold::Size>,
    /// Ingest and queries; the rest is asked for one by one.
    pub main: bool,
}

/// Whose files DuckDB and chDB read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Parquet {
    /// Ours if they hold every row, else plain ones.
    Auto,
    /// The files of this database.
    Ours,
    /// Written by the benchmark: sorted, zstd.
    Plain,
}

pub struct Suite {
    pub plan: Plan,
    pub place: Place,
    pub report: Report,
    /// Of whole days that end before today, so that no database takes the data for the future.
    start_ms: i64,
}

/// Start of the first day of `hours` hours that ended before the day of `now_ms`.
pub fn first_day(now_ms: i64, hours: usize) -> i64 {
    let days = (hours as i64 * HOUR_MS + DAY_MS - 1).div_euclid(DAY_MS);
    now_ms.div_euclid(DAY_MS) * DAY_MS - days * DAY_MS
}

impl Suite {
    pub fn new(plan: Plan, place: Place) -> Self {
        let start_ms = first_day(place.clock.wall_ms(), plan.hours);
        Self {
            plan,
            place,
            report: Report::default(),
            start_ms,
        }
    }

    pub fn run(&mut self) -> anyhow::Result<()> {
        if self.plan.main {
            self.ingest_and_ask()?;
        }
        if let Some(scrapes) = self.plan.scrapes.clone() {
            crate::samples::run(self, &scrapes)?;
        }
        if self.plan.memory {
            crate::memory::run(self)?;
        }
        if let Some(size) = self.plan.cold
            && let Err(error) = cold::run(self, size)
        {
            self.report.leave_out(OURS, "cold start", &format!("{error:#}"));
        }
        Ok(())
    }

    fn ingest_and_ask(&mut self) -> anyhow::Result<()> {
        let points = self.plan.hours * (HOUR_MS / INTERVAL_MS) as usize;
        let data = self.data(self.plan.hosts, points);
        let mut databases = self.fill_all(&data)?;
        self.start_engines(&mut databases, &data);
        self.ask_all(&mut databases, &data);
        self.ask_warm(&mut databases, &data);
        self.budgets(&mut databases);
        self.group_by_memory(&mut databases);
        // Last, since it starts our server anew.
        self.ask_cold(&mut databases, &data);
        for database in &mut databases {
            database.stop()?;
        }
        drop(databases);
        let rows = data.shape.rows();
        for hosts in self.plan.more_hosts.clone() {
            // As many rows as with few hosts, but at least an hour.
            let data = self.data(hosts, (rows / hosts).clamp(360, points.max(360)));
            if let Err(error) = self.fill_all(&data) {
                self.report
                    .leave_out(OURS, &format!("ingest {hosts} hosts"), &format!("{error:#}"));
            }
        }
        Ok(())
    }

    pub fn say(&self, text: &str) {
        eprintln!("[{:7.1} s] {text}", self.place.clock.now().as_secs_f64());
    }

    fn data(&self, hosts: usize, points: usize) -> Data {
        let shape = Shape {
            hosts,
            points,
            start_ms: self.start_ms,
            seed: self.plan.seed,
        };
        self.say(&format!(
            "{} rows: {hosts} hosts, {points} points each",
            shape.rows()
        ));
        Data::generate(shape)
    }

    pub fn wants(&self, name: &str) -> bool {
        let peers = &self.plan.peers;
        name == OURS || peers.is_empty() || peers.iter().any(|p| name.eq_ignore_ascii_case(p))
    }

    /// Starts a database that takes writes; None if it is not wanted or does not start.
    pub fn start(&mut self, name: &str) -> anyhow::Result<Option<Box<dyn Database>>> {
        if !self.wants(name) {
            return Ok(None);
        }
        let place = &self.place;
        let started: anyhow::Result<Box<dyn Database>> = match name {
            OURS => Ours::start(&self.plan.server, &self.plan.flags, place).map(|d| Box::new(d) as _),
            "VictoriaMetrics" => Victoria::start(place).map(|d| Box::new(d) as _),
            "InfluxDB" => Influx::start(place).map(|d| Box::new(d) as _),
            _ => QuestDb::start(place).map(|d| Box::new(d) as _),
        };
        match started {
            Ok(database) => {
                self.introduce(database.as_ref());
                Ok(Some(database))
            }
            // Without us there is nothing to compare.
            Err(error) if name == OURS => Err(error.context("our server does not start")),
            Err(error) => {
                self.report.leave_out(name, "start", &format!("{error:#}"));
                Ok(None)
            }
        }
    }

    fn introduce(&mut self, database: &dyn Database) {
        let setup = Setup {
            version: database.version(),
            setup: database.setup(),
        };
        self.report.databases.insert(database.name().to_string(), setup);
    }

    /// Fills everybody with the same rows; those that did not take them all are stopped and named.
    fn fill_all(&mut self, data: &Data) -> anyhow::Result<Vec<Box<dyn Database>>> {
        let bodies = batches(data, BATCH);
        let what = format!("{} hosts", data.shape.hosts);
        let mut filled = Vec::new();
        for name in WRITERS {
            let Some(mut database) = self.start(name)? else {
                continue;
            };
            let rows = data.shape.rows();
            self.say(&format!(
                "{name}: writes {rows} rows over {} connections",
                self.plan.connections
            ));
            let result = ingest::fill(
                database.as_mut(),
                &bodies,
                rows,
                self.plan.connections,
                &self.place.clock,
            );
            match result {
                Ok((ingested, refused)) => {
                    ingest::tell(&mut self.report, &what, name, rows, &ingested);
                    if name == OURS {
                        ingest::tell_ours(&mut self.report, &what, database.as_mut());
                    }
                    if let Some(refused) = refused {
                        self.report
                            .notes
                            .push(format!("{name}: {what}: not merged on demand: {refused}"));
                    }
                    self.say(&format!(
                        "{name}: {:.0} rows/s",
                        rows as f64 / ingested.loaded.seconds
                    ));
                    filled.push(database);
                }
                Err(error) if name == OURS => return Err(error.context("our server did not take the rows")),
                Err(error) => self
                    .report
                    .leave_out(name, &format!("ingest {what}"), &format!("{error:#}")),
            }
        }
        Ok(filled)
    }

    fn start_engines(&mut self, databases: &mut Vec<Box<dyn Database>>, data: &Data) {
        for engine in [Engine::DuckDb, Engine::ChDb] {
            if !self.wants(engine.name()) {
                continue;
            }
            match self.start_engine(engine, databases, data) {
                Ok(database) => {
                    self.introduce(&database);
                    databases.push(Box::new(database));
                }
                Err(error) => self
                    .report
                    .leave_out(engine.name(), "start", &format!("{error:#}")),
            }
        }
    }

    fn start_engine(
        &self,
        engine: Engine,
        databases: &[Box<dyn Database>],
        data: &Data,
    ) -> anyhow::Result<Embedded> {
        let ours = databases.iter().find(|d| d.name() == OURS);
        let ours = ours.context("we are not there")?;
        let complete = ours.files_complete(data.shape.rows());
        let ours = ours.parquet_files();
        let use_ours = match self.plan.parquet {
            Parquet::Auto => complete,
            Parquet::Ours => true,
            Parquet::Plain => false,
        };
        let mut database = if use_ours {
            Embedded::start(engine, &ours, "those of this database", &self.place)?
        } else {
            let path = self.place.dir.join("plain.parquet");
            plain::write(data, &path)?;
            Embedded::start(
                engine,
                &[path],
                "plain ones (ours do not hold every row)",
                &self.place,
            )?
        };
        database.await_visible(data.shape.rows())?;
        Ok(database)
    }

    fn ask_all(&mut self, databases: &mut [Box<dyn Database>], data: &Data) {
        let (before, mut asked) = (reads(databases), 0);
        for kind in self.kinds() {
            let rounds = Rounds {
                before: ask::WARM_UP,
                runs: self.plan.runs,
                seed: self.plan.seed,
            };
            self.ask_one(databases, data, (kind, &kind.name()), rounds);
            asked += rounds.before + rounds.runs;
        }
        if let (Some(before), Some(after)) = (before, reads(databases)) {
            let row = self.report.row(
                "queries: reads of the object store, mean",
                "requests",
                Better::Lower,
            );
            row.set(OURS, (after - before) / asked as f64);
        }
    }

    /// Point queries, when most of what they read was read before.
    fn ask_warm(&mut self, databases: &mut [Box<dyn Database>], data: &Data) {
        let Some(warm) = self.plan.warm else {
            return;
        };
        for kind in self.kinds().into_iter().filter(|kind| kind.is_of_few_hosts()) {
            let name = format!("{}, warm", kind.name());
            self.ask_one(databases, data, (kind, &name), warm);
        }
    }

    fn ask_one(
        &mut self,
        databases: &mut [Box<dyn Database>],
        data: &Data,
        query: (Kind, &str),
        rounds: Rounds,
    ) {
        ask::ask(databases, data, query, rounds, &mut self.report);
        let row = self.report.results.last().expect("asking makes a row");
        let best = row
            .best_peer()
            .map(|(n, v)| format!("{n} {v:.2} ms"))
            .unwrap_or_default();
        let mark = if row.correct { "" } else { ", WRONG" };
        self.say(&format!(
            "{}: ours {:.2} ms{mark}; best peer {best}",
            query.1,
            row.ours.unwrap_or(f64::NAN)
        ));
    }

    /// The kinds of queries that are wanted, in the order of the report.
    fn kinds(&self) -> Vec<Kind> {
        let words = &self.plan.queries;
        let is_wanted =
            |kind: &Kind| words.is_empty() || words.iter().any(|w| kind.name().contains(w.as_str()));
        queries::ALL.into_iter().filter(is_wanted).collect()
    }

    /// What a query reads that finds nothing in a cache.
    fn ask_cold(&mut self, databases: &mut [Box<dyn Database>], data: &Data) {
        let Some(ours) = ours(databases) else {
            return;
        };
        let kinds = self.kinds();
        self.say("queries on empty caches");
        let (seed, report) = (self.plan.seed, &mut self.report);
        if let Err(error) = cold_reads::ask(ours.as_mut(), data, &kinds, seed, report) {
            report.leave_out(OURS, "cold queries", &format!("{error:#}"));
        }
    }

    /// What our server may take at most by its settings, beside the rows that say what it took.
    fn budgets(&mut self, databases: &mut [Box<dyn Database>]) {
        let Some(ours) = ours(databases) else {
            return;
        };
        let limits = [
            "greptime_datanode_memory_limit_bytes",
            "greptime_frontend_memory_limit_bytes",
        ];
        let limits: Option<Vec<f64>> = limits.into_iter().map(|name| ours.metric(name)).collect();
        match limits {
            Some(limits) => {
                let row = self
                    .report
                    .row("memory: all budgets together", "MiB", Better::Lower);
                row.set(OURS, limits.iter().sum::<f64>() / f64::from(1 << 20));
            }
            None => self
                .report
                .leave_out(OURS, "budgets", "it does not say what it may take"),
        }
    }

    /// What a query over every row and column needs.
    fn group_by_memory(&mut self, databases: &mut [Box<dyn Database>]) {
        let Some(ours) = ours(databases) else {
            return;
        };
        if !measure::reset_peak(ours.pid()) {
            return;
        }
        let result = ours.group_everything();
        let usage = measure::usage(ours.pid());
        match (result, usage) {
            (Ok(()), Ok(usage)) => {
                let row = self
                    .report
                    .row("memory: GROUP BY over everything, peak", "MiB", Better::Lower);
                row.set(OURS, usage.peak_resident as f64 / f64::from(1 << 20));
            }
            (Err(error), _) | (_, Err(error)) => {
                self.report
                    .leave_out(OURS, "GROUP BY over everything", &format!("{error:#}"));
            }
        }
    }
}

fn ours(databases: &mut [Box<dyn Database>]) -> Option<&mut Box<dyn Database>> {
    databases.iter_mut().find(|d| d.name() == OURS)
}

/// How often our server has read from its object store so far.
fn reads(databases: &mut [Box<dyn Database>]) -> Option<f64> {
    ours(databases)?.metric(READS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_ends_before_today() {
        let now = 20 * DAY_MS + 5;
        assert_eq!(first_day(now, 24), 19 * DAY_MS);
        assert_eq!(first_day(now, 25), 18 * DAY_MS);
        assert_eq!(first_day(now, 13), 19 * DAY_MS);
    }
}
