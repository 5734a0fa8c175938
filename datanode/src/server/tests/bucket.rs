//! Flushes and reads while the bucket fails, and crashes between any two steps of a flush.

use std::time::Duration;

use greptime_log::{Fault, LogStore, MemoryLog};
use greptime_object_store::Bucket;
use greptime_types::ErrorKind;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::config::DatanodeConfig;
use crate::manifest::{FileMeta, ManifestStore, View};
use crate::sst::key_of;
use crate::testing::{Node, PutFault, Row, row};

fn manifest(node: &Node) -> ManifestStore {
    let bucket = Bucket {
        store: node.store.clone(),
        root: Path::from("test/root"),
    };
    ManifestStore::new(bucket, node.region)
}

/// An edit of somebody else, put as the next version.
async fn intrude(node: &Node, view: &View, epoch: u64) {
    let edit = view.edit(
        epoch,
        "somebody else".into(),
        node.table.clone(),
        Default::default(),
    );
    let key = manifest(node).key(edit.version);
    node.store.put(&key, edit.encode().unwrap().into()).await.unwrap();
}

async fn with_rows(node: Node, rows: &[Row]) -> Node {
    for row in rows {
        node.write(std::slice::from_ref(row)).await.unwrap();
    }
    node
}

fn some_rows() -> Vec<Row> {
    (0..5).map(|i| row("a", i, i as f64)).collect()
}

async fn until_files_are_known(node: &Node) {
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_crash_before_the_edit_leaves_the_rows_in_the_log() {
    let rows = some_rows();
    let node = with_rows(Node::appending().await, &rows).await;
    node.store.fail_puts("manifest", PutFault::Refused, usize::MAX);
    let flush = tokio::time::timeout(Duration::from_millis(300), node.flush()).await;
    assert!(
        flush.is_err(),
        "the outcome of the edit is not known, so the flush goes on trying"
    );
    node.store.fail_puts("manifest", PutFault::Refused, 0);
    let uploads = node.store.keys().await.len();
    assert_eq!(uploads, 1, "the upload alone");
    assert!(
        node.log.bounds(node.region).is_some_and(|(low, _)| low <= 3),
        "nothing is trimmed before the edit is known"
    );
    let node = node.crash().await;
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), rows);
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_crash_between_edit_and_trim_shows_no_row_twice() {
    let rows = some_rows();
    let node = with_rows(Node::appending().await, &rows).await;
    node.log.fail_at(1, Fault::Lost);
    node.flush().await.unwrap();
    node.datanode.failed().await;
    let (region, log) = (node.region, node.log.reopen());
    assert!(log.bounds(region).unwrap().0 <= 3, "nothing was trimmed");
    let node = node.restart_on(log).await;
    node.wait_until_leading().await;
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), rows);
    node.wait_for("the trim is made up for", || {
        node.log.bounds(region).is_none_or(|(f, _)| f > 5)
    })
    .await;
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_put_that_happened_but_answered_an_error_is_found() {
    let rows = some_rows();
    for key in ["manifest", "sst"] {
        let node = with_rows(Node::appending().await, &rows).await;
        node.store.fail_puts(key, PutFault::AnswerLost, 1);
        while node.flush().await.is_err() {}
        assert_eq!(node.store.faults_left(), 0);
        assert_eq!(node.read().await.unwrap(), rows);
        assert_eq!(
            manifest(&node).load(0).await.unwrap().version,
            1,
            "one edit, not two"
        );
        // Not from a cache.
        let node = node.crash().await;
        until_files_are_known(&node).await;
        assert_eq!(node.read().await.unwrap(), rows);
    }
}

