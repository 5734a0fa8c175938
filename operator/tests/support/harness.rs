//! A namespace with one operator, a metasrv that says what it is told to, and a kubelet that makes pods ready.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use greptime_clock::{ManualClock, SequentialIds};
use greptime_operator::context::{Context, Parts};
use greptime_operator::controller::Guarded;
use greptime_operator::error::Error;
use greptime_operator::metrics::OperatorMetrics;
use greptime_operator::reconcile::reconcile;
use greptime_telemetry::Metrics;
use kube::runtime::controller::Action;
use serde_json::{Value, json};

use super::ApiServer;

pub const CLUSTERS: &str = "/apis/greptimecluster.io/v1alpha1/namespaces/ns/greptimeclusters";
pub const SETS: &str = "/apis/apps/v1/namespaces/ns/statefulsets";
pub const PODS: &str = "/api/v1/namespaces/ns/pods";
pub const SECRETS: &str = "/api/v1/namespaces/ns/secrets";
pub const SERVICES: &str = "/api/v1/namespaces/ns/services";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/ns/configmaps";
pub const ACCOUNTS: &str = "/api/v1/namespaces/ns/serviceaccounts";
pub const BUDGETS: &str = "/apis/policy/v1/namespaces/ns/poddisruptionbudgets";
pub const JOBS: &str = "/apis/batch/v1/namespaces/ns/jobs";
pub const CLAIMS: &str = "/api/v1/namespaces/ns/persistentvolumeclaims";
pub const NAMESPACES: &str = "/api/v1/namespaces";
pub const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/ns/events";

pub struct World {
    pub api: ApiServer,
    pub context: Arc<Context>,
    pub clock: Arc<ManualClock>,
    answer: Arc<Mutex<Option<Value>>>,
    metrics: Metrics,
}

impl World {
    pub async fn new() -> Self {
        let api = ApiServer::new();
        let answer: Arc<Mutex<Option<Value>>> = Arc::default();
        let clock = ManualClock::shared();
        let metrics = Metrics::default();
        let context = Context::new(Parts {
            client: api.client(),
            clock: clock.clone(),
            ids: SequentialIds::starting_at(1),
            metrics: OperatorMetrics::new(&metrics),
            default_image: "registry/greptime-node:0.1.0".into(),
            identity: "operator-0".into(),
            metasrv_url: metasrv(answer.clone()).await,
        });
        api.put(NAMESPACES, json!({"metadata": {"name": "ns"}}));
        Self {
            api,
            context: Arc::new(context),
            clock,
            answer,
            metrics,
        }
    }

    /// With a cluster `demo` and its secret.
    pub async fn with_cluster() -> Self {
        let world = Self::new().await;
        world.put_secret();
        world.api.put(CLUSTERS, cluster("demo"));
        world
    }

    pub fn put_secret(&self) {
        // "eA==" is "x".
        let data = json!({"access-key-id": "eA==", "secret-access-key": "eA=="});
        self.api
            .put(SECRETS, json!({"metadata": {"name": "demo-s3"}, "data": data}));
    }

    /// One turn for `demo`.
    pub async fn turn(&self) -> Result<Action, Error> {
        self.turn_of("demo").await
    }

    pub async fn turn_of(&self, name: &str) -> Result<Action, Error> {
        let object = self.api.get(CLUSTERS, name).expect("the cluster exists");
        let guarded: Guarded = serde_json::from_value(object).expect("the guard takes everything");
        reconcile(Arc::new(guarded), self.context.clone()).await
    }

    /// Turns until one writes nothing; returns how many there were.
    pub async fn settle(&self) -> usize {
        for turn in 1..10 {
            self.turn().await.expect("a turn");
            if self.api.take_writes().is_empty() {
                return turn;
            }
        }
        panic!("the operator does not come to rest");
    }

