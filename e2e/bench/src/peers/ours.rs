//! This database, as `greptime-node standalone` at its defaults.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use super::engines::rows_in;
use super::{Database, Disk, Place, QUERY_TIMEOUT, SETTLE_TIMEOUT, START_TIMEOUT, Timed, all, manifest};
use crate::answer::{Answer, Cell, TIME, canonical};
use crate::data::FIELDS;
use crate::http::{Http, escape};
use crate::load::Target;
use crate::measure;
use crate::process::{Process, free_port};
use crate::queries::sql::{Dialect, statement};
use crate::queries::{Query, TIME as TIME_INDEX};

const PAUSE: Duration = Duration::from_millis(100);
/// Bytes per sample are of files that do not change any more.
const QUIET: Duration = Duration::from_secs(2);
/// What a start reads has been read when nothing more was for so long.
const READS_QUIET: Duration = Duration::from_millis(300);
const NS_PER_MS: f64 = 1e6;
const SQL: &str = "/v1/sql?db=public";
const FORM: &str = "application/x-www-form-urlencoded";
/// Requests that read from the object store.
pub const READS: &str = "greptime_object_store_requests_total{operation=\"get\"}";

pub struct Ours {
    process: Process,
    http: Http,
    address: String,
    dir: PathBuf,
    place: Place,
    program: PathBuf,
    flags: Vec<String>,
    /// From the start of the process until it said that it is ready.
    started_in: Duration,
}

#[derive(Deserialize)]
struct Reply {
    output: Vec<Output>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    Records(Records),
    AffectedRows(u64),
}

#[derive(Deserialize)]
struct Records {
    schema: Schema,
    rows: Vec<Vec<Value>>,
}

#[derive(Deserialize)]
struct Schema {
    column_schemas: Vec<ColumnSchema>,
}

#[derive(Deserialize)]
struct ColumnSchema {
    name: String,
}

impl Ours {
    /// Starts `program` with further `flags`; on the data of the last time if `again`.
    pub fn start(program: &Path, flags: &[String], place: &Place) -> anyhow::Result<Self> {
        let dir = place.fresh("ours")?;
        Self::open(program, flags, place, dir)
    }

    fn open(program: &Path, flags: &[String], place: &Place, dir: PathBuf) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(program);
        command.arg("standalone").arg("--data-dir").arg(dir.join("data"));
        command.args(["--http-addr", &address]);
        for flag in ["--mysql-addr", "--postgres-addr"] {
            command.args([flag, &format!("127.0.0.1:{}", free_port()?)]);
        }
        command.args(flags);
        let mut process = Process::start(command, &dir.join("log"), &place.clock)?;
        let mut http = Http::new(&address, QUERY_TIMEOUT);
        let mut ready = || http.get("/readyz").is_ok_and(|r| r.status == 200);
        let started_in = process.await_ready(START_TIMEOUT, &mut ready)?;
        Ok(Self {
            process,
            http,
            address,
            dir,
            place: place.clone(),
            program: program.to_path_buf(),
            flags: flags.to_vec(),
            started_in,
        })
    }

    /// Kills the process and starts it on the same data. Returns how long it took to be ready.
    pub fn crash_and_restart(&mut self) -> anyhow::Result<Duration> {
        self.process.kill()?;
        self.open_again()
    }

    fn open_again(&mut self) -> anyhow::Result<Duration> {
        let again = Self::open(&self.program, &self.flags, &self.place, self.dir.clone())?;
        *self = again;
        Ok(self.started_in)
    }

    /// Runs a statement and gives its rows.
    pub fn sql(&mut self, sql: &str) -> anyhow::Result<Vec<Vec<Value>>> {
        let body = self.send(sql)?;
        let reply: Reply = serde_json::from_slice(&body).context("the answer is not the JSON of /v1/sql")?;
        match reply.output.into_iter().next() {
            Some(Output::Records(records)) => Ok(records.rows),
            Some(Output::AffectedRows(rows)) => Ok(vec![vec![Value::from(rows)]]),
            None => Ok(Vec::new()),
        }
    }

    fn send(&mut self, sql: &str) -> anyhow::Result<Vec<u8>> {
        let body = format!("sql={}", escape(sql));
        self.http.post(SQL, FORM, body.as_bytes())?.ok()
    }

    /// Merging everything may take longer than any query.
    fn admin(&self, function: &str, table: &str) -> anyhow::Result<()> {
        let body = format!("sql={}", escape(&format!("ADMIN {function}('{table}')")));
        Http::new(&self.address, SETTLE_TIMEOUT)
            .post(SQL, FORM, body.as_bytes())?
            .ok()?;
        Ok(())
    }

    /// A series, or, of a name without labels, the sum over its labels.
    fn scrape(&mut self, name: &str) -> Option<f64> {
        sum_of(&self.http.get("/metrics").ok()?.text(), name)
    }

    /// Waits until it has not read from its object store for a while.
    fn await_no_reads(&mut self) -> anyhow::Result<()> {
        let start = self.place.clock.now();
        loop {
            let reads = self.scrape(READS);
            std::thread::sleep(READS_QUIET);
            if self.scrape(READS) == reads {
                return Ok(());
            }
            anyhow::ensure!(
                self.place.clock.now() - start < SETTLE_TIMEOUT,
                "it reads from its object store without end"
            );
        }
    }

    /// Waits until the files have not changed for a while.
    fn await_quiet(&self) {
        let start = self.place.clock.now();
        let (mut last, mut since) = (self.disk().kept, start);
        while self.place.clock.now() - since < QUIET && self.place.clock.now() - start < SETTLE_TIMEOUT {
            std::thread::sleep(PAUSE);
            let now = self.disk().kept;
            if now != last {
                (last, since) = (now, self.place.clock.now());
            }
        }
    }
}

