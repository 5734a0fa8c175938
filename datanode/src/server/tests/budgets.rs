//! What compactions may take: merges at the same time, memory, bytes in a second; and what writers feel when that is not
//! enough.

use std::sync::Arc;
use std::time::Duration;

use greptime_types::{ErrorKind, RegionId};
use tokio::time::Instant;

use super::compaction::by_hand;
use crate::compaction::{Plan, Wanted};
use crate::config::DatanodeConfig;
use crate::region::Region;
use crate::testing::{Dice, Node, Row, row};

/// Two regions with so many files each.
async fn two_regions(config: DatanodeConfig, files: i64) -> (Node, [Arc<Region>; 2]) {
    let mut node = Node::with(config, false).await;
    for number in [1, 0] {
        node.region = RegionId::new(1024, number);
        if number > 0 {
            node.initialise().await.unwrap();
            node.wait_until_leading().await;
        }
        for n in 0..files {
            node.write(&[row("a", n, 1.0), row("b", 0, n as f64)])
                .await
                .unwrap();
            node.flush().await.unwrap();
        }
    }
    let region = |number| node.datanode.regions().get(RegionId::new(1024, number)).unwrap();
    let regions = [region(0), region(1)];
    (node, regions)
}

fn files(region: &Region) -> usize {
    region.with_state(|s| s.view().map_or(0, |view| view.files.len()))
}

/// How many of two merges reach the bucket while neither is let on.
async fn at_the_same_time(config: DatanodeConfig, inputs: i64) -> usize {
    let (node, regions) = two_regions(config, inputs).await;
    node.store.hold_puts("/sst/", 2);
    let merges = regions.each_ref().map(|region| node.datanode.compact_one(region));
    let look = async {
        node.wait_for("a merge uploads", || node.store.holding() > 0)
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let uploading = node.store.holding();
        assert_eq!(
            regions.each_ref().map(|region| files(region)),
            [inputs as usize; 2]
        );
        node.store.release_puts();
        uploading
    };
    let (merged, uploading) = tokio::join!(futures::future::join_all(merges), look);
    assert!(merged.iter().all(Result::is_ok), "{merged:?}");
    assert_eq!(regions.each_ref().map(|region| files(region)), [1; 2]);
    let compactor = &node.datanode.compactor;
    assert_eq!(
        compactor.permits.available_permits(),
        node.config.compaction_concurrency
    );
    assert_eq!(
        compactor.memory.available_permits() as u64,
        node.config.compaction_memory >> 10
    );
    uploading
}

#[tokio::test]
async fn so_many_merges_run_at_the_same_time_as_the_setting_says() {
    for (compaction_concurrency, expected) in [(1, 1), (2, 2)] {
        let config = DatanodeConfig {
            compaction_concurrency,
            ..by_hand()
        };
        assert_eq!(at_the_same_time(config, 2).await, expected);
    }
}

#[tokio::test]
async fn merges_run_at_the_same_time_as_far_as_their_memory_is_there() {
    // A reader and a writer of a file take one MiB at least.
    for (inputs, expected) in [(9, 1), (6, 2)] {
        let config = DatanodeConfig {
            compaction_concurrency: 2,
            compaction_memory: 16 << 20,
            ..by_hand()
        };
        assert_eq!(at_the_same_time(config, inputs).await, expected, "{inputs}");
    }
}

#[tokio::test]
async fn a_merge_has_no_more_files_than_its_memory_takes() {
    let config = DatanodeConfig {
        compaction_memory: 16 << 20,
        ..by_hand()
    };
    let node = Node::with(config, false).await;
    for n in 0..20 {
        node.write(&[row("a", n, 1.0)]).await.unwrap();
        node.flush().await.unwrap();
    }
    let region = Arc::clone(&node.datanode.regions().all()[0]);
    let wanted = Wanted {
        everything: true,
        quiet: true,
    };
    let decision = node.datanode.compactor.decide(&region, wanted).unwrap();
    let Plan::Merge(merge) = decision.plan else {
        panic!("there is nothing to merge");
    };
    // A reader of a file takes one MiB at least.
    assert_eq!(merge.inputs.len(), 16);
    node.datanode.compact_one(&region).await.unwrap();
    assert_eq!(files(&region), 1, "the others are merged, too");
    assert_eq!(node.read().await.unwrap().len(), 20);
}

