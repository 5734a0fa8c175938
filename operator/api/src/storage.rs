//! Where a cluster keeps what must outlive its pods: etcd and a bucket.

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

/// Where the data lies: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure)].filter(given, given).size() == 1")
        .message("objectStorage needs exactly one of s3, gcs and azure"),
    validation = Rule::new("has(self.s3) == has(oldSelf.s3) && has(self.gcs) == has(oldSelf.gcs)")
        .message("objectStorage cannot change its kind: the data would be left behind")
)]
pub struct ObjectStoreSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSpec>,
}

/// A bucket or container, whatever the kind of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// As the spec and the settings call it.
    pub kind: &'static str,
    /// The field that names it.
    pub field: &'static str,
    pub name: &'a str,
    /// Prefix inside of it, if the spec names one.
    pub root: Option<&'a str>,
    /// URL of a server that is not the cloud's own.
    pub endpoint: Option<&'a str>,
}

impl ObjectStoreSpec {
    /// What is given; a valid spec gives one.
    pub fn given(&self) -> Vec<Place<'_>> {
        let s3 = self.s3.as_ref().map(|s3| Place {
            kind: "s3",
            field: "bucket",
            name: &s3.bucket,
            root: s3.root.as_deref(),
            endpoint: s3.endpoint.as_deref(),
        });
        let gcs = self.gcs.as_ref().map(|gcs| Place {
            kind: "gcs",
            field: "bucket",
            name: &gcs.bucket,
            root: gcs.root.as_deref(),
            endpoint: gcs.endpoint.as_deref(),
        });
        let azure = self.azure.as_ref().map(|azure| Place {
            kind: "azure",
            field: "container",
            name: &azure.container,
            root: azure.root.as_deref(),
            endpoint: azure.endpoint.as_deref(),
        });
        [s3, gcs, azure].into_iter().flatten().collect()
    }
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

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('http://') || self.endpoint.startsWith('https://')")
        .message("gcs.endpoint begins with http:// or https://"),
    validation = Rule::new("self.bucket == oldSelf.bucket")
        .message("gcs.bucket cannot change: the data would be left behind"),
    validation = Rule::new("has(self.root) == has(oldSelf.root) && (!has(self.root) || self.root == oldSelf.root)")
        .message("gcs.root cannot change: the data would be left behind")
)]
pub struct GcsSpec {
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self != ''").message("gcs.bucket must not be empty"))]
    pub bucket: String,
    /// Prefix inside the bucket. Default: NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub root: Option<String>,
    /// URL of the server; Google's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// Secret with service-account.json. Workload identity of the pod's service account if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('http://') || self.endpoint.startsWith('https://')")
        .message("azure.endpoint begins with http:// or https://"),
    validation = Rule::new("self.container == oldSelf.container && self.accountName == oldSelf.accountName")
        .message("azure.container and azure.accountName cannot change: the data would be left behind"),
    validation = Rule::new("has(self.root) == has(oldSelf.root) && (!has(self.root) || self.root == oldSelf.root)")
        .message("azure.root cannot change: the data would be left behind")
)]
pub struct AzureSpec {
    /// The storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]+$"))]
    pub account_name: String,
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self != ''").message("azure.container must not be empty"))]
    pub container: String,
    /// Prefix inside the container. Default: NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub root: Option<String>,
    /// URL of the server; Azure's own by account if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// Secret with account-key. Workload identity of the pod's service account if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
}
