//! Metasrv changes, or sessions break, while a region moves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use greptime_metasrv::store::Store;
use greptime_metasrv::{Election, Leadership, MetasrvOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, TOO_LONG};
use crate::datanodes::Act;
use crate::phases::has_moved;

/// One act of each phase, and another of the longest.
const ACTS: [(Act, &str); 5] = [
    (Act::Open, "joining"),
    (Act::Vote, "joining"),
    (Act::Heat, "warming"),
    (Act::HandOver, "handing_over"),
    (Act::Leave, "leaving"),
];

#[tokio::test]
async fn another_metasrv_goes_on_in_every_phase_and_repeats_none() {
    let (mut cluster, of) = Cluster::with_region().await;
    for (act, _) in ACTS {
        cluster.nodes.hold(of.region, act);
    }
    let id = cluster.migrate(of.request()).await.unwrap();
    for (act, phase) in ACTS {
        cluster.until_phase(&id, phase).await;
        cluster.take_over().await;
        cluster.nodes.release(of.region, act);
    }
    has_moved(&cluster, &of, &id).await;
    assert_eq!(cluster.world.procedures().len(), 1);
}

#[tokio::test]
async fn another_metasrv_undoes_what_was_to_be_undone() {
    let (mut cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::HandOver, "handing_over").await;
    cluster.nodes.hold(of.region, Act::Leave);
    cluster.pass(TOO_LONG);
    cluster.until_phase(&id, "aborting").await;
    cluster.take_over().await;
    cluster.nodes.release(of.region, Act::Leave);
    cluster.until_phase(&id, "aborted").await;
    assert_eq!(cluster.procedure(&id)["reason"], "it took too long");
    let [second, third] = of.stay;
    cluster.until_whole(of.region, [of.from, second, third]).await;
}

#[tokio::test]
async fn one_that_waits_for_its_turn_has_it_under_another_metasrv() {
    let (mut cluster, moves) = Cluster::with_regions(9).await;
    let mut ids = Vec::new();
    for of in &moves {
        cluster.nodes.hold(of.region, Act::Open);
        ids.push(cluster.migrate(of.request()).await.unwrap());
    }
    cluster.until_phase(&ids[8], "waiting").await;
    cluster.take_over().await;
    cluster
        .until_shown(&ids[8], "waiting", "waits for its turn: 8 are under way")
        .await;
    cluster.abort(&ids[0]).await.unwrap();
    cluster.nodes.release(moves[8].region, Act::Open);
    has_moved_after_a_wait(&cluster, &ids[8]).await;
}

async fn has_moved_after_a_wait(cluster: &Cluster, id: &str) {
    cluster.until_phase(id, "done").await;
    let phases = cluster.phases(id);
    assert_eq!(
        phases,
        ["waiting", "joining", "warming", "handing_over", "leaving", "done"]
    );
}

/// An election that ends as the test says.
struct Decided(watch::Receiver<Leadership>);

#[async_trait]
impl Election for Decided {
    async fn run(&self, tell: watch::Sender<Leadership>, shutdown: CancellationToken) {
        let mut decided = self.0.clone();
        loop {
            tell.send_replace(decided.borrow_and_update().clone());
            tokio::select! {
                _ = decided.changed() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn surely_leads_until(&self) -> Duration {
        Duration::MAX
    }
}

#[tokio::test]
async fn a_metasrv_that_leads_again_goes_on_from_what_is_recorded() {
    let (decide, decided) = watch::channel(Leadership::Leader);
    let with = |options| MetasrvOptions {
        election: Arc::new(Decided(decided)),
        ..options
    };
    let (cluster, moves) = Cluster::start(1, with).await;
    let of = moves[0];
    let id = cluster.migrate_until(&of, Act::Heat, "warming").await;
    decide.send_replace(Leadership::Follower { leader: "b:1".into() });
    cluster
        .world
        .until(|| cluster.world.procedures().is_empty())
        .await;
    cluster.nodes.forget();
    cluster.nodes.release(of.region, Act::Heat);
    decide.send_replace(Leadership::Leader);
    has_moved(&cluster, &of, &id).await;
}

#[tokio::test]
async fn sessions_that_break_in_any_phase_change_nothing() {
    let (mut cluster, of) = Cluster::with_region().await;
    for (act, _) in ACTS {
        cluster.nodes.hold(of.region, act);
    }
    let ids_taken = next_raft_id(&cluster).await;
    let id = cluster.migrate(of.request()).await.unwrap();
    for (act, phase) in ACTS {
        cluster.until_phase(&id, phase).await;
        let is_told = || cluster.nodes.is_told(of.region, act);
        cluster.world.until(is_told).await;
        cluster.reconnect();
        cluster.nodes.release(of.region, act);
    }
    has_moved(&cluster, &of, &id).await;
    assert_eq!(next_raft_id(&cluster).await, ids_taken + 1);
}

async fn next_raft_id(cluster: &Cluster) -> u64 {
    let root = cluster.store.list("root").await.unwrap()["root"].value.clone();
    let root: serde_json::Value = serde_json::from_slice(&root).unwrap();
    root["next_raft_id"].as_u64().unwrap()
}
