//! What is true of a cluster, each with a reason and a message that says what to do.
//!
//! `Progressing` and `Degraded` divide the same fact by history: pods that are not ready *yet* belong to a
//! change under way, pods that are not ready *any more* are a fault. A change ends when everything was ready.

use greptime_operator_api::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::choices::{Choices, Datanodes, Volume, Volumes};
use crate::metasrv_report::MetasrvReport;
use crate::names::Role;
use crate::rollout::{Rollout, Stage};
use crate::secrets::{Examined, SecretProblem};
use crate::troubles::{self, Trouble};
use crate::{Fact, Observed};

/// Types of conditions, in the order in which they are told.
pub mod types {
    pub const READY: &str = "Ready";
    pub const AVAILABLE: &str = "Available";
    pub const PROGRESSING: &str = "Progressing";
    pub const DEGRADED: &str = "Degraded";
    pub const SPEC_VALID: &str = "SpecValid";
    pub const SECRETS_FOUND: &str = "SecretsFound";
    pub const DEPENDENCIES_REACHABLE: &str = "DependenciesReachable";
    pub const NOT_REPLICATED: &str = "NotReplicated";
    pub const SCALE_IN_BLOCKED: &str = "ScaleInBlocked";
    pub const STORAGE_CHANGE_BLOCKED: &str = "StorageChangeBlocked";
}
use types::*;

/// A region has three copies of its log, each on another datanode.
const FEWEST_FOR_COPIES: i32 = 3;

/// Reason of `Progressing=False` once everything was ready.
const SETTLED: &str = "Settled";

/// Everything that conditions are concluded from.
pub struct Situation<'a> {
    pub observed: &'a Observed,
    /// Problems of the spec; nothing is applied while there are any.
    pub invalid: Vec<String>,
    pub secrets: Examined,
    pub choices: Choices,
    pub rollouts: [Rollout; 3],
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub type_: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

fn verdict(
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: impl Into<String>,
) -> Verdict {
    Verdict {
        type_,
        status,
        reason,
        message: message.into(),
    }
}

