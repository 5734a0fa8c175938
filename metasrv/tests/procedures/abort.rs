//! Migrations that are undone: by a person, because it took too long, or because there is nothing left to move.

use serde_json::json;

use crate::cluster::{Cluster, Move, TOO_LONG, refusal};
use crate::datanodes::Act;

/// The migration was undone for the reason, and the region is as it was before.
async fn was_undone(cluster: &Cluster, of: &Move, id: &str, reason: &str) {
    cluster.until_phase(id, "aborted").await;
    let shown = cluster.procedure(id);
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("aborted"), &json!(reason))
    );
    assert!(
        shown["ended_ms"].is_i64() && shown["waiting"].is_null(),
        "{shown}"
    );
    let [second, third] = of.stay;
    cluster.until_whole(of.region, [of.from, second, third]).await;
    cluster.world.until(|| !cluster.nodes.has(of.to, of.region)).await;
    assert_eq!(cluster.region(of.region)["state"], "leading");
}

/// Of two migrations in the phase a person aborts one, and the other takes too long.
async fn can_be_undone(held: Act, phase: &str) {
    let (cluster, moves) = Cluster::with_regions(2).await;
    let by_person = cluster.migrate_until(&moves[0], held, phase).await;
    let by_time = cluster.migrate_until(&moves[1], held, phase).await;
    assert!(cluster.abort(&by_person).await.unwrap().changed);
    cluster.pass(TOO_LONG);
    was_undone(&cluster, &moves[0], &by_person, "a person aborted it").await;
    was_undone(&cluster, &moves[1], &by_time, "it took too long").await;
    let refused = refusal(cluster.abort(&by_person).await);
    assert_eq!(refused, format!("procedure {by_person} has ended: it is aborted"));
}

#[tokio::test]
async fn while_the_replica_joins_all_can_be_undone() {
    can_be_undone(Act::Vote, "joining").await;
}

#[tokio::test]
async fn while_the_replica_is_warmed_all_can_be_undone() {
    can_be_undone(Act::Heat, "warming").await;
}

#[tokio::test]
async fn until_leadership_is_handed_over_all_can_be_undone() {
    can_be_undone(Act::HandOver, "handing_over").await;
}

/// As many as move at once.
const AT_ONCE: usize = 8;

#[tokio::test]
async fn one_that_waits_for_its_turn_can_be_undone_and_the_next_has_its_turn() {
    let (cluster, moves) = Cluster::with_regions(AT_ONCE as u32 + 3).await;
    let mut ids = Vec::new();
    for of in &moves {
        cluster.nodes.hold(of.region, Act::Open);
        ids.push(cluster.migrate(of.request()).await.unwrap());
    }
    let (moving, waiting) = ids.split_at(AT_ONCE);
    for id in waiting {
        let turn = "waits for its turn: 8 are under way";
        cluster.until_shown(id, "waiting", turn).await;
        assert_eq!(cluster.procedure(id)["phase"], "waiting");
    }
    cluster.abort(&waiting[0]).await.unwrap();
    was_undone(&cluster, &moves[AT_ONCE], &waiting[0], "a person aborted it").await;
    for id in moving {
        assert_eq!(cluster.procedure(id)["phase"], "joining");
    }
    // One place is free.
    cluster.abort(&moving[0]).await.unwrap();
    cluster.until_phase(&waiting[1], "joining").await;
    assert_eq!(cluster.procedure(&waiting[2])["phase"], "waiting");
    cluster.pass(TOO_LONG);
    was_undone(&cluster, &moves[AT_ONCE + 2], &waiting[2], "it took too long").await;
}

#[tokio::test]
async fn what_was_handed_over_is_finished_whatever_is_wanted() {
    let (cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::Leave, "leaving").await;
    let refused = refusal(cluster.abort(&id).await);
    assert_eq!(
        refused,
        format!("procedure {id} is leaving, and cannot be undone; it ends soon")
    );
    cluster.pass(TOO_LONG);
    cluster
        .world
        .until(|| cluster.procedure(&id)["waiting"].is_string())
        .await;
    cluster.nodes.release(of.region, Act::Leave);
    crate::phases::has_moved(&cluster, &of, &id).await;
    assert!(cluster.procedure(&id)["reason"].is_null());
}

#[tokio::test]
async fn an_abort_that_crosses_the_end_of_the_hand_over_comes_too_late_and_says_so() {
    let (cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::HandOver, "handing_over").await;
    let recording = cluster.store.gate.write().await;
    let hand_over = async {
        cluster.nodes.release(of.region, Act::HandOver);
        let leads = || cluster.region(of.region)["leader"] == of.to;
        cluster.world.until(leads).await;
        drop(recording);
    };
    // It is being recorded when the target begins to lead.
    let (aborted, ()) = tokio::join!(cluster.abort(&id), hand_over);
    aborted.unwrap();
    cluster.until_phase(&id, "done").await;
    let [second, third] = of.stay;
    cluster.until_whole(of.region, [of.to, second, third]).await;
    let shown = cluster.procedure(&id);
    let reason = json!("a person aborted it, when it had been handed over");
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("done"), &reason));
}

#[tokio::test]
async fn a_target_that_leads_when_all_is_undone_hands_back() {
    let (cluster, of) = Cluster::with_region().await;
    cluster.nodes.hold(of.region, Act::Leave);
    let id = cluster.migrate_until(&of, Act::HandOver, "handing_over").await;
    cluster.abort(&id).await.unwrap();
    cluster.until_phase(&id, "aborting").await;
    cluster.nodes.release(of.region, Act::HandOver);
    // It is recorded no more, and frontends find it.
    let leads = || cluster.region(of.region)["leader"] == of.to;
    cluster.world.until(leads).await;
    cluster.nodes.release(of.region, Act::Leave);
    was_undone(&cluster, &of, &id, "a person aborted it").await;
}

#[tokio::test]
async fn a_region_that_is_dropped_moves_no_more() {
    let (cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::Vote, "joining").await;
    cluster.drop_table(&of).await;
    cluster.until_phase(&id, "aborted").await;
    let reason = format!("region {} was dropped", of.region);
    assert_eq!(cluster.procedure(&id)["reason"], json!(reason));
    for node in 0..4 {
        cluster.world.until(|| !cluster.nodes.has(node, of.region)).await;
    }
}
