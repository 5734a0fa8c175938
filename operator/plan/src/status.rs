//! The status as a whole, and how soon to look again.

use std::time::Duration;

use greptime_operator_api::{Condition, EndpointsStatus, GreptimeCluster, GreptimeClusterStatus};

use crate::conditions::{Situation, Verdict, settle, types};
use crate::names::{self, Role};
use crate::{Observed, Report, events};

/// metasrv's view and secrets are not watched, they are asked for. Soon while something is awaited.
const SOON: Duration = Duration::from_secs(1);
/// A secret that is missing is made by hand, and looking costs the API server a request each.
const SECRETS: Duration = Duration::from_secs(3);
/// An outage of etcd or S3 shows after this at the latest.
const STEADY: Duration = Duration::from_secs(5);

pub fn report(situation: &Situation<'_>) -> Report {
    let observed = situation.observed;
    let cluster = &observed.cluster;
    let old = cluster.status.as_ref();
    let [metasrv, datanode, frontend] = &situation.rollouts;
    let cluster_id = situation.report().and_then(|report| report.cluster_id.clone());
    let status = GreptimeClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: conditions(situation),
        metasrv: metasrv.status.clone(),
        datanode: datanode.status.clone(),
        frontend: frontend.status.clone(),
        selector: Some(names::selector(cluster, Role::Datanode)),
        version: names::version(cluster, &observed.default_image),
        cluster_id: cluster_id.or_else(|| old.and_then(|old| old.cluster_id.clone())),
        endpoints: endpoints(cluster),
    };
    let events = events::between(old, &status);
    let requeue = requeue(situation, &status);
    Report {
        status,
        events,
        requeue,
    }
}

/// What to tell when the API server refused a part of the plan: a quota, a webhook, a missing right.
pub fn apply_failed(observed: &Observed, mut report: Report, why: &str) -> Report {
    let old = observed.cluster.status.as_ref();
    let before = old.map_or(&[][..], |old| &old.conditions);
    for (type_, status) in [(types::READY, "False"), (types::DEGRADED, "True")] {
        let verdict = Verdict {
            type_,
            status,
            reason: "ApplyFailed",
            message: why.to_owned(),
        };
        let condition = settle(
            verdict,
            before,
            observed.cluster.metadata.generation,
            &observed.now,
        );
        if let Some(place) = report.status.conditions.iter_mut().find(|c| c.type_ == type_) {
            *place = condition;
        }
    }
    report.events = events::between(old, &report.status);
    report.requeue = Some(STEADY);
    report
}

/// Ours in our order, then those of others as they are.
fn conditions(situation: &Situation<'_>) -> Vec<Condition> {
    let cluster = &situation.observed.cluster;
    let old = cluster
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let verdicts = situation.verdicts().into_iter();
    let settled = |verdict| settle(verdict, old, cluster.metadata.generation, &situation.observed.now);
    let mut conditions: Vec<_> = verdicts.map(settled).collect();
    let foreign: Vec<_> = old
        .iter()
        .filter(|old| conditions.iter().all(|ours| ours.type_ != old.type_))
        .cloned()
        .collect();
    conditions.extend(foreign);
    conditions
}

fn requeue(situation: &Situation<'_>, status: &GreptimeClusterStatus) -> Option<Duration> {
    if !situation.invalid.is_empty() {
        return None;
    }
    if !situation.secrets.problems.is_empty() {
        return Some(SECRETS);
    }
    let ready = status
        .conditions
        .iter()
        .any(|c| c.type_ == types::READY && c.status == "True");
    Some(if ready { STEADY } else { SOON })
}

fn endpoints(cluster: &GreptimeCluster) -> EndpointsStatus {
    let host = format!(
        "{}.{}.svc",
        Role::Frontend.child_name(cluster),
        names::namespace(cluster)
    );
    let ports = &cluster.spec.ports;
    EndpointsStatus {
        http: format!("{host}:{}", ports.http()),
        mysql: format!("{host}:{}", ports.mysql()),
        postgres: format!("{host}:{}", ports.postgres()),
    }
}
