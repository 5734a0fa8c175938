//! Where a cluster keeps what must outlive its pods: etcd and an S3 bucket.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where metasrv keeps the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreSpec {
    pub etcd: EtcdSpec,
}

/// An etcd that already runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.endpoints.all(e, e.startsWith('http://') || e.startsWith('https://'))")
        .message("etcd endpoints begin with http:// or https://"),
    validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("etcd.prefix cannot change: the catalog would be left behind")
)]
pub struct EtcdSpec {
    #[schemars(length(min = 1, max = 16), inner(length(min = 8, max = 512)))]
    pub endpoints: Vec<String>,
    /// Default: /greptime/NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = "^(/[A-Za-z0-9._-]+)+$"))]
    pub prefix: Option<String>,
    /// Secret with ca.crt, and for a client certificate tls.crt and tls.key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// Secret with username and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret_name: Option<String>,
}

/// Where the data lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectStoreSpec {
    pub s3: S3Spec,
}

/// A bucket of S3 or of a server that speaks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('http://') || self.endpoint.startsWith('https://')")
        .message("s3.endpoint begins with http:// or https://"),
    validation = Rule::new("self.bucket == oldSelf.bucket")
        .message("s3.bucket cannot change: the data would be left behind"),
    validation = Rule::new("has(self.root) == has(oldSelf.root) && (!has(self.root) || self.root == oldSelf.root)")
        .message("s3.root cannot change: the data would be left behind")
)]
pub struct S3Spec {
    /// URL of the server; AWS by region if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// Default: us-east-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self != ''").message("s3.bucket must not be empty"))]
    pub bucket: String,
    /// Prefix inside the bucket. Default: NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub root: Option<String>,
    /// The bucket in the path of the URL instead of the host name, as most servers but AWS want it. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Secret with ca.crt, for a server whose certificate is not signed by a public authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret_name: Option<String>,
    /// Secret with access-key-id and secret-access-key. The pod's service account if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
}
