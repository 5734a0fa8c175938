//! The objects that make up a cluster.

mod pod;
mod services;
mod stateful_set;

use std::collections::BTreeMap;

use greptime_operator_api::GreptimeCluster;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::choices::Choices;
use crate::names::{self, Role};
use crate::secrets::Examined;
use crate::settings::Settings;
use crate::{Observed, Plan};

pub use pod::{destroy_pod, resources};
pub use stateful_set::SPEC_HASH;

/// One object to be applied.
// A plan has about twenty of them; boxing the largest would save nothing that matters.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Child {
    ConfigMap(ConfigMap),
    Service(Service),
    ServiceAccount(ServiceAccount),
    StatefulSet(StatefulSet),
    PodDisruptionBudget(PodDisruptionBudget),
}

/// One object to be deleted, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChildRef {
    pub kind: &'static str,
    pub name: String,
}

impl Child {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConfigMap(_) => "ConfigMap",
            Self::Service(_) => "Service",
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::StatefulSet(_) => "StatefulSet",
            Self::PodDisruptionBudget(_) => "PodDisruptionBudget",
        }
    }

    pub fn name(&self) -> &str {
        let metadata = match self {
            Self::ConfigMap(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::StatefulSet(object) => &object.metadata,
            Self::PodDisruptionBudget(object) => &object.metadata,
        };
        metadata.name.as_deref().unwrap_or_default()
    }

    /// The object with apiVersion and kind, as server-side apply takes it.
    pub fn to_json(&self) -> Value {
        let json = match self {
            Self::ConfigMap(object) => serde_json::to_value(object),
            Self::Service(object) => serde_json::to_value(object),
            Self::ServiceAccount(object) => serde_json::to_value(object),
            Self::StatefulSet(object) => serde_json::to_value(object),
            Self::PodDisruptionBudget(object) => serde_json::to_value(object),
        };
        json.expect("Kubernetes objects are plain data")
    }
}

/// All children, the StatefulSets last, since their pods need the rest. A role whose secrets are not complete
/// gets neither settings nor StatefulSet; what runs of it stays as it is.
pub fn render(observed: &Observed, secrets: &Examined, choices: &Choices) -> Plan {
    let cluster = &observed.cluster;
    let mut apply = Vec::new();
    for role in Role::ALL {
        apply.push(Child::ServiceAccount(service_account(cluster, role)));
        apply.extend(services::of_role(cluster, role).into_iter().map(Child::Service));
        apply.push(Child::PodDisruptionBudget(disruption_budget(cluster, role)));
    }
    let mut workloads = Vec::new();
    for role in Role::ALL.into_iter().filter(|role| secrets.complete_for(*role)) {
        let settings = Settings::of(cluster, role, secrets).to_toml();
        let parts = stateful_set::Parts {
            observed,
            role,
            secrets,
            choices,
            settings: &settings,
        };
        workloads.push(Child::StatefulSet(parts.render()));
        apply.push(Child::ConfigMap(config_map(cluster, role, settings)));
    }
    apply.append(&mut workloads);
    Plan {
        apply,
        delete: Vec::new(),
    }
}

fn config_map(cluster: &GreptimeCluster, role: Role, settings: String) -> ConfigMap {
    ConfigMap {
        metadata: names::metadata(cluster, role, role.config_name(cluster)),
        data: Some(BTreeMap::from([("config.toml".to_owned(), settings)])),
        ..ConfigMap::default()
    }
}

fn service_account(cluster: &GreptimeCluster, role: Role) -> ServiceAccount {
    let annotations = role.spec(cluster).service_account_annotations.clone();
    let mut metadata = names::metadata(cluster, role, role.child_name(cluster));
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    ServiceAccount {
        metadata,
        ..ServiceAccount::default()
    }
}

fn disruption_budget(cluster: &GreptimeCluster, role: Role) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names::metadata(cluster, role, role.child_name(cluster)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pod_selector(cluster, role)),
            // A pod that is broken anyway must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn pod_selector(cluster: &GreptimeCluster, role: Role) -> LabelSelector {
    LabelSelector {
        match_labels: Some(names::labels(cluster, role)),
        ..LabelSelector::default()
    }
}
