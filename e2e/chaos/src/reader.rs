//! A reader that checks: whatever was acknowledged before a read began must be in what it returns.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, sql};
use crate::load::{HOSTS, Load, Outcome, select, times};

/// From one read of a region to the next: cheap enough to go on all the time.
const EVERY: Duration = Duration::from_millis(250);
/// Rows that a read is checked for: the newest ones, since those are what a leader of before would not have.
const ROWS: usize = 100;
const DEADLINE: Duration = Duration::from_secs(30);

/// What reads have found so far, of all regions together.
#[derive(Default)]
pub struct Found {
    reads: AtomicU64,
    errors: AtomicU64,
    stale: AtomicU64,
}

/// A moment's numbers of [`Found`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub reads: u64,
    pub errors: u64,
    pub stale: u64,
}

pub struct Readers {
    found: Arc<Found>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Readers {
    pub fn start(cluster: &Cluster, load: &Load) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build()?;
        let (found, stop) = (Arc::<Found>::default(), Arc::<AtomicBool>::default());
        let readers = HOSTS.iter().zip(&load.outcomes).map(|(host, outcome)| {
            let reader = Reader {
                client: client.clone(),
                frontend: cluster.frontend_http.clone(),
                host,
                outcome: Arc::clone(outcome),
                found: Arc::clone(&found),
            };
            tokio::spawn(reader.run(Arc::clone(&stop)))
        });
        Ok(Self {
            tasks: readers.collect(),
            found,
            stop,
        })
    }

    pub fn counts(&self) -> Counts {
        let number = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counts {
            reads: number(&self.found.reads),
            errors: number(&self.found.errors),
            stale: number(&self.found.stale),
        }
    }

    pub async fn finish(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.context("a reader has failed")?;
        }
        Ok(())
    }
}

struct Reader {
    client: reqwest::Client,
    frontend: String,
    host: &'static str,
    outcome: Arc<Outcome>,
    found: Arc<Found>,
}

impl Reader {
    async fn run(self, stop: Arc<AtomicBool>) {
        let mut due = tokio::time::interval(EVERY);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(Ordering::SeqCst) {
            due.tick().await;
            self.read().await;
        }
    }

    async fn read(&self) {
        let wanted = self.outcome.newest(ROWS);
        let (Some(first), Some(last)) = (wanted.iter().min(), wanted.iter().max()) else {
            return;
        };
        let statement = select(self.host, &(*first..last + 1));
        let answer = sql(&self.client, &self.frontend, &statement).await;
        self.found.reads.fetch_add(1, Ordering::SeqCst);
        match answer {
            Ok(text) => {
                let missing = missing(&wanted, &text);
                if !missing.is_empty() {
                    self.found.stale.fetch_add(1, Ordering::SeqCst);
                    println!(
                        "STALE READ of host {}: {} rows that were acknowledged before are missing, of times {missing:?}",
                        self.host,
                        missing.len()
                    );
                }
            }
            // It says nothing, which is no lie.
            Err(_) => drop(self.found.errors.fetch_add(1, Ordering::SeqCst)),
        }
    }
}

fn missing(wanted: &[i64], csv: &str) -> Vec<i64> {
    let found: BTreeSet<i64> = times(csv).collect();
    let missing = wanted.iter().filter(|time| !found.contains(time));
    missing.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_lacks_an_acknowledged_row_is_stale() {
        assert_eq!(missing(&[3, 2, 1], "ts\n1\n3\n"), [2]);
        assert!(missing(&[3, 2], "ts\n2\n3\n4\n").is_empty());
    }
}
