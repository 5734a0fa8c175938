//! Acknowledged means durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use greptime_clock::SystemClock;
use greptime_log::{
    Batch, CommittedEntry, Entry, Fault, GroupStatus, Key, LogError, LogStore, LogSync, MemoryLog,
};
use greptime_proto::v1::RegionRole;
use greptime_types::{ErrorKind, RegionId};

use crate::budget::Budget;
use crate::config::DatanodeConfig;
use crate::manifest::View;
use crate::region::{Checkpoint, Flusher, Region, flush};
use crate::testing::{Dice, FaultyStore, Node, Place, Row, row, seeds, start_node, table};

/// Small writes fill no memory, and yet a restart would take long.
#[tokio::test]
async fn a_region_with_a_long_log_is_flushed_however_small_its_rows_are() {
    let config = DatanodeConfig {
        flush_entries: 50,
        ..DatanodeConfig::default()
    };
    let node = Node::with(config, false).await;
    let entries = |node: &Node| {
        let region = node.datanode.regions().get(node.region).unwrap();
        region.with_state(|s| s.unflushed_entries())
    };
    for n in 0..40 {
        node.write(&[row("a", n, 1.0)]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(entries(&node) >= 40, "it is not due yet");
    for n in 40..60 {
        node.write(&[row("a", n, 1.0)]).await.unwrap();
    }
    node.wait_for("its flush", || entries(&node) < 20).await;
    assert_eq!(node.read().await.unwrap().len(), 60);
}

#[tokio::test]
async fn a_restart_replays_the_log() {
    let mut node = Node::new().await;
    for i in 0..20 {
        node.write(&[row("a", i % 7, i as f64)]).await.unwrap();
    }
    let before = node.read().await.unwrap();
    let epoch = node.datanode.reports()[0].epoch;
    node = node.crash().await;
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
    assert_eq!(node.read().await.unwrap(), before);
    assert!(
        node.datanode.reports()[0].epoch > epoch,
        "a new leader has a new epoch"
    );
}

#[tokio::test]
async fn the_log_is_synced_before_a_write_is_acknowledged() {
    let node = Node::new().await;
    for i in 0..10 {
        let before = node.log.syncs();
        node.write(&[row("a", i, 1.0)]).await.unwrap();
        assert!(
            node.log.syncs() > before,
            "write {i} was acknowledged without a sync"
        );
    }
}

#[tokio::test]
async fn writes_that_arrive_together_share_a_sync() {
    let node = Node::new().await;
    let before = node.log.syncs();
    // Some arrive one by one on a busy machine, but not all of all rounds.
    for round in 0..10 {
        let writes = (0..200).map(|i| {
            let rows = vec![row("a", round * 200 + i, 1.0)];
            let node = &node;
            async move { node.write(&rows).await }
        });
        for result in futures::future::join_all(writes).await {
            result.unwrap();
        }
    }
    let syncs = node.log.syncs() - before;
    assert!(syncs < 2000, "2000 concurrent writes took {syncs} syncs");
    assert_eq!(node.read().await.unwrap().len(), 2000);
}

async fn survives_power_cuts(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut node = Node::appending().await;
    let (mut acknowledged, mut unknown, mut ts) = (Vec::<Row>::new(), Vec::<Row>::new(), 0);
    for _ in 0..4 {
        let fault = [Fault::Lost, Fault::SyncFailedButKept, Fault::Torn][dice.roll(3) as usize];
        node.log.fail_at(1 + dice.roll(12), fault);
        loop {
            ts += 1;
            let written = row("a", ts, ts as f64);
            if dice.roll(5) == 0 && node.flush().await.is_err() {
                break;
            }
            let failed = node.write(std::slice::from_ref(&written)).await;
            match failed {
                Ok(_) => acknowledged.push(written),
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Unavailable, "seed {seed}: {error}");
                    unknown.push(written);
                    break;
                }
            }
        }
        assert!(
            node.write(&[row("late", ts, 0.0)]).await.is_err(),
            "seed {seed}: a failed log took a write"
        );
        node = node.crash().await;
        node.wait_for("files are known", || {
            node.datanode.regions().all()[0].snapshot().is_ok()
        })
        .await;
        let found = node.read().await.unwrap();
        for row in &acknowledged {
            let times = found.iter().filter(|r| *r == row).count();
            assert_eq!(
                times, 1,
                "seed {seed}: acknowledged {row:?} is there {times} times"
            );
        }
        for row in &found {
            assert!(
                acknowledged.contains(row) || unknown.contains(row),
                "seed {seed}: nobody wrote {row:?}"
            );
        }
        // What is there although its answer was lost stays there.
        acknowledged.extend(unknown.extract_if(.., |row| found.contains(row)));
        unknown.clear();
    }
}

#[tokio::test]
async fn acknowledged_rows_are_there_after_every_power_cut() {
    for seed in 0..seeds(40) {
        survives_power_cuts(seed).await;
    }
}

#[tokio::test]
async fn after_a_failed_sync_the_node_says_so_and_takes_nothing() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.log.fail_at(1, Fault::SyncFailedButKept);
    let options = node.options();
    assert_eq!(
        node.write_with(options, &[row("a", 2, 2.0)])
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Unavailable
    );
    assert!(node.datanode.failed().await.contains("could not be written"));
    assert!(
        node.write(&[row("a", 3, 3.0)])
            .await
            .unwrap_err()
            .message
            .contains("must restart")
    );
    // The retry under the same id learns that the row was written, and does not write it twice.
    let node = node.crash().await;
    let retried = node.write_with(options, &[row("a", 2, 2.0)]).await.unwrap();
    assert!(retried.duplicate);
}

