//! Whether applying an object would change anything.
//!
//! Server-side apply owns fields: the live object says in `metadata.managedFields` which ones are the operator's.
//! Applying changes something exactly if a field that we want is not ours or has another value, or if a field
//! that is ours is not wanted any more. Everything that others own, or that the API server fills in, is left aside.
//! Format of the field sets: <https://kubernetes.io/docs/reference/using-api/server-side-apply/#managed-fields>.

use std::fmt;

use serde_json::{Map, Value};

use crate::names::FIELD_MANAGER;
use crate::quantity;

/// Why an object must be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Path of the first field that differs, as in `.spec.replicas`.
    pub path: String,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The operator never set it, or somebody else did since.
    NotOurs,
    /// It has another value.
    Different,
    /// It was ours and is not wanted any more.
    NotWanted,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::NotOurs => "was missing or changed by someone else",
            Why::Different => "has another value",
            Why::NotWanted => "is not wanted any more",
        };
        write!(f, "{} {why}", self.path)
    }
}

/// What applying `desired` would change of `live`; `None` if nothing.
pub fn drift(desired: &Value, live: &Value) -> Option<Drift> {
    let none = Value::Object(Map::new());
    let owned = owned_fields(live).unwrap_or(&none);
    let mut path = Path::default();
    compare(desired, live, owned, &mut path).err()
}

/// The operator's fields of the main resource; those of a subresource are another entry.
fn owned_fields(live: &Value) -> Option<&Value> {
    let entries = live.pointer("/metadata/managedFields")?.as_array()?;
    let ours = entries.iter().find(|entry| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == "Apply"
            && entry.get("subresource").is_none_or(|s| s == "")
    });
    ours.and_then(|entry| entry.get("fieldsV1"))
}

/// Names of the fields down to where the comparison is.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn inside<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        self.0.push(name.to_owned());
        let result = f(self);
        self.0.pop();
        result
    }

    fn drift(&self, why: Why) -> Drift {
        Drift { path: self.0.iter().map(|name| format!(".{name}")).collect(), why }
    }

    /// Fields of every object that are its identity and never owned.
    fn is_identity(&self, name: &str) -> bool {
        match self.0.as_slice() {
            [] => matches!(name, "apiVersion" | "kind"),
            [metadata] => metadata == "metadata" && matches!(name, "name" | "namespace"),
            _ => false,
        }
    }

    fn is_quantity(&self) -> bool {
        let names = self.0.as_slice();
        matches!(names, [.., section, _] if section == "limits" || section == "requests")
    }
}

/// Compares what is wanted with what lives, under the operator's fields at the same place.
fn compare(desired: &Value, live: &Value, owned: &Value, path: &mut Path) -> Result<(), Drift> {
    // A leaf of the field set: the whole value is one field.
    let is_leaf = owned.as_object().is_none_or(Map::is_empty);
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) if !is_leaf || path.0.is_empty() => {
            compare_objects(desired, live, owned, path)
        }
        (Value::Array(desired), Value::Array(live)) if !is_leaf => compare_lists(desired, live, owned, path),
        _ if same(desired, live, path) => Ok(()),
        _ => Err(path.drift(Why::Different)),
    }
}

fn compare_objects(
    desired: &Map<String, Value>,
    live: &Map<String, Value>,
    owned: &Value,
    path: &mut Path,
) -> Result<(), Drift> {
    for (name, value) in desired {
        if path.is_identity(name) {
            continue;
        }
        let at_root_metadata = path.0.is_empty() && name == "metadata";
        path.inside(name, |path| {
            let none = Value::Object(Map::new());
            let owned = match owned.get(format!("f:{name}")) {
                Some(owned) => owned,
                // Metadata is a field set of its own even when only the identity is in it.
                None if at_root_metadata => &none,
                None => return Err(path.drift(Why::NotOurs)),
            };
            let live = live.get(name).ok_or_else(|| path.drift(Why::NotOurs))?;
            if at_root_metadata {
                return match (value, live) {
                    (Value::Object(value), Value::Object(live)) => compare_objects(value, live, owned, path),
                    _ => Err(path.drift(Why::Different)),
                };
            }
            compare(value, live, owned, path)
        })?;
    }
    let surplus = owned.as_object().into_iter().flatten().find_map(|(field, _)| {
        let name = field.strip_prefix("f:")?;
        (!desired.contains_key(name)).then_some(name)
    });
    match surplus {
        Some(name) => path.inside(name, |path| Err(path.drift(Why::NotWanted))),
        None => Ok(()),
    }
}

/// Lists whose elements have owners: `k:{…}` for those merged by keys, `v:…` for sets.
fn compare_lists(desired: &[Value], live: &[Value], owned: &Value, path: &mut Path) -> Result<(), Drift> {
    let mut seen = Vec::new();
    for value in desired {
        let field = owned.as_object().into_iter().flatten().find(|(field, _)| selects(field, value));
        let Some((field, owned)) = field else { return Err(path.drift(Why::NotOurs)) };
        let live = live.iter().find(|element| selects(field, element));
        let live = live.ok_or_else(|| path.drift(Why::NotOurs))?;
        path.inside(&element_name(value), |path| compare(value, live, owned, path))?;
        seen.push(field.as_str());
    }
    let surplus = owned.as_object().into_iter().flatten().find(|(field, _)| {
        (field.starts_with("k:") || field.starts_with("v:")) && !seen.contains(&field.as_str())
    });
    match surplus {
        Some((field, _)) => path.inside(field, |path| Err(path.drift(Why::NotWanted))),
        None => Ok(()),
    }
}

/// Whether a `k:` or `v:` entry stands for an element. A key that the element leaves out has been defaulted.
fn selects(field: &str, element: &Value) -> bool {
    if let Some(json) = field.strip_prefix("v:") {
        return serde_json::from_str::<Value>(json).is_ok_and(|value| value == *element);
    }
    let Some(Ok(Value::Object(keys))) = field.strip_prefix("k:").map(serde_json::from_str) else { return false };
    let Some(element) = element.as_object() else { return false };
    let mut matched = false;
    keys.iter().all(|(key, value)| match element.get(key) {
        Some(own) => {
            matched = true;
            own == value
        }
        None => true,
    }) && matched
}

fn element_name(element: &Value) -> String {
    match element.get("name").and_then(Value::as_str) {
        Some(name) => name.to_owned(),
        None => "[]".to_owned(),
    }
}

/// Whether what lives is what was wanted, where the API server may have filled in what was left out.
fn same(desired: &Value, live: &Value, path: &mut Path) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired.iter().all(|(name, value)| {
            path.inside(name, |path| live.get(name).is_some_and(|live| same(value, live, path)))
        }),
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len() && desired.iter().zip(live).all(|(a, b)| same(a, b, path))
        }
        (Value::String(a), Value::String(b)) if path.is_quantity() => {
            // `0.5` comes back as `500m`.
            a == b || (quantity::parse(a).is_some() && quantity::parse(a) == quantity::parse(b))
        }
        _ => desired == live,
    }
}

#[cfg(test)]
mod tests;
