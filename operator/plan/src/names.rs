//! Names and labels of everything that belongs to a cluster. They never change: they are how a pod's volume and
//! a service's pods are found again.

use std::collections::BTreeMap;

/// What a pod of the cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Metasrv,
    Datanode,
    Frontend,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Metasrv, Role::Datanode, Role::Frontend];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Metasrv => "metasrv",
            Role::Datanode => "datanode",
            Role::Frontend => "frontend",
        }
    }

    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// The port that other nodes dial.
    pub fn grpc_port(self) -> i32 {
        match self {
            Role::Metasrv => 3002,
            Role::Datanode => 3001,
            Role::Frontend => 4001,
        }
    }
}

/// Probes, metrics and the HTTP API of every role.
pub const HTTP_PORT: i32 = 4000;
pub const MYSQL_PORT: i32 = 4002;
pub const POSTGRES_PORT: i32 = 4003;

/// The one field manager: whose fields an object has is how drift is told from other people's additions.
pub const FIELD_MANAGER: &str = "greptime-operator";

pub const LABEL_NAME: &str = "app.kubernetes.io/name";
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// Set by Kubernetes on the pods of a StatefulSet; the node id.
pub const LABEL_POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// On pod templates, so that pods roll when what they read at their start changes.
pub const ANNOTATION_CONFIG_HASH: &str = "greptimecluster.io/config-hash";

const APPLICATION: &str = "greptime";

/// Names within one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub cluster: String,
    pub namespace: String,
}

impl Names {
    pub fn new(cluster: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self { cluster: cluster.into(), namespace: namespace.into() }
    }

    /// The StatefulSet, and what goes with it: config map, service account, disruption budget.
    pub fn role(&self, role: Role) -> String {
        format!("{}-{}", self.cluster, role.as_str())
    }

    /// The headless service by which the pods of a role find each other before they are ready.
    pub fn peers(&self, role: Role) -> String {
        format!("{}-{}-peers", self.cluster, role.as_str())
    }

    /// The service that clients of a role connect to; it leads to ready pods only.
    pub fn client_service(&self, role: Role) -> String {
        self.role(role)
    }

    pub fn destroy_job(&self) -> String {
        format!("{}-destroy", self.cluster)
    }

    /// DNS name of a service.
    pub fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc", self.namespace)
    }

    /// The labels by which the pods of a role are found; a StatefulSet's selector cannot be changed.
    pub fn selector(&self, role: Role) -> BTreeMap<String, String> {
        [
            (LABEL_NAME, APPLICATION),
            (LABEL_INSTANCE, self.cluster.as_str()),
            (LABEL_COMPONENT, role.as_str()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }

    /// The labels of an object of a role.
    pub fn labels(&self, role: Role) -> BTreeMap<String, String> {
        let mut labels = self.selector(role);
        labels.insert(LABEL_MANAGED_BY.into(), FIELD_MANAGER.into());
        labels.insert(LABEL_PART_OF.into(), "greptimecluster".into());
        labels
    }

    /// The selector of a role as the text that label selectors and the scale subresource take.
    pub fn selector_text(&self, role: Role) -> String {
        let pairs: Vec<_> = self.selector(role).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(",")
    }

    /// Selects the pods and the volume claims of all roles.
    pub fn cluster_selector_text(&self) -> String {
        format!("{LABEL_NAME}={APPLICATION},{LABEL_INSTANCE}={}", self.cluster)
    }
}

/// Selects every object that the operator made, of whichever cluster.
pub fn managed_selector_text() -> String {
    format!("{LABEL_MANAGED_BY}={FIELD_MANAGER}")
}
