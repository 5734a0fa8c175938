//! Makes the cluster's objects as the plan wants them, by server-side apply, and writes nothing that is so already.

use std::hash::{DefaultHasher, Hash, Hasher};

use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::Value;

use crate::backoff::Key;
use crate::children::{Children, MANAGER, kinds, rank};
use crate::context::{Context, Fingerprint};
use crate::diff::{Owner, difference};
use crate::error::{Doing, Error};

const OWNER: Owner<'static> = Owner { manager: MANAGER, subresource: None };

/// What became of a plan.
#[derive(Debug, Default)]
#[must_use]
pub struct Applied {
    /// `Kind/name: why`, of each write.
    pub written: Vec<String>,
    /// What could not be written. The rest was, as far as it does not depend on it.
    pub problems: Vec<Error>,
}

/// Objects of the plan, by kind and name, and the ones it wants gone.
#[derive(Debug, Default)]
pub struct Wanted {
    pub apply: Vec<Value>,
    pub delete: Vec<(String, String)>,
}

pub async fn apply(context: &Context, key: &Key, mut wanted: Wanted, live: &Children) -> Applied {
    let mut applied = Applied::default();
    wanted.apply.sort_by_cached_key(|object| (rank(text(object, "/kind")), text(object, "/metadata/name").to_owned()));
    for object in &wanted.apply {
        let kind = text(object, "/kind");
        // Pods that would start without their configuration or account only fail, and then wait.
        if kind == "StatefulSet" && !applied.problems.is_empty() {
            break;
        }
        match apply_one(context, key, object, live).await {
            Ok(Some(line)) => applied.written.push(line),
            Ok(None) => {}
            Err(problem) => applied.problems.push(problem),
        }
    }
    for (kind, name) in &wanted.delete {
        let Some(found) = live.get(&(kind.clone(), name.clone())) else { continue };
        match delete_one(context, key, kind, name, found).await {
            Ok(()) => applied.written.push(format!("{kind}/{name}: deleted, not wanted any more")),
            Err(problem) => applied.problems.push(problem),
        }
    }
    for line in &applied.written {
        tracing::info!(namespace = key.0, cluster = key.1, change = line, "wrote");
    }
    applied
}

async fn apply_one(context: &Context, key: &Key, object: &Value, live: &Children) -> Result<Option<String>, Error> {
    let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
    let child = format!("{kind}/{name}");
    let doing = || format!("apply {child}");
    let Some(resource) = resource(kind) else {
        let message = "the plan has an object of a kind that this operator does not write".to_owned();
        return Err(Error::Refused { doing: doing(), message });
    };
    let found = live.get(&(kind.to_owned(), name.to_owned()));
    let why = match found {
        None => "created".to_owned(),
        Some(found) => match difference(object, found, OWNER) {
            Some(why) if !context.settled.is(key, &child, fingerprint(object, found)) => why,
            _ => return Ok(None),
        },
    };
    let mut object = object.clone();
    if let Some(found) = found.filter(|_| kind == "StatefulSet") {
        // How many pods there are was decided from the one that we read. With its version in the request, a change
        // made since then (somebody scaled it out) is a conflict, and not taken back.
        object["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
    }
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.0, &resource);
    let params = PatchParams::apply(MANAGER).force();
    let after = api.patch(name, &params, &Patch::Apply(&object)).await.doing(doing)?;
    context.metrics.wrote(kind);
    if let Some(found) = found
        && after.metadata.resource_version.as_deref() == Some(text(found, "/metadata/resourceVersion"))
    {
        tracing::debug!(namespace = key.0, cluster = key.1, child, why, "a write changed nothing; not repeated");
        object["metadata"].as_object_mut().map(|m| m.remove("resourceVersion"));
        context.settled.remember(key, &child, fingerprint(&object, found));
    }
    Ok(Some(format!("{child}: {why}")))
}

async fn delete_one(context: &Context, key: &Key, kind: &str, name: &str, found: &Value) -> Result<(), Error> {
    let Some(resource) = resource(kind) else { return Ok(()) };
    if found.pointer("/metadata/deletionTimestamp").is_some() {
        return Ok(());
    }
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.0, &resource);
    delete(&api, name, text(found, "/metadata/uid")).await?;
    context.metrics.wrote(kind);
    Ok(())
}

/// Deletes exactly the object that was seen; one that has gone meanwhile is as well.
pub async fn delete(api: &Api<DynamicObject>, name: &str, uid: &str) -> Result<(), Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams::background().preconditions(preconditions);
    match api.delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()).doing(|| format!("delete {name}")),
    }
}

fn resource(kind: &str) -> Option<ApiResource> {
    kinds().into_iter().find(|k| k.kind == kind)
}

/// Hashes of the wanted object and of what of the live one does not change by itself.
fn fingerprint(wanted: &Value, live: &Value) -> Fingerprint {
    let mut live = live.clone();
    if let Some(object) = live.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = live["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    (hash(wanted), hash(&live))
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The text at a JSON pointer; empty when there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
