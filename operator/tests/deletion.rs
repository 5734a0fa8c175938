//! Deleting a cluster with `deletionPolicy: Delete`, against an API server in memory.

mod support;

use serde_json::json;

use support::harness::*;

const FINALIZER: &str = "greptimecluster.io/destroy";

/// A cluster that works and whose data goes with it.
async fn world() -> World {
    let world = World::with_cluster().await;
    world.edit_spec(|spec| spec["deletionPolicy"] = json!("Delete"));
    world.settle().await;
    world.run_pods();
    world.settle().await;
    let labels = world.api.get(SETS, "demo-datanode").unwrap()["metadata"]["labels"].clone();
    for ordinal in 0..3 {
        let name = format!("data-demo-datanode-{ordinal}");
        world
            .api
            .put(CLAIMS, json!({"metadata": {"name": name, "labels": labels}}));
    }
    world
        .api
        .put(CLAIMS, json!({"metadata": {"name": "somebody-elses"}}));
    world
}

fn finish_job(world: &World, condition: &str) {
    world.api.edit(JOBS, "demo-destroy", |job| {
        job["status"] = json!({"conditions": [{"type": condition, "status": "True"}]});
    });
}

#[tokio::test]
async fn the_finalizer_follows_the_policy() {
    let world = World::with_cluster().await;
    world.settle().await;
    let finalizers = || world.api.get(CLUSTERS, "demo").unwrap()["metadata"]["finalizers"].clone();
    assert!(finalizers().is_null());
    world.edit_spec(|spec| spec["deletionPolicy"] = json!("Delete"));
    world.settle().await;
    assert_eq!(finalizers(), json!([FINALIZER]));
    world.api.edit(CLUSTERS, "demo", |o| {
        o["metadata"]["finalizers"] = json!(["another/one", FINALIZER])
    });
    world.edit_spec(|spec| spec["deletionPolicy"] = json!("Retain"));
    world.settle().await;
    assert_eq!(finalizers(), json!(["another/one"]));
}

#[tokio::test]
async fn pods_stop_then_volumes_go_then_the_job_runs_then_the_cluster_is_gone() {
    let world = world().await;
    world.ask_to_delete();
    world.turn().await.unwrap();
    assert!(world.api.list(SETS).is_empty());
    assert_eq!(
        world.api.list(CLAIMS).len(),
        4,
        "a datanode that still runs needs its volume"
    );
    assert_eq!(world.condition("Ready")["reason"], "Deleting");
    world.turn().await.unwrap();
    assert!(world.api.list(JOBS).is_empty(), "what still runs still writes");
    world.stop_pods();
    world.turn().await.unwrap();
    assert_eq!(world.api.list(CLAIMS).len(), 1);
    assert!(world.api.get(CLAIMS, "somebody-elses").is_some());
    assert_eq!(world.api.list(JOBS).len(), 1);
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_some());
    finish_job(&world, "Complete");
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert!(world.event_reasons().contains(&"Destroyed".to_owned()));
}

#[tokio::test]
async fn volumes_that_the_spec_keeps_stay_when_all_else_is_destroyed() {
    let world = world().await;
    world.edit_spec(|spec| spec["datanode"]["retention"] = json!({"whenDeleted": "Retain"}));
    world.settle().await;
    world.ask_to_delete();
    world.turn().await.unwrap();
    world.stop_pods();
    world.turn().await.unwrap();
    finish_job(&world, "Complete");
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert!(world.event_reasons().contains(&"Destroyed".to_owned()));
    assert_eq!(world.api.list(CLAIMS).len(), 4);
}

#[tokio::test]
async fn a_policy_that_is_changed_while_the_pods_stop_keeps_everything() {
    let world = world().await;
    let set = world.api.get(SETS, "demo-datanode").unwrap();
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], "Retain",
        "Kubernetes would delete the volumes with the StatefulSet"
    );
    world.ask_to_delete();
    world.turn().await.unwrap();
    world.edit_spec(|spec| spec["deletionPolicy"] = json!("Retain"));
    world.stop_pods();
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert_eq!(world.api.list(CLAIMS).len(), 4);
    assert!(world.api.list(JOBS).is_empty());
}

#[tokio::test]
async fn the_job_of_an_earlier_cluster_says_nothing_about_this_one() {
    let world = world().await;
    let before = json!({"apiVersion": "greptimecluster.io/v1alpha1", "kind": "GreptimeCluster", "name": "demo",
        "uid": "before"});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "demo-destroy", "ownerReferences": [before]}});
    world.api.put(JOBS, job);
    finish_job(&world, "Complete");
    world.ask_to_delete();
    world.turn().await.unwrap();
    world.stop_pods();
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_some());
    world.api.delete(JOBS, "demo-destroy");
    world.turn().await.unwrap();
    finish_job(&world, "Complete");
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
}

#[tokio::test]
async fn a_cluster_that_cannot_be_read_is_let_go_with_its_data_kept() {
    let world = world().await;
    world.edit_spec(|spec| spec["metasrv"]["replicas"] = json!("many"));
    world.ask_to_delete();
    world.turn().await.unwrap();
    world.advance(119);
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_some(), "it may be mended");
    world.advance(1);
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert!(world.event_reasons().contains(&"DestroyGaveUp".to_owned()));
    assert_eq!(world.api.list(CLAIMS).len(), 4);
    assert!(world.api.list(JOBS).is_empty());
}

#[tokio::test]
async fn a_job_that_fails_is_told_and_blocks_nothing() {
    let world = world().await;
    world.ask_to_delete();
    world.turn().await.unwrap();
    world.stop_pods();
    world.turn().await.unwrap();
    finish_job(&world, "Failed");
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert!(world.event_reasons().contains(&"DestroyGaveUp".to_owned()));
}

#[tokio::test]
async fn it_is_over_after_two_minutes_whatever_hangs() {
    let world = world().await;
    world.ask_to_delete();
    world.turn().await.unwrap();
    world.advance(119);
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_some());
    world.advance(1);
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert!(world.event_reasons().contains(&"DestroyGaveUp".to_owned()));
    assert_eq!(
        world.api.list(CLAIMS).len(),
        1,
        "Kubernetes keeps a volume as long as a pod uses it"
    );
}

#[tokio::test]
async fn a_namespace_that_goes_is_not_held_up() {
    let world = world().await;
    world.api.edit(NAMESPACES, "ns", |o| {
        o["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z")
    });
    world.ask_to_delete();
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
}

#[tokio::test]
async fn a_cluster_that_never_owned_its_bucket_destroys_nothing() {
    let world = World::with_cluster().await;
    world.edit_spec(|spec| spec["deletionPolicy"] = json!("Delete"));
    world.settle().await;
    world.ask_to_delete();
    world.turn().await.unwrap();
    assert!(world.api.get(CLUSTERS, "demo").is_none());
    assert!(world.api.list(JOBS).is_empty());
}

#[tokio::test]
async fn with_retain_nothing_is_held_and_nothing_deleted() {
    let world = World::with_cluster().await;
    world.settle().await;
    world.api.edit(CLUSTERS, "demo", |o| {
        o["metadata"]["finalizers"] = json!(["another/one"])
    });
    world.ask_to_delete();
    world.turn().await.unwrap();
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    assert_eq!(world.api.list(SETS).len(), 3);
}
