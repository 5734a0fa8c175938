//! What to tell: status, events, and when to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use greptime_operator_api::{Endpoints, GreptimeCluster, GreptimeClusterStatus, condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::build::service_ports;
use crate::conditions::{self, Finding};
use crate::names::{Names, Role};
use crate::observed::{ChildId, ClusterView, Observed, Remote};
use crate::plan::{Cause, Plan, Step};
use crate::roles::{LiveSet, Progress};

/// While something is on its way that no watch tells of: metasrv's view, and secrets, which are polled.
const RECHECK_SOON: Duration = Duration::from_secs(1);
/// Waiting for a person.
const RECHECK_WAITING: Duration = Duration::from_secs(3);
/// Nothing is wrong: secrets and metasrv are asked again now and then.
const RECHECK_STEADY: Duration = Duration::from_secs(10);

/// Something that happened, for the events of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub warning: bool,
    /// In CamelCase.
    pub reason: String,
    pub note: String,
}

impl Notice {
    pub fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), note: note.into() }
    }

    pub fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.into(), note: note.into() }
    }
}

/// What a plan knows that a person should.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub status: GreptimeClusterStatus,
    /// Whether the status differs from the one that the cluster has.
    pub status_changed: bool,
    /// To be told after the steps were done.
    pub notices: Vec<Notice>,
    /// Look again after this time even if no watch says so.
    pub recheck: Duration,
}

/// Everything that conditions are made from.
pub(crate) struct Facts<'a> {
    pub cluster: &'a GreptimeCluster,
    pub names: Names,
    pub image: Option<String>,
    pub refusals: Vec<String>,
    pub missing_secrets: Vec<String>,
    pub unread_secrets: Vec<String>,
    /// Objects of others under our names.
    pub taken: Vec<ChildId>,
    /// Objects that must be gone before they can be made again.
    pub leaving: Vec<ChildId>,
    pub progress: BTreeMap<Role, Progress>,
    pub replicas: BTreeMap<Role, i32>,
    /// Fewer datanodes are asked for than are kept: (asked, kept).
    pub scale_in: Option<(i32, i32)>,
    pub volume_blocked: Option<String>,
    /// Pods that will not become ready by themselves.
    pub trouble: Vec<String>,
    pub metasrv: &'a Remote<ClusterView>,
}

impl<'a> Facts<'a> {
    pub fn new(observed: &'a Observed, names: &Names) -> Self {
        let trouble = observed.pods.iter().filter_map(|pod| Some(format!("{}: {}", pod.name, pod.trouble.as_ref()?)));
        Self {
            cluster: &observed.cluster,
            names: names.clone(),
            image: None,
            refusals: Vec::new(),
            missing_secrets: Vec::new(),
            unread_secrets: Vec::new(),
            taken: Vec::new(),
            leaving: Vec::new(),
            progress: BTreeMap::new(),
            replicas: BTreeMap::new(),
            scale_in: None,
            volume_blocked: None,
            trouble: trouble.collect(),
            metasrv: &observed.metasrv,
        }
    }

    /// How many pods a role is given. A datanode that is taken away takes its regions with it, so there are never
    /// fewer than there were: neither than the StatefulSet says, nor than the status remembers if somebody lowered or
    /// deleted the StatefulSet.
    pub fn decide_replicas(&mut self, role: Role, asked: i32, live: Option<&LiveSet>) -> i32 {
        let kept = match role {
            Role::Datanode => {
                let live = live.and_then(LiveSet::spec_replicas).unwrap_or(0);
                asked.max(live).max(self.remembered_datanodes())
            }
            Role::Metasrv | Role::Frontend => asked,
        };
        if kept > asked {
            self.scale_in = Some((asked, kept));
        }
        self.replicas.insert(role, kept);
        kept
    }

    fn remembered_datanodes(&self) -> i32 {
        let status = self.cluster.status.as_ref();
        status.and_then(|s| s.datanode).map_or(0, |datanode| datanode.desired)
    }

    /// How many pods a role is meant to have, also when the spec is refused and nothing was decided.
    pub fn desired(&self, role: Role, live: Option<&LiveSet>) -> i32 {
        let decided = self.replicas.get(&role).copied();
        decided.or_else(|| live.and_then(LiveSet::spec_replicas)).unwrap_or(match role {
            Role::Datanode => self.remembered_datanodes(),
            Role::Metasrv | Role::Frontend => 0,
        })
    }

    pub fn view(&self) -> Option<&ClusterView> {
        self.metasrv.known()
    }

    fn recheck(&self, plan: &Plan, ready: bool) -> Duration {
        if !self.refusals.is_empty() {
            // Only a change of the spec helps, and a change is seen.
            return RECHECK_STEADY;
        }
        if !self.missing_secrets.is_empty() || !self.unread_secrets.is_empty() || !self.taken.is_empty() {
            return RECHECK_WAITING;
        }
        if !ready || !plan.is_empty() || !self.leaving.is_empty() { RECHECK_SOON } else { RECHECK_STEADY }
    }
}

