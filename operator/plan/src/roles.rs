//! How far each role's StatefulSet is.

use std::collections::BTreeMap;

use greptime_operator_api::RoleStatus;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::Value;

use crate::names::{ANNOTATION_CONFIG_HASH, Names, Role};
use crate::observed::{ChildId, ChildKind};

/// A live StatefulSet, as far as a plan needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveSet {
    pub set: StatefulSet,
}

impl LiveSet {
    /// `None` if there is none; one that cannot be read counts as none, and applying it mends it.
    pub fn find(children: &BTreeMap<ChildId, Value>, names: &Names, role: Role) -> Option<Self> {
        let value = children.get(&ChildId::new(ChildKind::StatefulSet, names.role(role)))?;
        serde_json::from_value(value.clone()).ok().map(|set| Self { set })
    }

    pub fn spec_replicas(&self) -> Option<i32> {
        self.set.spec.as_ref().and_then(|s| s.replicas)
    }

    pub fn config_hash(&self) -> Option<String> {
        let template = &self.set.spec.as_ref()?.template;
        template.metadata.as_ref()?.annotations.as_ref()?.get(ANNOTATION_CONFIG_HASH).cloned()
    }

    /// Whether the controller of StatefulSets has seen the current spec; until then its counts are old.
    fn is_observed(&self) -> bool {
        let observed = self.set.status.as_ref().and_then(|s| s.observed_generation);
        observed.is_some() && observed >= self.set.metadata.generation
    }
}

/// Where a role stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub counts: RoleStatus,
    /// Every pod exists, runs the current template, and is ready.
    pub complete: bool,
}

/// `changing` is whether the plan is about to change the StatefulSet.
pub fn progress(live: Option<&LiveSet>, desired: i32, changing: bool) -> Progress {
    let Some(live) = live else {
        return Progress { counts: RoleStatus { desired, ..Default::default() }, complete: false };
    };
    let status = live.set.status.clone().unwrap_or_default();
    let is_current = live.is_observed() && !changing;
    let counts = RoleStatus {
        desired,
        replicas: status.replicas,
        ready: status.ready_replicas.unwrap_or(0),
        updated: if is_current { status.updated_replicas.unwrap_or(0) } else { 0 },
    };
    let complete = is_current && [counts.replicas, counts.ready, counts.updated] == [desired; 3];
    Progress { counts, complete }
}
