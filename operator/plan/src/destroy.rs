//! The end of a cluster whose `deletionPolicy` is Delete.

use greptime_operator_api::GreptimeCluster;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::children::destroy_pod;
use crate::names::{self, Role};

/// Deletion never waits for ever for an etcd or S3 that is gone: after this the job has failed.
const DEADLINE_SECONDS: i64 = 120;
const RETRIES: i32 = 3;

/// The job that deletes the cluster's keys in etcd and its objects in the bucket. It reads metasrv's config
/// map and secrets, so it has to end before they go. Run it when no pod of the cluster runs any more: what
/// still runs still writes.
pub fn destroy_job(cluster: &GreptimeCluster, default_image: &str) -> Job {
    let mut metadata = names::metadata(
        cluster,
        Role::Metasrv,
        format!("{}-destroy", names::name(cluster)),
    );
    // Not the labels of metasrv's pods: its services and its disruption budget must not select this one.
    let labels = metadata.labels.get_or_insert_default();
    labels.insert("app.kubernetes.io/component".to_owned(), "destroy".to_owned());
    let labels = labels.clone();
    let pod = destroy_pod(cluster, names::image(cluster, default_image));
    Job {
        metadata,
        spec: Some(JobSpec {
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            backoff_limit: Some(RETRIES),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}
