//! Server-side apply, as far as the operator's objects need it.

use serde_json::{Map, Value, json};

/// What identifies the items of a list, by its name; other lists are one value.
fn keys(list: &str, items: &[Value]) -> Option<&'static [&'static str]> {
    Some(match list {
        "containers" | "initContainers" | "env" | "imagePullSecrets" => &["name"],
        "volumes" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "ports" if items.iter().any(|p| p["containerPort"].is_number()) => &["containerPort", "protocol"],
        "ports" => &["port", "protocol"],
        _ => return None,
    })
}

fn is_atomic_map(name: &str) -> bool {
    [
        "selector",
        "nodeSelector",
        "labelSelector",
        "resourceFieldRef",
        "fieldRef",
        "secretKeyRef",
    ]
    .contains(&name)
}

fn key_of(keys: &[&str], item: &Value) -> Value {
    let value = |key: &str| {
        if item[key].is_null() && key == "protocol" {
            json!("TCP")
        } else {
            item[key].clone()
        }
    };
    keys.iter()
        .map(|key| (key.to_string(), value(key)))
        .collect::<Map<_, _>>()
        .into()
}

/// The set of fields of what is applied, in the form of `fieldsV1`.
fn field_set(name: &str, value: &Value) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(map) if !is_atomic_map(name) => {
            for (field, value) in map {
                set.insert(format!("f:{field}"), field_set(field, value));
            }
        }
        Value::Array(items) => {
            for item in items {
                let Some(keys) = keys(name, items) else { continue };
                let mut below = field_set("", item);
                below["."] = json!({});
                set.insert(format!("k:{}", key_of(keys, item)), below);
            }
        }
        _ => {}
    }
    Value::Object(set)
}

/// Removes from `object` what `old` has and `new` has not.
fn remove(name: &str, object: &mut Value, old: &Value, new: &Value) {
    let Some(old) = old.as_object() else { return };
    for (step, below) in old {
        let same = new.get(step);
        if let Some(field) = step.strip_prefix("f:") {
            match (same, object.as_object_mut()) {
                (Some(new), Some(map)) => {
                    if let Some(value) = map.get_mut(field) {
                        remove(field, value, below, new);
                    }
                }
                (None, Some(map)) => {
                    map.remove(field);
                }
                _ => {}
            }
        }
        let Some(key) = step.strip_prefix("k:") else {
            continue;
        };
        let key: Value = serde_json::from_str(key).unwrap();
        let Some(items) = object.as_array_mut() else {
            continue;
        };
        let names = keys(name, items).unwrap_or(&[]);
        match same {
            None => items.retain(|item| key_of(names, item) != key),
            Some(new) => {
                let found = items.iter_mut().find(|item| key_of(names, item) == key);
                if let Some(item) = found {
                    remove("", item, below, new);
                }
            }
        }
    }
}

fn merge(name: &str, live: &mut Value, applied: &Value) {
    match applied {
        Value::Object(map) if live.is_object() && !is_atomic_map(name) => {
            for (field, value) in map {
                merge(
                    field,
                    live.as_object_mut().unwrap().entry(field).or_insert(Value::Null),
                    value,
                );
            }
        }
        Value::Array(items) if live.is_array() && keys(name, items).is_some() => {
            let keys = keys(name, items).unwrap();
            let live = live.as_array_mut().unwrap();
            for item in items {
                match live
                    .iter_mut()
                    .find(|other| key_of(keys, other) == key_of(keys, item))
                {
                    Some(found) => merge("", found, item),
                    None => live.push(item.clone()),
                }
            }
        }
        other => *live = other.clone(),
    }
}

pub fn apply(live: Option<Value>, body: &Value, manager: &str, subresource: Option<&str>) -> Value {
    let mut body = body.clone();
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let mut owned = body.clone();
    for identity in ["apiVersion", "kind"] {
        owned.as_object_mut().unwrap().remove(identity);
    }
    for identity in ["name", "namespace"] {
        owned["metadata"].as_object_mut().unwrap().remove(identity);
    }
    if owned["metadata"] == json!({}) {
        owned.as_object_mut().unwrap().remove("metadata");
    }
    let new = field_set("", &owned);
    let mut next = live.unwrap_or_else(|| json!({"metadata": {}}));
    let mut managed = next["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ours = |entry: &Value| {
        entry["manager"] == manager && entry.get("subresource").and_then(Value::as_str) == subresource
    };
    if let Some(entry) = managed.iter().find(|e| ours(e)) {
        remove("", &mut next, &entry["fieldsV1"].clone(), &new);
    }
    merge("", &mut next, &body);
    managed.retain(|entry| !ours(entry));
    let mut entry =
        json!({"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": new});
    if let Some(subresource) = subresource {
        entry["subresource"] = json!(subresource);
    }
    managed.push(entry);
    managed.sort_by_key(|entry| entry["manager"].to_string() + &entry["subresource"].to_string());
    next["metadata"]["managedFields"] = json!(managed);
    next
}

/// A few of the defaults that the API server fills in: enough to see that they are no difference.
pub fn default(object: &mut Value) {
    let fill = |at: &mut Value, field: &str, value: Value| {
        if at.is_object() && at[field].is_null() {
            at[field] = value;
        }
    };
    match object["kind"].as_str() {
        Some("StatefulSet") => {
            fill(&mut object["spec"], "revisionHistoryLimit", json!(10));
            fill(
                &mut object["spec"]["template"]["spec"],
                "dnsPolicy",
                json!("ClusterFirst"),
            );
            for container in object["spec"]["template"]["spec"]["containers"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                fill(container, "terminationMessagePath", json!("/dev/termination-log"));
                for port in container["ports"].as_array_mut().into_iter().flatten() {
                    fill(port, "protocol", json!("TCP"));
                }
            }
            for claim in object["spec"]["volumeClaimTemplates"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                fill(claim, "status", json!({"phase": "Pending"}));
                fill(&mut claim["spec"], "volumeMode", json!("Filesystem"));
            }
        }
        Some("Service") => {
            fill(&mut object["spec"], "clusterIP", json!("10.96.1.1"));
            fill(&mut object["spec"], "sessionAffinity", json!("None"));
            for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
                fill(port, "protocol", json!("TCP"));
            }
        }
        _ => {}
    }
}

/// RFC 7386.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (field, value) in patch {
        let map = object.as_object_mut().unwrap();
        if value.is_null() {
            map.remove(field);
        } else {
            merge_patch(map.entry(field).or_insert(Value::Null), value);
        }
    }
}

/// Whether two ports of a Service have one name, which the API server refuses.
pub fn has_duplicate_port(object: &Value) -> bool {
    let ports = object["spec"]["ports"].as_array().into_iter().flatten();
    let mut seen = std::collections::BTreeSet::new();
    ports
        .filter_map(|port| port["name"].as_str())
        .any(|name| !seen.insert(name))
}

/// Whether the last finalizer of an object that is being deleted has gone.
pub fn is_over(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"]
        .as_array()
        .is_none_or(Vec::is_empty);
    !object["metadata"]["deletionTimestamp"].is_null() && finalizers
}
