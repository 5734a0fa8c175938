//! What to do: the objects that differ from what the spec means, in the order in which they are applied.

use std::collections::BTreeMap;

use greptime_operator_api::FINALIZER;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use xxhash_rust::xxh64::Xxh64;

use crate::build::{self, Child};
use crate::drift::{Drift, drift};
use crate::names::{LABEL_INSTANCE, LABEL_MANAGED_BY, Names, Role};
use crate::observed::{ChildId, ChildKind, Observed, Policy, Remote, SecretFacts};
use crate::report::{Facts, Report};
use crate::resolved::{self, Resolved, SecretUse};
use crate::roles::{LiveSet, progress};
use crate::{deletion, quantity, settings};

/// Steps in their order. Empty if and only if nothing has to change.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn applies(&self, id: &ChildId) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Apply { id: applied, .. } if applied == id))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Before anything exists that it must hold.
    AddFinalizer,
    /// Server-side apply.
    Apply { id: ChildId, body: Value, cause: Cause },
    /// The object with this uid and no other.
    Delete { id: ChildId, uid: String },
    /// Volume claims of datanodes, by name.
    DeleteClaims { names: Vec<String> },
    /// The last step: after it the cluster is gone.
    RemoveFinalizer,
}

/// Why an object is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    Missing,
    Drifted(Drift),
}

/// Plans one cluster. `now` is written into conditions that change, and into nothing else.
pub fn plan(observed: &Observed, policy: &Policy, now: Timestamp) -> (Plan, Report) {
    let cluster = &observed.cluster;
    if cluster.metadata.deletion_timestamp.is_some() {
        return deletion::plan(observed, policy, now);
    }
    let names = resolved::names(cluster);
    let mut facts = Facts::new(observed, &names);
    let mut steps = Vec::new();
    let has_finalizer = cluster.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    match (resolved::needs_finalizer(cluster), has_finalizer) {
        (true, false) => steps.push(Step::AddFinalizer),
        (false, true) => steps.push(Step::RemoveFinalizer),
        _ => {}
    }
    let secrets = SecretStates::new(observed);
    facts.missing_secrets = secrets.missing.clone();
    facts.unread_secrets = secrets.unread.clone();
    match Resolved::new(cluster, policy) {
        Ok(resolved) => {
            facts.image = Some(resolved.image.clone());
            let wanted = wanted(observed, &resolved, &secrets, &mut facts);
            steps.extend(changes(observed, wanted, &mut facts));
        }
        Err(refusals) => facts.refusals = refusals,
    }
    let plan = Plan { steps };
    for role in Role::ALL {
        let live = LiveSet::find(&observed.children, &names, role);
        let desired = facts.desired(role, live.as_ref());
        let changing = plan.applies(&ChildId::new(ChildKind::StatefulSet, names.role(role)));
        facts.progress.insert(role, progress(live.as_ref(), desired, changing));
    }
    let report = Report::new(facts, &plan, now);
    (plan, report)
}

/// Every object as it should be. Where a secret is missing, what needs it is left as it is.
fn wanted(observed: &Observed, resolved: &Resolved<'_>, secrets: &SecretStates, facts: &mut Facts<'_>) -> Vec<Child> {
    let mut wanted = Vec::new();
    for role in Role::ALL {
        let live = LiveSet::find(&observed.children, &resolved.names, role);
        let replicas = facts.decide_replicas(role, resolved.replicas(role), live.as_ref());
        wanted.extend(build::objects(resolved, role));
        if !secrets.ready_for(role) {
            continue;
        }
        let config = settings::render(resolved, role, secrets.etcd_client_certificate());
        let claim_templates = live.as_ref().and_then(|live| live_claims(live, resolved, facts));
        let decided = build::Decided { replicas, config_hash: secrets.hash(role, &config), claim_templates };
        wanted.push(build::config_map(resolved, role, &config));
        wanted.push(build::stateful_set(resolved, role, decided));
    }
    wanted.sort_by(|a, b| a.id.kind.cmp(&b.id.kind).then(a.role.cmp(&b.role)));
    wanted
}

/// Which of the wanted objects differ from the live ones.
pub(crate) fn changes(observed: &Observed, wanted: Vec<Child>, facts: &mut Facts<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for Child { id, body, .. } in wanted {
        let Some(live) = observed.children.get(&id) else {
            steps.push(Step::Apply { id, body, cause: Cause::Missing });
            continue;
        };
        match standing(live, observed) {
            Standing::Ours => {
                if let Some(drift) = drift(&body, live) {
                    steps.push(Step::Apply { id, body, cause: Cause::Drifted(drift) });
                }
            }
            // What is there goes by itself, and its going is seen.
            Standing::Leaving => facts.leaving.push(id),
            Standing::Foreign => facts.taken.push(id),
        }
    }
    steps
}

/// Whose a live object is.
enum Standing {
    Ours,
    /// It is being deleted, or belongs to an earlier cluster of this name.
    Leaving,
    /// Somebody else made it; taking it over could break what it is for.
    Foreign,
}

