//! Whether an object in the cluster differs from the one that we want, and in what.
//!
//! The API server only adds to what is applied: defaults, status, fields of other managers. So an object is as
//! wanted when every field that we set has our value, and when no field is left over that we set once and no
//! longer want. The first is seen in the object itself, the second in its `managedFields`.
//!
//! A difference that is not there costs one needless write (see `apply`), a difference that is not seen costs the
//! user a cluster that is not what it says; where the two collide, this module prefers the write.

use serde_json::{Map, Value};

use crate::quantity;

/// Whose ownership counts: the manager's name, and the subresource through which it writes.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub manager: &'a str,
    pub subresource: Option<&'a str>,
}

/// The first difference, as `path: why`; nothing when the live object is as wanted.
pub fn difference(desired: &Value, live: &Value, owner: Owner<'_>) -> Option<String> {
    let desired = without_nulls(desired);
    let fields = desired.as_object()?;
    for (name, want) in fields {
        // Lists of objects leave them out of their items, and they cannot change anyway.
        if name == "apiVersion" || name == "kind" {
            continue;
        }
        if let Some(found) = in_field(name, name, want, live.get(name)) {
            return Some(found);
        }
    }
    match owned_fields(live, owner) {
        None => Some(format!(
            "metadata.managedFields: {} does not manage it yet",
            owner.manager
        )),
        Some(owned) => left_over("", owned, "", &desired),
    }
}

/// A null in what we apply means the same as leaving the field out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map
                .iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), without_nulls(v)));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

fn in_field(path: &str, field: &str, want: &Value, live: Option<&Value>) -> Option<String> {
    let Some(live) = live.filter(|v| !v.is_null()) else {
        let same = is_zero(want) && !ABSENT_IS_NOT_ZERO.contains(&field);
        return (!same).then(|| format!("{path}: missing"));
    };
    match (want, live) {
        (Value::Object(want), Value::Object(live)) => in_object(path, field, want, live),
        (Value::Array(want), Value::Array(live)) => in_list(path, field, want, live),
        (want, live) if want == live => None,
        (Value::String(want), Value::String(live)) if is_quantity(path) && quantity::equal(want, live) => {
            None
        }
        _ => Some(format!("{path}: {} instead of {}", short(live), short(want))),
    }
}

fn in_object(
    path: &str,
    field: &str,
    want: &Map<String, Value>,
    live: &Map<String, Value>,
) -> Option<String> {
    if ATOMIC_MAPS.contains(&field)
        && let Some(extra) = live.keys().find(|k| !want.contains_key(*k))
    {
        return Some(format!("{path}.{extra}: not wanted"));
    }
    want.iter()
        .find_map(|(name, value)| in_field(&format!("{path}.{name}"), name, value, live.get(name)))
}

fn in_list(path: &str, field: &str, want: &[Value], live: &[Value]) -> Option<String> {
    if SETS.contains(&field) {
        let missing = want.iter().find(|v| !live.contains(v));
        return missing.map(|v| format!("{path}: {} is missing", short(v)));
    }
    // Of a keyed list each manager owns its own items, and the order says nothing.
    if let Some(keys) = list_keys(field, want) {
        let differing = want.iter().find_map(|item| {
            let item_path = format!("{path}[{}]", key_text(keys, item));
            let found = live.iter().find(|other| same_keys(keys, item, other));
            in_field(&item_path, "", item, found)
        });
        return differing.or_else(|| {
            let extra = foreign_item(want, live, keys).filter(|_| path == SERVICE_PORTS)?;
            Some(format!("{path}[{}]: not wanted", key_text(keys, extra)))
        });
    }
    if want.len() != live.len() {
        return Some(format!(
            "{path}: {} entries instead of {}",
            live.len(),
            want.len()
        ));
    }
    let mut pairs = want.iter().zip(live).enumerate();
    pairs.find_map(|(i, (want, live))| in_field(&format!("{path}[{i}]"), "", want, Some(live)))
}

/// Whether somebody else added ports to a Service of ours. What is applied on the server's side cannot take them
/// away, and is refused when one of them has a name that we use: the list must be written as a whole.
pub fn has_foreign_ports(desired: &Value, live: &Value) -> bool {
    let (Some(want), Some(live)) = (service_ports(desired), service_ports(live)) else {
        return false;
    };
    list_keys("ports", want).is_some_and(|keys| foreign_item(want, live, keys).is_some())
}

fn service_ports(service: &Value) -> Option<&Vec<Value>> {
    service.pointer("/spec/ports")?.as_array()
}

