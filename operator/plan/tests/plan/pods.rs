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

/// The settings of a role, and its pods.
fn told_to(spec: Value, role: Role) -> (String, Value) {
    let (plan, _) = World::new(spec).plan();
    let config = plan.apply.iter().find(|child| {
        child.kind() == "ConfigMap" && child.name() == format!("demo-{}-config", role.as_str())
    });
    let settings = config.unwrap().to_json()["data"].to_string();
    let set = serde_json::to_value(stateful_set(&plan, role).unwrap()).unwrap();
    (settings, set["spec"]["template"]["spec"].clone())
}

#[test]
fn a_bucket_of_google_is_reached_with_a_key_file_or_as_the_service_account() {
    let mut spec = minimal();
    spec["objectStorage"] = json!({"gcs": {"bucket": "rows", "credentialsSecretName": "gcs-key"}});
    let (settings, pod) = told_to(spec.clone(), Role::Datanode);
    for said in [
        r#"kind = \"gcs\""#,
        r#"bucket = \"rows\""#,
        r#"service_account_file = \"/etc/greptime/gcs/service-account.json\""#,
    ] {
        assert!(settings.contains(said), "{said}: {settings}");
    }
    assert!(
        pod["volumes"].to_string().contains(r#""secretName":"gcs-key""#),
        "{pod}"
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    spec["objectStorage"] = json!({"gcs": {"bucket": "rows"}});
    let (settings, pod) = told_to(spec, Role::Metasrv);
    assert!(!settings.contains("service_account_file"), "{settings}");
    assert_eq!(pod["automountServiceAccountToken"], true);
}

#[test]
fn a_container_of_azure_is_reached_with_the_key_of_the_account() {
    let mut spec = minimal();
    spec["objectStorage"] = json!({"azure": {
        "accountName": "acme", "container": "rows", "root": "teams/a", "credentialsSecretName": "azure-key",
    }});
    let (settings, pod) = told_to(spec.clone(), Role::Datanode);
    for said in [
        r#"kind = \"azure\""#,
        r#"bucket = \"rows\""#,
        r#"root = \"teams/a\""#,
        r#"account_name = \"acme\""#,
    ] {
        assert!(settings.contains(said), "{said}: {settings}");
    }
    let environment = pod["containers"][0]["env"].to_string();
    assert!(
        environment.contains("GREPTIME__OBJECT_STORE__ACCOUNT_KEY"),
        "{environment}"
    );
    let (_, frontend) = told_to(spec, Role::Frontend);
    assert!(
        !frontend.to_string().contains("azure-key"),
        "frontends never talk to the bucket"
    );
}