fn standing(live: &Value, observed: &Observed) -> Standing {
    let meta = &live["metadata"];
    if meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        return Standing::Leaving;
    }
    let uid = observed.cluster.metadata.uid.as_deref().unwrap_or_default();
    let owners = meta["ownerReferences"].as_array().cloned().unwrap_or_default();
    if owners.iter().any(|owner| owner["uid"] == uid) {
        return Standing::Ours;
    }
    let name = observed.cluster.metadata.name.as_deref().unwrap_or_default();
    let labelled = meta["labels"][LABEL_MANAGED_BY] == crate::names::FIELD_MANAGER && meta["labels"][LABEL_INSTANCE] == name;
    let controlled = owners.iter().any(|owner| owner["controller"] == true);
    match (labelled, controlled) {
        (true, false) => Standing::Ours,
        (true, true) => Standing::Leaving,
        (false, _) => Standing::Foreign,
    }
}

/// Claim templates cannot be changed, so a StatefulSet keeps those that it was made with.
fn live_claims(live: &LiveSet, resolved: &Resolved<'_>, facts: &mut Facts<'_>) -> Option<Vec<PersistentVolumeClaim>> {
    let templates = live.set.spec.as_ref()?.volume_claim_templates.clone().filter(|t| !t.is_empty())?;
    let wanted = build::claim_templates(resolved);
    let (old, new) = (claim_size(&templates), claim_size(&wanted));
    if old.as_deref().and_then(quantity::parse) != new.as_deref().and_then(quantity::parse) {
        facts.volume_blocked = Some(format!(
            "datanode.storage.size is {}, but the volumes were made with {}; growing volumes is not supported yet, and shrinking them never",
            new.unwrap_or_default(),
            old.unwrap_or_default(),
        ));
    }
    let class = |claims: &[PersistentVolumeClaim]| claims.first()?.spec.as_ref()?.storage_class_name.clone();
    let (old_class, new_class) = (class(&templates), class(&wanted));
    if new_class.is_some() && old_class != new_class {
        facts.volume_blocked = Some(format!(
            "datanode.storage.storageClassName is {}, but the volumes were made with {}; a volume cannot change its class",
            new_class.unwrap_or_default(),
            old_class.as_deref().unwrap_or("the default class"),
        ));
    }
    // Without what the API server filled in, so that the comparison sees only what was said.
    Some(templates.into_iter().map(said).collect())
}

fn claim_size(claims: &[PersistentVolumeClaim]) -> Option<String> {
    let requests = claims.first()?.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|quantity| quantity.0.clone())
}

fn said(mut claim: PersistentVolumeClaim) -> PersistentVolumeClaim {
    claim.status = None;
    claim.metadata.creation_timestamp = None;
    claim
}

/// The secrets that the spec names, by what is known of them.
struct SecretStates {
    uses: Vec<(SecretUse, Option<SecretFacts>)>,
    missing: Vec<String>,
    unread: Vec<String>,
}

impl SecretStates {
    fn new(observed: &Observed) -> Self {
        let mut states = Self { uses: Vec::new(), missing: Vec::new(), unread: Vec::new() };
        for secret in resolved::secrets(&observed.cluster) {
            let known = states.judge(&secret, observed.secrets.get(&secret.name));
            states.uses.push((secret, known));
        }
        states
    }

    fn judge(&mut self, secret: &SecretUse, remote: Option<&Remote<SecretFacts>>) -> Option<SecretFacts> {
        let SecretUse { name, field, .. } = secret;
        match remote {
            Some(Remote::Known(facts)) => {
                let missing: Vec<_> = secret.required.iter().copied().filter(|k| !facts.keys.contains(*k)).collect();
                if missing.is_empty() {
                    return Some(facts.clone());
                }
                let keys = missing.join("` and `");
                self.missing.push(format!("secret {name} (of {field}) has no key `{keys}`"));
            }
            Some(Remote::Absent) => self.missing.push(format!("secret {name} (of {field}) does not exist")),
            Some(Remote::Unknown(why)) => self.unread.push(format!("secret {name} (of {field}) cannot be read: {why}")),
            Some(Remote::NotAsked) | None => self.unread.push(format!("secret {name} (of {field}) was not read")),
        }
        None
    }

    fn ready_for(&self, role: Role) -> bool {
        self.uses.iter().filter(|(secret, _)| secret.roles.contains(&role)).all(|(_, known)| known.is_some())
    }

    fn etcd_client_certificate(&self) -> bool {
        let tls = self.uses.iter().find(|(secret, _)| secret.field == "metasrv.store.etcd.tlsSecretName");
        let facts = tls.and_then(|(_, known)| known.as_ref());
        facts.is_some_and(|facts| ["tls.crt", "tls.key"].iter().all(|key| facts.keys.contains(*key)))
    }

    /// Changes when pods must be restarted to see what they are given. The version of a secret, and not a hash of its
    /// content, because whoever may read pods could try passwords against a hash.
    fn hash(&self, role: Role, config: &str) -> String {
        let mut hasher = Xxh64::new(0);
        hasher.update(config.as_bytes());
        let versions: BTreeMap<&str, &str> = self
            .uses
            .iter()
            .filter(|(secret, _)| secret.rolls && secret.roles.contains(&role))
            .filter_map(|(secret, known)| Some((secret.name.as_str(), known.as_ref()?.resource_version.as_str())))
            .collect();
        for (name, version) in versions {
            hasher.update(format!("\0{name}\0{version}").as_bytes());
        }
        format!("{:016x}", hasher.digest())
    }
}

/// Ids of the objects to read before planning.
pub fn children_to_observe(names: &Names) -> Vec<ChildId> {
    build::ids(names)
}

#[cfg(test)]
mod tests;
