//! The batches, and who writes them: as fast as they are acknowledged, by a few connections.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::load;

pub const TABLE: &str = "cost";
const CONNECTIONS: usize = 4;
const LINES: usize = 5_000;
const HOSTS: usize = 100;
/// Each connection sends so many, again and again.
const BATCHES: usize = 8;

/// Makes the table, of one region: its leader is on one datanode, and all that the others do is to follow. Every row
/// stays, so that rows can be counted.
pub async fn create_table(cluster: &Cluster) -> Result<()> {
    let statement = format!(
        "CREATE TABLE {TABLE} (host STRING, ts TIMESTAMP(3) TIME INDEX, a DOUBLE, b DOUBLE, c DOUBLE, PRIMARY KEY (host)) \
         WITH (append_mode = 'true')"
    );
    cluster.sql(&statement).await.map(drop)
}

/// How many rows there are.
pub async fn count(cluster: &Cluster) -> Result<u64> {
    let text = cluster.sql(&format!("SELECT count(*) FROM {TABLE}")).await?;
    let number = text.lines().rev().find_map(|line| line.trim().parse().ok());
    number.with_context(|| format!("no number of rows: {text}"))
}

/// Lines of line protocol; the same for each number.
fn batch(number: usize) -> String {
    let mut lines = String::new();
    for line in number * LINES..(number + 1) * LINES {
        let (host, time) = (line % HOSTS, load::FIRST_TIME + (line / HOSTS) as i64);
        let value = |factor: usize| (line * factor % 10_007) as f64 / 8.0;
        let (a, b, c) = (value(7_919), value(6_101), value(4_093));
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{TABLE},host=h{host:02} a={a},b={b},c={c} {time}");
    }
    lines
}

#[derive(Default)]
struct Count {
    rows: AtomicU64,
    errors: AtomicU64,
    stop: AtomicBool,
}

pub struct Writers {
    count: Arc<Count>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let count = Arc::<Count>::default();
        let url = load::write_url(cluster);
        let writers = (0..CONNECTIONS).map(|connection| {
            let batches = (0..BATCHES).map(|number| batch(connection * BATCHES + number));
            // A client has the one connection that it needs.
            let client = load::client()?;
            Ok(write(client, url.clone(), batches.collect(), Arc::clone(&count)))
        });
        let writers: Vec<_> = writers.collect::<Result<_>>()?;
        Ok(Self {
            count,
            tasks: writers.into_iter().map(tokio::spawn).collect(),
        })
    }

    /// Rows that were acknowledged so far.
    pub fn rows(&self) -> u64 {
        self.count.rows.load(Ordering::SeqCst)
    }

    /// Ends when what is under way is answered; the writes that have failed.
    pub async fn finish(&mut self) -> Result<u64> {
        self.count.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.context("a writer has failed")?;
        }
        Ok(self.count.errors.load(Ordering::SeqCst))
    }
}

async fn write(client: reqwest::Client, url: String, batches: Vec<String>, count: Arc<Count>) {
    for batch in batches.iter().cycle() {
        if count.stop.load(Ordering::SeqCst) {
            return;
        }
        match load::send(client.post(&url).body(batch.clone())).await {
            Ok(()) => count.rows.fetch_add(LINES as u64, Ordering::SeqCst),
            Err(error) => {
                eprintln!("a batch has failed: {error:#}");
                count.errors.fetch_add(1, Ordering::SeqCst)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_the_same_each_time_and_have_rows_of_their_own() {
        let (first, second) = (batch(0), batch(1));
        assert_eq!(first, batch(0));
        assert_eq!(first.lines().count(), LINES);
        let key = |line: &str| {
            let mut words = line.split(' ');
            (words.next().map(str::to_owned), words.nth(1).map(str::to_owned))
        };
        let keys: std::collections::BTreeSet<_> = first.lines().chain(second.lines()).map(key).collect();
        assert_eq!(keys.len(), 2 * LINES);
        assert_eq!(
            first.lines().nth(1),
            Some("cost,host=h01 a=989.875,b=762.625,c=511.625 1700000000000")
        );
    }
}
