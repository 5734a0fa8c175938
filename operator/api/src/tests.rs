use super::*;

use serde_json::{Value, json};

fn schema() -> Value {
    let crd = serde_json::to_value(crd()).expect("a definition is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn minimal() -> Value {
    json!({
        "apiVersion": "greptimecluster.io/v1alpha1",
        "kind": "GreptimeCluster",
        "metadata": {"name": "demo"},
        "spec": {
            "metasrv": {"store": {"etcd": {"endpoints": ["http://etcd:2379"]}}},
            "objectStorage": {"s3": {"bucket": "greptime"}},
        },
    })
}

#[test]
fn the_definition_can_be_applied_by_plain_kubectl_apply() {
    let json = serde_json::to_string(&crd()).expect("a definition is JSON");
    assert!(json.len() < CRD_LIMIT_BYTES, "{} bytes", json.len());
    // The annotation that holds it is not alone, so stay well away from the limit.
    assert!(json.len() < CRD_LIMIT_BYTES / 2, "{} bytes", json.len());
}

#[test]
fn names_do_not_clash_with_those_of_the_other_operator() {
    let crd = crd();
    assert_eq!(crd.spec.group, GROUP);
    assert_eq!(crd.spec.names.short_names, Some(vec!["grc".to_owned()]));
    assert_eq!(crd.metadata.name.as_deref(), Some("greptimeclusters.greptimecluster.io"));
}

#[test]
fn the_scale_subresource_reads_and_writes_the_datanodes() {
    let crd = crd();
    let subresources = crd.spec.versions[0].subresources.clone().expect("subresources");
    let scale = subresources.scale.expect("scale");
    assert_eq!(scale.spec_replicas_path, ".spec.datanode.replicas");
    assert_eq!(scale.status_replicas_path, ".status.datanode.replicas");
    assert_eq!(scale.label_selector_path.as_deref(), Some(".status.selector"));
    assert!(subresources.status.is_some());
}

#[test]
fn only_replicas_have_defaults_in_the_schema() {
    let spec = &schema()["properties"]["spec"]["properties"];
    assert_eq!(spec["datanode"]["default"], json!({"replicas": 3}));
    assert_eq!(spec["frontend"]["default"], json!({"replicas": 1}));
    let mut found = Vec::new();
    collect_defaults(&mut String::new(), spec, &mut found);
    assert_eq!(
        found,
        ["datanode", "datanode.replicas", "frontend", "frontend.replicas", "metasrv.replicas"],
        "other defaults are the planner's, so that what is in the cluster is what the user wrote"
    );
}

fn collect_defaults(path: &mut String, properties: &Value, found: &mut Vec<String>) {
    for (name, schema) in properties.as_object().into_iter().flatten() {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        if schema.get("default").is_some() {
            found.push(path.clone());
        }
        collect_defaults(path, &schema["properties"], found);
        path.truncate(length);
    }
}

#[test]
fn every_rule_has_a_message() {
    fn walk(value: &Value, count: &mut usize) {
        match value {
            Value::Object(map) => {
                for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                    assert!(rule["message"].as_str().is_some_and(|m| !m.is_empty()), "{rule}");
                    *count += 1;
                }
                map.values().for_each(|v| walk(v, count));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, count)),
            _ => {}
        }
    }
    let mut count = 0;
    walk(&schema(), &mut count);
    assert_eq!(count, 15);
}

#[test]
fn conditions_are_merged_by_type() {
    let schema = schema();
    let conditions = &schema["properties"]["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
}

#[test]
fn affinity_is_typed_so_that_a_misspelt_field_is_refused() {
    let schema = schema();
    let affinity = &schema["properties"]["spec"]["properties"]["datanode"]["properties"]["scheduling"]["properties"]
        ["affinity"]["properties"];
    assert!(affinity["podAntiAffinity"]["properties"]["requiredDuringSchedulingIgnoredDuringExecution"].is_object());
}

#[test]
fn what_is_left_out_stays_out() {
    let cluster: GreptimeCluster = serde_json::from_value(minimal()).expect("a minimal cluster");
    assert_eq!(cluster.spec.datanode.replicas, 3);
    assert_eq!(cluster.spec.deletion_policy(), DeletionPolicy::Retain);
    let back = serde_json::to_value(&cluster.spec).expect("a spec is JSON");
    assert_eq!(back["objectStorage"], minimal()["spec"]["objectStorage"]);
    assert_eq!(back.get("deletionPolicy"), None);
}

#[test]
fn the_committed_definition_is_what_the_types_say() {
    let yaml = crd_yaml().expect("a definition is YAML");
    for path in ["crds/greptimeclusters.yaml", "charts/greptime-operator/files/greptimeclusters.yaml"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == yaml, "{} differs: run `make generate`", path.display());
    }
}
