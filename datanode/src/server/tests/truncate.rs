//! `TRUNCATE`: nothing older is shown, whatever was under way, and whenever the power goes.

use std::time::Duration;

use greptime_log::{Fault, LogStore};

use crate::testing::{Node, PutFault, Row, row};

fn old() -> Vec<Row> {
    (0..5).map(|i| row("old", i, 1.0)).collect()
}

async fn files(node: &Node) -> usize {
    let view = node.datanode.regions().all()[0].with_state(|s| s.view().cloned());
    view.map_or(0, |view| view.files.len())
}

async fn until_files_are_known(node: &Node) {
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
}

/// Rows in a file and in memory.
async fn filled() -> Node {
    let node = Node::new().await;
    node.write(&old()).await.unwrap();
    node.flush().await.unwrap();
    node.write(&[row("old", 9, 1.0)]).await.unwrap();
    node
}

#[tokio::test]
async fn nothing_older_is_shown_and_the_files_leave_the_manifest() {
    let node = filled().await;
    node.truncate().await.unwrap();
    assert_eq!(node.read().await.unwrap(), []);
    node.write(&[row("new", 1, 2.0)]).await.unwrap();
    assert_eq!(node.read().await.unwrap(), [row("new", 1, 2.0)]);
    node.flush().await.unwrap();
    assert_eq!(files(&node).await, 1, "the file of before is gone");
    assert_eq!(node.read().await.unwrap(), [row("new", 1, 2.0)]);
    let node = node.crash().await;
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), [row("new", 1, 2.0)]);
}

#[tokio::test]
async fn space_comes_back_without_another_write() {
    let node = filled().await;
    node.truncate().await.unwrap();
    let empty = || {
        let view = node.datanode.regions().all()[0].with_state(|s| s.view().cloned());
        view.is_some_and(|v| v.files.is_empty() && v.truncated_seq > 0)
    };
    node.wait_for("the manifest names no file", empty).await;
}

#[tokio::test]
async fn a_truncation_is_found_in_the_log_after_a_crash() {
    let node = filled().await;
    node.store.set_away(true);
    node.truncate().await.unwrap();
    let node = node.crash().await;
    node.store.set_away(false);
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), []);
    let (flushed, region) = (node.flush().await.unwrap(), node.region);
    node.wait_for("only the manifest has the truncation", || {
        node.log.bounds(region).is_none_or(|(low, _)| low > flushed)
    })
    .await;
    let node = node.crash().await;
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), []);
}

#[tokio::test]
async fn a_crash_between_the_edit_and_the_trim_brings_nothing_back() {
    let node = filled().await;
    node.store.set_away(true);
    node.truncate().await.unwrap();
    node.store.set_away(false);
    node.log.fail_at(1, Fault::Lost);
    let _ = node.flush().await;
    node.datanode.failed().await;
    let log = node.log.reopen();
    let node = node.restart_on(log).await;
    node.wait_until_leading().await;
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), []);
}

#[tokio::test]
async fn a_flush_that_was_under_way_brings_nothing_back() {
    let node = filled().await;
    // Its upload is done, and its edit is put again and again.
    node.store.fail_puts("manifest", PutFault::Refused, usize::MAX);
    let flush = node.flush();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        node.truncate().await.unwrap();
        assert_eq!(node.read().await.unwrap(), []);
        node.store.fail_puts("manifest", PutFault::Refused, 0);
    };
    let (flushed, ()) = tokio::join!(flush, meanwhile);
    flushed.unwrap();
    assert_eq!(node.read().await.unwrap(), []);
    node.flush().await.unwrap();
    assert_eq!(files(&node).await, 0);
    let node = node.crash().await;
    until_files_are_known(&node).await;
    assert_eq!(node.read().await.unwrap(), []);
}

#[tokio::test]
async fn a_repeated_truncation_spares_what_was_written_since() {
    let node = filled().await;
    let options = crate::testing::WriteOptions {
        op: greptime_proto::v1::WriteOp::Truncate,
        ..node.options()
    };
    assert!(!node.write_with(options, &[]).await.unwrap().duplicate);
    node.write(&[row("new", 1, 2.0)]).await.unwrap();
    assert!(node.write_with(options, &[]).await.unwrap().duplicate);
    assert_eq!(node.read().await.unwrap(), [row("new", 1, 2.0)]);
}
