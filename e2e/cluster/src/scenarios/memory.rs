//! The limits of the pods hold: nothing is killed for its memory.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use greptime_lab::faults;
use greptime_lab::progress::Stopwatch;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{READY, Suite};
use crate::database::Database;
use crate::sql::Http;

const HTTP_PORT: u16 = 14500;
const HOSTS: u64 = 500;
const ROWS: u64 = 1_500_000;
const SERIES: u64 = 400_000;
const LINES: u64 = 5_000;
const WRITERS: usize = 4;
const FIELDS: u64 = 10;
const MIB: u64 = 1 << 20;

/// Everything of a table at once, in ways that keep much.
const QUERIES: [&str; 4] = [
    "SELECT host, avg(f0), avg(f1), avg(f2), avg(f3), avg(f4), max(f5), max(f6), min(f7) FROM load GROUP BY host",
    "SELECT count(*) FROM (SELECT host, greptime_timestamp, max(f0) FROM load GROUP BY host, greptime_timestamp)",
    "SELECT count(DISTINCT greptime_timestamp), approx_percentile_cont(f9, 0.99) FROM load",
    "SELECT id, max(v) FROM many GROUP BY id ORDER BY id LIMIT 5",
];

/// Ingest at full speed, hundreds of thousands of series and queries over everything, with the settings and limits that
/// a cluster has when nothing is said.
pub fn memory_within_pod_limits(suite: &Suite) -> Result<()> {
    let database = Database::new(&suite.cluster, "e2e-memory", "memory");
    database.prepare()?;
    let mut manifest = database.manifest();
    manifest["spec"]["datanode"] = json!({"replicas": 1, "storage": {"size": "4Gi"}});
    database.apply(&manifest)?;
    database.wait_ready(READY)?;
    let http = database.http(HTTP_PORT)?;
    let before = database.pod_identities()?;
    let watch = Stopwatch::start();
    suite.runtime.block_on(async {
        let asking = tokio::spawn(ask_while_writing(http.clone()));
        write(&http, ROWS, line_of_load).await?;
        write(&http, SERIES, line_of_many).await?;
        asking.abort();
        for query in QUERIES {
            http.sql(query).await?;
        }
        let counted = http
            .rows("SELECT (SELECT count(*) FROM load) AS rows, (SELECT count(*) FROM many) AS series")
            .await?;
        ensure!(
            counted == [[json!(ROWS), json!(SERIES)]],
            "rows are missing: {counted:?}"
        );
        Ok(())
    })?;
    watch.say(&format!("{} rows were written and queried", ROWS + SERIES));
    let after = database.pod_identities()?;
    ensure!(
        before == after,
        "a pod was restarted:\n{before}\n{after}\n{}",
        database.explain()
    );
    for role in ["datanode", "frontend", "metasrv"] {
        for pod in database.pods(role)? {
            within_limit(suite, &database, &pod)?;
        }
    }
    database.discard()
}

/// That the pod was not killed for its memory; in the laboratory also how near it came.
fn within_limit(suite: &Suite, database: &Database, pod: &str) -> Result<()> {
    let found: Value = serde_json::from_str(&database.kubectl(&["get", "pod", pod, "-o", "json"])?)?;
    let reason = &found["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"];
    ensure!(reason.is_null(), "{pod} was ended: {reason}");
    let limit = &found["spec"]["containers"][0]["resources"]["limits"]["memory"];
    let limit = bytes_of(
        limit
            .as_str()
            .with_context(|| format!("{pod} has no memory limit"))?,
    )?;
    if let Some(lab) = &suite.cluster.lab {
        let peak = faults::peak_memory(lab, &database.namespace, pod)?;
        let (peak_mib, limit_mib) = (peak / MIB, limit / MIB);
        Stopwatch::start().say(&format!("{pod}: {peak_mib} MiB at the most, of {limit_mib} MiB"));
        ensure!(
            peak < limit,
            "{pod} came to {peak_mib} MiB, its limit is {limit_mib} MiB"
        );
    }
    Ok(())
}

/// A quantity as pods state memory.
fn bytes_of(quantity: &str) -> Result<u64> {
    let units = [("Gi", 1 << 30), ("Mi", MIB), ("Ki", 1 << 10), ("", 1)];
    for (unit, bytes) in units {
        if let Some(number) = quantity.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok()) {
            return Ok(number * bytes);
        }
    }
    bail!("{quantity:?} is no quantity of memory")
}

/// Rows of hosts that all report every ten seconds.
fn line_of_load(to: &mut String, n: u64) {
    let _ = write!(to, "load,host=host_{},dc=dc_{} ", n % HOSTS, n % 7);
    for field in 0..FIELDS {
        let comma = if field == 0 { "" } else { "," };
        let value = n.wrapping_mul(2_654_435_761 + field) >> 7 & 0x3fff;
        let _ = write!(to, "{comma}f{field}={}.{}", value % 100, value % 97);
    }
    let _ = writeln!(to, " {}", 1_767_225_600_000 + n / HOSTS * 10_000);
}

/// A series for each row.
fn line_of_many(to: &mut String, n: u64) {
    let _ = writeln!(
        to,
        "many,id=device-{n:08},site=site-{} v={n} 1767225600000",
        n % 1000
    );
}

/// As fast as it is taken; what is refused as too much is sent again.
async fn write(http: &Http, rows: u64, line: fn(&mut String, u64)) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut writers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..WRITERS {
        let (http, next) = (http.clone(), Arc::clone(&next));
        writers.spawn(async move {
            loop {
                let from = next.fetch_add(LINES, Ordering::Relaxed);
                if from >= rows {
                    return Ok(());
                }
                let mut lines = String::new();
                (from..rows.min(from + LINES)).for_each(|n| line(&mut lines, n));
                send(&http, lines).await?;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}

async fn send(http: &Http, lines: String) -> Result<()> {
    for _ in 0..100 {
        match http.write_lines(lines.clone()).await? {
            (200..300, _) => return Ok(()),
            (429 | 503, _) => tokio::time::sleep(Duration::from_millis(100)).await,
            (status, text) => bail!("HTTP {status}: {text}"),
        }
    }
    bail!("lines were refused for too long")
}

/// Queries beside the writing, for as long as it lasts; the tables may not be there yet.
async fn ask_while_writing(http: Http) {
    loop {
        for query in QUERIES {
            let _ = http.sql(query).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (quantity, bytes) in [("2Gi", 2 << 30), ("512Mi", 512 << 20), ("1024", 1024)] {
            assert_eq!(bytes_of(quantity).unwrap(), bytes);
        }
        assert!(bytes_of("2G").is_err());
    }
}
