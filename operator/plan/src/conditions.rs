//! The conditions of a cluster: each with its truth, a reason, and words for a person.

use greptime_operator_api::condition;

use crate::names::Role;
use crate::observed::{ClusterView, Remote};
use crate::plan::{Plan, Step};
use crate::report::Facts;

/// Names by which metasrv reports what it depends on.
pub const ETCD: &str = "etcd";
pub const OBJECT_STORE: &str = "object_store";

/// As many examples as fit into a message that is still read.
const EXAMPLES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub type_: &'static str,
    pub truth: Truth,
    pub reason: &'static str,
    pub message: String,
}

impl Finding {
    fn new(type_: &'static str, truth: Truth, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, truth, reason, message: message.into() }
    }

    /// Whether a person should care.
    pub fn is_bad(&self) -> bool {
        let bad = match self.type_ {
            condition::READY
            | condition::AVAILABLE
            | condition::SECRETS_FOUND
            | condition::ETCD_REACHABLE
            | condition::OBJECT_STORE_REACHABLE => Truth::False,
            _ => Truth::True,
        };
        self.truth == bad && self.type_ != condition::PROGRESSING
    }
}

/// All conditions, in the order in which they are shown.
pub(crate) fn judge(facts: &Facts<'_>, plan: &Plan) -> Vec<Finding> {
    vec![
        ready(facts, plan),
        available(facts),
        progressing(facts, plan),
        degraded(facts),
        stalled(facts),
        secrets(facts),
        dependency(facts, condition::ETCD_REACHABLE, ETCD),
        dependency(facts, condition::OBJECT_STORE_REACHABLE, OBJECT_STORE),
        not_replicated(facts),
        scale_in(facts),
        volume_change(facts),
    ]
}

/// The conditions of a resource that cannot be read.
pub fn unreadable(why: &str) -> Vec<Finding> {
    let message = format!("the resource cannot be read: {why}; nothing is changed until it is mended");
    vec![
        Finding::new(condition::READY, Truth::False, "InvalidSpec", message.clone()),
        Finding::new(condition::STALLED, Truth::True, "InvalidSpec", message),
    ]
}

/// What keeps the cluster from being ready, the most basic first.
fn ready(facts: &Facts<'_>, plan: &Plan) -> Finding {
    let no = |reason, message: String| Finding::new(condition::READY, Truth::False, reason, message);
    if !facts.refusals.is_empty() {
        return no("InvalidSpec", facts.refusals.join("; "));
    }
    if !facts.taken.is_empty() {
        return no("NameTaken", taken_message(facts));
    }
    if !facts.missing_secrets.is_empty() {
        return no("SecretMissing", facts.missing_secrets.join("; "));
    }
    if !facts.unread_secrets.is_empty() {
        return no("SecretUnreadable", facts.unread_secrets.join("; "));
    }
    if let Some(waiting) = waiting(facts, plan) {
        return no("WaitingForPods", waiting);
    }
    if let Some((reason, message)) = unwell(facts) {
        return no(reason, message);
    }
    let counts: Vec<_> = Role::ALL.iter().map(|role| format!("{} {}", ready_count(facts, *role), role.as_str())).collect();
    Finding::new(condition::READY, Truth::True, "ClusterReady", format!("{} ready", counts.join(", ")))
}

fn ready_count(facts: &Facts<'_>, role: Role) -> i32 {
    facts.progress.get(&role).map_or(0, |p| p.counts.ready)
}

fn taken_message(facts: &Facts<'_>) -> String {
    let names: Vec<_> = facts.taken.iter().map(ToString::to_string).collect();
    format!("{} exists and is not of this cluster; delete it or give the cluster another name", names.join(", "))
}

/// What is not yet as it should be.
fn waiting(facts: &Facts<'_>, plan: &Plan) -> Option<String> {
    let mut waits = Vec::new();
    for role in Role::ALL {
        let progress = facts.progress.get(&role).copied().unwrap_or_default();
        let counts = progress.counts;
        if !progress.complete {
            let name = role.as_str();
            waits.push(match counts.updated < counts.desired {
                true => format!("{name}: {} of {} ready, {} up to date", counts.ready, counts.desired, counts.updated),
                false => format!("{name}: {} of {} ready", counts.ready, counts.desired),
            });
        }
    }
    waits.extend(facts.leaving.iter().map(|id| format!("{id} is being deleted first")));
    if waits.is_empty() && plan.steps.iter().any(|step| matches!(step, Step::Apply { .. })) {
        waits.push("objects are being applied".into());
    }
    waits.extend(few(&facts.trouble));
    (!waits.is_empty()).then(|| waits.join("; "))
}

