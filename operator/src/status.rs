//! Writes the status, when it says something new.

use greptime_operator_api::{GreptimeCluster, GreptimeClusterStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, Patch};
use kube::core::DeserializeGuard;
use serde_json::{Map, Value, json};

use crate::backoff::Key;
use crate::children::merging;
use crate::context::Context;
use crate::error::{Doing, Error};

/// Returns whether there was anything to write.
///
/// The status is replaced as a whole, because it has one writer and what it no longer says must not stay: by a merge
/// patch with a null for each field that goes, at any depth. An update would fail with every change of the spec.
pub async fn write(
    context: &Context,
    key: &Key,
    live: &Value,
    status: &GreptimeClusterStatus,
) -> Result<bool, Error> {
    let wanted = serde_json::to_value(status).map_err(Error::Encode)?;
    let said = &live["status"];
    if *said == wanted {
        return Ok(false);
    }
    let fields = replacing(said, &wanted);
    let api: Api<DeserializeGuard<GreptimeCluster>> = Api::namespaced(context.client.clone(), &key.0);
    // The uid, so that a cluster that was deleted and made again is not told of its predecessor.
    let patch = Patch::Merge(json!({"metadata": {"uid": live["metadata"]["uid"]}, "status": fields}));
    let written = api.patch_status(&key.1, &merging(), &patch).await;
    written.doing(|| format!("write the status of {}", key.1))?;
    context.metrics.wrote(&GreptimeCluster::kind(&()));
    Ok(true)
}

/// The merge patch that leaves nothing of `said` but what `wanted` has as well.
fn replacing(said: &Value, wanted: &Value) -> Value {
    let Some(fields) = wanted.as_object() else {
        return wanted.clone();
    };
    let mut patch: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| (name.clone(), replacing(&said[name.as_str()], value)))
        .collect();
    for name in said.as_object().into_iter().flat_map(Map::keys) {
        patch.entry(name.clone()).or_insert(Value::Null);
    }
    Value::Object(patch)
}

/// Says in a condition what the plan did not know when it was made. The time of its transition stays while its truth
/// does.
pub fn say(status: &mut GreptimeClusterStatus, say: Saying<'_>, now: Timestamp) {
    let Saying {
        type_,
        truth,
        reason,
        message,
        generation,
    } = say;
    let truth = if truth { "True" } else { "False" };
    let before = status.conditions.iter_mut().find(|c| c.type_ == type_);
    let since = match &before {
        Some(before) if before.status == truth => before.last_transition_time.clone(),
        _ => Time(now),
    };
    let condition = Condition {
        type_: type_.to_owned(),
        status: truth.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match before {
        Some(before) => *before = condition,
        None => status.conditions.push(condition),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Saying<'a> {
    pub type_: &'a str,
    pub truth: bool,
    pub reason: &'a str,
    pub message: &'a str,
    pub generation: Option<i64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::replacing;

    #[test]
    fn what_the_status_no_longer_says_is_taken_out_wherever_it_stood() {
        let said = json!({"old": {"a": 1}, "endpoints": {"grpc": "h:1", "http": "h:2"}, "list": [{"a": 1}]});
        let wanted = json!({"endpoints": {"http": "h:2"}, "list": [{"b": 1}], "new": {"c": 1}});
        assert_eq!(
            replacing(&said, &wanted),
            json!({"old": null, "endpoints": {"grpc": null, "http": "h:2"}, "list": [{"b": 1}], "new": {"c": 1}})
        );
    }
}
