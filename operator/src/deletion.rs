//! A cluster that is going.
//!
//! With `deletionPolicy: Retain` nothing holds it: Kubernetes collects what it owns, and the data stays. With `Delete`
//! a finalizer holds it while the pods stop, the volumes are deleted (unless `retention.whenDeleted` keeps them) and a
//! Job empties the bucket's prefix and the etcd keys. All of that together may take [`PATIENCE`]: a dead etcd or bucket
//! leaves rubbish behind, which an event names, but never a cluster, or a namespace, that cannot be deleted.

use std::time::Duration;

use greptime_operator_api::{DeletionPolicy, GreptimeCluster};
use greptime_operator_plan::{PlannedEvent, condition_types, destroy_job};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, ListParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::apply::delete;
use crate::backoff::Key;
use crate::children::{self, LABEL_COMPONENT, MANAGER, STATEFUL_SET, merging, text};
use crate::context::Context;
use crate::error::{Doing, Error};
use crate::events::{normal, warning};
use crate::observe::pods;
use crate::status::{self, Saying};

pub const FINALIZER: &str = "greptimecluster.io/destroy";
/// From the request to delete until the operator gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);
const NAMESPACE_GOES: &str = "the namespace is being deleted too, so that no Job can run in it";
/// Pods and Jobs end in their own time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Puts the finalizer on a cluster whose deletion needs it, before there is anything to delete, and takes it off when
/// the policy changes. True if it wrote: then the cluster that was read is out of date.
pub async fn keep_finalizer(context: &Context, key: &Key, cluster: &GreptimeCluster) -> Result<bool, Error> {
    let wanted = cluster.spec.deletion_policy == DeletionPolicy::Delete;
    let has = is_held(&cluster.metadata);
    if wanted != has {
        set_finalizer(context, key, &cluster.metadata, wanted).await?;
    }
    Ok(wanted != has)
}

fn is_held(cluster: &ObjectMeta) -> bool {
    cluster.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Writes the list of finalizers as a whole, so the version goes with it: another's finalizer must not get lost.
async fn set_finalizer(
    context: &Context,
    key: &Key,
    cluster: &ObjectMeta,
    present: bool,
) -> Result<(), Error> {
    let others = cluster.finalizers.iter().flatten().filter(|f| *f != FINALIZER);
    let mut finalizers: Vec<_> = others.cloned().collect();
    finalizers.extend(present.then(|| FINALIZER.to_owned()));
    let api: Api<DeserializeGuard<GreptimeCluster>> = Api::namespaced(context.client.clone(), &key.0);
    let metadata = json!({"finalizers": finalizers, "resourceVersion": cluster.resource_version});
    match api
        .patch(&key.1, &merging(), &Patch::Merge(json!({"metadata": metadata})))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other
            .map(|_| ())
            .doing(|| format!("write the finalizers of {}", key.1))?,
    }
    context.metrics.wrote(&GreptimeCluster::kind(&()));
    Ok(())
}

/// One look at a cluster with a deletion timestamp.
pub async fn turn(
    context: &Context,
    key: &Key,
    cluster: GreptimeCluster,
    live: &Value,
) -> Result<Action, Error> {
    if !is_held(&cluster.metadata) {
        return Ok(Action::await_change());
    }
    let end = |event| let_go(context, key, cluster.object_ref(&()), &cluster.metadata, event);
    let waiting = match destroy(context, key, &cluster).await {
        Ok(Destruction::Over(event)) => return end(event).await,
        Ok(Destruction::Waits(for_what)) => Ok(for_what),
        Err(Error::NamespaceGoing { .. }) => return end(gave_up(NAMESPACE_GOES, id_of(&cluster))).await,
        Err(error) => Err(error),
    };
    if out_of_time(context, &cluster.metadata) {
        let why = match &waiting {
            Ok(for_what) => format!("still waiting for {for_what}"),
            Err(error) => error.to_string(),
        };
        // Pods that still run keep their volumes until they end; then those go as well.
        if let Err(error) = delete_claims(context, key, &cluster).await {
            tracing::warn!(namespace = key.0, cluster = key.1, %error, "volumes are left behind");
        }
        return end(gave_up(&why, id_of(&cluster))).await;
    }
    let for_what = waiting?;
    let mut said = cluster.status.clone().unwrap_or_default();
    let message = format!("the cluster is being deleted; waiting for {for_what}");
    let ready = Saying {
        type_: condition_types::READY,
        truth: false,
        reason: "Deleting",
        message: &message,
        generation: cluster.metadata.generation,
    };
    said.observed_generation = cluster.metadata.generation;
    status::say(&mut said, ready, context.now());
    status::write(context, key, live, &said).await?;
    Ok(Action::requeue(LOOK_AGAIN))
}

