//! A repeated write is applied once.

use greptime_types::ErrorKind;

use crate::testing::{Node, WriteOptions, row};

#[tokio::test]
async fn a_repeated_write_is_applied_once_before_and_after_flush_and_restart() {
    let mut node = Node::appending().await;
    let options = node.options();
    let rows = [row("a", 1, 1.0)];
    let first = node.write_with(options, &rows).await.unwrap();
    assert!(!first.duplicate);
    assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    node.flush().await.unwrap();
    assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    node = node.crash().await;
    assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_late_copy_does_not_overwrite_a_newer_row() {
    let node = Node::new().await;
    let first = node.options();
    node.write_with(first, &[row("a", 1, 1.0)]).await.unwrap();
    let second = node.options();
    let second = WriteOptions {
        lowest_unfinished: second.number,
        ..second
    };
    node.write_with(second, &[row("a", 1, 2.0)]).await.unwrap();
    let error = node.write_with(first, &[row("a", 1, 1.0)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(node.read().await.unwrap(), [row("a", 1, 2.0)]);
    let remembered = node.datanode.regions().all()[0].with_state(|s| s.requests().len());
    assert_eq!(remembered, 1, "what its frontend has finished is forgotten");
}

#[tokio::test]
async fn two_copies_at_once_are_applied_once() {
    let node = Node::appending().await;
    for _ in 0..50 {
        let options = node.options();
        let rows = [row("a", options.number as i64, 1.0)];
        let (one, two) = tokio::join!(node.write_with(options, &rows), node.write_with(options, &rows));
        for result in [one, two] {
            assert!(result.is_ok() || result.unwrap_err().kind == ErrorKind::Unavailable);
        }
        assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    }
    assert_eq!(node.read().await.unwrap().len(), 50);
}