impl Report {
    pub(crate) fn new(facts: Facts<'_>, plan: &Plan, now: Timestamp) -> Self {
        let findings = conditions::judge(&facts, plan);
        let ready = findings.iter().any(|f| f.type_ == condition::READY && f.truth == conditions::Truth::True);
        let previous = facts.cluster.status.clone().unwrap_or_default();
        let generation = facts.cluster.metadata.generation;
        let count = |role: Role| facts.progress.get(&role).map(|p| p.counts);
        let status = GreptimeClusterStatus {
            observed_generation: generation,
            conditions: stamped(&findings, &previous.conditions, generation, now),
            metasrv: count(Role::Metasrv),
            datanode: count(Role::Datanode),
            frontend: count(Role::Frontend),
            selector: Some(facts.names.selector_text(Role::Datanode)),
            image: facts.image.clone().or(previous.image.clone()),
            cluster_id: cluster_id(&facts).or(previous.cluster_id.clone()),
            endpoints: Some(endpoints(&facts)),
        };
        let mut notices: Vec<_> = plan.steps.iter().filter_map(step_notice).collect();
        notices.extend(transitions(&findings, &previous.conditions));
        Self { status_changed: facts.cluster.status.as_ref() != Some(&status), status, notices, recheck: facts.recheck(plan, ready) }
    }

    /// A report about a cluster that is going: its status does not matter any more.
    pub(crate) fn leaving(cluster: &GreptimeCluster, notices: Vec<Notice>) -> Self {
        let status = cluster.status.clone().unwrap_or_default();
        Self { status, status_changed: false, notices, recheck: RECHECK_SOON }
    }
}

/// What to tell of a resource that is stored, but cannot be read as a `GreptimeCluster`: an older definition let it
/// pass, or a newer one wrote it.
pub fn refused(previous: GreptimeClusterStatus, generation: Option<i64>, why: &str, now: Timestamp) -> Report {
    let findings = conditions::unreadable(why);
    let mut status = previous.clone();
    status.observed_generation = generation;
    status.conditions = stamped(&findings, &previous.conditions, generation, now);
    let notices = transitions(&findings, &previous.conditions);
    Report { status_changed: status != previous, status, notices, recheck: RECHECK_STEADY }
}

/// Conditions as they are stored. A time is that of the last change of the condition's status.
fn stamped(findings: &[Finding], previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    // The API stores whole seconds; a finer time would differ from itself when it is read back.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    findings
        .iter()
        .map(|finding| {
            let before = previous.iter().find(|c| c.type_ == finding.type_);
            let same = before.filter(|c| c.status == finding.truth.as_str());
            Condition {
                type_: finding.type_.into(),
                status: finding.truth.as_str().into(),
                reason: finding.reason.into(),
                message: finding.message.clone(),
                observed_generation: generation,
                last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Events: one for each condition that turned, except what is so from the beginning on and good.
fn transitions(findings: &[Finding], previous: &[Condition]) -> Vec<Notice> {
    let turned = findings.iter().filter(|finding| {
        let before = previous.iter().find(|c| c.type_ == finding.type_);
        match before {
            Some(before) => before.status != finding.truth.as_str() || (finding.is_bad() && before.reason != finding.reason),
            None => finding.is_bad(),
        }
    });
    turned
        // Progress is told by its steps, and availability by what is wrong or by readiness.
        .filter(|f| ![condition::PROGRESSING, condition::AVAILABLE].contains(&f.type_))
        // Not ready because of something that has an event of its own.
        .filter(|f| f.type_ != condition::READY || f.truth == conditions::Truth::True)
        .map(|finding| Notice {
            warning: finding.is_bad(),
            reason: finding.reason.to_owned(),
            note: finding.message.clone(),
        })
        .collect()
}

fn step_notice(step: &Step) -> Option<Notice> {
    match step {
        Step::Apply { id, cause: Cause::Missing, .. } => Some(Notice::normal("Created", format!("{id} is created"))),
        Step::Apply { id, cause: Cause::Drifted(drift), .. } => {
            Some(Notice::normal("Updated", format!("{id}: {drift}; it is applied again")))
        }
        Step::Delete { id, .. } => Some(Notice::normal("Deleted", format!("{id} is deleted"))),
        Step::DeleteClaims { names } => {
            Some(Notice::normal("VolumesDeleted", format!("volume claims are deleted: {}", names.join(", "))))
        }
        Step::AddFinalizer | Step::RemoveFinalizer => None,
    }
}

/// Believed only while the bucket is known to be this cluster's: a deletion may go by it.
fn cluster_id(facts: &Facts<'_>) -> Option<String> {
    let view = facts.view()?;
    let store = view.dependencies.iter().filter(|d| d.name == conditions::OBJECT_STORE);
    let mut store = store.peekable();
    let bucket_is_ours = store.peek().is_some() && store.all(|d| d.ok);
    view.cluster_id.clone().filter(|_| view.leader && bucket_is_ours)
}

fn endpoints(facts: &Facts<'_>) -> Endpoints {
    let host = facts.names.host(&facts.names.client_service(Role::Frontend));
    let [http, grpc, mysql, postgres] = service_ports(facts.cluster).map(|(_, port)| format!("{host}:{port}"));
    Endpoints { http, grpc, mysql, postgres }
}

#[cfg(test)]
mod tests;
