//! Events: what changed between two statuses, for people who watch.

use greptime_operator_api::{Condition, GreptimeClusterStatus};

use crate::conditions::types::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

/// One event to be written about the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    pub type_: EventType,
    /// Of the condition that changed.
    pub reason: String,
    /// At most 1024 characters, as the API wants.
    pub note: String,
    /// What the operator was doing.
    pub action: &'static str,
}

const MAX_NOTE: usize = 1000;

/// The status of a condition that is worth a warning; `None` where neither is.
fn bad(type_: &str) -> Option<&'static str> {
    match type_ {
        READY | AVAILABLE | SPEC_VALID | SECRETS_FOUND | DEPENDENCIES_REACHABLE => Some("False"),
        DEGRADED | NOT_REPLICATED | SCALE_IN_BLOCKED | STORAGE_CHANGE_BLOCKED => Some("True"),
        _ => None,
    }
}

fn action(type_: &str) -> &'static str {
    match type_ {
        SPEC_VALID => "Validate",
        SECRETS_FOUND => "LookUpSecrets",
        SCALE_IN_BLOCKED => "ScaleDatanodes",
        STORAGE_CHANGE_BLOCKED => "ChangeStorage",
        PROGRESSING => "RollOut",
        _ => "Observe",
    }
}

/// Events for every condition whose status changed in a way that says something.
pub fn between(old: Option<&GreptimeClusterStatus>, new: &GreptimeClusterStatus) -> Vec<PlannedEvent> {
    let before = |type_: &str| old.and_then(|old| old.conditions.iter().find(|c| c.type_ == type_));
    new.conditions
        .iter()
        .filter_map(|condition| event(before(&condition.type_), condition))
        .collect()
}

/// A warning when something turns bad, a note when it is mended. A cluster that is new is not ready and not
/// available, as everybody expects: no warning.
fn event(old: Option<&Condition>, new: &Condition) -> Option<PlannedEvent> {
    if old.is_some_and(|old| old.status == new.status) {
        return None;
    }
    let was = |status: &str| old.is_some_and(|old| old.status == status);
    let served = matches!(new.type_.as_str(), READY | AVAILABLE);
    let type_ = match bad(&new.type_) {
        Some(bad) if new.status == bad => (!served || was("True")).then_some(EventType::Warning),
        Some(_) if new.status == "Unknown" => was("True").then_some(EventType::Warning).filter(|_| served),
        Some(bad) => (was(bad) || served).then_some(EventType::Normal),
        None => (new.status == "True" || old.is_some()).then_some(EventType::Normal),
    }?;
    let mended = type_ == EventType::Normal && !served && bad(&new.type_).is_some();
    let reason = if mended {
        mended_reason(&new.type_)
    } else {
        &new.reason
    };
    Some(PlannedEvent {
        type_,
        reason: reason.to_owned(),
        note: format!("{}: {}", new.type_, new.message)
            .chars()
            .take(MAX_NOTE)
            .collect(),
        action: action(&new.type_),
    })
}

/// Events are read without the condition's name, where `AsExpected` or `NotAsked` would say little.
fn mended_reason(type_: &str) -> &'static str {
    match type_ {
        SPEC_VALID => "SpecValid",
        SECRETS_FOUND => "SecretsFound",
        DEPENDENCIES_REACHABLE => "DependenciesReachable",
        DEGRADED => "Recovered",
        NOT_REPLICATED => "Replicated",
        SCALE_IN_BLOCKED => "ScaleInUnblocked",
        _ => "StorageChangeUnblocked",
    }
}
