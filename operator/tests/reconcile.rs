//! Turns of the operator against an API server in memory.

mod support;

use kube::runtime::controller::Action;
use serde_json::{Value, json};

use support::harness::*;
use support::{ApiServer, Fault};

const CHILDREN: [&str; 5] = [ACCOUNTS, CONFIG_MAPS, SERVICES, BUDGETS, SETS];

fn names(api: &ApiServer, collection: &str) -> Vec<String> {
    api.list(collection)
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_new_cluster_gets_its_objects_and_the_second_turn_writes_nothing() {
    let world = World::with_cluster().await;
    world.turn().await.unwrap();
    let sets = ["demo-datanode", "demo-frontend", "demo-metasrv"];
    assert_eq!(names(&world.api, SETS), sets);
    assert_eq!(names(&world.api, ACCOUNTS), sets);
    assert_eq!(names(&world.api, BUDGETS), sets);
    assert_eq!(names(&world.api, CONFIG_MAPS).len(), 3);
    let writes = world.api.take_writes();
    let first_set = writes.iter().position(|w| w.contains("statefulsets")).unwrap();
    assert!(
        writes[..first_set].iter().any(|w| w.contains("configmaps")),
        "{writes:#?}"
    );
    assert!(
        writes[first_set..]
            .iter()
            .all(|w| w.contains("statefulsets") || w.contains("/status")),
        "{writes:#?}"
    );
    // The status counts what the first turn made, and then there is nothing left to do.
    world.settle().await;
    world.turn().await.unwrap();
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cluster_whose_pods_run_is_ready_and_then_nothing_is_written() {
    let world = World::with_cluster().await;
    world.settle().await;
    assert_eq!(world.condition("Ready")["status"], "False");
    world.run_pods();
    world.settle().await;
    assert_eq!(world.condition("Ready")["status"], "True", "{:#}", world.status());
    assert_eq!(world.status()["observedGeneration"], 1);
    assert_eq!(
        world.status()["clusterId"],
        "11111111-2222-4333-8444-555555555555"
    );
    assert!(
        world
            .event_reasons()
            .contains(&world.condition("Ready")["reason"].as_str().unwrap().to_owned())
    );
    let events = world.event_reasons().len();
    for _ in 0..5 {
        world.advance(10);
        world.turn().await.unwrap();
    }
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    assert_eq!(world.event_reasons().len(), events);
}

#[tokio::test]
async fn every_object_that_is_deleted_is_made_again() {
    let world = World::with_cluster().await;
    world.settle().await;
    for collection in CHILDREN {
        for name in names(&world.api, collection) {
            world.api.delete(collection, &name);
            world.settle().await;
            assert!(world.api.get(collection, &name).is_some(), "{collection}/{name}");
        }
    }
}

#[tokio::test]
async fn every_object_that_is_changed_is_changed_back_and_what_others_added_stays() {
    let world = World::with_cluster().await;
    world.settle().await;
    let restored = async |collection: &str, name: &str, change: fn(&mut Value), see: fn(&Value) -> bool| {
        world.api.edit(collection, name, change);
        world.settle().await;
        let object = world.api.get(collection, name).unwrap();
        assert!(see(&object), "{collection}/{name}: {object:#}");
    };
    restored(
        SETS,
        "demo-frontend",
        |o| o["spec"]["replicas"] = json!(7),
        |o| o["spec"]["replicas"] == 1,
    )
    .await;
    restored(
        SETS,
        "demo-datanode",
        |o| o["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other:1"),
        |o| o["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/greptime-node:0.1.0",
    )
    .await;
    restored(
        SERVICES,
        "demo-frontend",
        |o| o["spec"]["selector"]["extra"] = json!("x"),
        |o| o["spec"]["selector"]["extra"].is_null(),
    )
    .await;
    // The API server refuses two ports of one name, so what others added must go before ours comes back.
    restored(
        SERVICES,
        "demo-frontend",
        |o| o["spec"]["ports"] = json!([{"name": "mysql", "port": 4999, "protocol": "TCP"}]),
        |o| {
            let ports = o["spec"]["ports"].as_array().unwrap();
            let named = ports.iter().filter(|port| port["name"] == "mysql");
            named.map(|port| port["port"].clone()).collect::<Vec<_>>() == [4002]
        },
    )
    .await;
    restored(
        BUDGETS,
        "demo-datanode",
        |o| o["spec"]["maxUnavailable"] = json!(3),
        |o| o["spec"]["maxUnavailable"] == 1,
    )
    .await;
    // Without the label it is not even listed any more.
    restored(
        ACCOUNTS,
        "demo-metasrv",
        |o| o["metadata"]["labels"] = json!({"theirs": "stays"}),
        |o| {
            o["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "greptime-operator"
                && o["metadata"]["labels"]["theirs"] == "stays"
        },
    )
    .await;
}

#[tokio::test]
async fn what_the_spec_no_longer_says_is_taken_back() {
    let world = World::with_cluster().await;
    world.edit_spec(|spec| {
        spec["frontend"]["service"] = json!({"annotations": {"a": "1", "b": "2"}});
    });
    world.settle().await;
    world.edit_spec(|spec| spec["frontend"]["service"]["annotations"] = json!({"a": "1"}));
    world.settle().await;
    let service = world.api.get(SERVICES, "demo-frontend").unwrap();
    assert_eq!(service["metadata"]["annotations"], json!({"a": "1"}));
}

#[tokio::test]
async fn datanodes_are_added_and_never_taken_away() {
    let world = World::with_cluster().await;
    world.settle().await;
    let replicas = || world.api.get(SETS, "demo-datanode").unwrap()["spec"]["replicas"].clone();
    world.edit_spec(|spec| spec["datanode"]["replicas"] = json!(5));
    world.settle().await;
    assert_eq!(replicas(), 5);
    world.edit_spec(|spec| spec["datanode"]["replicas"] = json!(2));
    world.settle().await;
    assert_eq!(replicas(), 5);
    assert_eq!(world.condition("ScaleInBlocked")["status"], "True");
    world.edit_spec(|spec| spec["datanode"]["replicas"] = json!(5));
    world.settle().await;
    assert_eq!(world.condition("ScaleInBlocked")["status"], "False");
}

#[tokio::test]
async fn volumes_that_exist_are_neither_grown_nor_shrunk_and_the_spec_can_be_set_back() {
    let world = World::with_cluster().await;
    world.settle().await;
    let spec = || world.api.get(SETS, "demo-datanode").unwrap()["spec"].clone();
    let before = spec();
    for asked in [
        json!({"size": "2Gi"}),
        json!({"size": "512Mi"}),
        json!({"size": "1Gi", "storageClassName": "fast"}),
    ] {
        world.edit_spec(|spec| spec["datanode"]["storage"] = asked.clone());
        world.turn().await.unwrap();
        let writes = world.api.take_writes();
        assert!(writes.iter().all(|w| !w.contains("statefulsets")), "{writes:#?}");
        assert_eq!(
            world.condition("StorageChangeBlocked")["status"],
            "True",
            "{asked}"
        );
        world.edit_spec(|spec| spec["datanode"]["storage"] = json!({"size": "1024Mi"}));
        world.settle().await;
        assert_eq!(world.condition("StorageChangeBlocked")["status"], "False");
    }
    assert_eq!(spec(), before);
}

#[tokio::test]
async fn what_an_older_operator_said_is_taken_out_of_the_status() {
    let world = World::with_cluster().await;
    world.settle().await;
    world.api.edit(CLUSTERS, "demo", |o| {
        o["status"]["endpoints"]["grpc"] = json!("demo-frontend.ns.svc:4001")
    });
    world.settle().await;
    let endpoints = world.status()["endpoints"].clone();
    assert!(
        endpoints["grpc"].is_null() && endpoints["http"].is_string(),
        "{endpoints}"
    );
}

#[tokio::test]
async fn a_conflict_is_looked_at_again_and_nobody_is_told() {
    let world = World::with_cluster().await;
    world.settle().await;
    let events = world.event_reasons();
    world.edit_spec(|spec| spec["datanode"]["replicas"] = json!(4));
    world.api.fail(Fault {
        method: "PATCH",
        path: "statefulsets",
        code: 409,
        reason: "Conflict",
        times: 1,
    });
    let error = world.turn().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(world.event_reasons(), events);
    world.settle().await;
    assert_eq!(
        world.api.get(SETS, "demo-datanode").unwrap()["spec"]["replicas"],
        4
    );
    assert!(
        world
            .metrics()
            .contains(r#"greptime_operator_reconciles_total{result="conflict"} 1"#)
    );
}

#[tokio::test]
async fn what_the_api_server_refuses_is_said_once_and_recovers() {
    let world = World::with_cluster().await;
    world.api.fail(Fault {
        method: "PATCH",
        path: "services/demo",
        code: 422,
        reason: "Invalid",
        times: 2,
    });
    assert!(!world.turn().await.unwrap_err().is_transient());
    assert_eq!(world.condition("Ready")["reason"], "ApplyFailed");
    assert!(
        world.condition("Ready")["message"]
            .as_str()
            .unwrap()
            .contains("a fault of the test")
    );
    assert!(
        names(&world.api, SETS).is_empty(),
        "pods must not start without what they need"
    );
    world.api.take_writes();
    world.turn().await.unwrap_err();
    let writes = world.api.take_writes();
    assert!(writes.iter().all(|w| !w.contains("/status")), "{writes:#?}");
    world.settle().await;
    assert_ne!(world.condition("Ready")["reason"], "ApplyFailed");
    assert_eq!(names(&world.api, SETS).len(), 3);
}

#[tokio::test]
async fn a_missing_secret_is_named_and_the_cluster_goes_on_when_it_is_there() {
    let world = World::new().await;
    world.api.put(CLUSTERS, cluster("demo"));
    world.settle().await;
    let found = world.condition("SecretsFound");
    assert_eq!(found["status"], "False");
    assert!(found["message"].as_str().unwrap().contains("demo-s3"), "{found}");
    assert!(!names(&world.api, SETS).contains(&"demo-datanode".to_owned()));
    world.put_secret();
    world.settle().await;
    assert_eq!(world.condition("SecretsFound")["status"], "True");
    assert!(names(&world.api, SETS).contains(&"demo-datanode".to_owned()));
    let secrets = world.api.reads().into_iter().filter(|r| r.contains("/secrets"));
    for read in secrets {
        assert_eq!(
            read, "GET /api/v1/namespaces/ns/secrets/demo-s3",
            "secrets are read by name only"
        );
    }
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_is_told_so_and_its_objects_stay() {
    let world = World::with_cluster().await;
    world.settle().await;
    world.edit_spec(|spec| spec["metasrv"]["replicas"] = json!("many"));
    world.turn().await.unwrap();
    let ready = world.condition("Ready");
    assert_eq!(
        (&ready["status"], &ready["reason"]),
        (&json!("False"), &json!("InvalidSpec"))
    );
    assert_eq!(world.status()["observedGeneration"], 2);
    world.api.take_writes();
    world.turn().await.unwrap();
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    assert_eq!(names(&world.api, SETS).len(), 3);
    world.edit_spec(|spec| spec["metasrv"]["replicas"] = json!(1));
    world.settle().await;
    assert_ne!(world.condition("Ready")["reason"], "InvalidSpec");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_taken_over() {
    let world = World::with_cluster().await;
    let theirs =
        json!({"metadata": {"name": "demo-frontend", "namespace": "ns"}, "spec": {"ports": [{"port": 80}]}});
    world.api.put(SERVICES, theirs);
    let error = world.turn().await.unwrap_err();
    assert!(error.to_string().contains("did not make"), "{error}");
    assert!(
        world.condition("Ready")["message"]
            .as_str()
            .unwrap()
            .contains("demo-frontend")
    );
    assert_eq!(
        world.api.get(SERVICES, "demo-frontend").unwrap()["spec"],
        json!({"ports": [{"port": 80}]})
    );
    world.api.delete(SERVICES, "demo-frontend");
    world.settle().await;
    assert_eq!(
        world.api.get(SERVICES, "demo-frontend").unwrap()["kind"],
        "Service"
    );
}

#[tokio::test]
async fn objects_of_an_earlier_cluster_of_the_name_are_waited_for() {
    let world = World::with_cluster().await;
    world.settle().await;
    world.api.delete(CLUSTERS, "demo");
    world.api.put(CLUSTERS, cluster("demo"));
    assert!(world.turn().await.unwrap_err().is_transient());
    for collection in CHILDREN {
        for name in names(&world.api, collection) {
            world.api.delete(collection, &name);
        }
    }
    world.settle().await;
    assert_eq!(names(&world.api, SETS).len(), 3);
}

#[tokio::test]
async fn a_metasrv_that_does_not_answer_is_unknown_and_changes_no_object() {
    let world = World::with_cluster().await;
    world.settle().await;
    world.run_pods();
    world.settle().await;
    world.metasrv_says(None);
    world.turn().await.unwrap();
    let writes = world.api.take_writes();
    assert!(writes.iter().all(|w| w.ends_with("/status")), "{writes:#?}");
    world.run_pods();
    world.settle().await;
    assert_eq!(world.condition("Ready")["status"], "True");
}

#[tokio::test]
async fn a_cluster_that_is_gone_needs_nothing() {
    let world = World::with_cluster().await;
    let object = world.api.get(CLUSTERS, "demo").unwrap();
    world.api.delete(CLUSTERS, "demo");
    let guarded = std::sync::Arc::new(serde_json::from_value(object).unwrap());
    let action = greptime_operator::reconcile::reconcile(guarded, world.context.clone())
        .await
        .unwrap();
    assert_eq!(action, Action::await_change());
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}
