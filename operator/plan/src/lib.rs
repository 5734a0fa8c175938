//! Pure planning: observed state in, objects and conditions out.
//!
//! Architecture invariant: nothing here reads a clock, draws a random number or does I/O, and the crate
//! depends on no client and no runtime (a test asks cargo). Equal inputs give equal bytes, so that applying
//! a plan twice writes nothing the second time, and a restarted operator restarts no pod.
//!
//! [`plan`] answers "what is to be written" and "what is to be told" from one look at the world, so the two
//! cannot disagree. What it may refuse is refused here and nowhere else: an invalid spec ([`validate`]), a
//! missing secret ([`secrets`]), fewer datanodes than there are and a change of their volumes ([`choices`]).

mod children;
mod choices;
mod conditions;
mod destroy;
mod events;
mod hash;
mod metasrv_report;
mod names;
mod quantity;
mod rollout;
mod secrets;
mod settings;
mod status;
mod troubles;
mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

use greptime_operator_api::{GreptimeCluster, GreptimeClusterStatus};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;

pub use children::{Child, ChildRef};
pub use conditions::types as condition_types;
pub use destroy::destroy_job;
pub use events::{EventType, PlannedEvent};
pub use metasrv_report::{DependencyReport, MetasrvReport, NodeReport, RegionReport};
pub use names::{Role, labels, metasrv_url, selector};
pub use secrets::{SecretFact, referenced_secrets};
pub use status::apply_failed;

/// Something asked of the world. Not knowing is not the same as not being there: what is absent may be
/// created, what is unknown is left alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<T> {
    Absent,
    /// Why it is not known.
    Unknown(String),
    Known(T),
}

/// Everything that a plan is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    pub cluster: GreptimeCluster,
    /// Image of the database where the spec names none.
    pub default_image: String,
    /// Live StatefulSets by name. If they could not be read, do not plan: absence here means "not there".
    pub stateful_sets: BTreeMap<String, StatefulSet>,
    /// Pods of this cluster, for what they complain about.
    pub pods: Vec<Pod>,
    /// Exactly the secrets that [`referenced_secrets`] names.
    pub secrets: BTreeMap<String, Fact<SecretFact>>,
    /// What metasrv answered to `GET /v1/cluster`.
    pub metasrv: Fact<MetasrvReport>,
    /// RFC 3339; becomes `lastTransitionTime` of the conditions that change, and tells how long pods wait.
    pub now: String,
}

impl Observed {
    fn live(&self, role: Role) -> Option<&StatefulSet> {
        self.stateful_sets.get(&role.child_name(&self.cluster))
    }
}

/// What is to be written, in this order. Applying it again when nothing has changed changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub apply: Vec<Child>,
    /// Children that should not be there any more. None so far: every child of this version always exists.
    pub delete: Vec<ChildRef>,
}

/// What is to be told, and what the plan waits for.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub status: GreptimeClusterStatus,
    /// What changed against the status that was there before.
    pub events: Vec<PlannedEvent>,
    /// When to look again although nothing was seen to change; `None` waits for a change of the object.
    pub requeue: Option<Duration>,
}

/// Decides, from one look at the world, what to write and what to tell.
pub fn plan(observed: &Observed) -> (Plan, Report) {
    let invalid = validate::problems(&observed.cluster, &observed.default_image);
    let secrets = secrets::Examined::of(&observed.cluster.spec, &observed.secrets);
    let choices = choices::Choices::of(observed);
    let plan = match invalid.is_empty() {
        true => children::render(observed, &secrets, &choices),
        false => Plan::default(),
    };
    let rollouts = Role::ALL.map(|role| rollout::Rollout::of(observed, role, &plan));
    let situation = conditions::Situation {
        observed,
        invalid,
        secrets,
        choices,
        rollouts,
    };
    let report = status::report(&situation);
    (plan, report)
}
