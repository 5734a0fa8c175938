//! VictoriaMetrics, single node, from Debian.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use super::{Database, Disk, Place, QUERY_TIMEOUT, SETTLE_TIMEOUT, START_TIMEOUT, Timed, all};
use crate::answer::{Answer, Cell, TIME, canonical};
use crate::data::FIELDS;
use crate::http::{Http, escape};
use crate::load::Target;
use crate::process::{Process, free_port};
use crate::queries::metricsql::{OFFSET_MS, Request, request};
use crate::queries::{Kind, Query};

const PAUSE: Duration = Duration::from_millis(100);

pub struct Victoria {
    process: Process,
    http: Http,
    address: String,
    dir: PathBuf,
    place: Place,
}

#[derive(Deserialize)]
struct Reply {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    #[serde(default)]
    value: Option<(f64, String)>,
}

impl Victoria {
    pub fn start(place: &Place) -> anyhow::Result<Self> {
        let dir = place.fresh("victoria-metrics")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("victoria-metrics");
        command.arg(format!("-storageDataPath={}", dir.join("data").display()));
        command.arg(format!("-httpListenAddr={address}"));
        let mut process = Process::start(command, &dir.join("log"), &place.clock)?;
        let mut http = Http::new(&address, QUERY_TIMEOUT);
        process.await_ready(START_TIMEOUT, || {
            http.get("/health").is_ok_and(|r| r.status == 200)
        })?;
        Ok(Self {
            process,
            http,
            address,
            dir,
            place: place.clone(),
        })
    }

    fn send(&mut self, request: &Request) -> anyhow::Result<Vec<u8>> {
        let expression = escape(&request.expression);
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
        // Without `nocache` answers come from a cache of results, and bounds are rounded to the step.
        let path = match request.step_ms {
            Some(step) => format!(
                "/api/v1/query_range?nocache=1&query={expression}&start={}&end={}&step={}",
                seconds(request.start_ms),
                seconds(request.end_ms),
                step / 1000,
            ),
            None => format!(
                "/api/v1/query?nocache=1&query={expression}&time={}",
                seconds(request.end_ms)
            ),
        };
        self.http.get(&path)?.ok()
    }

    fn samples(&mut self) -> anyhow::Result<u64> {
        self.http.get("/internal/force_flush")?.ok()?;
        let text = self.http.get("/metrics")?.text();
        let rows = text
            .lines()
            .filter(|l| l.starts_with("vm_rows{") && l.contains("storage/"));
        Ok(rows
            .filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum())
    }

    fn await_stored(&mut self, samples: usize) -> anyhow::Result<()> {
        let start = self.place.clock.now();
        loop {
            let found = self.samples()?;
            if found == samples as u64 {
                return Ok(());
            }
            let late = self.place.clock.now() - start > SETTLE_TIMEOUT;
            anyhow::ensure!(!late, "{found} samples are stored, {samples} were acknowledged");
            std::thread::sleep(PAUSE);
        }
    }
}

