//! Writers by schedule: each region gets its writes at their times, however long those before them take.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::Cluster;

/// Requests under way for one region; more wait, and count as late.
const UNDER_WAY: usize = 4096;
const TABLE: &str = "chaos";
/// One host for each region, by the rules of the table.
pub const HOSTS: [&str; 3] = ["a", "b", "c"];
pub const FIRST_TIME: i64 = 1_700_000_000_000;
const DEADLINE: Duration = Duration::from_secs(30);

/// Makes the table: a region for each host, and every row that is applied stays, so that one that is applied twice
/// shows.
pub async fn create_table(cluster: &Cluster) -> Result<()> {
    let statement = format!(
        "CREATE TABLE {TABLE} (host STRING, ts TIMESTAMP(3) TIME INDEX, value DOUBLE, PRIMARY KEY (host)) PARTITION ON \
         COLUMNS (host) (host < 'b', host >= 'b' AND host < 'c', host >= 'c') WITH (append_mode = 'true')"
    );
    cluster.sql(&statement).await.map(drop)
}

/// Puts the rows that there are into files.
pub async fn flush(cluster: &Cluster) -> Result<()> {
    cluster
        .sql(&format!("ADMIN flush_table('{TABLE}')"))
        .await
        .map(drop)
}

/// A write that was answered with success.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// When it was to be sent.
    pub due: Instant,
    pub at: Instant,
    /// Its row's time; no other row of the region has it.
    pub time: i64,
}

/// A stretch in which nothing was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    pub length: Duration,
    /// The acknowledgement that ended it.
    pub ended: Instant,
}

/// Writes of a region whose failures are told.
const TOLD: usize = 5;

/// What became of the writes to one region.
pub struct Outcome {
    /// In the order of the answers.
    acknowledged: Mutex<Vec<Acknowledged>>,
    /// The times of the rows whose write has failed.
    failed: Mutex<Vec<i64>>,
    /// The time of the row that comes next.
    next: AtomicI64,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            acknowledged: Mutex::default(),
            failed: Mutex::default(),
            next: AtomicI64::new(FIRST_TIME),
        }
    }
}

impl Outcome {
    fn lock(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        lock(&self.acknowledged)
    }

    /// The times of the rows that were acknowledged last.
    pub fn newest(&self, rows: usize) -> Vec<i64> {
        let acknowledged = self.lock();
        let newest = acknowledged.iter().rev().take(rows);
        newest.map(|a| a.time).collect()
    }

    /// The times of those rows that were acknowledged.
    fn of_times(&self, wanted: &Range<i64>) -> Vec<i64> {
        let acknowledged = self.lock();
        let times = acknowledged.iter().map(|a| a.time);
        times.filter(|time| wanted.contains(time)).collect()
    }

    fn between(&self, from: Instant, to: Instant) -> Vec<Acknowledged> {
        let acknowledged = self.lock();
        let first = acknowledged.partition_point(|a| a.at < from);
        let end = acknowledged.partition_point(|a| a.at <= to);
        acknowledged[first..end.max(first)].to_vec()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding one.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub struct Load {
    writers: Vec<JoinHandle<()>>,
    pub outcomes: Vec<Arc<Outcome>>,
    stop: Arc<AtomicBool>,
}

/// Rows that are not as they were acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    pub lost: usize,
    pub doubled: usize,
}

/// A row, by its time, that is not as it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    Lost(i64),
    Doubled(i64),
}

impl Wrong {
    pub fn time(self) -> i64 {
        match self {
            Self::Lost(time) | Self::Doubled(time) => time,
        }
    }
}

impl Load {
    /// `rate`: writes each second, to each region.
    pub fn start(cluster: &Cluster, rate: u32) -> Result<Self> {
        let client = client()?;
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes: Vec<Arc<Outcome>> = HOSTS.iter().map(|_| Arc::default()).collect();
        let writers = HOSTS.iter().zip(&outcomes).map(|(host, outcome)| {
            let writer = Writer::new(cluster, client.clone(), host, Arc::clone(outcome));
            tokio::spawn(writer.run(rate, Arc::clone(&stop)))
        });
        Ok(Self {
            writers: writers.collect(),
            outcomes,
            stop,
        })
    }

