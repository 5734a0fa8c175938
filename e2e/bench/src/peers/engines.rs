//! DuckDB and chDB: engines without a server, in one Python process each, on Parquet.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Database, Disk, Place, QUERY_TIMEOUT, START_TIMEOUT, Timed};
use crate::answer::{Answer, Cell, canonical};
use crate::queries::Query;
use crate::queries::sql::{Dialect, statement};

const PROGRAM: &str = include_str!("engine.py");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    DuckDb,
    ChDb,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::DuckDb => "DuckDB",
            Self::ChDb => "chDB",
        }
    }

    /// As the package is called.
    fn package(self) -> &'static str {
        match self {
            Self::DuckDb => "duckdb",
            Self::ChDb => "chdb",
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::DuckDb => Dialect::DuckDb,
            Self::ChDb => Dialect::ChDb,
        }
    }
}

pub struct Embedded {
    engine: Engine,
    child: Child,
    requests: ChildStdin,
    replies: Receiver<String>,
    log: PathBuf,
    python: PathBuf,
    files: Vec<PathBuf>,
    /// Whose files they are, for the report.
    source: String,
}

#[derive(Deserialize)]
struct Reply {
    error: Option<String>,
    seconds: Option<f64>,
    #[serde(default)]
    columns: Vec<String>,
    /// Column by column.
    data: Option<Vec<Vec<Value>>>,
}

impl Embedded {
    /// Opens `files`, which are described by `source`.
    pub fn start(engine: Engine, files: &[PathBuf], source: &str, place: &Place) -> anyhow::Result<Self> {
        let dir = place.fresh(engine.package())?;
        let venv = super::newest(&place.installed, "venv-").context("DuckDB and chDB are not installed")?;
        let python = venv.join("bin/python");
        let program = dir.join("engine.py");
        std::fs::write(&program, PROGRAM)?;
        let log = dir.join("log");
        let mut command = Command::new(&python);
        command
            .arg(&program)
            .arg(engine.package())
            .arg(dir.join("session"))
            .args(files);
        command
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        let mut child = command.spawn()?;
        let requests = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (send, replies) = channel();
        std::thread::spawn(move || {
            // Ends with the process, or when nobody listens any more.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let (files, source) = (files.to_vec(), source.to_string());
        let engine = Self {
            engine,
            child,
            requests,
            replies,
            log,
            python,
            files,
            source,
        };
        let ready = engine.next_line(START_TIMEOUT)?;
        anyhow::ensure!(ready.contains("ready"), "it began with {ready}");
        Ok(engine)
    }

    fn next_line(&self, timeout: Duration) -> anyhow::Result<String> {
        self.replies.recv_timeout(timeout).map_err(|_| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last = log.trim().lines().last().unwrap_or("no message").to_string();
            anyhow::anyhow!("no answer within {timeout:?}: {last}")
        })
    }

    fn run(&mut self, sql: &str, answer: bool) -> anyhow::Result<Reply> {
        writeln!(self.requests, "{}", json!({"sql": sql, "answer": answer}))?;
        let line = self.next_line(QUERY_TIMEOUT)?;
        let reply: Reply = serde_json::from_str(&line).context("the answer of the engine")?;
        match reply.error {
            Some(error) => anyhow::bail!("{error}"),
            None => Ok(reply),
        }
    }
}

impl Database for Embedded {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn version(&self) -> String {
        let code = format!(
            "import importlib.metadata as m; print(m.version('{}'))",
            self.engine.package()
        );
        let output = Command::new(&self.python).args(["-c", &code]).output();
        let version = output
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
            .unwrap_or_default();
        format!("{version} (PyPI)")
    }

    fn setup(&self) -> String {
        format!(
            "in one Python process that measures itself, without HTTP, at the defaults; a view over {} files, {}",
            self.files.len(),
            self.source
        )
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn await_visible(&mut self, rows: usize) -> anyhow::Result<()> {
        let reply = self.run("SELECT count(*) AS n FROM cpu", true)?;
        let found = reply.data.and_then(|d| d.first()?.first()?.as_u64());
        anyhow::ensure!(
            found == Some(rows as u64),
            "{found:?} rows are in the files, {rows} were written"
        );
        Ok(())
    }

    fn disk(&self) -> Disk {
        Disk {
            kept: self.files.iter().map(|f| super::all(f)).sum(),
            log: 0,
        }
    }

    fn query(&mut self, query: &Query, want_answer: bool) -> anyhow::Result<Option<Timed>> {
        let reply = self.run(&statement(query, self.engine.dialect()), want_answer)?;
        let took = Duration::from_secs_f64(reply.seconds.context("no time")?);
        let answer = reply.data.map(|data| rows(&reply.columns, &data));
        Ok(Some(Timed { took, answer }))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = self.stop();
    }
}

fn rows(columns: &[String], data: &[Vec<Value>]) -> Answer {
    let mut answer = Answer::new(columns.iter().map(|c| canonical(c)));
    let count = data.first().map_or(0, Vec::len);
    let cell = |value: &Value| match value {
        Value::String(text) => Cell::Text(text.clone()),
        Value::Number(number) => Cell::Number(number.as_f64().unwrap_or(f64::NAN)),
        _ => Cell::Null,
    };
    answer.rows = (0..count)
        .map(|row| data.iter().map(|column| cell(&column[row])).collect())
        .collect();
    answer
}

/// Whether the files of `dir` hold `rows` rows, as their footers say.
pub fn rows_in(files: &[PathBuf]) -> anyhow::Result<usize> {
    let count = |path: &Path| -> anyhow::Result<usize> {
        let reader = parquet::file::reader::SerializedFileReader::try_from(path)?;
        let metadata = parquet::file::reader::FileReader::metadata(&reader)
            .file_metadata()
            .num_rows();
        Ok(usize::try_from(metadata)?)
    };
    files.iter().map(|f| count(f)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows() {
        let answer = rows(
            &["bucket".into(), "hostname".into()],
            &[vec![json!(1.0), json!(2.0)], vec![json!("a"), Value::Null]],
        );
        assert_eq!(answer.columns, ["time", "hostname"]);
        assert_eq!(answer.rows[1], [Cell::Number(2.0), Cell::Null]);
    }
}
