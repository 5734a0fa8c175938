//! QuestDB from Maven Central, on the machine's Java.

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
use crate::queries::sql::{Dialect, statement};
use crate::timestamp;

const PAUSE: Duration = Duration::from_millis(50);

pub struct QuestDb {
    process: Process,
    http: Http,
    address: String,
    dir: PathBuf,
    place: Place,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    columns: Vec<Column>,
    #[serde(default)]
    dataset: Vec<Vec<Value>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

impl QuestDb {
    pub fn start(place: &Place) -> anyhow::Result<Self> {
        let dir = place.fresh("questdb")?;
        let installed = super::newest(&place.installed, "questdb-").context("QuestDB is not installed")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let data = dir.join("data");
        std::fs::create_dir_all(&data)?;
        let mut command = Command::new("java");
        command
            .arg("-cp")
            .arg(installed.join("lib").join("*"))
            .arg("io.questdb.ServerMain")
            .arg("-d")
            .arg(&data);
        command
            .env("QDB_HTTP_BIND_TO", &address)
            .env("QDB_HTTP_MIN_NET_BIND_TO", format!("127.0.0.1:{}", free_port()?))
            .env("QDB_PG_NET_BIND_TO", format!("127.0.0.1:{}", free_port()?))
            .env("QDB_LINE_TCP_NET_BIND_TO", format!("127.0.0.1:{}", free_port()?))
            .env("QDB_TELEMETRY_ENABLED", "false");
        let mut process = Process::start(command, &dir.join("log"), &place.clock)?;
        let mut http = Http::new(&address, QUERY_TIMEOUT);
        process.await_ready(START_TIMEOUT, || {
            http.get("/exec?query=select%201").is_ok_and(|r| r.status == 200)
        })?;
        Ok(Self {
            process,
            http,
            address,
            dir,
            place: place.clone(),
        })
    }

    fn send(&mut self, sql: &str) -> anyhow::Result<Vec<u8>> {
        self.http.get(&format!("/exec?query={}", escape(sql)))?.ok()
    }

    fn ask(&mut self, sql: &str) -> anyhow::Result<Answer> {
        parse(&self.send(sql)?)
    }
}

impl Database for QuestDb {
    fn name(&self) -> &'static str {
        "QuestDB"
    }

    fn version(&self) -> String {
        let installed = super::newest(&self.place.installed, "questdb-");
        let name = installed
            .and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default();
        format!("{} (Maven Central)", name.trim_start_matches("questdb-"))
    }

    fn setup(&self) -> String {
        "io.questdb.ServerMain at its defaults, directory and ports given, telemetry off; an acknowledged write is \
         not synced (cairo.commit.mode = nosync) and is applied to the table later"
            .into()
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn line_protocol(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: "/write?precision=n".into(),
            content_type: "text/plain",
            headers: Vec::new(),
        })
    }

    fn await_visible(&mut self, rows: usize) -> anyhow::Result<()> {
        let start = self.place.clock.now();
        loop {
            let answer = self.ask("SELECT count() FROM cpu")?;
            let found = answer.rows.first().and_then(|r| r.first().cloned());
            if found == Some(Cell::Number(rows as f64)) {
                return Ok(());
            }
            let late = self.place.clock.now() - start > SETTLE_TIMEOUT;
            anyhow::ensure!(!late, "{found:?} rows can be read, {rows} were acknowledged");
            std::thread::sleep(PAUSE);
        }
    }

    fn disk(&self) -> Disk {
        let data = self.dir.join("data");
        let is_log = |path: &std::path::Path| {
            path.components()
                .any(|c| c.as_os_str().to_string_lossy().starts_with("wal"))
        };
        let log = crate::measure::disk(&data, &is_log);
        Disk {
            kept: all(&data.join("db")).saturating_sub(log),
            log,
        }
    }

    fn query(&mut self, query: &Query, want_answer: bool) -> anyhow::Result<Option<Timed>> {
        let sql = statement(query, Dialect::QuestDb);
        let start = self.place.clock.now();
        let body = self.send(&sql)?;
        let took = self.place.clock.now() - start;
        let answer = if want_answer { Some(parse(&body)?) } else { None };
        Ok(Some(Timed { took, answer }))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop()
    }
}

fn parse(body: &[u8]) -> anyhow::Result<Answer> {
    let reply: Reply = serde_json::from_slice(body).context("the answer is not that of /exec")?;
    if let Some(error) = reply.error {
        anyhow::bail!("{error}");
    }
    let mut answer = Answer::new(reply.columns.iter().map(|c| canonical(&c.name)));
    let times: Vec<bool> = answer.columns.iter().map(|c| c == TIME).collect();
    let cells = |row: Vec<Value>| row.into_iter().zip(&times).map(|(v, t)| cell(v, *t)).collect();
    answer.rows = reply.dataset.into_iter().map(cells).collect();
    Ok(answer)
}

fn cell(value: Value, is_time: bool) -> Cell {
    match value {
        Value::String(text) if is_time => match timestamp::parse(&text) {
            Some(ms) => Cell::Number(ms as f64),
            None => Cell::Text(text),
        },
        Value::String(text) => Cell::Text(text),
        Value::Number(number) => Cell::Number(number.as_f64().unwrap_or(f64::NAN)),
        _ => Cell::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_milliseconds() {
        let body = br#"{"query":"","columns":[{"name":"bucket","type":"TIMESTAMP"},{"name":"hostname","type":"SYMBOL"},
            {"name":"m_usage_user","type":"DOUBLE"}],"dataset":[["2023-11-15T00:00:00.000000Z","host_1",2.5]],"count":1}"#;
        let answer = parse(body).unwrap();
        assert_eq!(answer.columns, ["time", "hostname", "usage_user"]);
        assert_eq!(answer.rows[0][0], Cell::Number(1_700_006_400_000.0));
    }
}
