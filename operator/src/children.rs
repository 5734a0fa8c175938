//! The objects that belong to a cluster, read live and untyped.
//!
//! They are read from the API server with every reconcile and not from a cache of watches: what a cache shows may
//! be older than our own last write, and an operator that acts on it writes twice or, worse, takes back a scale-out.
//! Six small lists, which the API server answers from its own cache, cost less than that.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::backoff::Key;
use crate::error::{Error, Doing};

pub const MANAGER: &str = "greptime-operator";
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";

/// Kinds that a plan consists of, in the order in which they are written: a pod must not start before the service
/// account it runs as, the configuration it reads and the service it is found by.
pub fn kinds() -> [ApiResource; 5] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<StatefulSet>(&()),
    ]
}

/// The place of a kind in the order of writing; nothing for a kind that plans do not consist of.
pub fn rank(kind: &str) -> Option<usize> {
    kinds().iter().position(|k| k.kind == kind)
}

/// Live objects by kind and name.
pub type Children = BTreeMap<(String, String), Value>;

/// Selects what the operator made for a cluster.
pub fn selector(cluster: &str) -> String {
    format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_INSTANCE}={cluster}")
}

pub async fn read(client: &Client, key: &Key) -> Result<Children, Error> {
    let (namespace, name) = key;
    let params = ListParams::default().labels(&selector(name));
    let kinds = kinds();
    let lists = kinds.iter().map(|kind| {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
        let params = &params;
        async move { api.list(params).await.doing(|| format!("list {} of {name}", kind.plural)) }
    });
    let lists = try_join_all(lists).await?;
    let mut children = Children::new();
    for (kind, list) in kinds.iter().zip(lists) {
        for object in list {
            let name = object.name_any();
            let value = serde_json::to_value(&object).map_err(Error::Encode)?;
            children.insert((kind.kind.clone(), name), value);
        }
    }
    Ok(children)
}