impl Database for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn version(&self) -> String {
        let output = Command::new(&self.program).arg("--version").output();
        output
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
            .unwrap_or_default()
    }

    fn setup(&self) -> String {
        let more = if self.flags.is_empty() {
            String::new()
        } else {
            format!(" {}", self.flags.join(" "))
        };
        format!(
            "greptime-node standalone{more}; every acknowledged write is synced (one fsync for all writes under way)"
        )
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn line_protocol(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: "/v1/influxdb/write?db=public&precision=ns".into(),
            content_type: "text/plain",
            headers: Vec::new(),
        })
    }

    fn remote_write(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: "/v1/prometheus/write?db=public".into(),
            content_type: "application/x-protobuf",
            headers: crate::data::remote_write::HEADERS.to_vec(),
        })
    }

    fn await_visible(&mut self, rows: usize) -> anyhow::Result<()> {
        let found = self.sql("SELECT count(*) FROM cpu")?;
        let found = found.first().and_then(|r| r.first()?.as_u64());
        anyhow::ensure!(
            found == Some(rows as u64),
            "{found:?} rows can be read, {rows} were acknowledged"
        );
        Ok(())
    }

    fn await_samples(&mut self, samples: usize) -> anyhow::Result<()> {
        let found = self.sql("SELECT count(*) FROM greptime_physical_table")?;
        let found = found.first().and_then(|r| r.first()?.as_u64());
        anyhow::ensure!(
            found == Some(samples as u64),
            "{found:?} samples can be read, {samples} were acknowledged"
        );
        Ok(())
    }

    fn compact(&mut self) -> anyhow::Result<Option<String>> {
        let mut refused = None;
        for function in ["flush_table", "compact_table"] {
            for table in ["cpu", "greptime_physical_table"] {
                if self.sql(&format!("SELECT 1 FROM {table} LIMIT 1")).is_ok()
                    && let Err(error) = self.admin(function, table)
                {
                    refused = Some(format!("ADMIN {function}('{table}'): {error}"));
                }
            }
        }
        self.await_quiet();
        Ok(refused)
    }

    /// Files that were replaced stay for a while for readers that still use them; they are not counted.
    fn disk(&self) -> Disk {
        let data = self.dir.join("data");
        let objects = data.join("objects");
        let not_rows = |path: &Path| path.extension().is_none_or(|e| e != "parquet");
        let rows: u64 = self.parquet_files().iter().map(|p| all(p)).sum();
        Disk {
            kept: rows + measure::disk(&objects, &not_rows) + all(&data.join("catalog.json")),
            log: all(&data.join("log")),
        }
    }

    fn query(&mut self, query: &Query, want_answer: bool) -> anyhow::Result<Option<Timed>> {
        let sql = statement(query, Dialect::Ours);
        let start = self.place.clock.now();
        let body = self.send(&sql)?;
        let took = self.place.clock.now() - start;
        let answer = if want_answer { Some(parse(&body)?) } else { None };
        Ok(Some(Timed { took, answer }))
    }

    fn metric(&mut self, name: &str) -> Option<f64> {
        self.scrape(name)
    }

    /// As the manifests say. Others may lie beside them until their grace period is over.
    fn parquet_files(&self) -> Vec<PathBuf> {
        let objects = self.dir.join("data/objects");
        let live = manifest::live_files(&objects);
        let is_live = |p: &PathBuf| {
            p.file_stem()
                .is_some_and(|n| live.contains(&*n.to_string_lossy()))
        };
        measure::files(&objects, "parquet")
            .into_iter()
            .filter(is_live)
            .collect()
    }

    fn files_complete(&self, rows: usize) -> bool {
        rows_in(&self.parquet_files()).is_ok_and(|found| found == rows)
    }

    fn group_everything(&mut self) -> anyhow::Result<()> {
        let means: Vec<String> = FIELDS.iter().map(|f| format!("avg({f})")).collect();
        self.send(&format!(
            "SELECT hostname, {} FROM cpu GROUP BY hostname",
            means.join(", ")
        ))?;
        Ok(())
    }

    /// What a start reads is read then: manifests, and of files nothing, since none has rows of the time asked for.
    fn restart_cold(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        let cache = self.dir.join("data/cache");
        if cache.exists() {
            std::fs::remove_dir_all(&cache)?;
        }
        self.open_again()?;
        self.sql(&format!(
            "SELECT count(*) FROM cpu WHERE {TIME_INDEX} < '1970-01-02 00:00:00'"
        ))?;
        self.await_no_reads()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop()
    }
}

