//! Requests to the bucket that fail or take long while regions are read, opened, flushed and compacted: an error that
//! says to try again, or the right answer later, while writes go on.

use std::time::Duration;

use futures::TryStreamExt;
use greptime_proto::v1;
use greptime_query::from_datafusion;
use greptime_types::{ErrorKind, Result};
use tokio::time::Instant;

use crate::testing::{Fault, Node, Request, Row, row, rows_of};

const FILES: &str = "/sst/";
const MANIFEST: &str = "/manifest/";

/// How long a slow answer takes. Nothing else here takes nearly so long.
const SLOW: Duration = Duration::from_millis(1500);
/// How long an answer takes that nobody waits for.
const NEVER: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_millis(400);
/// What must end soon has ended by then, on a slow machine too.
const SOON: Duration = Duration::from_secs(20);

const ERRORS: [Fault; 2] = [Fault::Unavailable, Fault::TimedOut];

/// Two files, of which no cache has anything, and the rows in them. Equal rows stay side by side.
async fn with_files() -> (Node, Vec<Row>) {
    let node = Node::appending().await;
    let mut rows = Vec::new();
    for _ in 0..2 {
        rows.extend(next_row(&node, &rows).await);
        rows.extend(next_row(&node, &rows).await);
        node.flush().await.unwrap();
    }
    let node = node.crash().await;
    node.wait_until_readable().await;
    (node, rows)
}

/// Writes one more row, without waiting for the bucket.
async fn next_row(node: &Node, rows: &[Row]) -> Option<Row> {
    let next = row("a", rows.len() as i64, rows.len() as f64);
    let write = node.write(std::slice::from_ref(&next));
    let written = tokio::time::timeout(SLOW * 2 / 3, write).await;
    written.expect("a write waits for the bucket").unwrap();
    Some(next)
}

fn header_with(node: &Node, deadline: Duration) -> Option<v1::RequestHeader> {
    let deadline_ms = deadline.as_millis() as u64;
    node.header().map(|header| v1::RequestHeader {
        deadline_ms,
        ..header
    })
}

async fn read_within(node: &Node, deadline: Duration) -> Result<Vec<Row>> {
    let request = v1::QueryRequest {
        header: header_with(node, deadline),
        ..node.scan_request(node.spec())
    };
    let rows = node.datanode.query(request).await?.rows;
    let batches: Vec<_> = rows.try_collect().await.map_err(|e| from_datafusion(&e))?;
    let mut rows: Vec<Row> = batches.iter().flat_map(rows_of).collect();
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    Ok(rows)
}

