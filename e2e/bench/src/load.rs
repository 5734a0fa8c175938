//! Writes pre-encoded batches as fast as a server takes them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use greptime_clock::SharedClock;

use crate::http::Http;

/// Where a server takes batches.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub path: String,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loaded {
    /// From the first byte to the last acknowledgement, in seconds.
    pub seconds: f64,
    /// Batches that were refused for a while and sent again.
    pub retries: usize,
}

const TIMEOUT: Duration = Duration::from_secs(60);
/// A server that pushes back is given so many chances for each batch.
const ATTEMPTS: usize = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// Sends all batches over `connections` connections; every batch is acknowledged once.
pub fn run(
    target: &Target,
    batches: &[Vec<u8>],
    connections: usize,
    clock: &SharedClock,
) -> anyhow::Result<Loaded> {
    let (next, retries, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let start = clock.now();
    let outcome = std::thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            let mut http = Http::new(&target.address, TIMEOUT);
            while !stop.load(Ordering::Relaxed) {
                let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                let result = send(&mut http, target, batch, &retries);
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                result?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(worker)).collect();
        let joined = workers
            .into_iter()
            .map(|w| w.join().map_err(|_| anyhow!("a writer panicked"))?);
        joined.collect::<anyhow::Result<Vec<()>>>()
    });
    outcome?;
    let seconds = (clock.now() - start).as_secs_f64();
    Ok(Loaded {
        seconds,
        retries: retries.load(Ordering::Relaxed),
    })
}

fn send(http: &mut Http, target: &Target, batch: &[u8], retries: &AtomicUsize) -> anyhow::Result<()> {
    for attempt in 1.. {
        let response = http.request("POST", &target.path, target.content_type, &target.headers, batch)?;
        let again = matches!(response.status, 429 | 503) && attempt < ATTEMPTS;
        if !again {
            response.ok()?;
            return Ok(());
        }
        retries.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
