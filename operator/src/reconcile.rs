//! One turn for one cluster: observe, plan, apply, tell.

use std::sync::Arc;
use std::time::Duration;

use greptime_operator_api::{GreptimeCluster, GreptimeClusterStatus};
use greptime_operator_plan::{Report, apply_failed, condition_types, plan};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::controller::Action;
use serde_json::Value;

use crate::apply::apply;
use crate::backoff::Key;
use crate::context::Context;
use crate::controller::Guarded;
use crate::deletion;
use crate::error::{Doing, Error};
use crate::events::warning;
use crate::metrics::Outcome;
use crate::observe::{Seen, observe};
use crate::status::{self, Saying};

/// Secrets and metasrv are asked, not watched, so that even a cluster that is well is looked at again.
const STEADY: Duration = Duration::from_secs(10);

/// What the controller calls. The object that it hands over only says which cluster to look at.
pub async fn reconcile(cluster: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let meta = cluster.meta();
    let key = (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    );
    let started = context.clock.now();
    let result = turn(&context, &key).await;
    let seconds = context.clock.now().saturating_sub(started).as_secs_f64();
    let outcome = match &result {
        Ok(_) => Outcome::Ok,
        Err(error) if error.is_transient() => Outcome::Conflict,
        Err(_) => Outcome::Error,
    };
    context.metrics.reconciled(outcome, seconds);
    if result.is_ok() {
        context.backoff.succeeded(&key);
    }
    result
}

async fn turn(context: &Context, key: &Key) -> Result<Action, Error> {
    // Read again, because the copy of the watch may be older than the status that the last turn wrote; conditions and
    // events are made from what changed since.
    let resource = ApiResource::erase::<GreptimeCluster>(&());
    let clusters: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.0, &resource);
    let Some(live) = clusters
        .get_opt(&key.1)
        .await
        .doing(|| format!("get {}", key.1))?
    else {
        return Ok(Action::await_change());
    };
    let live = serde_json::to_value(live).map_err(Error::Encode)?;
    let cluster = match serde_json::from_value::<GreptimeCluster>(live.clone()) {
        Ok(cluster) => cluster,
        Err(why) => return unreadable(context, key, &live, &why.to_string()).await,
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return deletion::turn(context, key, cluster, &live).await;
    }
    if deletion::keep_finalizer(context, key, &cluster).await? {
        // The write is seen by the watch and leads here again, with the cluster as it is then.
        return Ok(Action::requeue(STEADY));
    }
    turn_of(context, key, cluster, &live).await
}

async fn turn_of(
    context: &Context,
    key: &Key,
    cluster: GreptimeCluster,
    live: &Value,
) -> Result<Action, Error> {
    let about = cluster.object_ref(&());
    let Seen { observed, children } = observe(context, key, cluster).await?;
    let (plan, report) = plan(&observed);
    let applied = apply(context, key, &observed.cluster, &plan, &children).await;
    let (report, failure) = match applied {
        Ok(_) => (report, None),
        // Somebody else's write, or something that goes: the next turn sees it, and nobody needs to be told.
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => (apply_failed(&observed, report, &error.to_string()), Some(error)),
    };
    let Report {
        status: said,
        events,
        requeue,
    } = report;
    status::write(context, key, live, &said).await?;
    for event in events {
        context.announcer.announce(&about, event).await;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(Action::requeue(requeue.unwrap_or(STEADY))),
    }
}

/// A resource that an older definition let pass, or that a newer one wrote. Its pods stay as they are, and its deletion
/// is not held up for ever.
async fn unreadable(context: &Context, key: &Key, live: &Value, why: &str) -> Result<Action, Error> {
    let mut said: GreptimeClusterStatus = serde_json::from_value(live["status"].clone()).unwrap_or_default();
    let generation = live["metadata"]["generation"].as_i64();
    let message = format!("the resource cannot be read: {why}");
    if deletion::let_go_unread(context, key, live, &reference(key, live), &message).await? {
        return Ok(Action::await_change());
    }
    let ready = Saying {
        type_: condition_types::READY,
        truth: false,
        reason: "InvalidSpec",
        message: &message,
        generation,
    };
    said.observed_generation = generation;
    status::say(&mut said, ready, context.now());
    if status::write(context, key, live, &said).await? {
        tracing::warn!(
            namespace = key.0,
            cluster = key.1,
            why,
            "a cluster cannot be read"
        );
        context
            .announcer
            .announce(&reference(key, live), warning("Read", "InvalidSpec", message))
            .await;
    }
    Ok(Action::requeue(STEADY))
}

fn reference(key: &Key, live: &Value) -> ObjectReference {
    ObjectReference {
        api_version: Some(GreptimeCluster::api_version(&()).into_owned()),
        kind: Some(GreptimeCluster::kind(&()).into_owned()),
        name: Some(key.1.clone()),
        namespace: Some(key.0.clone()),
        uid: live["metadata"]["uid"].as_str().map(str::to_owned),
        ..Default::default()
    }
}
