//! The GreptimeCluster custom resource: what a user asks for (`spec`), what the operator tells (`status`),
//! and the CustomResourceDefinition that is generated from both.
//!
//! A rule that a schema or CEL can check is checked by the API server, when the object is written. What it
//! cannot check, the planning crate refuses with a condition. The Rust types accept everything that the
//! schema accepts: one object that did not deserialize would silence the watch for all the others.

mod amount;
mod cluster;
mod roles;
mod status;
mod storage;

pub use amount::Amount;
pub use cluster::{AuthSpec, DeletionPolicy, GreptimeCluster, GreptimeClusterSpec, LocalSecret, PortsSpec};
pub use roles::{
    DatanodeSpec, DatanodeStorageSpec, FrontendServiceSpec, FrontendSpec, MetasrvSpec, ResourcesSpec,
    Retention, RetentionSpec, RoleSpec, SchedulingSpec, ServiceType, Toleration,
};
pub use status::{EndpointsStatus, GreptimeClusterStatus, RoleStatus};
pub use storage::{AzureSpec, EtcdSpec, GcsSpec, ObjectStoreSpec, Place, S3Spec, StoreSpec};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use kube::CustomResourceExt;

pub const GROUP: &str = "greptimecluster.io";
pub const VERSION: &str = "v1alpha1";
pub const KIND: &str = "GreptimeCluster";

/// The CustomResourceDefinition as the file `crds/greptimeclusters.yaml`, byte for byte.
pub fn crd_yaml() -> String {
    let crd = GreptimeCluster::crd();
    let body = serde_saphyr::to_string(&crd).expect("a CustomResourceDefinition is plain data");
    format!(
        "# Generated from operator/api by `UPDATE_GOLDEN=1 cargo test -p greptime-operator-api`. Do not edit.\n{body}"
    )
}

/// For `skip_serializing_if`: what is absent in the API server stays absent, and gets no OpenAPI default.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
