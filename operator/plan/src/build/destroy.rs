//! The Job that deletes what a cluster has outside of Kubernetes.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Child, meta, pod};
use crate::names::{LABEL_COMPONENT, Role};
use crate::observed::ChildKind;
use crate::resolved::Resolved;

/// A deletion waits no longer than this for etcd, the bucket and the pods.
pub const DESTROY_DEADLINE: Duration = Duration::from_secs(120);

/// Runs `greptime-node destroy` with metasrv's settings, secrets and identity.
pub fn destroy_job(resolved: &Resolved<'_>) -> Child {
    let role = Role::Metasrv;
    let metadata = meta(resolved, role, resolved.names.destroy_job());
    let mut labels = resolved.names.labels(role);
    // It is not a metasrv: neither services nor budgets may count it.
    labels.insert(LABEL_COMPONENT.into(), "destroy".into());
    let mut spec = pod::pod_spec(resolved, role, pod::args("destroy"));
    spec.restart_policy = Some("OnFailure".into());
    spec.topology_spread_constraints = None;
    spec.termination_grace_period_seconds = Some(5);
    for container in &mut spec.containers {
        container.name = "destroy".into();
        container.ports = None;
        container.startup_probe = None;
        container.readiness_probe = None;
        container.liveness_probe = None;
        // Neither has it an ordinal nor does anybody dial it.
        container.env.iter_mut().for_each(|env| env.retain(|v| !v.name.starts_with("GREPTIME__NODE__")));
    }
    let job = JobSpec {
        // Kubelet restarts the container in place; the deadline below ends it.
        backoff_limit: Some(20),
        active_deadline_seconds: Some(DESTROY_DEADLINE.as_secs().cast_signed()),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels), ..Default::default() }),
            spec: Some(spec),
        },
        ..Default::default()
    };
    let body = Job { metadata: metadata.clone(), spec: Some(job), ..Default::default() };
    Child::new(ChildKind::Job, role, &metadata, body)
}
