//! What a query asks of a bucket that takes its time, of which no cache has anything.

use std::time::Duration;

use datafusion::prelude::{SessionConfig, col, lit};

use super::compaction::by_hand;
use crate::testing::{Fault, Node, Request, Row, row};

const FILES: &str = "/sst/";
const COUNT: usize = 24;
/// Long enough for everything that is asked for at once to be under way together.
const SLOW: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn files_are_opened_side_by_side_and_read_before_their_turn() {
    let node = Node::with(by_hand(), true).await;
    let rows: Vec<Row> = (0..COUNT).map(|i| row("a", i as i64, i as f64)).collect();
    for row in &rows {
        node.write(std::slice::from_ref(row)).await.unwrap();
        node.flush().await.unwrap();
    }
    let node = node.crash().await;
    node.wait_until_readable().await;
    node.store
        .plan(Request::Get, FILES, Fault::Slow(SLOW), usize::MAX);
    node.store.most_reading();

    // Footers say that nobody has such rows.
    let found = node.read_where(vec![col("usage").gt(lit(1e9))]).await.unwrap();
    assert_eq!(found, []);
    let opened = node.store.most_reading();
    assert!(
        opened >= COUNT / 2,
        "{opened} of {COUNT} files were opened at once"
    );

    assert_eq!(node.read().await.unwrap(), rows);
    let streams = SessionConfig::new().target_partitions();
    let read = node.store.most_reading();
    let wanted = COUNT.min(streams + 3);
    assert!(
        read >= wanted,
        "{streams} streams had {read} reads under way, and not {wanted}"
    );
}