    /// A single writer that sends its next write when the last one is answered, until it is told to stop.
    pub fn sequential(
        cluster: &Cluster,
        host: &'static str,
        stop: Arc<AtomicBool>,
    ) -> Result<(Self, JoinHandle<()>)> {
        let outcome = Arc::new(Outcome {
            // Times that no writer by schedule comes to.
            next: AtomicI64::new(FIRST_TIME / 2),
            ..Outcome::default()
        });
        let writer = Writer::new(cluster, client()?, host, Arc::clone(&outcome));
        let load = Self {
            writers: Vec::new(),
            outcomes: vec![outcome],
            stop: Arc::clone(&stop),
        };
        let run = async move {
            while !stop.load(Ordering::SeqCst) {
                let time = writer.outcome.next.fetch_add(1, Ordering::SeqCst);
                writer.write(Instant::now(), time).await;
            }
        };
        Ok((load, tokio::spawn(run)))
    }

    /// Ends the writers when what they have sent is answered.
    pub async fn finish(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        for writer in self.writers.drain(..) {
            writer.await.context("a writer has failed")?;
        }
        Ok(())
    }

    /// Of each region, the times of the rows whose write has failed.
    pub fn failed(&self) -> Vec<Vec<i64>> {
        self.outcomes.iter().map(|o| lock(&o.failed).clone()).collect()
    }

    pub fn rows_acknowledged(&self) -> usize {
        self.outcomes.iter().map(|o| o.lock().len()).sum()
    }

    /// When something of the region was acknowledged last.
    pub fn last(&self, region: usize) -> Option<Instant> {
        self.outcomes[region].lock().last().map(|a| a.at)
    }

    /// The longest time between two acknowledgements of a region in the stretch of time.
    pub fn longest_gap(&self, region: usize, from: Instant, to: Instant) -> Gap {
        longest_gap(&self.outcomes[region].between(from, to), from, to)
    }

    /// When something of the region was first acknowledged since then.
    pub fn first_since(&self, region: usize, since: Instant) -> Option<Instant> {
        let acknowledged = self.outcomes[region].lock();
        let first = acknowledged.partition_point(|a| a.at < since);
        acknowledged.get(first).map(|a| a.at)
    }

    /// What was acknowledged of a region in a stretch of time.
    pub fn between(&self, region: usize, from: Instant, to: Instant) -> Vec<Acknowledged> {
        self.outcomes[region].between(from, to)
    }

    /// How long writes took that were due in the stretch of time and have been answered by now.
    pub fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let now = Instant::now();
        let answered = self.outcomes.iter().flat_map(|o| o.between(from, now));
        let due = answered.filter(|a| (from..to).contains(&a.due));
        due.map(|a| a.at.saturating_duration_since(a.due)).collect()
    }

    /// For each region, the time of the row that comes next.
    pub fn next_times(&self) -> Vec<i64> {
        self.outcomes
            .iter()
            .map(|o| o.next.load(Ordering::SeqCst))
            .collect()
    }

    /// Reads the rows of these times back.
    pub async fn read_back(
        &self,
        cluster: &Cluster,
        region: usize,
        wanted: &Range<i64>,
    ) -> Result<Vec<Wrong>> {
        // Of before they are read: later ones need not be there.
        let acknowledged = self.outcomes[region].of_times(wanted);
        let text = cluster.sql(&select(HOSTS[region], wanted)).await?;
        Ok(compare(&acknowledged, times(&text)))
    }
}

/// Reads the times of a region's rows.
pub fn select(host: &str, times: &Range<i64>) -> String {
    format!(
        "SELECT CAST(ts AS BIGINT) FROM {TABLE} WHERE host = '{host}' AND ts >= {} AND ts < {}",
        times.start, times.end
    )
}

pub fn times(csv: &str) -> impl Iterator<Item = i64> {
    csv.lines().filter_map(|line| line.trim().parse().ok())
}

fn compare(acknowledged: &[i64], found: impl Iterator<Item = i64>) -> Vec<Wrong> {
    let (mut once, mut wrong) = (BTreeSet::new(), Vec::new());
    for time in found {
        if !once.insert(time) {
            wrong.push(Wrong::Doubled(time));
        }
    }
    let lost = acknowledged.iter().filter(|time| !once.contains(time));
    wrong.extend(lost.map(|time| Wrong::Lost(*time)));
    wrong
}

/// Where line protocol goes, with times in milliseconds.
pub fn write_url(cluster: &Cluster) -> String {
    format!(
        "{}/v1/influxdb/write?db=public&precision=ms",
        cluster.frontend_http
    )
}

