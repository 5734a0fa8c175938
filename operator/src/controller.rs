//! Which changes lead to which reconcile.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use greptime_operator_api::GreptimeCluster;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller, Error as RunError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::watch;

use crate::children::{LABEL_INSTANCE, MANAGED};
use crate::context::Context;
use crate::error::Error;
use crate::reconcile::reconcile;
use crate::run::until;

/// A cluster, or why it could not be read. One that cannot be read must not end the watch of all others.
pub type Guarded = DeserializeGuard<GreptimeCluster>;

/// The pods of three roles become ready together; one reconcile for all of them is enough, and nobody notices this.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Clusters that are reconciled at the same time. Each keeps about eight requests in flight.
const CONCURRENCY: u16 = 8;

/// Objects of one namespace, or of all.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// One controller for each namespace, or one for all, until `stop`.
pub async fn run(context: Arc<Context>, namespaces: Vec<Option<String>>, stop: watch::Receiver<bool>) {
    join_all(
        namespaces
            .into_iter()
            .map(|namespace| run_one(context.clone(), namespace, stop.clone())),
    )
    .await;
}

async fn run_one(context: Arc<Context>, namespace: Option<String>, stop: watch::Receiver<bool>) {
    let client = &context.client;
    let ns = namespace.as_deref();
    let ours = || watcher::Config::default().labels(MANAGED);
    let controller = Controller::new(api::<Guarded>(client, ns), watcher::Config::default())
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY))
        .owns(api::<StatefulSet>(client, ns), ours())
        .owns(api::<Service>(client, ns), ours())
        .owns(api::<ConfigMap>(client, ns), ours())
        .owns(api::<ServiceAccount>(client, ns), ours())
        .owns(api::<PodDisruptionBudget>(client, ns), ours())
        // Pods belong to StatefulSets, so that a label and not their owner leads to the cluster.
        .watches(api::<Pod>(client, ns), ours(), |pod| cluster_of(&pod))
        .graceful_shutdown_on(until(stop));
    let results = controller.run(reconcile, error_policy, context.clone());
    results
        .for_each(|result| {
            note(&context, result);
            std::future::ready(())
        })
        .await;
}

fn cluster_of(pod: &Pod) -> Option<ObjectRef<Guarded>> {
    let name = pod.labels().get(LABEL_INSTANCE)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

fn error_policy(cluster: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    if let Some(pause) = error.passes_in() {
        return Action::requeue(pause);
    }
    let key = (
        cluster.meta().namespace.clone().unwrap_or_default(),
        cluster.meta().name.clone().unwrap_or_default(),
    );
    Action::requeue(context.backoff.after_failure(&key))
}

fn note(context: &Context, result: Result<(ObjectRef<Guarded>, Action), RunError<Error, watcher::Error>>) {
    match result {
        Ok(_) => {}
        // A child that is left behind leads to a cluster that is gone, and so does the next try of one that failed.
        Err(RunError::ObjectNotFound(gone)) => {
            let key = (gone.namespace.clone().unwrap_or_default(), gone.name.clone());
            context.backoff.succeeded(&key);
        }
        Err(RunError::ReconcilerFailed(error, object)) if error.is_transient() => {
            tracing::debug!(%error, cluster = %object, "reconcile is tried again");
        }
        Err(RunError::ReconcilerFailed(error, object)) => {
            tracing::warn!(%error, cluster = %object, "reconcile failed");
        }
        Err(error) => tracing::warn!(%error, "a watch failed; it is started again"),
    }
}
