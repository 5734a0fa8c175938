//! What a real node exporter says, recorded once and replayed: a file of answers of `/metrics`, each after a line
//! `# scrape MILLISECONDS`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use greptime_clock::SharedClock;

use super::remote_write::Point;
use crate::http::Http;
use crate::process::{Process, free_port};

const MARK: &str = "# scrape ";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Prometheus' own labels of a target.
const TARGET: [(&str, &str); 2] = [("instance", "node-0:9100"), ("job", "node")];

/// Runs the exporter and scrapes it `count` times, once in `pause`.
pub fn record(to: &Path, count: usize, pause: Duration, clock: &SharedClock) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new("prometheus-node-exporter");
    command.arg(format!("--web.listen-address={address}"));
    let unfinished = to.with_extension("unfinished");
    let mut exporter = Process::start(command, &to.with_extension("log"), clock)?;
    let mut http = Http::new(&address, TIMEOUT);
    exporter.await_ready(TIMEOUT, || http.get("/metrics").is_ok())?;
    let mut file = std::fs::File::create(&unfinished)?;
    for _ in 0..count {
        writeln!(file, "{MARK}{}", clock.wall_ms())?;
        file.write_all(&http.get("/metrics")?.ok()?)?;
        std::thread::sleep(pause);
    }
    file.sync_all()?;
    std::fs::rename(&unfinished, to)?;
    exporter.stop()
}

/// The samples of each scrape, as if scrapes were `interval_ms` apart and the last one was at `end_ms`.
pub fn replay(recorded: &str, end_ms: i64, interval_ms: i64) -> anyhow::Result<Vec<Vec<Point>>> {
    let scrapes: Vec<&str> = recorded.split(MARK).skip(1).collect();
    let count = scrapes.len() as i64;
    let each = scrapes.iter().enumerate().map(|(number, text)| {
        let time_ms = end_ms - (count - 1 - number as i64) * interval_ms;
        // The rest of the mark's line is the time of recording.
        let lines = text
            .lines()
            .skip(1)
            .filter(|l| !l.is_empty() && !l.starts_with('#'));
        lines
            .map(|line| sample(line, time_ms).with_context(|| format!("`{line}`")))
            .collect()
    });
    each.collect()
}

/// `name{label="value",…} number`
fn sample(line: &str, time_ms: i64) -> Option<Point> {
    let mut labels: BTreeMap<String, String> = TARGET
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let (series, value) = line.rsplit_once(' ')?;
    let name = match series.split_once('{') {
        None => series,
        Some((name, rest)) => {
            let mut rest = rest.strip_suffix('}')?;
            while !rest.is_empty() {
                let (label, after) = rest.split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.insert(label.trim_start_matches(',').to_string(), value);
                rest = after;
            }
            name
        }
    };
    labels.insert("__name__".into(), name.to_string());
    Some(Point {
        labels,
        value: value.parse().ok()?,
        time_ms,
    })
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_are_replayed_at_an_interval_and_end_where_they_should() {
        let recorded = "# scrape 1\n# HELP up x\nup 1\n# scrape 2\nup 0\n";
        let replayed = replay(recorded, 100_000, 15_000).unwrap();
        let seen: Vec<(i64, f64)> = replayed.iter().flatten().map(|p| (p.time_ms, p.value)).collect();
        assert_eq!(seen, [(85_000, 1.0), (100_000, 0.0)]);
    }

    #[test]
    fn labels_may_hold_commas_quotes_and_braces() {
        let point = sample(r#"m{a="x,\"y\"}",b="c:\\"} 1.5e+09"#, 3).unwrap();
        assert_eq!(point.labels["a"], "x,\"y\"}");
        assert_eq!(point.labels["b"], "c:\\");
        assert_eq!(point.labels["__name__"], "m");
        assert_eq!((point.value, point.time_ms), (1.5e9, 3));
    }
}
