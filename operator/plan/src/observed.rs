//! What is known of a cluster when a plan is made. Reading it is the operator's work; nothing here asks anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_operator_api::GreptimeCluster;
use serde::Deserialize;
use serde_json::Value;

use crate::names::Role;

/// A fact that lies somewhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Remote<T> {
    /// It was looked for, and is not there.
    Absent,
    /// It could not be looked for; the text says why.
    Unknown(String),
    #[default]
    NotAsked,
    Known(T),
}

impl<T> Remote<T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Remote::Known(value) => Some(value),
            _ => None,
        }
    }
}

/// Kinds of objects that the operator makes, in the order in which they are applied: what a pod needs comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    ServiceAccount,
    ConfigMap,
    Service,
    PodDisruptionBudget,
    StatefulSet,
    Job,
}

impl ChildKind {
    pub const ALL: [ChildKind; 6] = [
        ChildKind::ServiceAccount,
        ChildKind::ConfigMap,
        ChildKind::Service,
        ChildKind::PodDisruptionBudget,
        ChildKind::StatefulSet,
        ChildKind::Job,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ChildKind::ServiceAccount => "ServiceAccount",
            ChildKind::ConfigMap => "ConfigMap",
            ChildKind::Service => "Service",
            ChildKind::PodDisruptionBudget => "PodDisruptionBudget",
            ChildKind::StatefulSet => "StatefulSet",
            ChildKind::Job => "Job",
        }
    }
}

/// An object of the cluster, in the cluster's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId {
    pub kind: ChildKind,
    pub name: String,
}

impl ChildId {
    pub fn new(kind: ChildKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl std::fmt::Display for ChildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// What is known of a secret. Its content stays with the operator's I/O: no plan can leak it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFacts {
    /// Changes whenever the secret does, and says nothing about its content.
    pub resource_version: String,
    /// Keys whose values are not empty.
    pub keys: BTreeSet<String>,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub name: String,
    pub role: Role,
    pub ip: Option<String>,
    /// Why it will not become ready by itself soon, if so.
    pub trouble: Option<String>,
}

/// What metasrv says at `GET /v1/cluster`; fields that are not needed are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClusterView {
    pub cluster_id: Option<String>,
    /// Whether the instance that answered leads.
    pub leader: bool,
    pub dependencies: Vec<DependencyView>,
    pub regions: Vec<RegionView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DependencyView {
    pub name: String,
    pub ok: bool,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RegionView {
    pub region: Value,
    pub state: String,
    pub voters: Vec<u64>,
}

/// Everything that a plan is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    pub cluster: GreptimeCluster,
    /// Live objects as the API server has them, with `managedFields`. What is not here does not exist.
    pub children: BTreeMap<ChildId, Value>,
    pub secrets: BTreeMap<String, Remote<SecretFacts>>,
    pub pods: Vec<PodFacts>,
    pub metasrv: Remote<ClusterView>,
    /// Names of the datanodes' volume claims; read only while the cluster is being deleted.
    pub claims: Vec<String>,
    /// How long ago the cluster was asked to go.
    pub deleted_for: Option<Duration>,
    /// The namespace is going too, so nothing can be created in it any more.
    pub namespace_terminating: bool,
}

/// What the operator was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The database image where a spec names none.
    pub default_image: String,
}
