//! The StatefulSet of a role.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Child, meta, pod, selector};
use crate::names::{ANNOTATION_CONFIG_HASH, Role};
use crate::observed::ChildKind;
use crate::resolved::Resolved;

/// Name of the datanodes' volume claims; the claim of pod `demo-datanode-0` is `data-demo-datanode-0`.
pub const VOLUME_CLAIM: &str = "data";

/// What the spec alone does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// For datanodes never fewer than there were.
    pub replicas: i32,
    pub config_hash: String,
    /// The claim templates that exist already: they cannot be changed.
    pub claim_templates: Option<Vec<PersistentVolumeClaim>>,
}

pub fn stateful_set(resolved: &Resolved<'_>, role: Role, decided: Decided) -> Child {
    let metadata = meta(resolved, role, resolved.names.role(role));
    let mut annotations = pod::scrape_annotations();
    annotations.insert(ANNOTATION_CONFIG_HASH.into(), decided.config_hash);
    let claims = match role {
        Role::Datanode => decided.claim_templates.or_else(|| Some(claim_templates(resolved))),
        Role::Metasrv | Role::Frontend => None,
    };
    let spec = StatefulSetSpec {
        replicas: Some(decided.replicas),
        // OrderedReady deadlocks where readiness needs the others, and never gets away from a bad image.
        pod_management_policy: Some("Parallel".into()),
        service_name: Some(resolved.names.peers(role)),
        selector: selector(resolved, role),
        update_strategy: Some(StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".into()),
            ..Default::default()
        }),
        revision_history_limit: Some(5),
        persistent_volume_claim_retention_policy: claims.is_some().then(retention),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(resolved.names.labels(role)),
                annotations: Some(annotations),
                ..Default::default()
            }),
            spec: Some(pod::pod_spec(resolved, role, pod::args(role.as_str()))),
        },
        volume_claim_templates: claims,
        ..Default::default()
    };
    let body = StatefulSet { metadata: metadata.clone(), spec: Some(spec), ..Default::default() };
    Child::new(ChildKind::StatefulSet, role, &metadata, body)
}

/// Always Retain, whatever the spec wants in the end: with Delete, a StatefulSet that is deleted or scaled by mistake
/// takes the logs with it before the operator can repair it. What the spec wants is done by the operator, when a
/// cluster is deleted and after a datanode was drained.
fn retention() -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some("Retain".into()),
        when_scaled: Some("Retain".into()),
    }
}

pub fn claim_templates(resolved: &Resolved<'_>) -> Vec<PersistentVolumeClaim> {
    let storage = resolved.cluster.spec.datanode.storage.as_ref();
    let size = BTreeMap::from([("storage".to_owned(), Quantity(resolved.volume_size.clone()))]);
    vec![PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(VOLUME_CLAIM.into()), ..Default::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements { requests: Some(size), ..Default::default() }),
            storage_class_name: storage.and_then(|s| s.storage_class_name.clone()),
            ..Default::default()
        }),
        ..Default::default()
    }]
}
