//! A datanode on a file system of some MiB that is really full.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use greptime_types::Ttl;

use crate::config::DatanodeConfig;
use crate::server::Datanode;
use crate::testing::{FaultyStore, Node, PutFault, Row, SmallDisk, row, start_on_disk};

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

async fn start(store: &Arc<FaultyStore>, dir: &Path) -> Arc<Datanode> {
    let config = DatanodeConfig {
        max_write_size: 2 << 20,
        log_turn_size: 1 << 20,
        ..DatanodeConfig::default()
    };
    start_on_disk(&config, store, &dir.join("data")).await.unwrap()
}

/// 100 KB that cannot be made smaller.
fn large(n: i64) -> Row {
    let mut x = n as u64 + 1;
    let mut next = || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        char::from(b' ' + (x >> 33) as u8 % 90)
    };
    let text: String = (0..100_000).map(|_| next()).collect();
    row(&format!("{n:04}{text}"), n, n as f64)
}

async fn rows_are(node: &Node, expected: &[Row]) {
    node.wait_until_readable().await;
    let found = node.read().await.unwrap();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
}

/// Rows of a table that keeps nothing take no memory, and would go into the log for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_ends_at_its_limit_while_the_bucket_is_away() {
    let (store, dir) = (Arc::new(FaultyStore::default()), tempfile::tempdir().unwrap());
    let config = DatanodeConfig {
        log_file_size: 1 << 20,
        log_purge_threshold: 2 << 20,
        log_limit: 10 << 20,
        ..DatanodeConfig::default()
    };
    let datanode = start_on_disk(&config, &store, &dir.path().join("data"))
        .await
        .unwrap();
    let mut node = Node::around(datanode, Arc::clone(&store), dir);
    node.table.options.ttl = Some(Ttl::Instant);
    node.initialise().await.unwrap();
    node.wait_until_leading().await;
    node.write(&[large(0)]).await.unwrap();
    store.set_away(true);
    let mut taken = 0;
    let refused = loop {
        match node.write(&[large(taken)]).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 200, "the log has no limit");
    };
    assert!(
        refused.is_retryable() && refused.message.contains("datanode.log_limit"),
        "{refused}"
    );
    assert!(taken > 40, "{taken} rows of 100 KB were taken");
    assert_eq!(node.datanode.metrics.memtable_bytes.get(), 0);
    store.set_away(false);
    let attempt = async {
        while let Err(error) = node.write(&[large(1)]).await {
            assert!(error.is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempt)
        .await
        .expect("the log stays full");
    node.datanode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_lives_through_a_full_disk_and_a_start_on_it() {
    let (store, dir) = (Arc::new(FaultyStore::default()), tempfile::tempdir().unwrap());
    let Some(disk) = SmallDisk::mount(dir.path(), 40) else {
        return;
    };
    let node = Node::around(start(&store, dir.path()).await, Arc::clone(&store), dir);
    node.initialise().await.unwrap();
    node.wait_until_leading().await;
    let mut kept = Vec::new();
    for n in 0..100 {
        node.write(&[large(n)]).await.unwrap();
        kept.push(large(n));
    }
    // What is in memory cannot leave it.
    store.fail_puts("", PutFault::Refused, usize::MAX);
    disk.fill();
    let refused = loop {
        let next = large(kept.len() as i64);
        match tokio::time::timeout(PATIENCE, node.write(std::slice::from_ref(&next))).await {
            Ok(Ok(_)) => kept.push(next),
            Ok(Err(error)) => break error,
            Err(_) => panic!("a write waits for the disk"),
        }
    };
    assert!(
        refused.is_retryable() && refused.message.contains("is full"),
        "{refused}"
    );
    assert!(kept.len() < 180, "{} rows were taken on a full disk", kept.len());
    rows_are(&node, &kept).await;

    let Node { dir, datanode, .. } = node;
    for _ in 0..3 {
        disk.fill();
    }
    tokio::time::timeout(PATIENCE, datanode.shutdown())
        .await
        .expect("the stop waits for the disk");
    drop(datanode);
    disk.fill();
    let node = Node::around(start(&store, dir.path()).await, Arc::clone(&store), dir);
    node.wait_until_leading().await;
    rows_are(&node, &kept).await;
    let refused = node.write(&[large(999)]).await.unwrap_err();
    assert!(
        refused.is_retryable() && refused.message.contains("is full"),
        "{refused}"
    );

    // The bucket takes files again: what was in memory makes room, though the disk is as full of other things.
    store.fail_puts("", PutFault::Refused, 0);
    let last = large(kept.len() as i64);
    for attempt in 0.. {
        match node.write(std::slice::from_ref(&last)).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 500 && error.is_retryable(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kept.push(last);
    rows_are(&node, &kept).await;
    assert!(disk.ballast().metadata().unwrap().len() > 8 << 20);

    let Node { dir, datanode, .. } = node;
    datanode.shutdown().await;
    drop(datanode);
    let node = Node::around(start(&store, dir.path()).await, store, dir);
    rows_are(&node, &kept).await;
    node.datanode.shutdown().await;
    drop(disk);
}