/// Rows that hardly get smaller.
fn noise(seed: u64, rows: i64) -> Vec<Row> {
    let mut dice = Dice::new(seed);
    (0..rows).map(|n| row("a", n, dice.noise())).collect()
}

#[tokio::test]
async fn a_merge_takes_as_long_as_its_bytes_do_at_the_rate() {
    const RATE: u64 = 512 << 10;
    let config = DatanodeConfig {
        compaction_rate: RATE,
        ..by_hand()
    };
    let node = Node::with(config, false).await;
    for seed in 1..=4 {
        node.write(&noise(seed, 30_000)).await.unwrap();
        node.flush().await.unwrap();
    }
    // Nothing is read from a cache.
    let node = node.crash().await;
    node.wait_until_readable().await;
    let region = Arc::clone(&node.datanode.regions().all()[0]);
    let started = Instant::now();
    node.datanode.compact_one(&region).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    let metrics = &node.datanode.metrics;
    let (read, written) = (
        metrics.compaction_bytes_read.get(),
        metrics.compaction_bytes_written.get(),
    );
    assert!(read > 2 * RATE && written > RATE / 4, "{read} {written}");
    // The last request waits for those before it, and a burst is free.
    let least = (read as f64) / RATE as f64 - 0.25;
    assert!(took >= least, "{took} s for {read} and {written} bytes");
    assert!(took <= least + 10.0, "{took} s for {read} and {written} bytes");
}

#[tokio::test]
async fn writers_are_slowed_before_they_are_refused_and_neither_once_merges_have_caught_up() {
    let config = DatanodeConfig {
        compaction_active_runs: 2,
        compaction_soft_runs: 9,
        compaction_hard_runs: 18,
        compaction_rate: 128 << 10,
        ..DatanodeConfig::default()
    };
    let (soft, hard) = (config.compaction_soft_runs, config.compaction_hard_runs);
    let node = Node::with(config, true).await;
    let region = Arc::clone(&node.datanode.regions().all()[0]);
    let slowed = || node.datanode.metrics.writes_slowed.get();
    let (mut most, mut first_slowed, mut written) = (0, None, 0_u64);
    // Another region is merged, and that takes long.
    let other = node.datanode.compactor.permits.acquire().await.unwrap();
    let refused = loop {
        let runs = region.runs();
        assert!(written < 100, "nobody is refused with {runs} runs");
        match node.write(&noise(written + 1, 1000)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        if slowed() > 0 {
            first_slowed.get_or_insert(runs);
        }
        node.flush().await.unwrap();
        // All of it is seen, whoever waits.
        tokio::time::sleep(Duration::from_millis(60)).await;
        most = most.max(files(&region));
    };
    assert_eq!(refused.kind, ErrorKind::ResourceExhausted, "{refused}");
    assert!(refused.is_retryable() && refused.message.contains("compaction_hard_runs"));
    let first_slowed = first_slowed.expect("a write was refused before any was slowed down");
    assert!((soft..hard).contains(&first_slowed), "{first_slowed}");
    assert!(most <= hard + 1, "{most} files");
    // When it is this region's turn the debt is paid, and then nobody feels anything.
    drop(other);
    tokio::time::timeout(Duration::from_secs(60), async {
        while region.runs() >= soft || files(&region) > soft {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the debt is not paid");
    let before = slowed();
    let started = Instant::now();
    node.write(&noise(1, 1000)).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(500));
    assert_eq!(slowed(), before);
    assert_eq!(node.read().await.unwrap().len(), 1000 * (written as usize + 1));
}
