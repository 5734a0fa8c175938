//! Ports, memory and times of the pods, and what must not restart them.

use greptime_operator_plan::{Plan, Role};
use serde_json::{Value, json};

use crate::support::{World, full, minimal, stateful_set};

fn container(plan: &Plan, role: Role) -> Value {
    let set = serde_json::to_value(stateful_set(plan, role).unwrap()).unwrap();
    set["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn frontends_offer_no_grpc_since_they_serve_none() {
    let (plan, report) = World::new(full()).plan();
    for child in &plan.apply {
        let listens = ["Service", "ConfigMap", "StatefulSet"].contains(&child.kind());
        let offers = child.to_json().to_string().contains("grpc");
        let frontend = child.name().starts_with("demo-frontend");
        assert_eq!(offers, listens && !frontend, "{} {}", child.kind(), child.name());
    }
    let environment = container(&plan, Role::Frontend)["env"].to_string();
    assert!(environment.contains("$(POD_IP):8080"), "{environment}");
    let endpoints = serde_json::to_value(&report.status.endpoints).unwrap();
    assert!(endpoints["grpc"].is_null() && endpoints["mysql"].is_string());
}

#[test]
fn a_datanode_may_use_what_its_settings_promise() {
    let (plan, _) = World::new(minimal()).plan();
    let memory = |role, kind: &str| container(&plan, role)["resources"][kind]["memory"].clone();
    assert_eq!(memory(Role::Datanode, "limits"), "2Gi");
    assert_eq!(memory(Role::Datanode, "requests"), "128Mi");
    assert_eq!(memory(Role::Frontend, "limits"), "1Gi");
    assert_eq!(memory(Role::Metasrv, "limits"), "512Mi");
    let mut spec = minimal();
    spec["datanode"] = json!({"resources": {"requests": {"memory": "3Gi"}}});
    let (plan, _) = World::new(spec).plan();
    assert_eq!(
        container(&plan, Role::Datanode)["resources"]["limits"]["memory"],
        "3Gi"
    );
}

#[test]
fn a_datanode_has_half_an_hour_to_read_its_log() {
    let (plan, _) = World::new(minimal()).plan();
    let seconds = |role| {
        let probe = container(&plan, role)["startupProbe"].clone();
        probe["periodSeconds"].as_i64().unwrap() * probe["failureThreshold"].as_i64().unwrap()
    };
    assert_eq!(Role::ALL.map(seconds), [300, 1800, 300]);
}

#[test]
fn another_metasrv_restarts_none_of_those_that_run() {
    let template = |replicas: i32| {
        let mut spec = minimal();
        spec["metasrv"]["replicas"] = json!(replicas);
        let (plan, _) = World::new(spec).plan();
        stateful_set(&plan, Role::Metasrv).unwrap().spec.template.clone()
    };
    assert_eq!(template(1), template(3));
}
