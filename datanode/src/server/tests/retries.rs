//! A repeated write is applied once.

use bytes::Bytes;
use greptime_log::LogStore;
use greptime_proto::v1::WriteOp;
use greptime_rows::{Encoded, SeriesBatch};
use greptime_types::{ErrorKind, Finished, MergeMode, RequestId, TableOptions, Ttl};

use crate::config::DatanodeConfig;
use crate::region::{RegionEntry, RowOp, Seen, WriteEntry};
use crate::testing::{Node, WriteOptions, batch, ipc, row};

#[tokio::test]
async fn a_repeated_write_is_applied_once_before_and_after_flush_and_restart() {
    let mut node = Node::appending().await;
    let options = node.options();
    let rows = [row("a", 1, 1.0)];
    let first = node.write_with(options, &rows).await.unwrap();
    assert!(!first.duplicate);
    assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    let (flushed, region) = (node.flush().await.unwrap(), node.region);
    assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    node.wait_for("the log has the entry no more", || {
        node.log.bounds(region).is_none_or(|(low, _)| low > flushed)
    })
    .await;
    node = node.crash().await;
    assert!(node.write_with(options, &rows).await.unwrap().duplicate);
    node.wait_for("files are known", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
    assert_eq!(node.read().await.unwrap(), rows);
}

/// A copy that was applied again would be there twice, undo what came after it, or delete it.
#[tokio::test]
async fn a_repeated_write_is_applied_once_in_every_kind_of_table() {
    let (one, two) = (row("a", 1, 1.0), row("a", 1, 2.0));
    let null = (Some("a".to_owned()), 1, None);
    let kind = |append_mode, merge_mode, ttl| TableOptions {
        append_mode,
        merge_mode,
        ttl,
        ..TableOptions::default()
    };
    let last_row = kind(false, MergeMode::LastRow, None);
    let last_non_null = kind(false, MergeMode::LastNonNull, None);
    let append = kind(true, MergeMode::LastRow, None);
    let instant = kind(false, MergeMode::LastRow, Some(Ttl::Instant));
    let (put, delete) = (WriteOp::Put, WriteOp::Delete);
    // What is there first, what is written and comes again, what is written in between, and what is there in the end.
    let table = [
        (&last_row, None, (put, &one), &two, vec![two.clone()]),
        (&last_row, None, (put, &one), &null, vec![null.clone()]),
        (&last_row, Some(&one), (delete, &one), &two, vec![two.clone()]),
        (&last_non_null, None, (put, &one), &two, vec![two.clone()]),
        (&last_non_null, None, (put, &one), &null, vec![one.clone()]),
        (
            &last_non_null,
            Some(&one),
            (delete, &one),
            &two,
            vec![two.clone()],
        ),
        (&append, None, (put, &one), &two, vec![one.clone(), two.clone()]),
        (&instant, None, (put, &one), &two, vec![]),
    ];
    for (options, before, (op, rows), between, expected) in table {
        let mut node = Node::with_options(DatanodeConfig::default(), options.clone()).await;
        if let Some(before) = before {
            node.write(std::slice::from_ref(before)).await.unwrap();
        }
        let repeated = WriteOptions { op, ..node.options() };
        let rows = std::slice::from_ref(rows);
        assert!(!node.write_with(repeated, rows).await.unwrap().duplicate);
        node.write(std::slice::from_ref(between)).await.unwrap();
        for _ in 0..3 {
            assert!(
                node.write_with(repeated, rows).await.unwrap().duplicate,
                "{options:?}"
            );
            assert_eq!(node.read().await.unwrap(), expected, "{options:?} {op:?}");
            node.flush().await.unwrap();
            assert!(
                node.write_with(repeated, rows).await.unwrap().duplicate,
                "{options:?}"
            );
            node = node.crash().await;
            node.wait_until_readable().await;
        }
        assert_eq!(node.read().await.unwrap(), expected, "{options:?} {op:?}");
    }
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

/// While an older request of the same frontend goes on, the mark does not pass the one that was given up.
#[tokio::test]
async fn a_late_copy_of_what_was_given_up_does_not_overwrite_a_newer_row() {
    let node = Node::new().await;
    let (_older, given_up, newer) = (node.options(), node.options(), node.options());
    let newer = WriteOptions {
        given_up: Some((given_up.number, given_up.number)),
        ..newer
    };
    node.write_with(newer, &[row("a", 1, 2.0)]).await.unwrap();
    let is_refused = async |node: &Node| {
        let error = node.write_with(given_up, &[row("a", 1, 1.0)]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert_eq!(node.read().await.unwrap(), [row("a", 1, 2.0)]);
    };
    is_refused(&node).await;
    let node = node.crash().await;
    node.wait_until_readable().await;
    is_refused(&node).await;
    node.flush().await.unwrap();
    let node = node.crash().await;
    node.wait_until_readable().await;
    is_refused(&node).await;
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

/// The entry of the first would otherwise be applied with the rows of the second.
#[tokio::test]
async fn a_copy_of_what_is_under_way_is_refused() {
    let node = Node::new().await;
    let options = node.options();
    let request = RequestId {
        incarnation: 99,
        number: options.number,
    };
    let region = node.datanode.regions().get(node.region).unwrap();
    let rows = SeriesBatch::from_named(&batch(&[row("a", 1, 1.0)]), &node.table.schema).unwrap();
    assert_eq!(region.begin(request, rows).unwrap(), Seen::New);
    let copy = [row("a", 1, 2.0)];
    let error = node.write_with(options, &copy).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    region.refused(request);
    node.write_with(options, &copy).await.unwrap();
    assert_eq!(node.read().await.unwrap(), copy);
}

#[tokio::test]
async fn an_entry_that_is_in_the_log_twice_is_applied_once() {
    let node = Node::appending().await;
    let rows = [row("a", 1, 1.0)];
    let write = WriteEntry {
        request: RequestId {
            incarnation: 1,
            number: 1,
        },
        finished: Finished::below(1),
        schema_version: 1,
        op: RowOp::Put,
        rows: Encoded {
            series: Bytes::new(),
            rows: ipc(&batch(&rows)),
        },
    };
    let entry = RegionEntry::Write(write).encode().unwrap();
    for _ in 0..2 {
        node.datanode.propose(node.region, entry.clone()).await.unwrap();
    }
    assert_eq!(node.read().await.unwrap(), rows);
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap(), rows);
}