impl Situation<'_> {
    /// All conditions, always the same ones in the same order.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let troubles = troubles::of_pods(&self.observed.pods, &self.observed.now);
        vec![
            self.ready(&troubles),
            self.available(),
            self.progressing(),
            self.degraded(&troubles),
            self.spec_valid(),
            self.secrets_found(),
            self.dependencies_reachable(),
            self.not_replicated(),
            self.scale_in_blocked(),
            self.storage_change_blocked(),
        ]
    }

    pub fn report(&self) -> Option<&MetasrvReport> {
        match &self.observed.metasrv {
            Fact::Known(report) => Some(report),
            Fact::Absent | Fact::Unknown(_) => None,
        }
    }

    /// Why metasrv's view is missing.
    fn silence(&self) -> Option<String> {
        match &self.observed.metasrv {
            Fact::Known(_) => None,
            Fact::Absent => Some("metasrv has not started to answer".to_owned()),
            Fact::Unknown(why) => Some(format!("metasrv does not answer: {why}")),
        }
    }

    fn ready(&self, troubles: &[Trouble]) -> Verdict {
        match self.obstacle(troubles) {
            Some((status, reason, message)) => verdict(READY, status, reason, message),
            None => verdict(READY, "True", "AllReady", "all pods are ready and metasrv leads"),
        }
    }

    /// The first thing that keeps the cluster from being ready, causes before consequences.
    fn obstacle(&self, troubles: &[Trouble]) -> Option<(&'static str, &'static str, String)> {
        if !self.invalid.is_empty() {
            return Some(("False", "InvalidSpec", self.invalid.join("; ")));
        }
        if let Some(first) = self.secrets.problems.first() {
            let known = |problem: &SecretProblem| !matches!(problem, SecretProblem::Unreadable { .. });
            let status = if self.secrets.problems.iter().any(known) {
                "False"
            } else {
                "Unknown"
            };
            return Some((status, first.reason(), self.secret_problems()));
        }
        if let Some(message) = self.failing_dependencies() {
            return Some(("False", "DependencyUnreachable", message));
        }
        if !troubles.is_empty() {
            return Some(("False", "PodsFailing", troubles::describe(troubles)));
        }
        if let Some(message) = self.unsettled(Stage::Settled) {
            let rolling = self.rollouts.iter().any(|rollout| rollout.stage < Stage::Unready);
            return Some((
                "False",
                if rolling { "RollingOut" } else { "PodsNotReady" },
                message,
            ));
        }
        let Some(report) = self.report() else {
            return Some((
                "Unknown",
                "MetasrvUnreachable",
                self.silence().unwrap_or_default(),
            ));
        };
        if !report.has_leader() {
            return Some(("False", "NoLeader", "no metasrv leads".to_owned()));
        }
        unserved(report).map(|message| ("False", "RegionsUnavailable", message))
    }

    /// Whether clients are served at all.
    fn available(&self) -> Verdict {
        for (role, reason) in [(Role::Frontend, "NoFrontend"), (Role::Datanode, "NoDatanode")] {
            if self
                .rollouts
                .iter()
                .any(|rollout| rollout.role == role && rollout.status.ready_replicas == 0)
            {
                return verdict(
                    AVAILABLE,
                    "False",
                    reason,
                    format!("no {} is ready", role.as_str()),
                );
            }
        }
        let Some(report) = self.report() else {
            return verdict(
                AVAILABLE,
                "Unknown",
                "MetasrvUnreachable",
                self.silence().unwrap_or_default(),
            );
        };
        if !report.has_leader() {
            return verdict(AVAILABLE, "False", "NoLeader", "no metasrv leads");
        }
        match unserved(report) {
            Some(message) => verdict(AVAILABLE, "False", "RegionsUnavailable", message),
            None => verdict(
                AVAILABLE,
                "True",
                "Serving",
                "frontends and every region are served",
            ),
        }
    }

    fn progressing(&self) -> Verdict {
        if !self.invalid.is_empty() {
            return verdict(
                PROGRESSING,
                "False",
                "InvalidSpec",
                "waits for a spec that can work",
            );
        }
        if !self.secrets.problems.is_empty() {
            return verdict(PROGRESSING, "False", "SecretsMissing", "waits for secrets");
        }
        if let Some(message) = self.unsettled(Stage::Unready) {
            return verdict(PROGRESSING, "True", "RollingOut", message);
        }
        match self.unsettled(Stage::Settled) {
            Some(message) if !self.settled_before() => verdict(PROGRESSING, "True", "Starting", message),
            _ => verdict(
                PROGRESSING,
                "False",
                SETTLED,
                "all pods are of the wanted template",
            ),
        }
    }

    fn degraded(&self, troubles: &[Trouble]) -> Verdict {
        if !troubles.is_empty() {
            return verdict(DEGRADED, "True", "PodsFailing", troubles::describe(troubles));
        }
        if let Some(message) = self.failing_dependencies() {
            return verdict(DEGRADED, "True", "DependencyUnreachable", message);
        }
        let changing = self.unsettled(Stage::Unready).is_some() || !self.settled_before();
        if !changing && let Some(message) = self.unsettled(Stage::Settled) {
            return verdict(DEGRADED, "True", "PodsNotReady", message);
        }
        // While pods roll or start, regions are without a leader for a moment; a lost disk does not pass.
        let lost =
            |report: &&MetasrvReport| !changing || report.regions.iter().any(|r| r.state == "disk_lost");
        match self.report().filter(lost).and_then(unserved) {
            Some(message) => verdict(DEGRADED, "True", "RegionsUnavailable", message),
            None => verdict(
                DEGRADED,
                "False",
                "AsExpected",
                "nothing that was ready has failed",
            ),
        }
    }

    fn spec_valid(&self) -> Verdict {
        if self.invalid.is_empty() {
            return verdict(SPEC_VALID, "True", "Valid", "the spec can work");
        }
        let message = format!(
            "nothing is applied until this is mended: {}",
            self.invalid.join("; ")
        );
        verdict(SPEC_VALID, "False", "InvalidSpec", message)
    }

    fn secrets_found(&self) -> Verdict {
        let problems = &self.secrets.problems;
        // What is missing for sure says more than what could not be looked at.
        let missing = problems
            .iter()
            .find(|problem| !matches!(problem, SecretProblem::Unreadable { .. }));
        match (missing, problems.first()) {
            (Some(missing), _) => verdict(SECRETS_FOUND, "False", missing.reason(), self.secret_problems()),
            (None, Some(unreadable)) => verdict(
                SECRETS_FOUND,
                "Unknown",
                unreadable.reason(),
                self.secret_problems(),
            ),
            (None, None) => verdict(
                SECRETS_FOUND,
                "True",
                "Found",
                "every secret that the spec names is there",
            ),
        }
    }

    fn secret_problems(&self) -> String {
        let problems: Vec<_> = self.secrets.problems.iter().map(ToString::to_string).collect();
        format!("{}; what needs them stays as it is", problems.join("; "))
    }

    fn dependencies_reachable(&self) -> Verdict {
        let type_ = DEPENDENCIES_REACHABLE;
        let Some(report) = self.report() else {
            return verdict(
                type_,
                "Unknown",
                "MetasrvUnreachable",
                self.silence().unwrap_or_default(),
            );
        };
        match self.failing_dependencies() {
            Some(message) => verdict(type_, "False", "DependencyUnreachable", message),
            None if report.dependencies.is_empty() => verdict(
                type_,
                "Unknown",
                "NotTried",
                "metasrv has not tried to reach etcd and the bucket yet",
            ),
            None => verdict(type_, "True", "Reachable", "etcd and the bucket answer"),
        }
    }

    fn failing_dependencies(&self) -> Option<String> {
        let failing = self.report()?.failing();
        let described: Vec<_> = failing
            .iter()
            .map(|d| format!("{}: {}", d.name, d.message))
            .collect();
        Some(described.join("; ")).filter(|message| !message.is_empty())
    }

    /// True while a lost disk loses rows that are not in the bucket yet.
    fn not_replicated(&self) -> Verdict {
        let datanodes = self.choices.datanodes.replicas();
        if datanodes < FEWEST_FOR_COPIES {
            let few = format!(
                "with {datanodes} of at least {FEWEST_FOR_COPIES} datanodes each region has one copy of its log: rows that \
                 are not in the bucket yet die with its disk, and nobody takes over from a datanode that is lost; set \
                 spec.datanode.replicas to {FEWEST_FOR_COPIES} or more"
            );
            return verdict(NOT_REPLICATED, "True", "TooFewDatanodes", few);
        }
        let Some(report) = self.report() else {
            // What was told stays told; before the first answer nothing is known.
            return match self.old(NOT_REPLICATED) {
                Some(old) if old.status == "True" => {
                    verdict(NOT_REPLICATED, "True", "SingleVoter", &*old.message)
                }
                Some(old) if old.status == "False" => {
                    verdict(NOT_REPLICATED, "False", "Replicated", &*old.message)
                }
                _ => verdict(
                    NOT_REPLICATED,
                    "Unknown",
                    "MetasrvUnreachable",
                    self.silence().unwrap_or_default(),
                ),
            };
        };
        let all = report.regions.len();
        let single = report
            .regions
            .iter()
            .filter(|region| region.voters.len() < 2)
            .count();
        let (status, reason, message) = match (all, single) {
            (0, _) => (
                "False",
                "Replicated",
                "there is no region yet; each gets three copies of its log".into(),
            ),
            (_, 0) => (
                "False",
                "Replicated",
                "every region's log has several voters".into(),
            ),
            _ => (
                "True",
                "SingleVoter",
                format!(
                    "the log of {single} of {all} regions has one voter; rows that are not in the bucket yet die with its \
                     disk"
                ),
            ),
        };
        verdict(NOT_REPLICATED, status, reason, message)
    }

    fn scale_in_blocked(&self) -> Verdict {
        match self.choices.datanodes {
            Datanodes::AsAsked(_) => verdict(
                SCALE_IN_BLOCKED,
                "False",
                "NotAsked",
                "no datanode is to be taken away",
            ),
            Datanodes::ScaleInBlocked { asked, kept } => verdict(
                SCALE_IN_BLOCKED,
                "True",
                "DrainNotSupported",
                format!(
                    "{asked} datanodes are asked for, {kept} are kept: each may hold the only copy of rows, and \
                     this version cannot move them away first; set spec.datanode.replicas to {kept}"
                ),
            ),
        }
    }

    fn storage_change_blocked(&self) -> Verdict {
        let type_ = STORAGE_CHANGE_BLOCKED;
        match &self.choices.volumes {
            Volumes::AsAsked(_) => verdict(type_, "False", "NotAsked", "volumes are as the spec says"),
            Volumes::ChangeBlocked { asked, kept } => verdict(
                type_,
                "True",
                "ResizeNotSupported",
                format!(
                    "spec.datanode.storage asks for {}, volumes have {}: this version cannot change volumes that \
                     exist; set it back, or make a new cluster",
                    describe_volume(asked),
                    describe_volume(kept)
                ),
            ),
        }
    }

    /// What the roles below a stage wait for.
    fn unsettled(&self, stage: Stage) -> Option<String> {
        let waiting: Vec<_> = self
            .rollouts
            .iter()
            .filter(|r| r.stage < stage)
            .map(Rollout::describe)
            .collect();
        Some(waiting.join("; ")).filter(|message| !message.is_empty())
    }

    /// Whether everything was ready since the last change.
    fn settled_before(&self) -> bool {
        let old = self.old(PROGRESSING);
        old.is_some_and(|old| old.status == "False" && old.reason == SETTLED)
    }

    fn old(&self, type_: &str) -> Option<&Condition> {
        let status = self.observed.cluster.status.as_ref()?;
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }
}

