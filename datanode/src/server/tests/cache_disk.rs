//! A datanode whose cache has a disk of its own, which fills up and has space again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use greptime_log::MemoryLog;
use greptime_telemetry::Metrics;

use crate::config::DatanodeConfig;
use crate::server::{Datanode, DatanodeParts};
use crate::testing::{Dice, FaultyStore, Node, Row, SmallDisk, parts, row};

async fn start(store: &Arc<FaultyStore>, dir: &Path, metrics: &Metrics) -> Arc<Datanode> {
    let config = DatanodeConfig {
        // What is read comes from the disk, or from the bucket.
        cache_memory: 256 << 10,
        decoded_cache_size: 64 << 10,
        cache_disk: 64 << 20,
        ..DatanodeConfig::default()
    };
    let parts = DatanodeParts {
        metrics: metrics.clone(),
        ..parts(config, store, dir)
    };
    let log = Arc::new(MemoryLog::default());
    Datanode::start_with_log(parts, log).await.unwrap()
}

/// Rows that hardly get smaller.
fn noise(batch: i64) -> Vec<Row> {
    let mut dice = Dice::new(batch as u64 + 1);
    (0..20_000)
        .map(|n| row("a", 20_000 * batch + n, dice.noise()))
        .collect()
}

/// Nothing if it was never counted.
fn counter(metrics: &Metrics, name: &str) -> Option<u64> {
    let text = metrics.text();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flush_and_no_query_fails_for_a_cache_whose_disk_is_full() {
    let (store, metrics) = (Arc::<FaultyStore>::default(), Metrics::default());
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let Some(disk) = SmallDisk::mount(&cache, 160) else {
        return;
    };
    let node = Node::around(start(&store, dir.path(), &metrics).await, Arc::clone(&store), dir);
    node.initialise().await.unwrap();
    node.wait_until_leading().await;
    let mut rows = Vec::new();
    let errors = || counter(&metrics, "greptime_datanode_cache_disk_errors").unwrap();
    let hits = || counter(&metrics, "greptime_datanode_cache_hits_total{tier=\"disk\"}").unwrap_or(0);
    let work = async |rows: &mut Vec<Row>| {
        let batch = noise((rows.len() / 20_000) as i64);
        node.write(&batch).await.unwrap();
        node.flush().await.unwrap();
        rows.extend(batch);
        assert!(node.read().await.unwrap() == *rows, "{} rows", rows.len());
    };
    for _ in 0..3 {
        work(&mut rows).await;
    }
    // It takes what it is given in its own time, and is tried again after some seconds when it has failed.
    let until_hits = async |rows: &Vec<Row>, above: u64| {
        for _ in 0..400 {
            assert!(node.read().await.unwrap() == *rows);
            if hits() > above {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the disk is not used");
    };
    until_hits(&rows, 0).await;
    assert_eq!(errors(), 0);
    disk.fill();
    for batches in 0.. {
        assert!(batches < 20, "a full disk takes everything");
        work(&mut rows).await;
        if errors() > 0 {
            break;
        }
    }
    for _ in 0..3 {
        work(&mut rows).await;
    }
    disk.empty();
    until_hits(&rows, hits()).await;
    node.datanode.shutdown().await;
}