async fn flush_within(node: &Node, deadline: Duration) -> Result<u64> {
    let request = v1::FlushRequest {
        header: header_with(node, deadline),
        region_id: node.region.as_u64(),
    };
    Ok(node.datanode.flush(request).await?.flushed_index)
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(SOON, work).await;
    done.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// After everything that was planned is over: nothing is lost, and nothing is there twice.
async fn has_all(node: Node, rows: &[Row]) {
    node.store.forget_faults();
    in_time("the flush after the faults", async {
        while let Err(error) = node.flush().await {
            assert!(error.is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(node.read().await.unwrap(), rows);
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap(), rows, "after a crash");
}

#[tokio::test]
async fn a_query_any_of_whose_reads_fails_can_be_repeated_and_has_all_rows_then() {
    for fault in ERRORS {
        let mut reads = 0;
        // Each time one read later, until a query has none that is so late.
        for before in 0.. {
            let (node, mut rows) = with_files().await;
            node.store.plan_after(before, Request::Get, FILES, fault, 1);
            let answer = in_time("a query", node.read()).await;
            if node.store.faults_left() > 0 {
                assert_eq!(answer.unwrap(), rows);
                break;
            }
            let error = answer.unwrap_err();
            assert_eq!(
                error.kind,
                ErrorKind::Unavailable,
                "{fault:?}, read {before}: {error}"
            );
            assert!(error.is_retryable());
            rows.extend(next_row(&node, &rows).await);
            assert_eq!(node.read().await.unwrap(), rows, "{fault:?}, read {before}");
            has_all(node, &rows).await;
            reads += 1;
        }
        assert!(reads >= 2, "a query of two files has {reads} reads");
    }
}

#[tokio::test]
async fn a_query_waits_for_slow_reads_while_writes_go_on() {
    let (node, mut rows) = with_files().await;
    node.store.plan(Request::Get, FILES, Fault::Slow(SLOW), 1);
    let started = Instant::now();
    let (answer, written) = tokio::join!(node.read(), next_row(&node, &rows));
    assert!(started.elapsed() >= SLOW);
    let mut answer = answer.unwrap();
    rows.extend(written);
    // The write was beside the query, which may have seen it.
    answer.truncate(rows.len() - 1);
    assert_eq!(answer, rows[..rows.len() - 1]);
    assert_eq!(node.store.faults_left(), 0);
    has_all(node, &rows).await;
}

#[tokio::test]
async fn a_query_keeps_its_deadline_whichever_of_its_reads_is_slow() {
    for before in 0.. {
        let (node, mut rows) = with_files().await;
        node.store
            .plan_after(before, Request::Get, FILES, Fault::Slow(NEVER), 1);
        let answer = in_time("a query with a deadline", read_within(&node, DEADLINE)).await;
        if node.store.faults_left() > 0 {
            assert!(before >= 2, "{before} reads");
            break;
        }
        let error = answer.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "read {before}: {error}");
        rows.extend(next_row(&node, &rows).await);
        let again = in_time("the query after it", read_within(&node, SOON)).await;
        assert_eq!(again.unwrap(), rows, "read {before}");
        has_all(node, &rows).await;
    }
}

#[tokio::test]
async fn a_region_opens_as_soon_as_its_manifest_can_be_read_and_takes_writes_before() {
    for (fault, times) in [
        (Fault::Unavailable, 2),
        (Fault::TimedOut, 2),
        (Fault::Slow(SLOW), 1),
    ] {
        for before in [0, 1, 2] {
            let (node, mut rows) = with_files().await;
            node.store
                .plan_after(before, Request::Get, MANIFEST, fault, times);
            let node = in_time("a start", node.crash()).await;
            rows.extend(next_row(&node, &rows).await);
            loop {
                match in_time("a query of a region that opens", node.read()).await {
                    Ok(found) => {
                        assert_eq!(found, rows, "{fault:?}, read {before}");
                        break;
                    }
                    Err(error) => assert!(error.is_retryable(), "{fault:?}, read {before}: {error}"),
                }
                rows.extend(next_row(&node, &rows).await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(node.store.faults_left(), 0, "{fault:?}, read {before}");
            has_all(node, &rows).await;
        }
    }
}

/// What a flush asks of the bucket: its file, its edit, and the edit again.
const OF_A_FLUSH: [(Request, &str); 3] = [
    (Request::Put, FILES),
    (Request::Put, MANIFEST),
    (Request::Get, MANIFEST),
];

#[tokio::test]
async fn a_flush_whose_requests_fail_loses_nothing_and_is_done_once() {
    for (request, key) in OF_A_FLUSH {
        for fault in [
            Fault::Unavailable,
            Fault::TimedOut,
            Fault::AnswerLost,
            Fault::Slow(SLOW),
        ] {
            let (node, mut rows) = with_files().await;
            rows.extend(next_row(&node, &rows).await);
            node.store.plan(request, key, fault, 1);
            let (flushed, written) = tokio::join!(in_time("a flush", node.flush()), next_row(&node, &rows));
            if let Err(error) = flushed {
                assert!(error.is_retryable(), "{request:?} {key} {fault:?}: {error}");
            }
            rows.extend(written);
            assert_eq!(node.store.faults_left(), 0, "{request:?} {key} {fault:?}");
            assert_eq!(node.read().await.unwrap(), rows, "{request:?} {key} {fault:?}");
            has_all(node, &rows).await;
        }
    }
}

#[tokio::test]
async fn a_flush_keeps_its_deadline_whatever_is_slow() {
    for (request, key) in OF_A_FLUSH {
        let (node, mut rows) = with_files().await;
        rows.extend(next_row(&node, &rows).await);
        node.store.plan(request, key, Fault::Slow(NEVER), 1);
        let flush = in_time("a flush with a deadline", flush_within(&node, DEADLINE));
        let (flushed, written) = tokio::join!(flush, next_row(&node, &rows));
        let error = flushed.unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::DeadlineExceeded,
            "{request:?} {key}: {error}"
        );
        rows.extend(written);
        rows.extend(next_row(&node, &rows).await);
        assert_eq!(node.read().await.unwrap(), rows, "{request:?} {key}");
        has_all(node, &rows).await;
    }
}

#[tokio::test]
async fn a_merge_whose_reads_fail_leaves_the_files_as_they_were() {
    for fault in ERRORS {
        let (node, mut rows) = with_files().await;
        let region = node.datanode.regions().get(node.region).unwrap();
        let files = || region.with_state(|s| s.view().unwrap().files.clone());
        let before = files();
        node.store.plan(Request::Get, FILES, fault, 1);
        let request = || v1::CompactRequest {
            header: node.header(),
            region_id: node.region.as_u64(),
        };
        let error = node.datanode.compact(request()).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        assert_eq!(files(), before);
        rows.extend(next_row(&node, &rows).await);
        assert_eq!(node.read().await.unwrap(), rows);
        node.datanode.compact(request()).await.unwrap();
        assert_eq!(files().len(), 1);
        drop(region);
        has_all(node, &rows).await;
    }
}
