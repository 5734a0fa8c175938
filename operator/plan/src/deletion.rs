//! A cluster that is going.
//!
//! Kubernetes deletes what the cluster owns. With `deletionPolicy: Delete` a finalizer holds the cluster while the
//! operator stops the pods, runs `greptime-node destroy` in a Job and deletes the volume claims. All of it together
//! may take [`DESTROY_DEADLINE`]: a dead etcd or bucket leaves rubbish behind, which an event names, but never a
//! cluster that cannot be deleted.

use greptime_operator_api::{DeletionPolicy, FINALIZER};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;

use crate::build::{self, DESTROY_DEADLINE};
use crate::names::Role;
use crate::observed::{ChildId, ChildKind, Observed, Policy, Remote};
use crate::plan::{Plan, Step, changes};
use crate::report::{Facts, Notice, Report};
use crate::resolved::{self, Resolved};
use crate::settings;

pub fn plan(observed: &Observed, policy: &Policy, _now: Timestamp) -> (Plan, Report) {
    let cluster = &observed.cluster;
    if !cluster.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER) {
        return (Plan::default(), Report::leaving(cluster, vec![]));
    }
    match destruction(observed, policy) {
        Destruction::Step(steps) => (Plan { steps }, Report::leaving(cluster, vec![])),
        Destruction::Over(notice) => {
            let mut steps = Vec::new();
            if resolved::deletes_volumes(cluster) && !observed.claims.is_empty() {
                steps.push(Step::DeleteClaims { names: observed.claims.clone() });
            }
            steps.push(Step::RemoveFinalizer);
            (Plan { steps }, Report::leaving(cluster, vec![notice]))
        }
    }
}

/// Where a destruction stands.
enum Destruction {
    /// What to do now; with no steps, wait.
    Step(Vec<Step>),
    /// Done, or given up.
    Over(Notice),
}

fn destruction(observed: &Observed, policy: &Policy) -> Destruction {
    let cluster = &observed.cluster;
    let out_of_time = observed.deleted_for.is_some_and(|time| time >= DESTROY_DEADLINE);
    let resolved = match Resolved::new(cluster, policy) {
        Ok(resolved) => resolved,
        Err(refusals) => return gave_up(None, &format!("the spec is refused ({})", refusals.join("; "))),
    };
    if observed.namespace_terminating {
        return gave_up(Some(&resolved), "the namespace is being deleted too, so that no Job can run in it");
    }
    let stops = stop_pods(observed, &resolved);
    let pods_left = !observed.pods.is_empty();
    if !stops.is_empty() || pods_left {
        return match out_of_time {
            true => gave_up(Some(&resolved), "pods are still running"),
            false => Destruction::Step(stops),
        };
    }
    if cluster.spec.deletion_policy() == DeletionPolicy::Retain {
        return Destruction::Over(Notice::normal("Deleted", "the volumes are deleted; etcd keys and bucket are kept"));
    }
    // What a cluster that never came to own its bucket might delete is somebody else's.
    if cluster.status.as_ref().is_none_or(|s| s.cluster_id.is_none()) {
        return Destruction::Over(Notice::normal("NothingToDestroy", "the cluster never wrote to its bucket"));
    }
    run_destroy(observed, &resolved, out_of_time)
}

/// Nothing may write to the bucket any more when it is emptied.
fn stop_pods(observed: &Observed, resolved: &Resolved<'_>) -> Vec<Step> {
    let sets = Role::ALL.map(|role| ChildId::new(ChildKind::StatefulSet, resolved.names.role(role)));
    sets.into_iter()
        .filter_map(|id| {
            let live = observed.children.get(&id)?;
            let owners = live["metadata"]["ownerReferences"].as_array()?;
            let uid = observed.cluster.metadata.uid.as_deref()?;
            let ours = owners.iter().any(|owner| owner["uid"] == uid);
            let going = live["metadata"].get("deletionTimestamp").is_some_and(|t| !t.is_null());
            let uid = live["metadata"]["uid"].as_str()?.to_owned();
            (ours && !going).then_some(Step::Delete { id, uid })
        })
        .collect()
}

fn run_destroy(observed: &Observed, resolved: &Resolved<'_>, out_of_time: bool) -> Destruction {
    let id = ChildId::new(ChildKind::Job, resolved.names.destroy_job());
    let job: Option<Job> = observed.children.get(&id).and_then(|live| serde_json::from_value(live.clone()).ok());
    let Some(job) = job else {
        if out_of_time {
            return gave_up(Some(resolved), "there was no time left to run `greptime-node destroy`");
        }
        return Destruction::Step(start_destroy(observed, resolved));
    };
    let status = job.status.unwrap_or_default();
    let finished = |type_: &str| status.conditions.iter().flatten().any(|c| c.type_ == type_ && c.status == "True");
    if status.succeeded.unwrap_or(0) > 0 || finished("Complete") {
        let what = format!("etcd keys under {} and objects under {} are deleted", resolved.etcd_prefix, bucket(resolved));
        return Destruction::Over(Notice::normal("Destroyed", what));
    }
    match finished("Failed") || out_of_time {
        true => gave_up(Some(resolved), &format!("`greptime-node destroy` did not succeed; see the log of Job {}", id.name)),
        false => Destruction::Step(vec![]),
    }
}

/// The Job reads metasrv's configuration, which somebody may have deleted.
fn start_destroy(observed: &Observed, resolved: &Resolved<'_>) -> Vec<Step> {
    let tls = resolved.cluster.spec.metasrv.store.etcd.tls_secret_name.as_ref();
    let keys = tls.and_then(|name| observed.secrets.get(name)).and_then(Remote::known).map(|facts| &facts.keys);
    let certificate = keys.is_some_and(|keys| keys.contains("tls.crt") && keys.contains("tls.key"));
    let config = settings::render(resolved, Role::Metasrv, certificate);
    let wanted = vec![
        build::service_account(resolved, Role::Metasrv),
        build::config_map(resolved, Role::Metasrv, &config),
        build::destroy_job(resolved),
    ];
    changes(observed, wanted, &mut Facts::new(observed, &resolved.names))
}

fn gave_up(resolved: Option<&Resolved<'_>>, why: &str) -> Destruction {
    let left = match resolved {
        Some(resolved) if resolved.cluster.spec.deletion_policy() == DeletionPolicy::Delete => {
            format!("; left behind: etcd keys under {}, objects under {}", resolved.etcd_prefix, bucket(resolved))
        }
        _ => String::new(),
    };
    Destruction::Over(Notice::warning("DestroyGaveUp", format!("{why}{left}")))
}

fn bucket(resolved: &Resolved<'_>) -> String {
    format!("s3://{}/{}", resolved.cluster.spec.object_storage.s3.bucket, resolved.s3_root)
}

#[cfg(test)]
mod tests;