impl Database for Victoria {
    fn name(&self) -> &'static str {
        "VictoriaMetrics"
    }

    fn version(&self) -> String {
        let output = Command::new("victoria-metrics").arg("--version").output();
        let text = output
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default();
        let package = super::debian_version("victoria-metrics");
        format!("{package} (Debian) {}", text.trim()).trim().to_string()
    }

    fn setup(&self) -> String {
        "victoria-metrics -storageDataPath -httpListenAddr; no write is synced before it is acknowledged; \
         queries with nocache=1"
            .into()
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn line_protocol(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: "/write?precision=ns".into(),
            content_type: "text/plain",
            headers: Vec::new(),
        })
    }

    fn remote_write(&self) -> Option<Target> {
        Some(Target {
            address: self.address.clone(),
            path: "/api/v1/write".into(),
            content_type: "application/x-protobuf",
            headers: crate::data::remote_write::HEADERS.to_vec(),
        })
    }

    fn await_visible(&mut self, rows: usize) -> anyhow::Result<()> {
        self.await_stored(rows * FIELDS.len())
    }

    fn await_samples(&mut self, samples: usize) -> anyhow::Result<()> {
        self.await_stored(samples)
    }

    fn compact(&mut self) -> anyhow::Result<Option<String>> {
        self.http.get("/internal/force_merge")?.ok()?;
        // The merge begins a moment after its answer; the number of active ones is a metric.
        let start = self.place.clock.now();
        let mut idle = 0;
        while idle < 10 && self.place.clock.now() - start < SETTLE_TIMEOUT {
            std::thread::sleep(PAUSE);
            let text = self.http.get("/metrics")?.text();
            let active = text
                .lines()
                .filter(|l| l.starts_with("vm_active_merges{") && !l.ends_with(" 0"));
            idle = if active.count() == 0 { idle + 1 } else { 0 };
        }
        Ok(None)
    }

    fn disk(&self) -> Disk {
        Disk {
            kept: all(&self.dir.join("data")),
            log: 0,
        }
    }

    fn query(&mut self, query: &Query, want_answer: bool) -> anyhow::Result<Option<Timed>> {
        let Some(request) = request(query) else {
            return Ok(None);
        };
        let start = self.place.clock.now();
        let body = self.send(&request)?;
        let took = self.place.clock.now() - start;
        let answer = if want_answer {
            Some(parse(&body, query, &request)?)
        } else {
            None
        };
        Ok(Some(Timed { took, answer }))
    }

    fn lacks(&self, query: &Query) -> &'static [&'static str] {
        // Each metric has times of its own; an instant query gives that of the evaluation.
        if query.kind == Kind::LastPoint {
            &[TIME]
        } else {
            &[]
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop()
    }
}

/// Series by series to row by row.
fn parse(body: &[u8], query: &Query, request: &Request) -> anyhow::Result<Answer> {
    let reply: Reply =
        serde_json::from_slice(body).context("the answer is not that of the Prometheus API")?;
    let labels: Vec<String> = reply.data.result.first().map_or(Vec::new(), |series| {
        series
            .metric
            .keys()
            .filter(|l| *l != "__name__" && *l != "db")
            .cloned()
            .collect()
    });
    let mut rows: BTreeMap<(i64, Vec<String>), Vec<Cell>> = BTreeMap::new();
    let fields = query.fields();
    for series in reply.data.result {
        let metric = series.metric.get("__name__").map_or(fields[0], |n| canonical(n));
        let field = fields
            .iter()
            .position(|f| *f == metric)
            .with_context(|| format!("metric {metric}"))?;
        let of_series: Vec<String> = labels
            .iter()
            .map(|l| series.metric.get(l).cloned().unwrap_or_default())
            .collect();
        for (seconds, text) in series.values.into_iter().chain(series.value) {
            let time = (seconds * 1000.0).round() as i64 + OFFSET_MS - request.step_ms.unwrap_or(0);
            let row = rows.entry((time, of_series.clone()));
            let row = row.or_insert_with(|| vec![Cell::Null; fields.len()]);
            row[field] = Cell::Number(text.parse()?);
        }
    }
    let is_instant = request.step_ms.is_none();
    let time = (!is_instant).then(|| TIME.to_string());
    let mut answer = Answer::new(
        time.into_iter()
            .chain(labels)
            .chain(fields.iter().map(|f| f.to_string())),
    );
    for ((time, labels), values) in rows {
        let time = (!is_instant).then_some(Cell::Number(time as f64));
        answer.rows.push(
            time.into_iter()
                .chain(labels.into_iter().map(Cell::Text))
                .chain(values)
                .collect(),
        );
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_become_rows_at_the_beginning_of_their_bucket() {
        let query = Query {
            kind: Kind::SingleGroupBy {
                metrics: 2,
                hosts: 1,
                hours: 1,
            },
            hosts: vec![0],
            from_ms: 0,
            to_ms: 3_600_000,
        };
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"cpu_usage_system"},"values":[[59.999,"7"]]},
            {"metric":{"__name__":"cpu_usage_user"},"values":[[59.999,"3"],[119.999,"4"]]}]}}"#;
        let answer = parse(body, &query, &request(&query).unwrap()).unwrap();
        assert_eq!(answer.columns, ["time", "usage_user", "usage_system"]);
        assert_eq!(
            answer.rows[0],
            [Cell::Number(0.0), Cell::Number(3.0), Cell::Number(7.0)]
        );
        assert_eq!(
            answer.rows[1],
            [Cell::Number(60_000.0), Cell::Number(4.0), Cell::Null]
        );
    }
}