/// A cluster that is going and cannot be read: what it wants to be kept is not known, so that nothing is destroyed. Its
/// spec may be mended for [`PATIENCE`]; then it is let go. True if it was.
pub async fn let_go_unread(
    context: &Context,
    key: &Key,
    live: &Value,
    about: &ObjectReference,
    why: &str,
) -> Result<bool, Error> {
    let metadata: ObjectMeta = serde_json::from_value(live["metadata"].clone()).map_err(Error::Encode)?;
    if !is_held(&metadata) || !out_of_time(context, &metadata) {
        return Ok(false);
    }
    let event = gave_up(why, live["status"]["clusterId"].as_str());
    let_go(context, key, about.clone(), &metadata, event).await?;
    Ok(true)
}

enum Destruction {
    Waits(String),
    /// Done, or given up; the event says which.
    Over(PlannedEvent),
}

async fn destroy(context: &Context, key: &Key, cluster: &GreptimeCluster) -> Result<Destruction, Error> {
    if namespace_is_going(context, key).await? {
        return Ok(Destruction::Over(gave_up(NAMESPACE_GOES, id_of(cluster))));
    }
    // Nothing may write to the bucket any more when it is emptied.
    stop(context, key, cluster).await?;
    let running = pods(context, key).await?;
    if !running.is_empty() {
        return Ok(Destruction::Waits(format!("{} pods to end", running.len())));
    }
    if cluster.spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(Destruction::Over(normal(
            "Delete",
            "Deleted",
            "the policy was changed to Retain: the data is kept",
        )));
    }
    delete_claims(context, key, cluster).await?;
    // What a cluster that never came to own its bucket might delete is somebody else's.
    if id_of(cluster).is_none() {
        return Ok(Destruction::Over(normal(
            "Delete",
            "NothingToDestroy",
            "the cluster never wrote to its bucket",
        )));
    }
    empty_stores(context, key, cluster).await
}

async fn stop(context: &Context, key: &Key, cluster: &GreptimeCluster) -> Result<(), Error> {
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    let kinds = children::kinds();
    let Some(resource) = kinds.iter().find(|k| k.kind == STATEFUL_SET) else {
        return Ok(());
    };
    for ((kind, name), set) in children::read(context, key).await? {
        let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let ours = owners.into_iter().flatten().any(|owner| owner["uid"] == uid);
        if kind == STATEFUL_SET && ours && set.pointer("/metadata/deletionTimestamp").is_none() {
            delete(context, key, resource, &name, text(&set, "/metadata/uid")).await?;
        }
    }
    Ok(())
}

/// Of the datanodes, unless the spec keeps them.
async fn delete_claims(context: &Context, key: &Key, cluster: &GreptimeCluster) -> Result<(), Error> {
    if !cluster.spec.volumes_go() {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.0);
    let selector = format!("{},{LABEL_COMPONENT}=datanode", children::selector(&key.1));
    let claims = api.list_metadata(&ListParams::default().labels(&selector)).await;
    let resource = ApiResource::erase::<PersistentVolumeClaim>(&());
    for claim in claims.doing(|| format!("list volume claims of {}", key.1))? {
        if claim.metadata.deletion_timestamp.is_none() {
            let uid = claim.uid().unwrap_or_default();
            delete(context, key, &resource, &claim.name_any(), &uid).await?;
        }
    }
    Ok(())
}

