//! The root type and the parts of the spec that belong to no single role.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::is_default;
use crate::roles::{DatanodeSpec, FrontendSpec, MetasrvSpec, Retention};
use crate::status::GreptimeClusterStatus;
use crate::storage::ObjectStoreSpec;

/// What a GreptimeCluster should be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "greptimecluster.io",
    version = "v1alpha1",
    kind = "GreptimeCluster",
    namespaced,
    shortname = "grc",
    category = "all",
    status = "GreptimeClusterStatus",
    derive = "PartialEq",
    doc = "A sharded time series database: metasrv, datanodes and frontends.",
    scale(
        spec_replicas_path = ".spec.datanode.replicas",
        status_replicas_path = ".status.datanode.replicas",
        label_selector_path = ".status.selector"
    ),
    // The longest label derived from the name is the controller revision of the frontend's StatefulSet:
    // `NAME-frontend-` and ten characters, of 63.
    validation = Rule::new("self.metadata.name.size() <= 38")
        .message("metadata.name must have at most 38 characters, so that the names derived from it fit into labels"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must begin with a letter and consist of a-z, 0-9 and -, since services are named after it"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Datanodes", type_ = "string", json_path = ".status.datanode.ready"),
    printcolumn(name = "Frontends", type_ = "string", json_path = ".status.frontend.ready"),
    printcolumn(name = "Metasrv", type_ = "string", json_path = ".status.metasrv.ready"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GreptimeClusterSpec {
    /// Tag of the database image, with the repository that the operator is set to. `image` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"))]
    pub version: Option<String>,
    /// The whole reference of the database image. The operator's own default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets of type kubernetes.io/dockerconfigjson in the same namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalSecret>,
    pub metasrv: MetasrvSpec,
    // The empty object is a default so that the default of `replicas` below it takes effect: /scale needs a value.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = serde_json::json!({})))]
    pub datanode: DatanodeSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub frontend: FrontendSpec,
    pub object_storage: ObjectStoreSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: PortsSpec,
    /// What happens to volumes, etcd keys and the bucket's prefix when this object is deleted. Default: Retain.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deletion_policy: DeletionPolicy,
}

impl GreptimeClusterSpec {
    /// Whether the volumes go with the cluster: as the spec says of them, else as it says of all data.
    pub fn volumes_go(&self) -> bool {
        match self.datanode.retention.when_deleted {
            Some(retention) => retention == Retention::Delete,
            None => self.deletion_policy == DeletionPolicy::Delete,
        }
    }
}

/// A secret in the namespace of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalSecret {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Who may connect. Without it, everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// Secret whose key `users` has one `name=password` a line. Changes are read without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Ports of the frontends and their service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortsSpec {
    /// HTTP API, line protocol, remote write. Default: 4000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub http: Option<i32>,
    /// Default: 4002.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub mysql: Option<i32>,
    /// Default: 4003.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub postgres: Option<i32>,
}

impl PortsSpec {
    pub fn http(&self) -> i32 {
        self.http.unwrap_or(4000)
    }
    pub fn mysql(&self) -> i32 {
        self.mysql.unwrap_or(4002)
    }
    pub fn postgres(&self) -> i32 {
        self.postgres.unwrap_or(4003)
    }
}

/// Whether the data survives the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}
