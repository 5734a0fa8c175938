//! What the operator tells about a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::is_default;

/// What is, as far as the operator knows. Written only by the operator, and only when it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GreptimeClusterStatus {
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub metasrv: RoleStatus,
    #[serde(default, skip_serializing_if = "is_default")]
    pub datanode: RoleStatus,
    #[serde(default, skip_serializing_if = "is_default")]
    pub frontend: RoleStatus,
    /// Label selector of the datanodes' pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Tag of the image that the pods are meant to run, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Random identity of the cluster, also in the marker on its bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Where clients connect, inside the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoints: EndpointsStatus,
}

/// Pods of one role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    // Counts are written even when zero: /scale reads the datanodes' from here.
    #[serde(default)]
    pub replicas: i32,
    #[serde(default)]
    pub ready_replicas: i32,
    /// Pods of the newest template.
    #[serde(default)]
    pub updated_replicas: i32,
    /// "ready/wanted", for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
}

/// host:port by protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointsStatus {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mysql: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub postgres: String,
}

/// The schema of metav1.Condition without its essays, and a map by type, as server-side apply merges it.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
            },
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
