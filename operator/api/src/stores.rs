//! What a cluster needs that Kubernetes does not give it: an etcd and a bucket.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where metasrv keeps the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetadataStore {
    pub etcd: EtcdStore,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tlsSecretName) || self.endpoints.all(e, e.startsWith('https://'))")
    .message("with tlsSecretName every etcd endpoint must start with https://"))]
pub struct EtcdStore {
    /// URLs such as `http://etcd-0.etcd:2379`.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(e, e.startsWith('http://') || e.startsWith('https://'))")
        .message("an etcd endpoint must start with http:// or https://"))]
    pub endpoints: Vec<String>,
    /// Every key starts with it; `/greptime/<namespace>/<name>` when left out. Two clusters must not share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 512), regex(pattern = r"^/[A-Za-z0-9._/-]*[A-Za-z0-9._-]$"))]
    pub prefix: Option<String>,
    /// A secret with `ca.crt`, and `tls.crt` and `tls.key` if etcd asks for a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// A secret with `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret_name: Option<String>,
}

/// Where the files of the tables lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStorage {
    pub s3: S3Storage,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caSecretName) || (has(self.endpoint) && self.endpoint.startsWith('https://'))")
    .message("caSecretName needs an endpoint that starts with https://"))]
pub struct S3Storage {
    /// URL of an S3-compatible server; AWS when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')")
        .message("the S3 endpoint must start with http:// or https://"))]
    pub endpoint: Option<String>,
    /// `us-east-1` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Prefix of every key; `<namespace>/<name>` when left out. Two clusters must not share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9._-]([A-Za-z0-9._/-]*[A-Za-z0-9._-])?$"))]
    pub root: Option<String>,
    /// Ask for `http://host/bucket/key` instead of `http://bucket.host/key`. False when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A secret with `ca.crt`, which the server's certificate is checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret_name: Option<String>,
    /// A secret with `access-key-id` and `secret-access-key`. Without it the pods' service account is the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
}