    /// Makes the pods of all StatefulSets ready, and metasrv content.
    pub fn run_pods(&self) {
        for set in self.api.list(SETS) {
            let name = set["metadata"]["name"].as_str().unwrap().to_owned();
            let replicas = set["spec"]["replicas"].as_i64().unwrap();
            for ordinal in 0..replicas {
                let mut pod = json!({"metadata": {"name": format!("{name}-{ordinal}")}});
                pod["metadata"]["labels"] = set["spec"]["template"]["metadata"]["labels"].clone();
                pod["spec"] = json!({"containers": []});
                pod["status"] = json!({"podIP": "127.0.0.1", "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}]});
                self.api.put(PODS, pod);
            }
            let generation = set["metadata"]["generation"].clone();
            self.api.edit(SETS, &name, |set| {
                set["status"] = json!({"replicas": replicas, "readyReplicas": replicas,
                    "availableReplicas": replicas, "updatedReplicas": replicas, "currentReplicas": replicas,
                    "currentRevision": "r1", "updateRevision": "r1", "observedGeneration": generation});
            });
        }
        self.metasrv_says(Some(json!({
            "cluster_id": "11111111-2222-4333-8444-555555555555", "leader": true, "leader_address": "127.0.0.1:3002",
            "revision": 1,
            "dependencies": [{"name": "etcd", "ok": true, "message": ""},
                {"name": "object_store", "ok": true, "message": ""}],
            "nodes": (0..3).map(|id| json!({"role": "datanode", "id": id, "address": "127.0.0.1:3001", "alive": true,
                "version": "0.1.0"})).collect::<Vec<_>>(),
            "regions": [],
        })));
    }

    pub fn metasrv_says(&self, answer: Option<Value>) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn status(&self) -> Value {
        self.api.get(CLUSTERS, "demo").unwrap()["status"].clone()
    }

    pub fn condition(&self, type_: &str) -> Value {
        let status = self.status();
        let found = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == type_);
        found
            .cloned()
            .unwrap_or_else(|| panic!("no condition {type_} in {status:#}"))
    }

    /// Reasons of all events so far, in their order.
    pub fn event_reasons(&self) -> Vec<String> {
        let events = self.api.list(EVENTS);
        events
            .iter()
            .map(|event| event["reason"].as_str().unwrap_or("").to_owned())
            .collect()
    }

    pub fn edit_spec(&self, change: impl FnOnce(&mut Value)) {
        self.api
            .edit(CLUSTERS, "demo", |cluster| change(&mut cluster["spec"]));
    }

    /// As the API server does it for an object with finalizers; one without is gone at once.
    pub fn ask_to_delete(&self) {
        let now = self.context.now().to_string();
        self.api.edit(CLUSTERS, "demo", |cluster| {
            cluster["metadata"]["deletionTimestamp"] = json!(now)
        });
        let cluster = self.api.get(CLUSTERS, "demo").unwrap();
        if super::fields::is_over(&cluster) {
            self.api.delete(CLUSTERS, "demo");
        }
    }

    pub fn stop_pods(&self) {
        for pod in self.api.list(PODS) {
            self.api.delete(PODS, pod["metadata"]["name"].as_str().unwrap());
        }
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub fn metrics(&self) -> String {
        self.metrics.text()
    }
}

pub fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "greptimecluster.io/v1alpha1",
        "kind": "GreptimeCluster",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {
            "metasrv": {"replicas": 1, "store": {"etcd": {"endpoints": ["http://10.200.0.1:23790"]}}},
            "datanode": {"replicas": 3, "storage": {"size": "1Gi"},
                "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}},
            "frontend": {"replicas": 1},
            "objectStorage": {"s3": {"endpoint": "http://10.200.0.1:7070", "bucket": "greptime", "pathStyle": true,
                "credentialsSecretName": "demo-s3"}},
        },
    })
}

async fn metasrv(answer: Arc<Mutex<Option<Value>>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = move || {
        let answer = answer.lock().unwrap().clone();
        async move {
            match answer {
                Some(answer) => (StatusCode::OK, answer.to_string()),
                None => (StatusCode::SERVICE_UNAVAILABLE, "not now".to_owned()),
            }
        }
    };
    let router = Router::new().route("/v1/cluster", get(handler));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{{ip}}:{port}/v1/cluster")
}
