//! Nodes of different versions in one cluster.

use greptime_log::LogStore;
use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, push};
use greptime_rows::SeriesBatch;
use greptime_types::format::{GIVEN_UP_FORMAT, QUORUM_FORMAT, SERIES_FORMAT};

use crate::region::RegionEntry;
use crate::testing::{Node, Row, WriteOptions, batch, row};

fn told(node: &Node, format_version: u32) {
    let welcome = v1::Welcome {
        cluster_id: node.datanode.identity().cluster_id,
        format_version,
        ..Default::default()
    };
    node.datanode.told(push::Body::Welcome(welcome));
}

async fn write(node: &Node, row: &Row) {
    let rows = SeriesBatch::from_named(&batch(std::slice::from_ref(row)), &node.table.schema).unwrap();
    node.write_series(node.options(), &rows).await.unwrap();
}

/// The format of the last entry of the log, and whether its rows have their tags apart.
fn last_entry(node: &Node) -> (u8, bool) {
    let last = node.log.bounds(node.region).unwrap().1;
    let entry = node
        .log
        .entries(node.region, last, last + 1, u64::MAX)
        .unwrap()
        .remove(0);
    // The first field of an entry is its format.
    assert_eq!(entry.data[0], 0x08);
    let RegionEntry::Write(write) = RegionEntry::decode(entry.data.clone()).unwrap() else {
        panic!("the last entry is no write");
    };
    (entry.data[1], !write.rows.series.is_empty())
}

#[tokio::test]
async fn a_node_writes_what_the_oldest_of_the_cluster_reads() {
    let rows: Vec<Row> = (1..6).map(|n| row("a", n, n as f64)).collect();
    let mut node = Node::new().await;
    write(&node, &rows[0]).await;
    assert_eq!(last_entry(&node), (2, true), "alone, it writes the newest");
    // An older metasrv says nothing.
    for (format, row) in [0, 1].into_iter().zip(&rows[1..]) {
        told(&node, format);
        write(&node, row).await;
        assert_eq!(last_entry(&node), (1, false));
    }
    node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap(), rows[..3]);
    told(&node, 1);
    write(&node, &rows[3]).await;
    assert_eq!(last_entry(&node), (1, false));
    told(&node, SERIES_FORMAT);
    write(&node, &rows[4]).await;
    assert_eq!(last_entry(&node), (2, true), "the roll is complete");
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn all_replicas_refuse_the_same_copies() {
    let node = Node::new().await;
    for (format, written) in [(QUORUM_FORMAT, 2), (GIVEN_UP_FORMAT, 5)] {
        told(&node, format);
        let options = WriteOptions {
            given_up: Some((90, 91)),
            ..node.options()
        };
        let rows = SeriesBatch::from_named(&batch(&[row("a", 1, 1.0)]), &node.table.schema).unwrap();
        node.write_series(options, &rows).await.unwrap();
        assert_eq!(last_entry(&node), (written, true));
    }
}
