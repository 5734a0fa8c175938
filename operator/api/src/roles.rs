//! The spec of each role, and what all roles have in common.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::amount::Amount;
use crate::is_default;
use crate::storage::StoreSpec;

/// What every role has, as one borrowed view, so that the planner treats the three alike.
#[derive(Clone, Copy, Debug)]
pub struct RoleSpec<'a> {
    pub replicas: i32,
    pub resources: &'a ResourcesSpec,
    pub config: &'a BTreeMap<String, String>,
    pub scheduling: &'a SchedulingSpec,
    pub service_account_annotations: &'a BTreeMap<String, String>,
}

/// metasrv: catalog, membership, placement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetasrvSpec {
    /// One leads, the others stand by. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: ResourcesSpec,
    pub store: StoreSpec,
    /// Settings by name, such as `log.level: debug`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub scheduling: SchedulingSpec,
    /// Annotations of the service account, for example a cloud role with access to the bucket.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
}

impl MetasrvSpec {
    pub fn common(&self) -> RoleSpec<'_> {
        RoleSpec {
            replicas: self.replicas.unwrap_or(1),
            resources: &self.resources,
            config: &self.config,
            scheduling: &self.scheduling,
            service_account_annotations: &self.service_account_annotations,
        }
    }
}

/// Datanodes: the log, recent rows, regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatanodeSpec {
    /// Fewer than the StatefulSet has, even if raised by hand, is refused with the condition ScaleInBlocked.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: ResourcesSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage: DatanodeStorageSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub retention: RetentionSpec,
    /// Settings by name, such as `datanode.flush_size: 64MiB`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub scheduling: SchedulingSpec,
    /// Annotations of the service account, for example a cloud role with access to the bucket.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
}

fn three() -> i32 {
    3
}

impl Default for DatanodeSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            resources: ResourcesSpec::default(),
            storage: DatanodeStorageSpec::default(),
            retention: RetentionSpec::default(),
            config: BTreeMap::new(),
            scheduling: SchedulingSpec::default(),
            service_account_annotations: BTreeMap::new(),
        }
    }
}

impl DatanodeSpec {
    pub fn common(&self) -> RoleSpec<'_> {
        RoleSpec {
            replicas: self.replicas,
            resources: &self.resources,
            config: &self.config,
            scheduling: &self.scheduling,
            service_account_annotations: &self.service_account_annotations,
        }
    }
}

/// The volume of each datanode. A change of volumes that exist gives the condition StorageChangeBlocked.
// Refused by the operator and not by rules here: a rule would also refuse the way back to what the volumes are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatanodeStorageSpec {
    /// Default: 10Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$")
    )]
    pub size: Option<String>,
    /// The cluster's default class if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// What happens to volumes whose pod goes for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// Default: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_scaled: Option<Retention>,
    /// Default: as deletionPolicy says. Retain keeps the volumes even if that is Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<Retention>,
}

/// Whether a volume is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retention {
    Retain,
    Delete,
}

/// Frontends: SQL, ingestion, protocols. They hold no state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrontendSpec {
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: ResourcesSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub service: FrontendServiceSpec,
    /// Settings by name, such as `log.level: debug`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub scheduling: SchedulingSpec,
    /// Annotations of the service account.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
}

impl FrontendSpec {
    pub fn common(&self) -> RoleSpec<'_> {
        RoleSpec {
            replicas: self.replicas.unwrap_or(1),
            resources: &self.resources,
            config: &self.config,
            scheduling: &self.scheduling,
            service_account_annotations: &self.service_account_annotations,
        }
    }
}

/// The service that clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.loadBalancerClass) || (has(self.type) && self.type == 'LoadBalancer')")
        .message("service.loadBalancerClass needs service.type LoadBalancer")
)]
pub struct FrontendServiceSpec {
    /// Default: ClusterIP.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<ServiceType>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
}

/// How the service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Requests and limits; each that is named replaces the default of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourcesSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Amount>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Amount>,
}

/// Where pods may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// As in a pod. Its schema would be the largest part of this definition, so the operator checks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// As in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(Exists|Equal|Lt|Gt)$"))]
    pub operator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(NoSchedule|PreferNoSchedule|NoExecute)$"))]
    pub effect: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