/// Runs `greptime-node destroy` with metasrv's settings, secrets and identity.
async fn empty_stores(context: &Context, key: &Key, cluster: &GreptimeCluster) -> Result<Destruction, Error> {
    let wanted = destroy_job(cluster, &context.default_image);
    let name = wanted.name_any();
    let api: Api<Job> = Api::namespaced(context.client.clone(), &key.0);
    let Some(job) = api.get_opt(&name).await.doing(|| format!("get Job {name}"))? else {
        let params = PatchParams::apply(MANAGER).force();
        let made = api.patch(&name, &params, &Patch::Apply(&wanted)).await;
        made.doing(|| format!("apply Job {name}"))?;
        context.metrics.wrote("Job");
        let note = format!("Job {name} deletes the etcd keys and the objects of the cluster");
        context
            .announcer
            .announce(&cluster.object_ref(&()), normal("Delete", "Destroying", note))
            .await;
        return Ok(Destruction::Waits(format!("Job {name}")));
    };
    let owned = |owner: &OwnerReference| Some(&owner.uid) == cluster.metadata.uid.as_ref();
    if !job.owner_references().iter().any(owned) {
        // How that one ended says nothing about this cluster's data.
        return Ok(Destruction::Waits(format!(
            "Job {name} of an earlier cluster to be gone"
        )));
    }
    let status = job.status.unwrap_or_default();
    let has = |type_: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == type_ && c.status == "True")
    };
    if status.succeeded.unwrap_or(0) > 0 || has("Complete") {
        return Ok(Destruction::Over(normal(
            "Delete",
            "Destroyed",
            "the etcd keys and the objects of the cluster are deleted",
        )));
    }
    if has("Failed") {
        return Ok(Destruction::Over(gave_up(
            &format!("Job {name} failed; its log says why"),
            id_of(cluster),
        )));
    }
    Ok(Destruction::Waits(format!(
        "Job {name} to delete the etcd keys and the objects"
    )))
}

/// The cluster is gone with its last finalizer, so that the event comes first.
async fn let_go(
    context: &Context,
    key: &Key,
    about: ObjectReference,
    cluster: &ObjectMeta,
    event: PlannedEvent,
) -> Result<Action, Error> {
    tracing::info!(
        namespace = key.0,
        cluster = key.1,
        reason = event.reason,
        note = event.note,
        "letting it go"
    );
    context.announcer.announce(&about, event).await;
    set_finalizer(context, key, cluster, false).await?;
    Ok(Action::await_change())
}

fn id_of(cluster: &GreptimeCluster) -> Option<&str> {
    cluster.status.as_ref()?.cluster_id.as_deref()
}

fn gave_up(why: &str, cluster_id: Option<&str>) -> PlannedEvent {
    let id = cluster_id.unwrap_or("unknown");
    let left = "what it has in etcd and in the bucket, and perhaps volumes, are left behind";
    warning(
        "Delete",
        "DestroyGaveUp",
        format!("{why}; {left} (cluster id {id})"),
    )
}

fn out_of_time(context: &Context, cluster: &ObjectMeta) -> bool {
    let Some(asked) = cluster.deletion_timestamp.as_ref() else {
        return false;
    };
    // The API server's clock wrote that time. If ours is behind, no time has passed.
    let since = Duration::try_from(context.now().duration_since(asked.0)).unwrap_or(Duration::ZERO);
    since >= PATIENCE
}

async fn namespace_is_going(context: &Context, key: &Key) -> Result<bool, Error> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    match api.get_metadata_opt(&key.0).await {
        Ok(found) => Ok(found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())),
        // An operator that may not look is told by its first write.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error).doing(|| format!("get namespace {}", key.0)),
    }
}
