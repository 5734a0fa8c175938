//! The objects that belong to a cluster, as they are in the API server.
//!
//! They are read with every reconcile and not from a cache of watches: what a cache shows may be older than our own
//! last write, and an operator that acts on it writes twice or, worse, takes a scale-out back. Half a dozen small
//! lists, which the API server answers from its own cache, cost less than that.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject, ListParams, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::backoff::Key;
use crate::context::Context;
use crate::error::{Doing, Error};

/// The one field manager of everything that the operator writes.
pub const MANAGER: &str = "greptime-operator";
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Selects what the operator made, for whichever cluster.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=greptime-operator";

/// Selects what the operator made for a cluster, in its namespace.
pub fn selector(cluster: &str) -> String {
    format!("{MANAGED},{LABEL_INSTANCE}={cluster}")
}

/// Kinds that plans consist of, in the order in which they are written: a pod must not start before the service
/// account that it runs as, the configuration that it reads and the service by which it is found.
pub fn kinds() -> [ApiResource; 5] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<StatefulSet>(&()),
    ]
}

pub const STATEFUL_SET: &str = "StatefulSet";
pub const SERVICE: &str = "Service";

/// For a patch that replaces what it names, under our name.
pub fn merging() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// Kind and name.
pub type Id = (String, String);
/// Live objects, untyped: a comparison needs them as they are.
pub type Children = BTreeMap<Id, Value>;

pub fn api(context: &Context, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), namespace, resource)
}

pub async fn read(context: &Context, key: &Key) -> Result<Children, Error> {
    let (namespace, name) = key;
    let params = ListParams::default().labels(&selector(name));
    let kinds = kinds();
    let lists = kinds.iter().map(|kind| {
        let params = &params;
        async move {
            let list = api(context, namespace, kind).list(params).await;
            list.doing(|| format!("list {} of {name}", kind.plural))
        }
    });
    let lists = try_join_all(lists).await?;
    let mut children = Children::new();
    for (kind, list) in kinds.iter().zip(lists) {
        for object in list {
            children.insert((kind.kind.clone(), object.name_any()), to_value(&object)?);
        }
    }
    Ok(children)
}

pub fn to_value(object: &DynamicObject) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(Error::Encode)
}

/// The text at a JSON pointer; empty when there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
