//! The objects of a cluster, as they are applied. Pure: equal specs give equal bytes.

mod destroy;
mod pod;
mod statefulset;

use std::collections::BTreeMap;

use greptime_operator_api::{GreptimeCluster, ServicePorts};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::Value;

pub use destroy::{DESTROY_DEADLINE, destroy_job};
pub use statefulset::{Decided, VOLUME_CLAIM, claim_templates, stateful_set};

use crate::names::{HTTP_PORT, MYSQL_PORT, POSTGRES_PORT, Role};
use crate::observed::{ChildId, ChildKind};
use crate::resolved::Resolved;
use crate::settings::CONFIG_FILE;

/// An object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    pub id: ChildId,
    /// The role it belongs to.
    pub role: Role,
    pub body: Value,
}

impl Child {
    fn new(kind: ChildKind, role: Role, meta: &ObjectMeta, body: impl Serialize) -> Self {
        let name = meta.name.clone().unwrap_or_default();
        // The types of Kubernetes have string keys and finite numbers only, so that this cannot fail.
        let body = serde_json::to_value(body).unwrap_or_default();
        Self { id: ChildId::new(kind, name), role, body }
    }
}

/// Ids of everything that [`objects`] and [`stateful_set`] make, and of the Job of a deletion.
pub fn ids(names: &crate::names::Names) -> Vec<ChildId> {
    let mut ids = Vec::new();
    for role in Role::ALL {
        for kind in
            [ChildKind::ServiceAccount, ChildKind::ConfigMap, ChildKind::PodDisruptionBudget, ChildKind::StatefulSet]
        {
            ids.push(ChildId::new(kind, names.role(role)));
        }
        ids.push(ChildId::new(ChildKind::Service, names.peers(role)));
    }
    for role in [Role::Metasrv, Role::Frontend] {
        ids.push(ChildId::new(ChildKind::Service, names.client_service(role)));
    }
    ids.push(ChildId::new(ChildKind::Job, names.destroy_job()));
    ids
}

/// Everything of a role but its StatefulSet and its configuration.
pub fn objects(resolved: &Resolved<'_>, role: Role) -> Vec<Child> {
    let mut children = vec![service_account(resolved, role), peers(resolved, role), disruption_budget(resolved, role)];
    children.extend(match role {
        Role::Metasrv => Some(metasrv_service(resolved)),
        Role::Datanode => None,
        Role::Frontend => Some(frontend_service(resolved)),
    });
    children
}

pub fn config_map(resolved: &Resolved<'_>, role: Role, config: &str) -> Child {
    let metadata = meta(resolved, role, resolved.names.role(role));
    let data = BTreeMap::from([(CONFIG_FILE.to_owned(), config.to_owned())]);
    let body = ConfigMap { metadata: metadata.clone(), data: Some(data), ..Default::default() };
    Child::new(ChildKind::ConfigMap, role, &metadata, body)
}

pub fn service_account(resolved: &Resolved<'_>, role: Role) -> Child {
    let mut metadata = meta(resolved, role, resolved.names.role(role));
    let annotations = resolved.cluster.spec.service_account.as_ref().map(|s| s.annotations.clone());
    metadata.annotations = annotations.filter(|a| !a.is_empty());
    let body = ServiceAccount {
        metadata: metadata.clone(),
        // No program of the database talks to Kubernetes.
        automount_service_account_token: Some(false),
        ..Default::default()
    };
    Child::new(ChildKind::ServiceAccount, role, &metadata, body)
}

fn disruption_budget(resolved: &Resolved<'_>, role: Role) -> Child {
    let metadata = meta(resolved, role, resolved.names.role(role));
    let body = PodDisruptionBudget {
        metadata: metadata.clone(),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(resolved, role)),
            // A pod that does not work must not keep its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    Child::new(ChildKind::PodDisruptionBudget, role, &metadata, body)
}

/// Peers must find each other before they are ready: readiness itself depends on it.
fn peers(resolved: &Resolved<'_>, role: Role) -> Child {
    let ports = vec![port("grpc", role.grpc_port(), "grpc"), port("http", HTTP_PORT, "http")];
    let spec = ServiceSpec {
        cluster_ip: Some("None".into()),
        publish_not_ready_addresses: Some(true),
        selector: Some(resolved.names.selector(role)),
        ports: Some(ports),
        ..Default::default()
    };
    service(resolved, role, resolved.names.peers(role), spec, BTreeMap::new())
}

fn metasrv_service(resolved: &Resolved<'_>) -> Child {
    let role = Role::Metasrv;
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        selector: Some(resolved.names.selector(role)),
        ports: Some(vec![port("http", HTTP_PORT, "http"), port("grpc", role.grpc_port(), "grpc")]),
        ..Default::default()
    };
    service(resolved, role, resolved.names.client_service(role), spec, BTreeMap::new())
}

fn frontend_service(resolved: &Resolved<'_>) -> Child {
    let wanted = resolved.cluster.spec.frontend.service.clone().unwrap_or_default();
    let [http, grpc, mysql, postgres] = service_ports(resolved.cluster).map(|(name, number)| port(name, number, name));
    let spec = ServiceSpec {
        type_: Some(wanted.type_.unwrap_or_default().as_str().into()),
        selector: Some(resolved.names.selector(Role::Frontend)),
        ports: Some(vec![http, grpc, mysql, postgres]),
        load_balancer_class: wanted.load_balancer_class,
        load_balancer_source_ranges: Some(wanted.load_balancer_source_ranges).filter(|r| !r.is_empty()),
        ..Default::default()
    };
    service(resolved, Role::Frontend, resolved.names.client_service(Role::Frontend), spec, wanted.annotations)
}

fn service(
    resolved: &Resolved<'_>,
    role: Role,
    name: String,
    spec: ServiceSpec,
    annotations: BTreeMap<String, String>,
) -> Child {
    let mut metadata = meta(resolved, role, name);
    metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
    let body = Service { metadata: metadata.clone(), spec: Some(spec), ..Default::default() };
    Child::new(ChildKind::Service, role, &metadata, body)
}

fn port(name: &str, number: i32, target: &str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number,
        // Explicit, because it is part of the key by which the API server merges ports.
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(target.into())),
        ..Default::default()
    }
}

/// Ports of the frontends' service by name.
pub fn service_ports(cluster: &GreptimeCluster) -> [(&'static str, i32); 4] {
    let ServicePorts { http, grpc, mysql, postgres } = cluster.spec.ports.unwrap_or_default();
    [
        ("http", http.unwrap_or(HTTP_PORT)),
        ("grpc", grpc.unwrap_or(Role::Frontend.grpc_port())),
        ("mysql", mysql.unwrap_or(MYSQL_PORT)),
        ("postgres", postgres.unwrap_or(POSTGRES_PORT)),
    ]
}

/// Name, labels and owner of an object.
fn meta(resolved: &Resolved<'_>, role: Role, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(resolved.names.namespace.clone()),
        labels: Some(resolved.names.labels(role)),
        owner_references: Some(vec![owner(resolved.cluster)]),
        ..Default::default()
    }
}

fn owner(cluster: &GreptimeCluster) -> OwnerReference {
    OwnerReference {
        api_version: "greptimecluster.io/v1alpha1".into(),
        kind: "GreptimeCluster".into(),
        name: cluster.metadata.name.clone().unwrap_or_default(),
        uid: cluster.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn selector(resolved: &Resolved<'_>, role: Role) -> LabelSelector {
    LabelSelector { match_labels: Some(resolved.names.selector(role)), ..Default::default() }
}
