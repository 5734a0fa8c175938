//! The StatefulSet of a role.

use std::collections::BTreeMap;

use greptime_operator_api::{GreptimeCluster, Retention};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::{self, DATA_VOLUME};
use crate::choices::{Choices, Volume};
use crate::names::{self, Role};
use crate::secrets::Examined;
use crate::{Observed, hash};

/// Annotation on the StatefulSet: hash of all that the operator wants of it. What is live under the same hash
/// is what was wanted, so that its status may be believed.
pub const SPEC_HASH: &str = "greptimecluster.io/spec-hash";
/// Annotation on pods: hash of settings and secrets; its change is what rolls them.
const CONFIG_HASH: &str = "greptimecluster.io/config-hash";

/// What a StatefulSet is made from.
pub struct Parts<'a> {
    pub observed: &'a Observed,
    pub role: Role,
    pub secrets: &'a Examined,
    pub choices: &'a Choices,
    pub settings: &'a str,
}

impl Parts<'_> {
    pub fn render(&self) -> StatefulSet {
        let cluster = &self.observed.cluster;
        let mut stateful_set = StatefulSet {
            metadata: names::metadata(cluster, self.role, self.role.child_name(cluster)),
            spec: self.spec(),
            ..StatefulSet::default()
        };
        let json = serde_json::to_string(&stateful_set).expect("a StatefulSet is plain data");
        let hash = hash::of_parts([json.as_str()]);
        stateful_set.metadata.annotations = Some(BTreeMap::from([(SPEC_HASH.to_owned(), hash)]));
        stateful_set
    }

    fn spec(&self) -> StatefulSetSpec {
        let cluster = &self.observed.cluster;
        let has_data = self.role == Role::Datanode;
        StatefulSetSpec {
            // OrderedReady deadlocks when pods wait for each other to be ready, and sticks on a bad image.
            pod_management_policy: Some("Parallel".to_owned()),
            replicas: Some(self.choices.replicas(cluster, self.role)),
            revision_history_limit: Some(5),
            selector: super::pod_selector(cluster, self.role),
            service_name: Some(self.role.peers_name(cluster)),
            template: self.template(),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            volume_claim_templates: has_data.then(|| vec![claim(cluster, self.choices.volumes.volume())]),
            persistent_volume_claim_retention_policy: has_data.then(|| retention(cluster)),
            ..StatefulSetSpec::default()
        }
    }

    fn template(&self) -> k8s_openapi::api::core::v1::PodTemplateSpec {
        let cluster = &self.observed.cluster;
        let image = names::image(cluster, &self.observed.default_image);
        let mut template = pod::pod_template(cluster, self.role, image);
        let versions = self.secrets.versions_of(&cluster.spec, self.role);
        let hash = hash::of_parts([self.settings].into_iter().chain(versions));
        let metadata = template.metadata.get_or_insert_default();
        metadata.annotations = Some(BTreeMap::from([(CONFIG_HASH.to_owned(), hash)]));
        template
    }
}

fn claim(cluster: &GreptimeCluster, volume: &Volume) -> PersistentVolumeClaim {
    let size = Quantity(volume.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_VOLUME.to_owned()),
            labels: Some(names::labels(cluster, Role::Datanode)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: volume.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// What the spec itself says of volumes. Where it leaves them to the deletion policy, the operator deletes them when
/// it destroys the cluster: a StatefulSet that somebody deletes by hand must not take them along, and the policy may
/// still be changed while the pods stop.
fn retention(cluster: &GreptimeCluster) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    let text = |wanted: Option<Retention>| match wanted {
        Some(Retention::Delete) => Some("Delete".to_owned()),
        Some(Retention::Retain) | None => Some("Retain".to_owned()),
    };
    let wanted = &cluster.spec.datanode.retention;
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_scaled: text(wanted.when_scaled),
        when_deleted: text(wanted.when_deleted),
    }
}