fn describe_volume(volume: &Volume) -> String {
    match &volume.storage_class_name {
        Some(class) => format!("{} of class {class}", volume.size),
        None => volume.size.clone(),
    }
}

fn unserved(report: &MetasrvReport) -> Option<String> {
    let unserved: Vec<_> = report.unserved().collect();
    // What a person has to do something about comes before what passes.
    let lost = unserved.iter().find(|region| region.state == "majority_lost");
    let first = lost.or(unserved.first())?;
    let table = first
        .table
        .as_deref()
        .map(|table| format!(" of table {table}"))
        .unwrap_or_default();
    let count = unserved.len();
    let why = match &first.waiting {
        Some(waiting) if first.state == "majority_lost" => format!(", {waiting}"),
        _ => String::new(),
    };
    Some(format!(
        "{count} of {} regions are not served; the first is {}{table}: {}{why}",
        report.regions.len(),
        first.region,
        first.state
    ))
}

/// Gives a verdict its times: `lastTransitionTime` moves only when the status does.
pub fn settle(verdict: Verdict, old: &[Condition], generation: Option<i64>, now: &str) -> Condition {
    let before = old.iter().find(|condition| condition.type_ == verdict.type_);
    let since = before
        .filter(|before| before.status == verdict.status)
        .map(|b| b.last_transition_time.clone());
    Condition {
        type_: verdict.type_.to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| time(now)),
    }
}

fn time(text: &str) -> Time {
    let parsed = serde_json::from_value(serde_json::Value::String(text.to_owned()));
    parsed.unwrap_or(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
}
