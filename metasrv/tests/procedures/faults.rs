//! Datanodes that go away while a region moves between them.

use serde_json::json;

use crate::cluster::{Cluster, Move};
use crate::datanodes::Act;
use crate::phases::has_moved;

#[tokio::test]
async fn a_target_that_goes_away_is_waited_for() {
    let (mut cluster, of) = Cluster::with_region().await;
    let phases = [
        (Act::Vote, "joining"),
        (Act::Warm, "warming"),
        (Act::HandOver, "handing_over"),
    ];
    for (held, _) in phases {
        cluster.nodes.hold(of.region, held);
    }
    let id = cluster.migrate(of.request()).await.unwrap();
    for (held, phase) in phases {
        cluster.until_phase(&id, phase).await;
        cluster.down(of.to).await;
        cluster.until_shown(&id, "waiting", "datanode 3 is away").await;
        cluster.nodes.release(of.region, held);
        cluster.up(of.to);
    }
    has_moved(&cluster, &of, &id).await;
}

/// A leader that hands over takes no writes.
#[tokio::test]
async fn nobody_is_told_to_hand_over_to_a_datanode_that_is_away() {
    let (mut cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::HandOver, "handing_over").await;
    cluster.down(of.to).await;
    cluster.until_shown(&id, "waiting", "datanode 3 is away").await;
    cluster.journal().clear();
    // Orders that have no effect are given again sooner than that.
    let is_dead = || cluster.verdict(of.to).starts_with("dead");
    cluster.world.until(is_dead).await;
    assert_eq!(cluster.journal().lines(of.region), [""; 0]);
}

/// Leadership is moved away from it for some seconds, though it could lead again.
#[tokio::test]
async fn a_target_that_was_unwell_a_moment_ago_is_waited_for() {
    let (cluster, of) = Cluster::with_region().await;
    cluster.nodes.slow_down(of.to, true);
    let is_unwell = || cluster.verdict(of.to).starts_with("unwell");
    cluster.world.until(is_unwell).await;
    cluster.nodes.slow_down(of.to, false);
    let id = cluster.migrate(of.request()).await.unwrap();
    let waits = "datanode 3 is not well, and would hand back at once";
    cluster.until_shown(&id, "waiting", waits).await;
    has_moved(&cluster, &of, &id).await;
}

#[tokio::test]
async fn a_target_that_comes_back_without_its_replica_is_given_up() {
    let (mut cluster, moves) = Cluster::with_regions(8).await;
    // Those that go to the same datanode.
    let to = moves[0].to;
    let mut same = moves.iter().filter(|of| of.to == to);
    let [learns, warms] = [same.next().unwrap(), same.next().unwrap()];
    let learning = cluster.migrate_until(learns, Act::Vote, "joining").await;
    let warming = cluster.migrate_until(warms, Act::Heat, "warming").await;
    cluster.down(to).await;
    cluster.nodes.wipe(to);
    cluster.up_with_disk(to, "another");
    for (of, id) in [(learns, &learning), (warms, &warming)] {
        cluster.until_phase(id, "aborted").await;
        let reason = format!("the replica on datanode {to} was lost");
        assert_eq!(cluster.procedure(id)["reason"], json!(reason));
        let [second, third] = of.stay;
        cluster.until_whole(of.region, [of.from, second, third]).await;
    }
}

#[tokio::test]
async fn a_source_that_dies_while_it_hands_over_is_replaced_all_the_same() {
    let (mut cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::HandOver, "handing_over").await;
    cluster.down(of.from).await;
    cluster
        .until_shown(&id, "waiting", "nobody leads the region")
        .await;
    cluster.until_phase(&id, "done").await;
    is_replaced(&cluster, &of, &id);
    cluster.up(of.from);
    cluster
        .world
        .until(|| !cluster.nodes.has(of.from, of.region))
        .await;
}

#[tokio::test]
async fn a_source_that_is_gone_is_replaced_at_once() {
    let (mut cluster, of) = Cluster::with_region().await;
    cluster.down(of.from).await;
    let id = cluster.migrate(of.request()).await.unwrap();
    cluster.until_phase(&id, "done").await;
    is_replaced(&cluster, &of, &id);
    let phases = cluster.phases(&id);
    assert_eq!(phases, ["leaving", "done"]);
}

/// What cannot be undone any more cannot be given up either: the region gets another one.
#[tokio::test]
async fn a_newcomer_that_loses_its_disk_is_replaced() {
    let (mut cluster, of) = Cluster::with_region().await;
    cluster.nodes.hold(of.region, Act::Vote);
    cluster.down(of.from).await;
    let id = cluster.migrate(of.request()).await.unwrap();
    cluster.until_phase(&id, "leaving").await;
    let is_told = || cluster.nodes.is_told(of.region, Act::Vote);
    cluster.world.until(is_told).await;
    cluster.down(of.to).await;
    cluster.nodes.wipe(of.to);
    cluster.up_with_disk(of.to, "another");
    let is_live =
        || crate::cluster::nodes_of(&cluster.region(of.region)["electorate"]["live"]).contains(&of.to);
    assert!(!is_live(), "its replica was on the other disk");
    cluster.nodes.release(of.region, Act::Vote);
    cluster.until_phase(&id, "done").await;
    is_replaced(&cluster, &of, &id);
    cluster.world.until(is_live).await;
}

/// The target is a member in the place of the source, and somebody leads.
fn is_replaced(cluster: &Cluster, of: &Move, id: &str) {
    assert!(cluster.procedure(id)["reason"].is_null());
    let [second, third] = of.stay;
    let members = [of.to, second, third];
    assert!(cluster.nodes.is_group_of(of.region, members));
    let region = cluster.region(of.region);
    assert_eq!(region["voters"], json!(members));
    assert!(members.iter().any(|node| region["leader"] == *node), "{region}");
}
