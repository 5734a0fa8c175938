//! Compares what was acknowledged with what the cluster gives back.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::sql::Http;
use crate::writer::Logs;

/// (host, time) and the values that the row must have.
type Rows = BTreeMap<(String, i64), (u64, String)>;

#[derive(Clone, Debug)]
pub struct Verdict {
    pub acknowledged: usize,
    pub read_back: usize,
    /// SHA-256 over the acknowledged rows as read back, in order.
    pub checksum: String,
}

/// Every acknowledged row must be there once, with its values. Rows that were sent but not acknowledged may be
/// there, once too; others may not.
pub async fn verify(http: &Http, table: &str, logs: &Logs) -> Result<Verdict> {
    let (expected, sent) = (rows_of(&logs.acknowledged)?, rows_of(&logs.sent)?);
    let (found, doubles) = read_back(http, table).await?;
    if doubles > 0 {
        bail!("{table}: {doubles} rows are there more than once");
    }
    if let Some((key, values)) = found.iter().find(|(key, values)| sent.get(key) != Some(values)) {
        bail!("{table}: nobody wrote {key:?}: {values:?}");
    }
    let mut lost = Vec::new();
    let mut hash = Sha256::new();
    for (key, values) in &expected {
        match found.get(key) {
            Some(there) if there == values => hash.update(format!("{key:?}{values:?}\n")),
            other => lost.push(format!("{key:?}: wrote {values:?}, found {other:?}")),
        }
    }
    if !lost.is_empty() {
        bail!(
            "{table}: {} of {} acknowledged rows are lost or changed, e.g. {}",
            lost.len(),
            expected.len(),
            lost[0]
        );
    }
    let checksum = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Verdict {
        acknowledged: expected.len(),
        read_back: found.len(),
        checksum,
    })
}

fn rows_of(log: &Path) -> Result<Rows> {
    let text = std::fs::read_to_string(log)?;
    text.lines()
        .map(|line| parse(line, "the writer's file"))
        .collect()
}

async fn read_back(http: &Http, table: &str) -> Result<(Rows, usize)> {
    // The time as a number, so that no format of timestamps is part of the check.
    let statement = format!("SELECT host, CAST(ts AS BIGINT), seq, value FROM {table} ORDER BY host, ts");
    let text = http.csv(&statement).await?;
    let (mut rows, mut doubles) = (Rows::new(), 0);
    for line in text.lines().filter(|l| l.starts_with("host_")) {
        let (key, values) = parse(line, "the answer")?;
        doubles += usize::from(rows.insert(key, values).is_some());
    }
    Ok((rows, doubles))
}

fn parse(line: &str, source: &str) -> Result<((String, i64), (u64, String))> {
    let cells: Vec<&str> = line.split(',').map(|c| c.trim_matches('"')).collect();
    let [host, ts, seq, value] = cells[..] else {
        bail!("{source} has a line of another shape: {line}")
    };
    let value: f64 = value.parse().with_context(|| format!("{source}: {line}"))?;
    let key = (
        host.to_string(),
        ts.parse().with_context(|| format!("{source}: {line}"))?,
    );
    Ok((
        key,
        (
            seq.parse().with_context(|| format!("{source}: {line}"))?,
            format!("{value:?}"),
        ),
    ))
}
