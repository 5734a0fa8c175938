//! Makes the cluster's objects as the plan wants them, by server-side apply, and writes nothing that is so already.

use futures::future::try_join_all;
use greptime_operator_plan::Plan;
use kube::ResourceExt;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Api, Resource};
use serde_json::{Value, json};

use greptime_operator_api::GreptimeCluster;

use crate::backoff::Key;
use crate::children::{Children, MANAGER, SERVICE, STATEFUL_SET, api, kinds, merging, text, to_value};
use crate::context::Context;
use crate::diff::{Owner, difference, has_foreign_ports};
use crate::error::{Doing, Error};

const OWNER: Owner<'static> = Owner {
    manager: MANAGER,
    subresource: None,
};

/// Writes in the order of [`kinds`] and stops at the first failure: a later object may need the one that failed.
/// Returns what was written, one line each.
pub async fn apply(
    context: &Context,
    key: &Key,
    cluster: &GreptimeCluster,
    plan: &Plan,
    live: &Children,
) -> Result<Vec<String>, Error> {
    let kinds = kinds();
    let mut wanted: Vec<Wanted> = Vec::new();
    for child in &plan.apply {
        let body = child.to_json();
        let kind = child.kind();
        let rank = kinds
            .iter()
            .position(|k| k.kind == kind)
            .ok_or_else(|| Error::Refused {
                doing: format!("apply {kind} {}", child.name()),
                message: "the plan has an object of a kind that this operator does not write".into(),
            })?;
        wanted.push(Wanted {
            rank,
            kind: kind.to_owned(),
            name: child.name().to_owned(),
            body,
        });
    }
    wanted.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
    let unlabelled = find_unlabelled(context, key, &wanted, live).await?;
    let mut written = Vec::new();
    for object in &wanted {
        let id = (object.kind.clone(), object.name.clone());
        let found = live.get(&id).or_else(|| unlabelled.get(&id));
        if let Some(found) = found {
            may_be_written(object, found, cluster)?;
        }
        written.extend(apply_one(context, key, object, found, &kinds[object.rank]).await?);
    }
    for child in &plan.delete {
        let id = (child.kind.to_owned(), child.name.clone());
        let Some((found, resource)) = live.get(&id).zip(kinds.iter().find(|k| k.kind == id.0)) else {
            continue;
        };
        if found.pointer("/metadata/deletionTimestamp").is_none() {
            delete(context, key, resource, &id.1, text(found, "/metadata/uid")).await?;
            written.push(format!(
                "{} {}: deleted, since it is not wanted any more",
                id.0, id.1
            ));
        }
    }
    Ok(written)
}

struct Wanted {
    rank: usize,
    kind: String,
    name: String,
    body: Value,
}

impl Wanted {
    fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// Objects that are there under our names although no label says that they are ours.
async fn find_unlabelled(
    context: &Context,
    key: &Key,
    wanted: &[Wanted],
    live: &Children,
) -> Result<Children, Error> {
    let kinds = &kinds();
    let missing = wanted
        .iter()
        .filter(|w| !live.contains_key(&(w.kind.clone(), w.name.clone())));
    let asked = missing.map(|w| async move {
        let found = api(context, &key.0, &kinds[w.rank]).get_opt(&w.name).await;
        let found = found.doing(|| format!("get {}", w.title()))?;
        found
            .map(|object| Ok(((w.kind.clone(), w.name.clone()), to_value(&object)?)))
            .transpose()
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}

/// Refuses to take over what somebody else made, and to write into what is about to go.
fn may_be_written(wanted: &Wanted, found: &Value, cluster: &GreptimeCluster) -> Result<(), Error> {
    let doing = format!("apply {}", wanted.title());
    if found.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(Error::Leaving { doing });
    }
    let uid = cluster.meta().uid.as_deref().unwrap_or_default();
    let owners = found
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    if owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid)) {
        return Ok(());
    }
    let controller = owners
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true);
    match controller {
        // A cluster of the same name was deleted, and its objects are still being collected.
        Some(owner) if owner["kind"] == GreptimeCluster::kind(&()).as_ref() => Err(Error::Leaving { doing }),
        Some(_) => Err(Error::Taken { doing }),
        None if owned_once(found) => Ok(()),
        None => Err(Error::Taken { doing }),
    }
}

/// Somebody may have removed labels and owner of an object that is ours all the same.
fn owned_once(found: &Value) -> bool {
    let entries = found.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .any(|entry| entry["manager"] == MANAGER)
}

async fn apply_one(
    context: &Context,
    key: &Key,
    wanted: &Wanted,
    found: Option<&Value>,
    resource: &ApiResource,
) -> Result<Option<String>, Error> {
    let title = wanted.title();
    let why = match found.map(|found| difference(&wanted.body, found, OWNER)) {
        None => "created".to_owned(),
        Some(Some(why)) => why,
        Some(None) => return Ok(None),
    };
    let mut body = wanted.body.clone();
    let version = found.map(|found| text(found, "/metadata/resourceVersion"));
    if let Some(version) = version.filter(|_| wanted.kind == STATEFUL_SET) {
        // How many pods there are was decided from the object that we read. With its version in the request, a change
        // made since then (somebody scaled it out) is a conflict, and not taken back.
        body["metadata"]["resourceVersion"] = Value::from(version);
    }
    let objects = api(context, &key.0, resource);
    if found.is_some_and(|found| wanted.kind == SERVICE && has_foreign_ports(&body, found)) {
        // The version keeps us from taking away what somebody wrote since we looked.
        let ports =
            json!({"metadata": {"resourceVersion": version}, "spec": {"ports": body["spec"]["ports"]}});
        let replaced = objects
            .patch(&wanted.name, &merging(), &Patch::Merge(&ports))
            .await;
        replaced
            .map(|_| ())
            .doing(|| format!("replace the ports of {title}"))?;
    }
    let params = PatchParams::apply(MANAGER).force();
    let after = objects.patch(&wanted.name, &params, &Patch::Apply(&body)).await;
    let after: DynamicObject = after.doing(|| format!("apply {title}"))?;
    context.metrics.wrote(&wanted.kind);
    tracing::info!(namespace = key.0, cluster = key.1, object = title, why, "applied");
    if version.is_some() && version == after.resource_version().as_deref() {
        // The comparison saw a difference where there is none, and would see it with every reconcile.
        tracing::warn!(
            namespace = key.0,
            cluster = key.1,
            object = title,
            why,
            "applying it changed nothing"
        );
    }
    Ok(Some(format!("{title}: {why}")))
}

/// Deletes exactly the object that was seen. One that has gone meanwhile is as well.
pub async fn delete(
    context: &Context,
    key: &Key,
    resource: &ApiResource,
    name: &str,
    uid: &str,
) -> Result<(), Error> {
    let api: Api<DynamicObject> = api(context, &key.0, resource);
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    let params = DeleteParams::background().preconditions(preconditions);
    match api.delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other
            .map(|_| ())
            .doing(|| format!("delete {} {name}", resource.kind))?,
    }
    context.metrics.wrote(&resource.kind);
    tracing::info!(
        namespace = key.0,
        cluster = key.1,
        kind = resource.kind,
        name,
        "deleted"
    );
    Ok(())
}
