//! InfluxDB 1.6 from Debian.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use super::{Database, Disk, Place, QUERY_TIMEOUT, SETTLE_TIMEOUT, START_TIMEOUT, Timed, all};
use crate::answer::{Answer, Cell, TIME, canonical};
use crate::http::{Http, escape};
use crate::load::Target;
use crate::process::{Process, free_port};
use crate::queries::Query;
use crate::queries::influxql::statement;

const DATABASE: &str = "benchmark";
const PAUSE: Duration = Duration::from_millis(200);
/// It compacts shards when they have been cold for hours; what it merges by itself is over after this.
const QUIET: Duration = Duration::from_secs(5);

pub struct Influx {
    process: Process,
    http: Http,
    address: String,
    /// Of its own protocol, for backups.
    control: String,
    dir: PathBuf,
    place: Place,
}

#[derive(Deserialize)]
struct Reply {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    series: Vec<Series>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    tags: std::collections::BTreeMap<String, String>,
    columns: Vec<String>,
    #[serde(default)]
    values: Vec<Vec<Value>>,
}

impl Influx {
    pub fn start(place: &Place) -> anyhow::Result<Self> {
        let dir = place.fresh("influxdb")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let control = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("influxd");
        command.arg("run").arg("-config").arg("");
        let data = dir.join("data");
        command
            .env("INFLUXDB_META_DIR", data.join("meta"))
            .env("INFLUXDB_DATA_DIR", data.join("data"))
            .env("INFLUXDB_DATA_WAL_DIR", data.join("wal"))
            .env("INFLUXDB_HTTP_BIND_ADDRESS", &address)
            .env("INFLUXDB_BIND_ADDRESS", &control)
            .env("INFLUXDB_REPORTING_DISABLED", "true")
            .env("INFLUXDB_HTTP_LOG_ENABLED", "false")
            .env("HOME", &dir);
        let mut process = Process::start(command, &dir.join("log"), &place.clock)?;
        let mut http = Http::new(&address, QUERY_TIMEOUT);
        process.await_ready(START_TIMEOUT, || http.get("/ping").is_ok_and(|r| r.status == 204))?;
        let create = format!("/query?q={}", escape(&format!("CREATE DATABASE {DATABASE}")));
        http.post(&create, "text/plain", b"")?.ok()?;
        Ok(Self {
            process,
            http,
            address,
            control,
            dir,
            place: place.clone(),
        })
    }

    /// A backup begins with writing what is in the cache into files; nothing else that can be asked for does.
    fn snapshot(&self) -> anyhow::Result<()> {
        let backup = self.dir.join("backup");
        let mut command = Command::new("influxd");
        command
            .args(["backup", "-portable", "-host", &self.control])
            .arg(&backup);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "influxd backup: {}", text.trim());
        std::fs::remove_dir_all(&backup)?;
        Ok(())
    }

    fn send(&mut self, statement: &str) -> anyhow::Result<Vec<u8>> {
        self.http
            .get(&format!("/query?db={DATABASE}&epoch=ms&q={}", escape(statement)))?
            .ok()
    }
}

impl Database for Influx {
    fn name(&self) -> &'static str {
        "InfluxDB"
    }

    fn version(&self) -> String {
        format!("{} (Debian)", super::debian_version("influxdb"))
    }

    fn setup(&self) -> String {
        "influxd at its defaults, directories and ports given, requests not logged; every acknowledged write is \
         synced (wal-fsync-delay = 0s)"
            .into()
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn line_protocol(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: format!("/write?db={DATABASE}&precision=ns"),
            content_type: "text/plain",
            headers: Vec::new(),
        })
    }

    fn remote_write(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: format!("/api/v1/prom/write?db={DATABASE}"),
            content_type: "application/x-protobuf",
            headers: crate::data::remote_write::HEADERS.to_vec(),
        })
    }

    fn await_visible(&mut self, rows: usize) -> anyhow::Result<()> {
        let body = self.send("SELECT count(usage_user) FROM cpu")?;
        let answer = parse(&body)?;
        let found = answer.rows.first().and_then(|r| r.last().cloned());
        anyhow::ensure!(
            found == Some(Cell::Number(rows as f64)),
            "{found:?} rows can be read, {rows} were acknowledged"
        );
        Ok(())
    }

    fn compact(&mut self) -> anyhow::Result<Option<String>> {
        self.snapshot()?;
        let start = self.place.clock.now();
        let (mut last, mut since) = (self.disk(), start);
        while self.place.clock.now() - since < QUIET && self.place.clock.now() - start < SETTLE_TIMEOUT {
            std::thread::sleep(PAUSE);
            let now = self.disk();
            if now != last {
                (last, since) = (now, self.place.clock.now());
            }
        }
        Ok(Some(
            "there is no command; it merges cold shards after four hours".into(),
        ))
    }

    fn disk(&self) -> Disk {
        let data = self.dir.join("data");
        Disk {
            kept: all(&data.join("data")) + all(&data.join("meta")),
            log: all(&data.join("wal")),
        }
    }

    fn query(&mut self, query: &Query, want_answer: bool) -> anyhow::Result<Option<Timed>> {
        let statement = statement(query);
        let start = self.place.clock.now();
        let body = self.send(&statement)?;
        let took = self.place.clock.now() - start;
        let answer = if want_answer { Some(parse(&body)?) } else { None };
        Ok(Some(Timed { took, answer }))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop()
    }
}

fn parse(body: &[u8]) -> anyhow::Result<Answer> {
    let reply: Reply = serde_json::from_slice(body).context("the answer is not that of InfluxDB")?;
    let outcome = reply.results.into_iter().next().context("there is no result")?;
    if let Some(error) = outcome.error {
        anyhow::bail!("{error}");
    }
    let mut answer = Answer::default();
    for series in outcome.series {
        let names = series.columns.iter().map(|c| canonical(c).to_string());
        let columns: Vec<String> = names.chain(series.tags.keys().cloned()).collect();
        if answer.columns.is_empty() {
            answer.columns = columns.clone();
        }
        anyhow::ensure!(answer.columns == columns, "series with different columns");
        for row in series.values {
            let values = row.into_iter().map(cell);
            let tags = series.tags.values().map(|t| Cell::Text(t.clone()));
            answer.rows.push(values.chain(tags).collect());
        }
    }
    if answer.columns.is_empty() {
        answer.columns.push(TIME.into());
    }
    Ok(answer)
}

fn cell(value: Value) -> Cell {
    match value {
        Value::String(text) => Cell::Text(text),
        Value::Number(number) => Cell::Number(number.as_f64().unwrap_or(f64::NAN)),
        _ => Cell::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_a_series_become_columns_of_its_rows() {
        let body = br#"{"results":[{"statement_id":0,"series":[
            {"name":"cpu","tags":{"hostname":"host_1"},"columns":["time","m_usage_user"],"values":[[5,1.5]]},
            {"name":"cpu","tags":{"hostname":"host_2"},"columns":["time","m_usage_user"],"values":[[5,null]]}]}]}"#;
        let answer = parse(body).unwrap();
        assert_eq!(answer.columns, ["time", "usage_user", "hostname"]);
        assert_eq!(
            answer.rows[1],
            [Cell::Number(5.0), Cell::Null, Cell::Text("host_2".into())]
        );
    }

    #[test]
    fn an_error_inside_an_answer_is_an_error() {
        let body = br#"{"results":[{"statement_id":0,"error":"no such thing"}]}"#;
        assert_eq!(parse(body).unwrap_err().to_string(), "no such thing");
    }
}
