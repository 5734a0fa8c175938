//! A cluster, and a Kubernetes of a few lines that does what a plan says.

use std::collections::{BTreeMap, BTreeSet};

use greptime_operator_api::{Condition, GreptimeCluster};
use greptime_operator_plan::{
    Child, DependencyReport, Fact, MetasrvReport, Observed, Plan, RegionReport, Report, Role, SecretFact,
    plan, referenced_secrets,
};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use serde_json::{Value, json};

pub const NOW: &str = "2026-01-02T03:04:05Z";

/// What a user has to say at least.
pub fn minimal() -> Value {
    json!({
        "metasrv": {"store": {"etcd": {"endpoints": ["http://etcd:2379"]}}},
        "objectStorage": {"s3": {"bucket": "rows"}},
    })
}

/// Everything that a user can say.
pub fn full() -> Value {
    json!({
        "version": "0.2.0",
        "imagePullSecrets": [{"name": "registry"}],
        "metasrv": {
            "replicas": 2,
            "store": {"etcd": {
                "endpoints": ["https://etcd-0:2379", "https://etcd-1:2379"], "prefix": "/teams/a",
                "tlsSecretName": "etcd-tls", "authSecretName": "etcd-auth",
            }},
            "config": {"metasrv.session_timeout": "5s"},
            "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/rows"},
        },
        "datanode": {
            "replicas": 5,
            "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": "4"}},
            "storage": {"size": "100Gi", "storageClassName": "fast"},
            "retention": {"whenScaled": "Delete"},
            "config": {"log.level": "debug", "datanode.flush_size": "64MiB"},
            "scheduling": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "rows", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
                ]}}},
                "priorityClassName": "important",
            },
        },
        "frontend": {
            "replicas": 2,
            "service": {"type": "LoadBalancer", "annotations": {"lb": "internal"}, "loadBalancerClass": "example.com/lb"},
        },
        "objectStorage": {"s3": {
            "endpoint": "https://s3.example.com:9000", "region": "eu-1", "bucket": "rows", "root": "teams/a",
            "pathStyle": true, "caSecretName": "s3-ca", "credentialsSecretName": "s3-keys",
        }},
        "auth": {"secretName": "users"},
        "ports": {"http": 8080, "mysql": 3306, "postgres": 5432},
        "deletionPolicy": "Delete",
    })
}

