//! A datanode that is emptied.

use std::collections::BTreeSet;

use greptime_types::NodeId;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Move, TOO_LONG};
use crate::datanodes::Act;

/// Migrations that belong to the procedure.
fn parts(cluster: &Cluster, id: &str) -> Vec<Value> {
    let all = cluster.world.procedures().into_iter();
    all.filter(|p| p["part_of"] == id).collect()
}

/// Datanodes that hold the region, as recorded.
fn members(cluster: &Cluster, of: &Move) -> BTreeSet<NodeId> {
    crate::cluster::nodes_of(&cluster.region(of.region)["voters"])
        .into_iter()
        .collect()
}

fn on(node: NodeId, moves: &[Move]) -> Vec<Move> {
    let has = |of: &&Move| of.to != node;
    moves.iter().filter(has).copied().collect()
}

#[tokio::test]
async fn every_replica_of_an_emptied_datanode_moves() {
    let (cluster, moves) = Cluster::with_regions(4).await;
    let here = on(0, &moves).len() as u64;
    let id = cluster.migrate_node(0).await.unwrap();
    cluster.until_shown(&id, "state", "done").await;
    let shown = cluster.procedure(&id);
    let counts = ["done", "aborted", "running", "left"].map(|field| shown[field].as_u64().unwrap());
    assert_eq!(counts, [here, 0, 0, 0], "{shown}");
    assert!(shown["reason"].is_null() && shown["ended_ms"].is_i64(), "{shown}");
    for of in &moves {
        assert!(!members(&cluster, of).contains(&0));
        cluster.world.until(|| !cluster.nodes.has(0, of.region)).await;
        assert_eq!(cluster.region(of.region)["state"], "leading");
    }
}

#[tokio::test]
async fn only_so_many_move_at_once_and_the_next_begins_when_one_has_ended() {
    let (mut cluster, moves) = Cluster::with_regions(14).await;
    let here = on(0, &moves);
    assert!(here.len() > 9);
    for of in &moves {
        cluster.nodes.hold(of.region, Act::Open);
    }
    let id = cluster.migrate_node(0).await.unwrap();
    assert_eq!(
        cluster.migrate_node(0).await.unwrap(),
        id,
        "it is asked for twice"
    );
    cluster
        .until_shown(&id, "waiting", "8 regions are under way")
        .await;
    assert_eq!(parts(&cluster, &id).len(), 8);
    let ended = parts(&cluster, &id)[0]["id"].as_str().unwrap().to_owned();
    cluster.abort(&ended).await.unwrap();
    cluster.world.until(|| parts(&cluster, &id).len() == 9).await;
    cluster
        .until_shown(&id, "waiting", "8 regions are under way")
        .await;
    let shown = cluster.procedure(&id);
    assert_eq!((&shown["running"], &shown["aborted"]), (&json!(8), &json!(1)));
    // Whoever leads next begins no more of them, and tries none again.
    cluster.take_over().await;
    cluster
        .until_shown(&id, "waiting", "8 regions are under way")
        .await;
    assert_eq!(parts(&cluster, &id).len(), 9);
    // All are called off.
    cluster.abort(&id).await.unwrap();
    cluster.until_shown(&id, "state", "aborted").await;
    let reasons: BTreeSet<String> = parts(&cluster, &id)
        .iter()
        .map(|p| p["reason"].as_str().unwrap().to_owned())
        .collect();
    let why = format!("a person aborted procedure {id}");
    assert_eq!(reasons, BTreeSet::from(["a person aborted it".into(), why]));
    let shown = cluster.procedure(&id);
    assert_eq!(shown["reason"], "a person aborted it");
    assert_eq!(shown["left"].as_u64(), Some(here.len() as u64), "{shown}");
}

#[tokio::test]
async fn a_region_whose_move_was_aborted_is_told_as_such() {
    let (cluster, moves) = Cluster::with_regions(4).await;
    let here = on(0, &moves);
    cluster.nodes.hold(here[0].region, Act::Open);
    let id = cluster.migrate_node(0).await.unwrap();
    let others = json!(here.len() - 1);
    cluster
        .world
        .until(|| cluster.procedure(&id)["done"] == others)
        .await;
    cluster.pass(TOO_LONG);
    cluster.until_shown(&id, "state", "aborted").await;
    let shown = cluster.procedure(&id);
    let counts = ["done", "aborted", "left"].map(|field| shown[field].clone());
    assert_eq!(counts, [others, json!(1), json!(1)], "{shown}");
    assert_eq!(
        shown["reason"],
        format!(
            "the move of region {} was aborted: it took too long",
            here[0].region
        )
    );
    assert!(members(&cluster, &here[0]).contains(&0));
}

#[tokio::test]
async fn a_region_that_is_dropped_is_no_move_that_was_aborted() {
    let (cluster, moves) = Cluster::with_regions(2).await;
    let here = on(0, &moves);
    cluster.nodes.hold(here[0].region, Act::Open);
    let id = cluster.migrate_node(0).await.unwrap();
    cluster
        .world
        .until(|| cluster.nodes.is_told(here[0].region, Act::Open))
        .await;
    cluster.drop_table(&here[0]).await;
    cluster.until_shown(&id, "state", "done").await;
    let shown = cluster.procedure(&id);
    let counts = ["done", "aborted", "left"].map(|field| shown[field].clone());
    assert_eq!(counts, [json!(here.len() - 1), json!(0), json!(0)], "{shown}");
}

/// The members of three datanodes have nowhere to go, and leadership has.
#[tokio::test]
async fn where_no_datanode_has_room_only_leadership_goes() {
    let (mut cluster, of) = Cluster::with_region().await;
    cluster.down(of.to).await;
    let id = cluster.migrate_node(of.from).await.unwrap();
    cluster.until_shown(&id, "state", "done").await;
    let shown = cluster.procedure(&id);
    assert_eq!((&shown["done"], &shown["left"]), (&json!(1), &json!(1)));
    assert_eq!(
        shown["reason"],
        "replicas of 1 regions stay, without leading: no other datanode has room for them"
    );
    let region = cluster.region(of.region);
    assert!(of.stay.iter().any(|node| region["leader"] == *node), "{region}");
}
