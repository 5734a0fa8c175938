//! Writes the status, when it says something new.

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use greptime_operator_api::GreptimeCluster;

use crate::backoff::Key;
use crate::context::Context;
use crate::diff::{Owner, difference};
use crate::error::{Doing, Error};

/// Its own manager: what the status once said and no longer does then disappears, whatever children we own.
const MANAGER: &str = "greptime-operator-status";
const OWNER: Owner<'static> = Owner { manager: MANAGER, subresource: Some("status") };

pub fn resource() -> ApiResource {
    ApiResource::erase::<GreptimeCluster>(&())
}

/// The clusters of a namespace, untyped: one whose spec cannot be read must be told so in its status.
pub fn clusters(context: &Context, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), namespace, &resource())
}

/// Returns whether something was written.
pub async fn write(context: &Context, key: &Key, live: &Value, status: Value) -> Result<bool, Error> {
    let resource = resource();
    let wanted = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": key.1},
        "status": status,
    });
    if live.get("status").is_some() && difference(&wanted, live, OWNER).is_none() {
        return Ok(false);
    }
    let params = PatchParams::apply(MANAGER).force();
    let patched = clusters(context, &key.0).patch_status(&key.1, &params, &Patch::Apply(&wanted)).await;
    patched.doing(|| format!("write the status of {}", key.1))?;
    context.metrics.wrote(&resource.kind);
    Ok(true)
}

/// A condition as it is put over those of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Say<'a> {
    pub type_: &'a str,
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Sets a condition in a status. Its time of transition stays while its status does; `live` knows that time.
pub fn set_condition(status: &mut Value, live: &Value, say: Say<'_>, generation: i64, now: &str) {
    let before = find(live.pointer("/status"), say.type_);
    let since = match before {
        Some(before) if before["status"] == say.status => before["lastTransitionTime"].clone(),
        _ => Value::from(now),
    };
    let condition = json!({
        "type": say.type_,
        "status": say.status,
        "reason": say.reason,
        "message": say.message,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    });
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        match conditions.iter_mut().find(|c| c["type"] == say.type_) {
            Some(found) => *found = condition,
            None => conditions.push(condition),
        }
    }
}

pub fn find<'a>(status: Option<&'a Value>, type_: &str) -> Option<&'a Value> {
    status?.get("conditions")?.as_array()?.iter().find(|c| c["type"] == type_)
}