fn few(messages: &[String]) -> Vec<String> {
    let mut shown: Vec<String> = messages.iter().take(EXAMPLES).cloned().collect();
    if messages.len() > EXAMPLES {
        shown.push(format!("and {} more", messages.len() - EXAMPLES));
    }
    shown
}

/// What does not work although the pods run, as metasrv sees it.
fn unwell(facts: &Facts<'_>) -> Option<(&'static str, String)> {
    let view = facts.view()?;
    if !view.leader {
        return Some(("NoMetasrvLeader", "no metasrv leads; tables cannot be changed and nodes are not watched".into()));
    }
    if let Some(message) = complaint(view, ETCD) {
        return Some(("EtcdUnreachable", message));
    }
    if let Some(message) = complaint(view, OBJECT_STORE) {
        return Some(("ObjectStoreUnreachable", message));
    }
    leaderless(view).map(|message| ("RegionsWithoutLeader", message))
}

/// What is said about a dependency that is away; several may say it.
fn complaint(view: &ClusterView, name: &str) -> Option<String> {
    let mut messages: Vec<_> =
        view.dependencies.iter().filter(|d| d.name == name && !d.ok).map(|d| d.message.clone()).collect();
    messages.dedup();
    (!messages.is_empty()).then(|| few(&messages).join("; "))
}

fn leaderless(view: &ClusterView) -> Option<String> {
    let down: Vec<String> = view
        .regions
        .iter()
        .filter(|region| matches!(region.state.as_str(), "no_leader" | "disk_lost"))
        .map(|region| match region.region.as_str() {
            Some(id) => format!("{id} ({})", region.state),
            None => format!("{} ({})", region.region, region.state),
        })
        .collect();
    let total = view.regions.len();
    (!down.is_empty()).then(|| format!("{} of {total} regions have no leader: {}", down.len(), few(&down).join(", ")))
}

/// Whether requests can be served. While metasrv cannot be asked, ready pods are all there is to go by.
fn available(facts: &Facts<'_>) -> Finding {
    let no = |reason, message: String| Finding::new(condition::AVAILABLE, Truth::False, reason, message);
    let without: Vec<_> = Role::ALL.iter().filter(|role| ready_count(facts, **role) == 0).map(|r| r.as_str()).collect();
    // Running frontends and datanodes go on without metasrv.
    if without.iter().any(|role| *role != Role::Metasrv.as_str()) {
        return no("NoPodReady", format!("no pod is ready: {}", without.join(", ")));
    }
    if let Some(message) = facts.view().and_then(leaderless) {
        return no("RegionsWithoutLeader", message);
    }
    Finding::new(condition::AVAILABLE, Truth::True, "Serving", "requests can be served")
}

fn progressing(facts: &Facts<'_>, plan: &Plan) -> Finding {
    let no = |reason, message: &str| Finding::new(condition::PROGRESSING, Truth::False, reason, message);
    if !facts.refusals.is_empty() {
        return no("InvalidSpec", "the spec is refused; see Stalled");
    }
    if !facts.missing_secrets.is_empty() || !facts.unread_secrets.is_empty() {
        return no("WaitingForSecret", "a secret is missing; see SecretsFound");
    }
    match waiting(facts, plan) {
        Some(message) => Finding::new(condition::PROGRESSING, Truth::True, "WaitingForPods", message),
        None => no("Complete", "every pod runs what the spec says"),
    }
}

/// Something that worked, or must work, does not; pods that merely start are progress.
fn degraded(facts: &Facts<'_>) -> Finding {
    let yes = |reason, message: String| Finding::new(condition::DEGRADED, Truth::True, reason, message);
    if !facts.trouble.is_empty() {
        return yes("PodsFailing", few(&facts.trouble).join("; "));
    }
    if !facts.missing_secrets.is_empty() {
        return yes("SecretMissing", facts.missing_secrets.join("; "));
    }
    if let Some((reason, message)) = unwell(facts) {
        return yes(reason, message);
    }
    Finding::new(condition::DEGRADED, Truth::False, "AsExpected", "nothing is known to be wrong")
}