fn sum_of(text: &str, name: &str) -> Option<f64> {
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    let series = lines.filter_map(|l| l.rsplit_once(' '));
    let wanted = series.filter(|(series, _)| *series == name || series.split('{').next() == Some(name));
    let values: Vec<f64> = wanted.filter_map(|(_, value)| value.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn parse(body: &[u8]) -> anyhow::Result<Answer> {
    let reply: Reply = serde_json::from_slice(body).context("the answer is not the JSON of /v1/sql")?;
    let Some(Output::Records(records)) = reply.output.into_iter().next() else {
        anyhow::bail!("the answer has no rows")
    };
    let columns = records.schema.column_schemas;
    let mut answer = Answer::new(columns.iter().map(|c| canonical(&c.name)));
    let times: Vec<bool> = answer.columns.iter().map(|c| c == TIME).collect();
    answer.rows = records.rows.into_iter().map(|row| cells(row, &times)).collect();
    Ok(answer)
}

fn cells(row: Vec<Value>, times: &[bool]) -> Vec<Cell> {
    let cell = |(value, is_time): (Value, &bool)| match value {
        Value::String(text) => Cell::Text(text),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            Cell::Number(if *is_time { number / NS_PER_MS } else { number })
        }
        _ => Cell::Null,
    };
    row.into_iter().zip(times).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_and_columns_have_their_common_names() {
        let body = br#"{"output":[{"records":{"schema":{"column_schemas":[
            {"name":"bucket","data_type":"TimestampNanosecond"},{"name":"m_usage_user","data_type":"Int64"}]},
            "rows":[[1700006400000000000,97]],"total_rows":1}}],"execution_time_ms":1}"#;
        let answer = parse(body).unwrap();
        assert_eq!(answer.columns, ["time", "usage_user"]);
        assert_eq!(
            answer.rows,
            [[Cell::Number(1_700_006_400_000.0), Cell::Number(97.0)]]
        );
    }

    #[test]
    fn a_metric_is_one_series_or_the_sum_of_all() {
        let text = "# HELP m_total x\nm_total{a=\"1\"} 2\nm_total{a=\"2\"} 3\nm_total_other 9\n# EOF\n";
        assert_eq!(sum_of(text, "m_total"), Some(5.0));
        assert_eq!(sum_of(text, "m_total{a=\"2\"}"), Some(3.0));
        assert_eq!(sum_of(text, "n_total"), None);
    }
}