fn foreign_item<'a>(want: &[Value], live: &'a [Value], keys: &[&str]) -> Option<&'a Value> {
    live.iter()
        .find(|item| !want.iter().any(|other| same_keys(keys, item, other)))
}

/// The only keyed list of which we own every item: what a Service listens on is the interface of the cluster.
const SERVICE_PORTS: &str = "spec.ports";

/// Fields for which the API server keeps an explicit zero, because leaving them out means something else.
const ABSENT_IS_NOT_ZERO: [&str; 8] = [
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "emptyDir",
    "partition",
    "replicas",
    "runAsUser",
    "runAsGroup",
];

/// Maps that belong to one manager as a whole: a key that somebody added changes what is selected.
const ATOMIC_MAPS: [&str; 4] = ["selector", "nodeSelector", "matchLabels", "labelSelector"];

const SETS: [&str; 1] = ["finalizers"];

/// What identifies an item of a list, by the name of the list: the `x-kubernetes-list-map-keys` of the kinds that
/// we write. Every other list is one value.
fn list_keys(field: &str, items: &[Value]) -> Option<&'static [&'static str]> {
    let keys: &'static [&'static str] = match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "secrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        // Containers and services name the number differently.
        "ports" if items.iter().any(|p| p.get("containerPort").is_some()) => &["containerPort", "protocol"],
        "ports" => &["port", "protocol"],
        _ => return None,
    };
    items.iter().all(Value::is_object).then_some(keys)
}

fn same_keys(keys: &[&str], a: &Value, b: &Value) -> bool {
    keys.iter().all(|key| key_of(key, a) == key_of(key, b))
}

/// A key that was left out has the server's default, and `protocol` is the only one that may be.
fn key_of<'a>(key: &str, item: &'a Value) -> std::borrow::Cow<'a, Value> {
    match item.get(key) {
        Some(value) => std::borrow::Cow::Borrowed(value),
        None if key == "protocol" => std::borrow::Cow::Owned(Value::from("TCP")),
        None => std::borrow::Cow::Owned(Value::Null),
    }
}

fn key_text(keys: &[&str], item: &Value) -> String {
    let parts: Vec<_> = keys
        .iter()
        .map(|key| key_of(key, item).to_string().replace('"', ""))
        .collect();
    parts.join(",")
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

fn is_quantity(path: &str) -> bool {
    [".requests.", ".limits.", ".sizeLimit", ".divisor"]
        .iter()
        .any(|part| path.contains(part))
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn owned_fields<'a>(live: &'a Value, owner: Owner<'_>) -> Option<&'a Value> {
    let entries = live.get("metadata")?.get("managedFields")?.as_array()?;
    let ours = entries.iter().find(|entry| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        text("manager") == Some(owner.manager)
            && text("operation") == Some("Apply")
            && text("subresource").filter(|s| !s.is_empty()) == owner.subresource
    });
    ours?.get("fieldsV1")
}

/// The first field that we own and do not want any more. `owned` is written as in the API: `f:` a field, `k:` the
/// item of a keyed list, `v:` the value of a set, `.` the thing itself.
fn left_over(path: &str, owned: &Value, field: &str, desired: &Value) -> Option<String> {
    let owned = owned.as_object()?;
    owned.iter().find_map(|(step, below)| {
        let (kind, name) = step.split_once(':')?;
        let (path, field, found) = match kind {
            "f" => (
                if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}.{name}")
                },
                name,
                desired.get(name),
            ),
            "k" => (format!("{path}[{name}]"), "", item_with(field, name, desired)),
            "v" => (format!("{path}[{name}]"), "", value_of_set(name, desired)),
            _ => return None,
        };
        match found {
            Some(found) => left_over(&path, below, field, found),
            None => Some(format!("{path}: no longer wanted")),
        }
    })
}

fn item_with<'a>(field: &str, key: &str, desired: &'a Value) -> Option<&'a Value> {
    let items = desired.as_array()?;
    let key: Value = serde_json::from_str(key).ok()?;
    let names: Vec<&str> = match list_keys(field, items) {
        Some(names) => names.to_vec(),
        None => key.as_object()?.keys().map(String::as_str).collect(),
    };
    items.iter().find(|item| same_keys(&names, item, &key))
}

fn value_of_set<'a>(value: &str, desired: &'a Value) -> Option<&'a Value> {
    let value: Value = serde_json::from_str(value).ok()?;
    desired.as_array()?.iter().find(|item| **item == value)
}

#[cfg(test)]
mod tests;