#[tokio::test]
async fn a_flush_trims_the_log_and_a_restart_goes_on_from_there() {
    let mut node = Node::new().await;
    for i in 0..10 {
        node.write(&[row("a", i, 1.0)]).await.unwrap();
    }
    let flushed = node.flush().await.unwrap();
    let region = node.region;
    node.wait_for("the log is trimmed", || {
        node.log.bounds(region).is_none_or(|(f, _)| f > flushed)
    })
    .await;
    node = node.crash().await;
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
    assert_eq!(node.read().await.unwrap().len(), 10);
    let written = node.write(&[row("b", 1, 1.0)]).await.unwrap();
    assert!(
        written.sequence > flushed,
        "a sequence never goes back, even if the log was empty"
    );
    assert_eq!(node.read().await.unwrap().len(), 11);
}

#[tokio::test]
async fn a_dropped_caller_does_not_undo_its_write() {
    let node = Node::new().await;
    let options = node.options();
    let rows = [row("a", 1, 1.0)];
    let write = node.write_with(options, &rows);
    // Polled once, so that it is queued, and dropped.
    tokio::select! {
        biased;
        _ = write => {}
        () = std::future::ready(()) => {}
    }
    let again = loop {
        match node.write_with(options, &rows).await {
            Ok(answer) => break answer,
            Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{error}"),
        }
    };
    assert_eq!(node.read().await.unwrap().len(), 1);
    assert_eq!(again.affected_rows, 1);
    assert!(again.duplicate, "the first copy was taken back");
}

/// A disk that takes writes, and fails when it is asked to sync.
struct NeverSynced(MemoryLog);

impl LogStore for NeverSynced {
    fn append(&self, batch: Batch) -> Result<(), LogError> {
        self.0.append(batch)
    }

    fn sync(&self) -> Result<(), LogError> {
        Err(LogError::Write("the disk failed to sync".into()))
    }

    fn regions(&self) -> Result<Vec<RegionId>, LogError> {
        self.0.regions()
    }

    fn bounds(&self, region: RegionId) -> Option<(u64, u64)> {
        self.0.bounds(region)
    }

    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.0.entries(region, low, high, max_bytes)
    }

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError> {
        self.0.get(region, key)
    }

    fn reclaim(&self) -> Result<Vec<RegionId>, LogError> {
        self.0.reclaim()
    }
}

#[tokio::test]
async fn a_flush_puts_no_edit_before_the_log_is_synced() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let flusher = Flusher {
        store: Arc::new(NeverSynced(node.log.clone())),
        ..node.datanode.flusher.clone()
    };
    let region = node.datanode.regions().get(node.region).unwrap();
    flush(&flusher, &region).await.unwrap_err();
    let keys = node.store.keys().await;
    assert!(!keys.iter().any(|k| k.contains("/manifest/")), "{keys:?}");
}

#[tokio::test]
async fn a_failed_sync_by_interval_ends_the_node() {
    let config = DatanodeConfig {
        log_sync: LogSync::Interval,
        log_sync_interval: Duration::from_millis(10),
        ..DatanodeConfig::default()
    };
    let (store, dir) = (Arc::new(FaultyStore::default()), tempfile::tempdir().unwrap());
    let disk = Arc::new(NeverSynced(MemoryLog::default()));
    let datanode = start_node(
        &config,
        disk,
        &store,
        &dir,
        &SystemClock::shared(),
        &Place::default(),
    )
    .await;
    let reason = tokio::time::timeout(Duration::from_secs(2), datanode.failed()).await;
    let reason = reason.expect("the node goes on");
    assert!(reason.contains("failed to sync"), "{reason}");
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_stops_the_region() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let nonsense = Bytes::from_static(b"nonsense");
    node.datanode.propose(node.region, nonsense).await.unwrap_err();
    assert_eq!(
        node.write(&[row("a", 2, 1.0)]).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert_eq!(node.datanode.reports()[0].role, i32::from(RegionRole::Failed));
}

#[test]
fn a_leader_serves_only_after_an_entry_of_its_own_term() {
    let checkpoint = Checkpoint {
        format: 1,
        table: table(1024, false),
        flushed_seq: 1,
        manifest_version: 0,
        requests: Default::default(),
    };
    let budget = Budget::new(1 << 20, 1 << 20);
    let region = Region::new(RegionId::new(1024, 0), checkpoint, Some(View::default()), budget);
    region.set_status(GroupStatus {
        raft_id: 7,
        leads: true,
        term: 3,
        last_index: 3,
        ..GroupStatus::default()
    });
    let apply = |index, term| {
        let entry = CommittedEntry {
            index,
            term,
            data: Bytes::new(),
            token: None,
        };
        region.apply(&entry, Duration::ZERO).unwrap();
    };
    apply(2, 2);
    for refused in [region.admit(0, 1).map(drop), region.snapshot().map(drop)] {
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Unavailable);
    }
    apply(3, 3);
    region.admit(0, 1).unwrap();
    region.snapshot().unwrap();
}
