//! The committed CRD is the generated one, and plain `kubectl apply` can carry it.

use std::path::Path;

use greptime_operator_api::crd_yaml;
use serde_json::Value;

fn committed() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/greptimeclusters.yaml")
}

#[test]
fn the_committed_crd_is_the_generated_one() {
    let path = committed();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, crd_yaml()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == crd_yaml(),
        "crds/greptimeclusters.yaml is not what the types say: run UPDATE_GOLDEN=1 cargo test -p greptime-operator-api"
    );
}

#[test]
fn plain_kubectl_apply_can_carry_it() {
    // `kubectl apply` keeps the whole object in an annotation, and annotations end at 256 KiB.
    let size = crd_yaml().len();
    assert!(size < 128 * 1024, "the CRD has {size} bytes");
}

#[test]
fn the_yaml_says_what_the_types_say() {
    use kube::CustomResourceExt;
    let read: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    let meant = serde_json::to_value(greptime_operator_api::GreptimeCluster::crd()).unwrap();
    assert_eq!(read, meant);
}

#[test]
fn only_datanode_replicas_has_a_default_in_the_schema() {
    // A default in the schema is a write to the spec by somebody other than the user; /scale needs this one.
    let read: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    let schema = &read["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut defaults = Vec::new();
    collect_defaults(schema, String::new(), &mut defaults);
    assert_eq!(
        defaults,
        [
            ("/spec/datanode".to_owned(), serde_json::json!({})),
            ("/spec/datanode/replicas".to_owned(), serde_json::json!(3))
        ]
    );
}

#[test]
fn no_rule_keeps_the_storage_from_being_set_back() {
    // The operator refuses a change with a condition. A rule about the old value would refuse the way back as well.
    let read: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    let spec = &read["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let storage = &spec["properties"]["datanode"]["properties"]["storage"];
    assert!(storage["properties"]["size"]["pattern"].is_string(), "{storage}");
    assert!(!storage.to_string().contains("oldSelf"), "{storage}");
}

fn collect_defaults(schema: &Value, path: String, found: &mut Vec<(String, Value)>) {
    // The operator writes the whole status, so that defaults there touch nobody else's field.
    if path == "/status" {
        return;
    }
    if let Some(default) = schema.get("default") {
        found.push((path.clone(), default.clone()));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect_defaults(property, format!("{path}/{name}"), found);
    }
}