/// Sends a write, once; an error unless it is acknowledged.
pub async fn send(write: reqwest::RequestBuilder) -> Result<()> {
    let answer = write.send().await?;
    let status = answer.status();
    ensure!(
        status.is_success(),
        "{status}: {}",
        answer.text().await.unwrap_or_default()
    );
    Ok(())
}

/// For writes: they are sent again by nobody, and fail after a while.
pub fn client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .timeout(DEADLINE)
        .no_proxy()
        .pool_max_idle_per_host(UNDER_WAY);
    Ok(client.build()?)
}

fn longest_gap(acknowledged: &[Acknowledged], from: Instant, to: Instant) -> Gap {
    let gaps = acknowledged.windows(2).map(|pair| Gap {
        length: pair[1].at.saturating_duration_since(pair[0].at),
        ended: pair[1].at,
    });
    // Where nothing was acknowledged, the whole stretch is a gap.
    gaps.max_by_key(|gap| gap.length).unwrap_or(Gap {
        length: to.saturating_duration_since(from),
        ended: to,
    })
}

struct Writer {
    client: reqwest::Client,
    url: String,
    host: &'static str,
    outcome: Arc<Outcome>,
}

impl Writer {
    fn new(cluster: &Cluster, client: reqwest::Client, host: &'static str, outcome: Arc<Outcome>) -> Self {
        Self {
            client,
            url: write_url(cluster),
            host,
            outcome,
        }
    }

    async fn run(self, rate: u32, stop: Arc<AtomicBool>) {
        let writer = Arc::new(self);
        let permits = Arc::new(Semaphore::new(UNDER_WAY));
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        while !stop.load(Ordering::SeqCst) {
            let due = ticks.tick().await;
            let time = writer.outcome.next.fetch_add(1, Ordering::SeqCst);
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let writer = Arc::clone(&writer);
            tokio::spawn(async move {
                writer.write(due, time).await;
                drop(permit);
            });
        }
        // All that are under way have ended when all permits are back.
        let _ = permits.acquire_many(UNDER_WAY as u32).await;
    }

    /// One write, sent once: a client that does not retry.
    async fn write(&self, due: Instant, time: i64) {
        let line = format!("{TABLE},host={} value=1 {time}", self.host);
        match send(self.client.post(&self.url).body(line)).await {
            Ok(()) => {
                let mut acknowledged = self.outcome.lock();
                let at = Instant::now();
                acknowledged.push(Acknowledged { due, at, time });
            }
            Err(error) => self.failed(time, &format!("{error:#}")),
        }
    }

    /// Counts it, and says the first few.
    fn failed(&self, time: i64, why: &str) {
        let mut failed = lock(&self.outcome.failed);
        failed.push(time);
        if failed.len() <= TOLD {
            eprintln!("write {time} of {}: {why}", self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_with_its_end() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let at = |at| Acknowledged { due: at, at, time: 0 };
        let acknowledged = [at(ms(5)), at(ms(10)), at(ms(60)), at(ms(65))];
        let gap = longest_gap(&acknowledged, start, ms(100));
        assert_eq!((gap.length, gap.ended), (Duration::from_millis(50), ms(60)));
        assert_eq!(
            longest_gap(&[], start, ms(100)).length,
            Duration::from_millis(100)
        );
    }

    #[test]
    fn acknowledgements_are_found_by_when_they_came() {
        let outcome = Outcome::default();
        let start = Instant::now();
        for ms in 0..10 {
            let at = start + Duration::from_millis(ms);
            outcome.lock().push(Acknowledged {
                due: at,
                at,
                time: ms as i64,
            });
        }
        let found = outcome.between(start + Duration::from_millis(3), start + Duration::from_millis(5));
        assert_eq!(found.iter().map(|a| a.time).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(outcome.newest(2), [9, 8]);
    }

    #[test]
    fn a_row_that_is_not_there_once_is_wrong() {
        let wrong = compare(&[1, 2, 3], [1, 3, 3, 4].into_iter());
        assert_eq!(wrong, [Wrong::Doubled(3), Wrong::Lost(2)]);
    }

    #[test]
    fn headers_of_csv_are_no_times() {
        assert_eq!(times("CAST(ts)\n17\n18\r\n").collect::<Vec<_>>(), [17, 18]);
    }
}
