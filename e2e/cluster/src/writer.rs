//! A writer that sends by schedule, never retries, and remembers outside of the cluster what was acknowledged.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::sql::Http;

/// What the table of a writer looks like. It keeps every row, so that a write that was applied twice shows.
pub fn create_table(table: &str) -> String {
    format!(
        "CREATE TABLE {table} (host STRING, ts TIMESTAMP(3) TIME INDEX, seq BIGINT, value DOUBLE, \
         PRIMARY KEY (host)) PARTITION ON COLUMNS (host) (host < 'host_3', host >= 'host_3' AND host < 'host_6', \
         host >= 'host_6') WITH ('append_mode' = 'true')"
    )
}

/// What a writer sent and what of it was acknowledged: two files outside of the cluster.
#[derive(Clone, Debug)]
pub struct Logs {
    pub sent: PathBuf,
    pub acknowledged: PathBuf,
}

impl Logs {
    /// `NAME.sent` and `NAME.acknowledged` in `reports`.
    pub fn of(name: &str) -> Result<Self> {
        let reports = Path::new("reports");
        std::fs::create_dir_all(reports)?;
        Ok(Self {
            sent: reports.join(format!("{name}.sent")),
            acknowledged: reports.join(format!("{name}.acknowledged")),
        })
    }
}

#[derive(Clone, Debug)]
pub struct Load {
    pub table: String,
    /// Requests per second.
    pub rate: u32,
    /// Rows of one request, each of another host, so that every region gets some of each.
    pub rows: u32,
}

/// What a writer saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub rows_acknowledged: u64,
    /// Requests that were not answered with success, and the first few reasons.
    pub errors: u64,
    pub reasons: Vec<String>,
    /// Longest time without an acknowledgement between two, or since the last one.
    pub longest_gap: Duration,
    /// When it ended, to be found in logs.
    pub gap_ended: Option<SystemTime>,
    last_acknowledged: Option<Instant>,
}

impl Tally {
    fn acknowledge(&mut self, rows: u64, at: Instant) {
        self.rows_acknowledged += rows;
        if let Some(last) = self.last_acknowledged {
            let gap = at.saturating_duration_since(last);
            if gap > self.longest_gap {
                (self.longest_gap, self.gap_ended) = (gap, Some(SystemTime::now()));
            }
        }
        self.last_acknowledged = Some(at);
    }

    /// As it is at `now`: a gap that is still open counts.
    fn at(&self, now: Instant) -> Self {
        let open = self
            .last_acknowledged
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        Self {
            longest_gap: self.longest_gap.max(open),
            ..self.clone()
        }
    }

    fn fail(&mut self, reason: String) {
        self.errors += 1;
        if self.reasons.len() < 5 {
            self.reasons.push(reason);
        }
    }
}

/// A running writer.
pub struct Writer {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    task: tokio::task::JoinHandle<Result<()>>,
}

/// One row, as it is written and as it is expected back: `host,ts,seq,value`.
type Row = (String, i64, u64, f64);

fn rows(load: &Load, request: u64, now_ms: i64) -> Vec<Row> {
    (0..u64::from(load.rows))
        .map(|i| {
            let seq = request * u64::from(load.rows) + i;
            // One time for each request keeps (host, ts) unique, whatever the clock does.
            (
                format!("host_{}", i % 9),
                now_ms + i as i64 / 9,
                seq,
                seq as f64 * 0.5,
            )
        })
        .collect()
}

impl Writer {
    /// Starts to write; each row goes to the logs, one line each.
    pub fn start(http: Http, load: Load, logs: &Logs) -> Result<Self> {
        let sent = BufWriter::new(File::create(&logs.sent)?);
        let file = Arc::new(Mutex::new(BufWriter::new(File::create(&logs.acknowledged)?)));
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let task = tokio::spawn(schedule(http, load, stop.clone(), tally.clone(), sent, file));
        Ok(Self { stop, tally, task })
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().at(Instant::now())
    }

    /// How many rows are acknowledged, for whoever asks again and again.
    pub fn acknowledged(&self) -> impl Fn() -> u64 + Send + 'static {
        let tally = Arc::clone(&self.tally);
        move || tally.lock().rows_acknowledged
    }

    /// How long ago the last request was acknowledged.
    pub fn since_acknowledged(&self) -> Option<Duration> {
        Some(self.tally.lock().last_acknowledged?.elapsed())
    }

    /// Starts the gap anew, so that it is that of one fault.
    pub fn reset_gap(&self) {
        let mut tally = self.tally.lock();
        (tally.longest_gap, tally.gap_ended) = (Duration::ZERO, None);
    }

    /// Sends nothing more, and waits for what is under way.
    pub async fn finish(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.tally.lock().clone())
    }
}

async fn schedule(
    http: Http,
    load: Load,
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    mut sent: BufWriter<File>,
    file: Arc<Mutex<BufWriter<File>>>,
) -> Result<()> {
    let interval = Duration::from_secs(1) / load.rate;
    let mut ticks = tokio::time::interval(interval);
    // Open loop: a late answer delays no later request.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    let start_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let step_ms = interval.as_millis().max(i64::from(load.rows / 9 + 1) as u128) as i64;
    let mut request = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let rows = rows(&load, request, start_ms + request as i64 * step_ms);
        write_rows(&mut sent, &rows)?;
        let lines: Vec<String> = rows
            .iter()
            .map(|(host, ts, seq, value)| {
                format!("{},host={host} seq={seq}i,value={value:?} {ts}", load.table)
            })
            .collect();
        let (http, tally, file) = (http.clone(), tally.clone(), file.clone());
        under_way.spawn(async move {
            let answer = http.write_lines(lines.join("\n")).await;
            let mut tally = tally.lock();
            tally.requests += 1;
            match answer {
                Ok((status, _)) if (200..300).contains(&status) => {
                    write_rows(&mut file.lock(), &rows)?;
                    tally.acknowledge(rows.len() as u64, Instant::now());
                }
                Ok((status, body)) => tally.fail(format!("HTTP {status}: {body}")),
                Err(error) => tally.fail(format!("{error:#}")),
            }
            Ok(()) as Result<()>
        });
        request += 1;
        while let Some(done) = under_way.try_join_next() {
            done??;
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    sent.flush()?;
    file.lock().flush()?;
    Ok(())
}

fn write_rows(file: &mut BufWriter<File>, rows: &[Row]) -> Result<()> {
    for (host, ts, seq, value) in rows {
        writeln!(file, "{host},{ts},{seq},{value:?}")?;
    }
    Ok(())
}