pub fn cluster(spec: Value) -> GreptimeCluster {
    serde_json::from_value(json!({
        "apiVersion": "greptimecluster.io/v1alpha1",
        "kind": "GreptimeCluster",
        "metadata": {"name": "demo", "namespace": "shop", "uid": "6c1b", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

/// Every key that any purpose wants.
pub fn good_secret() -> Fact<SecretFact> {
    let keys = [
        "ca.crt",
        "tls.crt",
        "tls.key",
        "username",
        "password",
        "access-key-id",
        "secret-access-key",
        "service-account.json",
        "account-key",
        "users",
    ];
    let keys: BTreeSet<_> = keys.into_iter().map(str::to_owned).collect();
    Fact::Known(SecretFact {
        keys,
        resource_version: "7".to_owned(),
    })
}

/// A metasrv that leads and lacks nothing.
pub fn healthy() -> MetasrvReport {
    let dependency = |name: &str| DependencyReport {
        name: name.to_owned(),
        ok: true,
        message: String::new(),
    };
    MetasrvReport {
        cluster_id: Some("0198".to_owned()),
        leader: true,
        dependencies: vec![dependency("etcd"), dependency("object_store")],
        ..MetasrvReport::default()
    }
}

pub fn region(state: &str, voters: &[u64]) -> RegionReport {
    RegionReport {
        region: "1024:0".to_owned(),
        table: Some("public.cpu".to_owned()),
        state: state.to_owned(),
        voters: voters.to_vec(),
        ..RegionReport::default()
    }
}

/// One cluster in its Kubernetes.
pub struct World {
    pub observed: Observed,
}

impl World {
    pub fn new(spec: Value) -> Self {
        let cluster = cluster(spec);
        let secrets = referenced_secrets(&cluster.spec)
            .into_iter()
            .map(|name| (name, good_secret()))
            .collect();
        let observed = Observed {
            cluster,
            default_image: "registry:5000/greptime:0.1.0".to_owned(),
            stateful_sets: BTreeMap::new(),
            pods: Vec::new(),
            secrets,
            metasrv: Fact::Absent,
            now: NOW.to_owned(),
        };
        Self { observed }
    }

    /// Already running, and told so.
    pub fn settled(spec: Value) -> Self {
        let mut world = Self::new(spec);
        let _ = world.settle();
        world
    }

    pub fn plan(&self) -> (Plan, Report) {
        plan(&self.observed)
    }

    /// One reconcile: apply what is planned, write the status.
    pub fn reconcile(&mut self) -> (Plan, Report) {
        let (plan, report) = self.plan();
        for child in &plan.apply {
            if let Child::StatefulSet(wanted) = child {
                self.apply(child.name(), wanted);
            }
        }
        self.observed.cluster.status = Some(report.status.clone());
        (plan, report)
    }

    fn apply(&mut self, name: &str, wanted: &StatefulSet) {
        let live = self.observed.stateful_sets.entry(name.to_owned()).or_default();
        if live.spec != wanted.spec || live.metadata.annotations != wanted.metadata.annotations {
            let generation = live.metadata.generation.unwrap_or(0) + i64::from(live.spec != wanted.spec);
            live.metadata = wanted.metadata.clone();
            live.metadata.generation = Some(generation);
            live.spec = wanted.spec.clone();
        }
    }

    /// Kubernetes finishes what it was told.
    pub fn pods_become_ready(&mut self) {
        for live in self.observed.stateful_sets.values_mut() {
            let replicas = live.spec.replicas.unwrap_or(1);
            live.status = Some(StatefulSetStatus {
                replicas,
                ready_replicas: Some(replicas),
                updated_replicas: Some(replicas),
                current_revision: Some("r".to_owned()),
                update_revision: Some("r".to_owned()),
                observed_generation: live.metadata.generation,
                ..StatefulSetStatus::default()
            });
        }
    }

    /// Reconciles until nothing is left to wait for.
    pub fn settle(&mut self) -> Report {
        let _ = self.reconcile();
        self.pods_become_ready();
        if !matches!(self.observed.metasrv, Fact::Known(_)) {
            self.observed.metasrv = Fact::Known(healthy());
        }
        self.reconcile().1
    }

    pub fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut spec = serde_json::to_value(&self.observed.cluster.spec).unwrap();
        edit(&mut spec);
        self.observed.cluster.spec = serde_json::from_value(spec).unwrap();
        *self.observed.cluster.metadata.generation.as_mut().unwrap() += 1;
    }

    pub fn live_mut(&mut self, role: Role) -> &mut StatefulSet {
        let name = role.child_name(&self.observed.cluster);
        self.observed.stateful_sets.get_mut(&name).unwrap()
    }
}

pub fn stateful_set(plan: &Plan, role: Role) -> Option<&StatefulSet> {
    plan.apply.iter().find_map(|child| match child {
        Child::StatefulSet(set) if child.name() == format!("demo-{}", role.as_str()) => Some(set),
        _ => None,
    })
}

pub fn datanodes(plan: &Plan) -> Option<i32> {
    stateful_set(plan, Role::Datanode).and_then(|set| set.spec.replicas)
}

pub fn condition<'a>(report: &'a Report, type_: &str) -> &'a Condition {
    report
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap()
}

/// `True AllReady`
pub fn told(report: &Report, type_: &str) -> String {
    let condition = condition(report, type_);
    format!("{} {}", condition.status, condition.reason)
}
