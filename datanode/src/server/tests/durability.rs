//! Acknowledged means durable.

use greptime_types::ErrorKind;

use crate::log::{Fault, LogStore};
use crate::testing::{Dice, Node, Row, row, seeds};

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
    let writes = (0..200).map(|i| {
        let rows = vec![row("a", i, 1.0)];
        let node = &node;
        async move { node.write(&rows).await }
    });
    for result in futures::future::join_all(writes).await {
        result.unwrap();
    }
    let syncs = node.log.syncs() - before;
    assert!(syncs < 200, "200 concurrent writes took {syncs} syncs");
    assert_eq!(node.read().await.unwrap().len(), 200);
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