/// kstatus, and so Argo CD and Flux, read this one as failed.
fn stalled(facts: &Facts<'_>) -> Finding {
    if !facts.refusals.is_empty() {
        let message = format!("{}; nothing is changed until the spec is mended", facts.refusals.join("; "));
        return Finding::new(condition::STALLED, Truth::True, "InvalidSpec", message);
    }
    if !facts.taken.is_empty() {
        return Finding::new(condition::STALLED, Truth::True, "NameTaken", taken_message(facts));
    }
    Finding::new(condition::STALLED, Truth::False, "SpecAccepted", "the spec can work")
}

fn secrets(facts: &Facts<'_>) -> Finding {
    let type_ = condition::SECRETS_FOUND;
    if !facts.missing_secrets.is_empty() {
        return Finding::new(type_, Truth::False, "SecretMissing", facts.missing_secrets.join("; "));
    }
    if !facts.unread_secrets.is_empty() {
        return Finding::new(type_, Truth::Unknown, "SecretUnreadable", facts.unread_secrets.join("; "));
    }
    Finding::new(type_, Truth::True, "SecretsFound", "every secret that the spec names exists and has its keys")
}

fn dependency(facts: &Facts<'_>, type_: &'static str, name: &'static str) -> Finding {
    let view = match facts.metasrv {
        Remote::Known(view) => view,
        Remote::Unknown(why) => return Finding::new(type_, Truth::Unknown, "MetasrvSilent", why.clone()),
        Remote::Absent | Remote::NotAsked => {
            return Finding::new(type_, Truth::Unknown, "MetasrvNotRunning", "no metasrv runs that could be asked");
        }
    };
    if let Some(message) = complaint(view, name) {
        return Finding::new(type_, Truth::False, "Unreachable", message);
    }
    if view.dependencies.iter().any(|d| d.name == name) {
        return Finding::new(type_, Truth::True, "Reachable", "metasrv reaches it");
    }
    Finding::new(type_, Truth::Unknown, "NotTried", "metasrv has not tried it yet")
}

/// A region has one voter until the datanodes replicate their logs.
fn not_replicated(facts: &Facts<'_>) -> Finding {
    let type_ = condition::NOT_REPLICATED;
    let single = "rows that are not yet in files lie on the disk of one datanode only: while that datanode is away \
                  they cannot be read, and if its volume is lost so are they";
    match facts.view() {
        Some(view) if !view.regions.is_empty() => {
            let alone = view.regions.iter().filter(|region| region.voters.len() < 2).count();
            if alone == 0 {
                return Finding::new(type_, Truth::False, "SeveralVoters", "every region's log has several voters");
            }
            Finding::new(type_, Truth::True, "OneVoter", format!("logs have one voter: {single}"))
        }
        _ => Finding::new(type_, Truth::True, "OneVoter", format!("logs have one voter: {single}")),
    }
}

fn scale_in(facts: &Facts<'_>) -> Finding {
    let type_ = condition::SCALE_IN_BLOCKED;
    match facts.scale_in {
        Some((asked, kept)) => Finding::new(
            type_,
            Truth::True,
            "DrainNotSupported",
            format!(
                "datanode.replicas is {asked}, but there are {kept} datanodes and regions may live on each; they are kept, \
                 because draining a datanode is not supported yet. Set datanode.replicas to {kept}; the rest of the spec is applied"
            ),
        ),
        None => Finding::new(type_, Truth::False, "NoScaleIn", "no datanode is asked to go"),
    }
}

fn volume_change(facts: &Facts<'_>) -> Finding {
    let type_ = condition::VOLUME_CHANGE_BLOCKED;
    match &facts.volume_blocked {
        Some(message) => {
            let message = format!("{message}. The volumes stay as they are; the rest of the spec is applied");
            Finding::new(type_, Truth::True, "VolumesAreFixed", message)
        }
        None => Finding::new(type_, Truth::False, "NoVolumeChange", "volumes are as the spec says"),
    }
}
