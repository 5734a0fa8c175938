//! How far the pods of a role are on their way to what is wanted.

use greptime_operator_api::RoleStatus;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use crate::children::{Child, SPEC_HASH};
use crate::names::Role;
use crate::{Observed, Plan};

/// In the order in which a role passes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// There is no StatefulSet, or it is not the one that is wanted, or Kubernetes has not looked at it yet.
    Unapplied,
    /// Pods are missing, too many, or of an older template.
    Rolling,
    /// All pods are of the wanted template; some are not ready.
    Unready,
    Settled,
}

#[derive(Clone, Debug)]
pub struct Rollout {
    pub role: Role,
    pub stage: Stage,
    pub wanted: i32,
    pub status: RoleStatus,
}

impl Rollout {
    /// Of one role, against the StatefulSet in the plan. A role that is not in the plan, because its secrets
    /// or the spec are not good, is compared with what it runs already.
    pub fn of(observed: &Observed, role: Role, plan: &Plan) -> Self {
        let live = observed.live(role);
        let name = role.child_name(&observed.cluster);
        let planned = plan.apply.iter().find_map(|child| match child {
            Child::StatefulSet(planned) if child.name() == name => Some(planned),
            _ => None,
        });
        let replicas = |set: &StatefulSet| set.spec.replicas;
        let wanted = planned
            .or(live)
            .and_then(replicas)
            .unwrap_or_else(|| role.spec(&observed.cluster).replicas);
        let stage = live.map_or(Stage::Unapplied, |live| stage(live, planned, wanted));
        Self {
            role,
            stage,
            wanted,
            status: role_status(observed, role, wanted),
        }
    }

    /// "datanode: 2 of 3 pods ready", for conditions.
    pub fn describe(&self) -> String {
        let Self {
            role, wanted, status, ..
        } = self;
        let role = role.as_str();
        match self.stage {
            Stage::Unapplied => format!("{role}: waiting for Kubernetes to take up the change"),
            Stage::Rolling => format!("{role}: {} of {wanted} pods updated", status.updated_replicas),
            Stage::Unready => format!("{role}: {} of {wanted} pods ready", status.ready_replicas),
            Stage::Settled => format!("{role}: all {wanted} pods ready"),
        }
    }
}

fn stage(live: &StatefulSet, planned: Option<&StatefulSet>, wanted: i32) -> Stage {
    let hash = |set: &StatefulSet| {
        set.metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(SPEC_HASH).cloned())
    };
    let taken_up = planned.is_none_or(|planned| hash(planned) == hash(live));
    let status = live.status.clone().unwrap_or_default();
    let looked_at = status.observed_generation >= live.metadata.generation;
    let current = status.current_revision == status.update_revision;
    let StatefulSetStatus {
        replicas,
        updated_replicas,
        ready_replicas,
        ..
    } = status;
    if !taken_up || !looked_at {
        return Stage::Unapplied;
    }
    // Kubernetes calls the new revision current only after all pods are ready once; without pods at all there
    // is nothing to wait for.
    let updated = updated_replicas.unwrap_or(0) == wanted || current && replicas == wanted;
    match (
        replicas == wanted && updated,
        ready_replicas.unwrap_or(0) == wanted,
    ) {
        (false, _) => Stage::Rolling,
        (true, false) => Stage::Unready,
        (true, true) if current || wanted == 0 => Stage::Settled,
        (true, true) => Stage::Rolling,
    }
}

fn role_status(observed: &Observed, role: Role, wanted: i32) -> RoleStatus {
    let live = observed.live(role);
    let status = live.and_then(|live| live.status.clone()).unwrap_or_default();
    let ready_replicas = status.ready_replicas.unwrap_or(0);
    // A datanode StatefulSet that vanished comes back as large as it was, so this number must not be lost
    // between two looks: planning reads it from here.
    let before = observed
        .cluster
        .status
        .as_ref()
        .map_or(0, |status| status.datanode.replicas);
    let replicas = if live.is_none() && role == Role::Datanode {
        before
    } else {
        status.replicas
    };
    RoleStatus {
        replicas,
        ready_replicas,
        updated_replicas: status.updated_replicas.unwrap_or(0),
        ready: format!("{ready_replicas}/{wanted}"),
    }
}
