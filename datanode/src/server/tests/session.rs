//! What metasrv is told, and what happens when it orders something.

use std::time::Duration;

use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, push};

use crate::testing::{Node, row};

fn order(node: &Node, body: push::Body) {
    SessionHandler::told(node.datanode.as_ref(), body);
}

#[tokio::test]
async fn ready_once_everything_assigned_is_open_and_for_good() {
    let node = Node::new().await;
    assert!(!node.datanode.is_ready(), "metasrv has not said everything yet");
    order(&node, push::Body::AssignmentsComplete(v1::AssignmentsComplete {}));
    node.wait_for("ready", || node.datanode.is_ready()).await;
    node.store.set_away(true);
    assert!(node.datanode.is_ready());
}

#[tokio::test]
async fn regions_are_reported_when_they_changed() {
    let node = Node::new().await;
    let register = node.datanode.register();
    assert_eq!(register.regions.len(), 1);
    let first = node.datanode.tick(1, 0);
    assert!(first.regions_complete && first.regions.len() == 1);
    assert!(!node.datanode.tick(2, 0).regions_complete);
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let changed = node.datanode.tick(3, 0);
    assert!(changed.regions[0].last_index > first.regions[0].last_index);
}

#[tokio::test]
async fn initialise_is_repeated_harmlessly_and_another_replica_is_refused() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.initialise().await.unwrap();
    assert_eq!(node.read().await.unwrap().len(), 1);
    let other = v1::InitialiseRegion {
        region_id: node.region.as_u64(),
        raft_id: 8,
        voters: vec![8],
        table_json: serde_json::to_string(&node.table).unwrap(),
        members: vec![],
    };
    assert!(node.datanode.initialise(other).await.is_err());
}

#[tokio::test]
async fn a_cluster_is_kept_and_a_foreign_one_is_refused_loudly() {
    let node = Node::new().await;
    let welcome = |id: &str| {
        push::Body::Welcome(v1::Welcome {
            cluster_id: id.into(),
            ..Default::default()
        })
    };
    order(&node, welcome("one"));
    let node = node.crash().await;
    assert_eq!(node.datanode.identity().cluster_id, "one");
    order(&node, welcome("two"));
    let reason = tokio::time::timeout(Duration::from_secs(2), node.datanode.failed()).await;
    let reason = reason.expect("the node goes on");
    assert!(reason.contains("belongs to cluster one"), "{reason}");
    assert!(node.write(&[row("a", 1, 1.0)]).await.is_err());
}

#[tokio::test]
async fn a_dropped_region_leaves_nothing_even_if_the_bucket_was_away() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.flush().await.unwrap();
    assert!(!node.store.keys().await.is_empty());
    node.store.set_away(true);
    let drop = v1::DropRegion {
        region_id: node.region.as_u64(),
        only_replica: false,
    };
    order(&node, push::Body::Drop(drop));
    node.wait_for("the region is gone", || node.datanode.reports().is_empty())
        .await;
    assert!(node.initialise().await.is_err(), "its number is not used again");
    // The deletion of its objects survives a restart.
    let log = node.log.reopen();
    let node = node.restart_on(log).await;
    assert!(node.datanode.reports().is_empty());
    node.store.set_away(false);
    for _ in 0..500 {
        if node.store.keys().await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("objects remain: {:?}", node.store.keys().await);
}

#[tokio::test]
async fn a_drop_waits_for_a_flush_that_is_under_way() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.store.hold_puts("/sst/", 1);
    let meanwhile = async {
        node.wait_for("the file is being uploaded", || node.store.holding() == 1)
            .await;
        let drop = v1::DropRegion {
            region_id: node.region.as_u64(),
            only_replica: false,
        };
        order(&node, push::Body::Drop(drop));
        node.wait_for("the region is gone", || node.datanode.reports().is_empty())
            .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.store.release_puts();
    };
    let (_, ()) = tokio::join!(node.flush(), meanwhile);
    for _ in 0..100 {
        if node.store.keys().await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("objects remain: {:?}", node.store.keys().await);
}

#[tokio::test]
async fn an_order_to_alter_reaches_the_region() {
    let mut node = Node::new().await;
    let column = greptime_types::ColumnSchema::new(
        "dc",
        greptime_types::ColumnType::String,
        greptime_types::Semantic::Tag,
    );
    let change = greptime_types::Change::AddColumn {
        column,
        if_not_exists: false,
    };
    node.table = node.table.altered(&[change]).unwrap().unwrap();
    let table_json = serde_json::to_string(&node.table).unwrap();
    order(
        &node,
        push::Body::Alter(v1::AlterRegion {
            region_id: node.region.as_u64(),
            table_json,
        }),
    );
    node.wait_for("version 2", || node.datanode.reports()[0].schema_version == 2)
        .await;
}
