//! Names, labels, ports and addresses of everything that belongs to a cluster.

use std::collections::BTreeMap;

use greptime_operator_api::{GROUP, GreptimeCluster, KIND, RoleSpec, VERSION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Ports that only the cluster itself uses; the ports of clients are in the spec.
pub const METASRV_GRPC_PORT: i32 = 3002;
pub const DATANODE_GRPC_PORT: i32 = 3001;
/// Probes, metrics and metasrv's view on metasrv and datanodes.
pub const INNER_HTTP_PORT: i32 = 4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Metasrv,
    Datanode,
    Frontend,
}

impl Role {
    /// In the order in which each finds what it needs.
    pub const ALL: [Role; 3] = [Role::Metasrv, Role::Datanode, Role::Frontend];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Metasrv => "metasrv",
            Role::Datanode => "datanode",
            Role::Frontend => "frontend",
        }
    }

    /// Of the StatefulSet, service account, disruption budget, and of the service for clients.
    pub fn child_name(self, cluster: &GreptimeCluster) -> String {
        format!("{}-{}", name(cluster), self.as_str())
    }

    /// The headless service that gives each pod a name.
    pub fn peers_name(self, cluster: &GreptimeCluster) -> String {
        format!("{}-{}-peers", name(cluster), self.as_str())
    }

    pub fn config_name(self, cluster: &GreptimeCluster) -> String {
        format!("{}-{}-config", name(cluster), self.as_str())
    }

    pub fn spec(self, cluster: &GreptimeCluster) -> RoleSpec<'_> {
        match self {
            Role::Metasrv => cluster.spec.metasrv.common(),
            Role::Datanode => cluster.spec.datanode.common(),
            Role::Frontend => cluster.spec.frontend.common(),
        }
    }

    /// Where other nodes reach the role. Nobody dials a frontend but clients.
    pub fn grpc_port(self) -> Option<i32> {
        match self {
            Role::Metasrv => Some(METASRV_GRPC_PORT),
            Role::Datanode => Some(DATANODE_GRPC_PORT),
            Role::Frontend => None,
        }
    }

    pub fn http_port(self, cluster: &GreptimeCluster) -> i32 {
        match self {
            Role::Metasrv | Role::Datanode => INNER_HTTP_PORT,
            Role::Frontend => cluster.spec.ports.http(),
        }
    }
}

pub fn name(cluster: &GreptimeCluster) -> &str {
    cluster.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(cluster: &GreptimeCluster) -> &str {
    cluster.metadata.namespace.as_deref().unwrap_or("default")
}

/// Labels of every child of a role and of its pods; with them pods are selected, so they never change.
pub fn labels(cluster: &GreptimeCluster, role: Role) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "greptime"),
        ("app.kubernetes.io/instance", name(cluster)),
        ("app.kubernetes.io/component", role.as_str()),
        ("app.kubernetes.io/managed-by", "greptime-operator"),
    ];
    labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The same as a selector in text, for the scale subresource and for listing pods.
pub fn selector(cluster: &GreptimeCluster, role: Role) -> String {
    let labels = labels(cluster, role);
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

pub fn metadata(cluster: &GreptimeCluster, role: Role, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace(cluster).to_owned()),
        labels: Some(labels(cluster, role)),
        owner_references: Some(vec![owner_reference(cluster)]),
        ..ObjectMeta::default()
    }
}

fn owner_reference(cluster: &GreptimeCluster) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: KIND.to_owned(),
        name: name(cluster).to_owned(),
        uid: cluster.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        // Needs the right to update finalizers of the owner, which the operator has.
        block_owner_deletion: Some(true),
    }
}

/// Where datanodes and frontends find metasrv: by its service, whose address stays when a pod comes back under another one,
/// which DNS caches would hide for half a minute; then each pod by its name, for when the service leads to a node that is gone.
pub fn metasrv_addresses(cluster: &GreptimeCluster) -> Vec<String> {
    let service = Role::Metasrv.child_name(cluster);
    let peers = Role::Metasrv.peers_name(cluster);
    let pods =
        (0..Role::Metasrv.spec(cluster).replicas).map(|ordinal| format!("{service}-{ordinal}.{peers}"));
    let hosts = std::iter::once(service.clone()).chain(pods);
    let namespace = namespace(cluster);
    hosts
        .map(|host| format!("{host}.{namespace}.svc:{METASRV_GRPC_PORT}"))
        .collect()
}

/// Where metasrv tells about the cluster. The service also leads to pods that are not ready, since a metasrv
/// that waits for etcd is the one that can say so.
pub fn metasrv_url(cluster: &GreptimeCluster) -> String {
    let service = Role::Metasrv.child_name(cluster);
    format!(
        "http://{service}.{}.svc:{INNER_HTTP_PORT}/v1/cluster",
        namespace(cluster)
    )
}

/// The image of the database: the spec's own; or the operator's, with the tag that `version` says.
pub fn image(cluster: &GreptimeCluster, default_image: &str) -> String {
    let spec = &cluster.spec;
    match (&spec.image, &spec.version) {
        (Some(image), _) => image.clone(),
        (None, Some(version)) => format!("{}:{version}", split_image(default_image).0),
        (None, None) => default_image.to_owned(),
    }
}

/// What to tell as the version: the tag of the image that is run, wherever it comes from.
pub fn version(cluster: &GreptimeCluster, default_image: &str) -> Option<String> {
    let image = image(cluster, default_image);
    split_image(&image).1.map(str::to_owned)
}

/// Repository and tag. A colon before the last slash belongs to the registry's port.
fn split_image(image: &str) -> (&str, Option<&str>) {
    let without_digest = image.split_once('@').map_or(image, |(before, _)| before);
    match without_digest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (without_digest, None),
    }
}

#[cfg(test)]
mod tests {
    use super::split_image;

    #[test]
    fn a_registry_port_is_no_tag() {
        assert_eq!(
            split_image("registry:5000/greptime"),
            ("registry:5000/greptime", None)
        );
        assert_eq!(
            split_image("registry:5000/greptime:0.1"),
            ("registry:5000/greptime", Some("0.1"))
        );
        assert_eq!(split_image("greptime@sha256:ab"), ("greptime", None));
        assert_eq!(split_image("greptime:1@sha256:ab"), ("greptime", Some("1")));
    }
}
