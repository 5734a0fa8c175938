//! Writers by schedule: each region gets its writes at their times, however long those before them take.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::Cluster;

/// Requests under way for one region; more wait, and count as late.
const UNDER_WAY: usize = 1024;
const TABLE: &str = "chaos";
/// One host for each region, by the rules of the table.
pub const HOSTS: [&str; 3] = ["a", "b", "c"];

/// Makes the table: a region for each host, and every row that is applied stays, so that one that is applied twice
/// shows.
pub async fn create_table(cluster: &Cluster) -> Result<()> {
    let statement = format!(
        "CREATE TABLE {TABLE} (host STRING, ts TIMESTAMP(3) TIME INDEX, value DOUBLE, PRIMARY KEY (host)) PARTITION ON \
         COLUMNS (host) (host < 'b', host >= 'b' AND host < 'c', host >= 'c') WITH (append_mode = 'true')"
    );
    cluster.sql(&statement).await.map(drop)
}

/// What became of one writer's requests.
#[derive(Default)]
struct Outcome {
    /// When each was acknowledged, and its row's time.
    acknowledged: Mutex<Vec<(Instant, i64)>>,
    errors: AtomicU64,
}

pub struct Load {
    writers: Vec<JoinHandle<()>>,
    outcomes: Vec<Arc<Outcome>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// `rate`: writes each second, to each region.
    pub fn start(cluster: &Cluster, rate: u32) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(UNDER_WAY)
            .build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let url = format!(
            "{}/v1/influxdb/write?db=public&precision=ms",
            cluster.frontend_http
        );
        let outcomes: Vec<Arc<Outcome>> = HOSTS.iter().map(|_| Arc::default()).collect();
        let writers = HOSTS.iter().zip(&outcomes).map(|(host, outcome)| {
            let writer = Writer {
                client: client.clone(),
                url: url.clone(),
                host,
                outcome: Arc::clone(outcome),
            };
            tokio::spawn(writer.run(rate, Arc::clone(&stop)))
        });
        Ok(Self {
            writers: writers.collect(),
            outcomes,
            stop,
        })
    }

    /// Ends the writers when what they have sent is answered.
    pub async fn finish(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        for writer in self.writers.drain(..) {
            writer.await.context("a writer has failed")?;
        }
        Ok(())
    }

    pub fn errors(&self) -> u64 {
        self.outcomes
            .iter()
            .map(|o| o.errors.load(Ordering::SeqCst))
            .sum()
    }

    pub fn rows_acknowledged(&self) -> usize {
        let lengths = self.outcomes.iter().map(|o| lock(&o.acknowledged).len());
        lengths.sum()
    }

    /// When something of the region was acknowledged last.
    pub fn last(&self, region: usize) -> Option<Instant> {
        lock(&self.outcomes[region].acknowledged)
            .last()
            .map(|(at, _)| *at)
    }

    /// The longest time between two acknowledgements of a region in the stretch of time.
    pub fn longest_gap(&self, region: usize, from: Instant, to: Instant) -> Duration {
        let acknowledged = lock(&self.outcomes[region].acknowledged);
        let times = acknowledged.iter().map(|(at, _)| *at);
        let times: Vec<Instant> = times.filter(|at| (from..=to).contains(at)).collect();
        let gaps = times
            .windows(2)
            .map(|pair| pair[1].saturating_duration_since(pair[0]));
        gaps.max().unwrap_or_else(|| to.saturating_duration_since(from))
    }

    /// Reads everything back: rows that are lost, and rows that are there twice.
    pub async fn verify(&self, cluster: &Cluster) -> Result<(usize, usize)> {
        let (mut lost, mut doubled) = (0, 0);
        for (host, outcome) in HOSTS.iter().zip(&self.outcomes) {
            let statement = format!("SELECT CAST(ts AS BIGINT) FROM {TABLE} WHERE host = '{host}'");
            let text = cluster.sql(&statement).await?;
            let mut found = BTreeSet::new();
            for time in text.lines().filter_map(|line| line.trim().parse::<i64>().ok()) {
                doubled += usize::from(!found.insert(time));
            }
            let acknowledged = lock(&outcome.acknowledged);
            lost += acknowledged
                .iter()
                .filter(|(_, time)| !found.contains(time))
                .count();
        }
        Ok((lost, doubled))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nobody panics while holding it.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Writer {
    client: reqwest::Client,
    url: String,
    host: &'static str,
    outcome: Arc<Outcome>,
}

impl Writer {
    async fn run(self, rate: u32, stop: Arc<AtomicBool>) {
        let writer = Arc::new(self);
        let permits = Arc::new(Semaphore::new(UNDER_WAY));
        let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut time = 1_700_000_000_000;
        while !stop.load(Ordering::SeqCst) {
            due.tick().await;
            time += 1;
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let writer = Arc::clone(&writer);
            tokio::spawn(async move {
                writer.write(time).await;
                drop(permit);
            });
        }
        // All that are under way have ended when all permits are back.
        let _ = permits.acquire_many(UNDER_WAY as u32).await;
    }

    /// One write, sent once: a client that does not retry.
    async fn write(&self, time: i64) {
        let line = format!("{TABLE},host={} value=1 {time}", self.host);
        let answer = self.client.post(&self.url).body(line).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => {
                lock(&self.outcome.acknowledged).push((Instant::now(), time));
            }
            _ => drop(self.outcome.errors.fetch_add(1, Ordering::SeqCst)),
        }
    }
}
