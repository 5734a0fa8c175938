//! How much the loop takes into one turn, and what ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use greptime_types::{ErrorKind, Result};
use parking_lot::Mutex;

use super::full::Ignore;
use super::*;

const REGIONS: usize = 4;
const TURN: usize = 4 << 10;
const FULL_TURNS: usize = 10;

/// How a write fails.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Answers,
    Panics,
}

/// Knows the bytes of the entries of each batch that has some.
#[derive(Default)]
struct Weighed {
    log: MemoryLog,
    batches: Mutex<Vec<usize>>,
    /// Appends wait.
    is_held: AtomicBool,
    /// The next append fails, and those after it work.
    failing: Mutex<Option<Failing>>,
}

impl LogStore for Weighed {
    fn append(&self, batch: Batch) -> Result<(), LogError> {
        let failing = self.failing.lock().take();
        match failing {
            Some(Failing::Answers) => return Err(LogError::Write("the disk failed to sync".into())),
            Some(Failing::Panics) => panic!("the disk failed to sync"),
            None => {}
        }
        let entries = batch.regions.values().flat_map(|region| &region.entries);
        let bytes: usize = entries.map(|entry| entry.data.len()).sum();
        if bytes > 0 {
            self.batches.lock().push(bytes);
        }
        while self.is_held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.log.append(batch)
    }

    fn regions(&self) -> Result<Vec<RegionId>, LogError> {
        self.log.regions()
    }

    fn bounds(&self, region: RegionId) -> Option<(u64, u64)> {
        self.log.bounds(region)
    }

    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.log.entries(region, low, high, max_bytes)
    }

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError> {
        self.log.get(region, key)
    }

    fn reclaim(&self) -> Result<Vec<RegionId>, LogError> {
        self.log.reclaim()
    }
}

/// A loop over regions that lead, and room for everything that is proposed here.
fn started(store: &Arc<Weighed>) -> LogHandle {
    let as_store: Arc<dyn LogStore> = store.clone();
    let mut core = open(&as_store, &[]);
    for number in 0..REGIONS {
        core.step(initialise(number as u32));
    }
    settle(&mut core).unwrap();
    start(core, Arc::new(Ignore), Arc::new(NoPeers), 64, TURN).unwrap()
}

fn region_of(n: usize) -> RegionId {
    region((n % REGIONS) as u32)
}

/// The entry `n`, of so many bytes.
fn entry(n: usize, bytes: usize) -> Bytes {
    vec![n as u8; bytes].into()
}

fn proposal(n: usize, bytes: usize) -> Proposal {
    Proposal {
        region: region_of(n),
        data: entry(n, bytes),
        request: None,
        held: None,
    }
}

fn proposed(log: &LogHandle, n: usize, bytes: usize) -> impl Future<Output = Result<Applied>> + use<> {
    log.propose(proposal(n, bytes)).unwrap()
}

/// Whether it was queued or not.
async fn answer(log: &LogHandle, n: usize) -> Result<Applied> {
    log.propose(proposal(n, 1))?.await
}

#[tokio::test]
async fn a_turn_ends_with_the_entry_that_reaches_its_bytes_and_the_others_follow_in_order() {
    for bytes in [TURN / 4, TURN - 1, 3 * TURN] {
        let store = Arc::new(Weighed::default());
        let log = started(&store);
        let first = store.bounds(region(0)).unwrap().1 + 1;
        // While one entry is written, the others arrive.
        store.is_held.store(true, Ordering::SeqCst);
        let mut answers = vec![proposed(&log, 0, bytes)];
        while store.batches.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let entries_of_turn = TURN.div_ceil(bytes);
        answers.extend((1..=FULL_TURNS * entries_of_turn).map(|n| proposed(&log, n, bytes)));
        store.is_held.store(false, Ordering::SeqCst);
        for (n, answer) in answers.into_iter().enumerate() {
            let index = answer.await.unwrap().index;
            assert_eq!(index, first + (n / REGIONS) as u64, "entry {n} of {bytes} bytes");
            let kept = store.entries(region_of(n), index, index + 1, u64::MAX).unwrap();
            assert_eq!(kept[0].data[..], entry(n, bytes)[..], "entry {n}");
        }
        log.stop().await;
        let mut turns = vec![bytes];
        turns.extend([entries_of_turn * bytes; FULL_TURNS]);
        assert_eq!(*store.batches.lock(), turns, "entries of {bytes} bytes");
    }
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_acknowledged_though_the_disk_works_again() {
    for failing in [Failing::Answers, Failing::Panics] {
        let store = Arc::new(Weighed::default());
        let log = started(&store);
        answer(&log, 0).await.unwrap();
        *store.failing.lock() = Some(failing);
        let lost = proposed(&log, 0, 1);
        while store.failing.lock().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Of the same region: the group would write both.
        let (lost, later) = tokio::join!(lost, answer(&log, REGIONS));
        for answered in [lost, later] {
            let error = answered.expect_err("a failed log has acknowledged it");
            assert_eq!(error.kind, ErrorKind::Unavailable, "{failing:?}: {error}");
        }
        let reason = log.failed().await;
        assert!(reason.contains("failed to sync"), "{failing:?}: {reason}");
    }
}