#[tokio::test]
async fn an_edit_that_lost_its_version_is_made_anew() {
    let rows = some_rows();
    let node = with_rows(Node::appending().await, &rows).await;
    intrude(&node, &View::default(), 1).await;
    node.flush().await.unwrap();
    let view = manifest(&node).load(0).await.unwrap();
    assert_eq!((view.version, view.files.len()), (2, 1));
    let files = node
        .store
        .keys()
        .await
        .into_iter()
        .filter(|k| k.contains("/sst/"))
        .count();
    assert_eq!(files, 1, "the upload of the lost edit is deleted");
    let metrics = &node.datanode.metrics;
    let made: u64 = view.files.values().map(|f| f.bytes).sum();
    assert_eq!(metrics.flush_bytes.get(), made, "of the file that is there");
    assert!(
        metrics.flush_bytes_written.get() > made,
        "the upload of the lost edit was written too"
    );
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_leader_that_meets_a_higher_epoch_stops_for_good() {
    let node = with_rows(Node::new().await, &some_rows()).await;
    intrude(&node, &View::default(), 1000).await;
    let error = node.flush().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(
        node.write(&[row("b", 1, 1.0)]).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert_eq!(node.read().await.unwrap_err().kind, ErrorKind::Unavailable);
    let report = &node.datanode.reports()[0];
    assert_eq!(report.role, i32::from(greptime_proto::v1::RegionRole::Failed));
    assert!(report.problem.contains("epoch 1000"), "{}", report.problem);
    let bounds = node.log.bounds(node.region).unwrap();
    assert!(bounds.0 <= 3, "nothing is trimmed by a leader that was replaced");
}

#[tokio::test]
async fn an_edit_that_knows_more_than_the_log_stops_the_region() {
    let node = with_rows(Node::new().await, &some_rows()).await;
    let epoch = node.datanode.reports()[0].epoch;
    let view = View {
        flushed_seq: 1000,
        ..View::default()
    };
    intrude(&node, &view, epoch).await;
    node.flush().await.unwrap_err();
    has_stopped(&node).await;
}

/// A start from an older state of the disk, which takes writes until its log is as long again.
async fn starts_again_from(older: MemoryLog, node: Node, flushed: u64) -> Node {
    node.store.set_away(true);
    let node = node.restart_on(older).await;
    node.wait_until_leading().await;
    while node.write(&[row("c", 1, 1.0)]).await.unwrap().sequence <= flushed {}
    node.store.set_away(false);
    node
}

#[tokio::test]
async fn a_log_that_was_written_to_since_it_lost_its_end_stops_the_region() {
    let node = Node::new().await;
    let older = node.log.copy();
    let node = with_rows(node, &some_rows()).await;
    let flushed = node.flush().await.unwrap();
    has_stopped(&starts_again_from(older, node, flushed).await).await;
}

#[tokio::test]
async fn two_starts_from_one_state_of_a_disk_are_told_apart_though_they_have_one_epoch() {
    let older = Node::new().await;
    let (log, node) = (older.log.copy(), older.crash().await);
    node.wait_until_readable().await;
    let node = with_rows(node, &some_rows()).await;
    let (flushed, epoch) = (node.flush().await.unwrap(), node.datanode.reports()[0].epoch);
    let node = starts_again_from(log, node, flushed).await;
    has_stopped(&node).await;
    assert_eq!(node.datanode.reports()[0].epoch, epoch);
}

/// Once the region has seen its manifest.
async fn has_stopped(node: &Node) {
    let region = node.datanode.regions().get(node.region).unwrap();
    node.wait_for("the manifest is looked at", || {
        region.with_state(|s| s.view().is_some() || s.failed().is_some())
    })
    .await;
    let report = &node.datanode.reports()[0];
    assert_eq!(report.role, i32::from(greptime_proto::v1::RegionRole::Failed));
    assert!(
        report.problem.contains("its log ended before"),
        "{}",
        report.problem
    );
}

#[tokio::test]
async fn without_the_bucket_a_restarted_region_takes_writes_and_does_not_answer_reads() {
    let rows = some_rows();
    let node = with_rows(Node::new().await, &rows).await;
    node.flush().await.unwrap();
    node.write(&[row("b", 1, 1.0)]).await.unwrap();
    node.store.set_away(true);
    let node = node.crash().await;
    node.write(&[row("c", 1, 1.0)]).await.unwrap();
    assert_eq!(node.read().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(node.flush().await.unwrap_err().kind, ErrorKind::Unavailable);
    node.store.set_away(false);
    until_files_are_known(&node).await;
    let mut expected = rows;
    expected.extend([row("b", 1, 1.0), row("c", 1, 1.0)]);
    assert_eq!(node.read().await.unwrap(), expected);
}

/// A node that keeps equal rows, and whose memory is full since its bucket is away; and the rows that it took.
async fn at_the_memory_limit() -> (Node, Vec<Row>) {
    let config = DatanodeConfig {
        memtable_soft_limit: 100 << 10,
        memtable_hard_limit: 300 << 10,
        max_write_size: 100 << 10,
        ..DatanodeConfig::default()
    };
    let node = Node::with(config, true).await;
    node.store.set_away(true);
    let mut written = Vec::new();
    loop {
        let next = large(written.len() as i64);
        match node.write(std::slice::from_ref(&next)).await {
            Ok(_) => written.push(next),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::ResourceExhausted, "{error}");
                break;
            }
        }
    }
    assert!((10..40).contains(&written.len()), "{} writes fit", written.len());
    (node, written)
}

/// Later ones have later names.
fn large(n: i64) -> Row {
    row(&format!("{n:04}{}", "x".repeat(10_000)), n, n as f64)
}

async fn until_written(node: &Node, rows: &[Row]) {
    for _ in 0..500 {
        if node.write(rows).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("writes are refused though the bucket is back");
}

#[tokio::test]
async fn at_the_memory_limit_writes_are_refused_until_the_bucket_is_back() {
    let (node, mut written) = at_the_memory_limit().await;
    assert!(
        node.read().await.unwrap() == written,
        "what is in memory is read, and what was refused is not there"
    );
    node.store.set_away(false);
    let last = large(9999);
    until_written(&node, std::slice::from_ref(&last)).await;
    written.push(last);
    assert!(node.read().await.unwrap() == written);
    let node = node.crash().await;
    until_files_are_known(&node).await;
    assert!(node.read().await.unwrap() == written, "after a crash");
}

#[tokio::test]
async fn acknowledged_rows_are_there_after_a_crash_at_the_memory_limit() {
    let (node, mut written) = at_the_memory_limit().await;
    let node = node.crash().await;
    let refused = node.write(&[large(9998)]).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::ResourceExhausted, "{refused}");
    assert_eq!(node.read().await.unwrap_err().kind, ErrorKind::Unavailable);
    node.store.set_away(false);
    until_files_are_known(&node).await;
    assert!(node.read().await.unwrap() == written, "from the log");
    let last = large(9999);
    until_written(&node, std::slice::from_ref(&last)).await;
    written.push(last);
    node.flush().await.unwrap();
    let node = node.crash().await;
    until_files_are_known(&node).await;
    assert!(node.read().await.unwrap() == written, "from files");
}

#[tokio::test]
async fn rows_are_flushed_by_age_and_by_size() {
    for config in [
        DatanodeConfig {
            flush_age: Duration::from_millis(100),
            ..DatanodeConfig::default()
        },
        DatanodeConfig {
            flush_size: 1,
            ..DatanodeConfig::default()
        },
    ] {
        let node = with_rows(Node::with(config, false).await, &some_rows()).await;
        let flushed = || node.datanode.regions().all()[0].with_state(|s| s.memory() == 0);
        node.wait_for("the rows are in files", flushed).await;
        assert_eq!(node.read().await.unwrap(), some_rows());
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_an_error_and_not_fewer_rows() {
    let config = DatanodeConfig {
        cache_disk: 0,
        ..DatanodeConfig::default()
    };
    let node = with_rows(Node::with(config, false).await, &some_rows()).await;
    node.flush().await.unwrap();
    let file = node
        .store
        .keys()
        .await
        .into_iter()
        .find(|k| k.contains("/sst/"))
        .unwrap();
    node.store.delete(&Path::from(file)).await.unwrap();
    // What was written is still in the cache of this process.
    assert_eq!(node.read().await.unwrap(), some_rows());
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap_err().kind, ErrorKind::Corruption);
}

#[tokio::test]
async fn a_file_that_was_replaced_is_found_through_the_newer_manifest() {
    let rows = some_rows();
    let node = with_rows(Node::new().await, &rows).await;
    node.flush().await.unwrap();
    // Nothing of the file is in a cache.
    let node = node.crash().await;
    node.wait_until_readable().await;
    // As a compaction would: the same rows under another name, an edit that says so, the old file deleted.
    let view = manifest(&node).load(0).await.unwrap();
    let old = view.files.values().next().unwrap().clone();
    let new = FileMeta {
        name: "2-replacement".into(),
        ..old.clone()
    };
    let bucket = Bucket {
        store: node.store.clone(),
        root: Path::from("test/root"),
    };
    let (from, to) = (
        key_of(&bucket, old.home, &old.name),
        key_of(&bucket, new.home, &new.name),
    );
    node.store.rename(&from, &to).await.unwrap();
    let mut edit = view.edit(2, "compaction".into(), node.table.clone(), Default::default());
    edit.remove.push(old.name);
    edit.add.push(new);
    let key = manifest(&node).key(edit.version);
    node.store.put(&key, edit.encode().unwrap().into()).await.unwrap();
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_flush_that_failed_is_tried_again_without_another_write() {
    let node = with_rows(Node::new().await, &some_rows()).await;
    node.store.set_away(true);
    node.flush().await.unwrap_err();
    node.store.set_away(false);
    let flushed = || node.datanode.regions().all()[0].with_state(|s| s.memory() == 0);
    node.wait_for("the rows are in files", flushed).await;
    assert_eq!(node.read().await.unwrap(), some_rows());
}
