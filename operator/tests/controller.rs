//! The controllers with their watches, against an API server in memory.

mod support;

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use greptime_operator::controller;
use support::harness::*;

async fn eventually(what: &str, limit: Duration, done: impl Fn() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {limit:?}: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired_within_a_second_and_a_broken_cluster_silences_no_other() {
    let world = World::with_cluster().await;
    let mut broken = cluster("broken");
    broken["spec"] = json!({"metasrv": "what"});
    world.api.put(CLUSTERS, broken);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(controller::run(
        world.context.clone(),
        vec![Some("ns".to_owned())],
        stopped,
    ));

    let long = Duration::from_secs(20);
    eventually("the objects are made", long, || world.api.list(SETS).len() == 3).await;
    let told =
        || world.api.get(CLUSTERS, "broken").unwrap()["status"]["conditions"][0]["reason"] == "InvalidSpec";
    eventually("the broken one is told", long, told).await;

    let second = Duration::from_secs(1);
    world.api.delete(SERVICES, "demo-frontend");
    eventually("a deleted service", second, || {
        world.api.get(SERVICES, "demo-frontend").is_some()
    })
    .await;
    world
        .api
        .edit(SETS, "demo-frontend", |o| o["spec"]["replicas"] = json!(9));
    let replicas = || world.api.get(SETS, "demo-frontend").unwrap()["spec"]["replicas"].clone();
    eventually("a scaled set", second, || replicas() == 1).await;
    world
        .api
        .edit(CLUSTERS, "demo", |o| o["spec"]["frontend"]["replicas"] = json!(2));
    eventually("a changed spec", second, || replicas() == 2).await;

    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(5), running)
        .await
        .expect("it stops when told to")
        .unwrap();
}
