//! One GreptimeCluster under test: its manifest, its state, and the way to its ports.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::forward::{self, Target};
use greptime_lab::progress::{Stopwatch, wait_until};
use greptime_lab::{Cluster, shell};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::sql::Http;

/// The secret with the bucket's credentials, in each test's namespace.
pub const S3_SECRET: &str = "s3-credentials";

/// A GreptimeCluster in a namespace of its own.
#[derive(Clone, Debug)]
pub struct Database {
    pub cluster: Cluster,
    pub namespace: String,
    pub name: String,
}

/// A pod as Kubernetes has it now.
#[derive(Clone, Debug)]
pub struct Placed {
    pub pod: String,
    /// `metasrv`, `datanode` or `frontend`.
    pub role: String,
    /// Empty if it has none yet.
    pub node: String,
    /// And it is not being deleted.
    pub is_ready: bool,
}

impl Placed {
    fn of(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
        Self {
            pod: text(&pod["metadata"]["name"]),
            role: text(&pod["metadata"]["labels"]["app.kubernetes.io/component"]),
            node: text(&pod["spec"]["nodeName"]),
            is_ready: ready && pod["metadata"]["deletionTimestamp"].is_null(),
        }
    }
}

impl Database {
    pub fn new(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Namespace and credentials: what must be there before the cluster is applied.
    pub fn prepare(&self) -> Result<()> {
        let s3 = &self.cluster.s3;
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}))?;
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": S3_SECRET, "namespace": self.namespace},
            "stringData": {"access-key-id": s3.access_key_id, "secret-access-key": s3.secret_access_key},
        }))
    }

    /// Where its keys and objects lie.
    pub fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The custom resource: one metasrv, three datanodes, one frontend. Its keys and objects lie under the
    /// namespace's and the cluster's name.
    pub fn manifest(&self) -> Value {
        let s3 = &self.cluster.s3;
        let place = self.place();
        // Elsewhere than in the laboratory nothing may be left behind.
        let deletion = if self.cluster.lab.is_some() {
            "Retain"
        } else {
            "Delete"
        };
        json!({
            "apiVersion": "greptimecluster.io/v1alpha1",
            "kind": "GreptimeCluster",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "deletionPolicy": deletion,
                "metasrv": {
                    "replicas": 1,
                    "store": {"etcd": {"endpoints": self.cluster.etcd_endpoints, "prefix": format!("/{place}")}},
                },
                // Small and often, so that faults meet flushes, and reads find rows in files.
                "datanode": {"replicas": 3, "storage": {"size": "1Gi"},
                    "config": {"datanode.flush_size": "64KiB", "datanode.flush_age": "2s"}},
                "frontend": {"replicas": 1},
                "objectStorage": {"s3": {
                    "endpoint": s3.endpoint, "region": s3.region, "bucket": s3.bucket, "root": place,
                    "pathStyle": s3.path_style, "credentialsSecretName": S3_SECRET,
                }},
            },
        })
    }

    /// `kubectl apply -f -`; the error is what a person would read.
    pub fn apply(&self, object: &Value) -> Result<()> {
        apply(&self.cluster, object)
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.cluster.kubectl_command();
        shell::finish(command.args(["-n", &self.namespace]).args(args))
    }

    /// The custom resource as it is now.
    pub fn get(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&[
            "get",
            "greptimecluster",
            &self.name,
            "-o",
            "json",
        ])?)?)
    }

    /// The condition of a type, if it is set.
    pub fn condition(&self, kind: &str) -> Result<Option<Value>> {
        let all = self.get()?["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(all.into_iter().find(|c| c["type"] == kind))
    }

    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let name = format!("greptimecluster/{}", self.name);
        self.kubectl(&["wait", "--for=condition=Ready", &name, &timeout])
            .map(drop)
            .with_context(|| self.explain())
    }

    /// Waits for a condition with this status whose message contains `text`.
    pub fn wait_condition(&self, kind: &str, status: &str, text: &str, limit: Duration) -> Result<()> {
        let what = format!("condition {kind}={status} with `{text}`");
        let done = || {
            let condition = self.condition(kind)?;
            Ok(condition.is_some_and(|c| {
                c["status"] == status && c["message"].as_str().is_some_and(|m| m.contains(text))
            }))
        };
        wait_until(&what, limit, Duration::from_millis(200), done, || self.explain())
    }

    /// What a person would look at first.
    pub fn explain(&self) -> String {
        let show = |args: &[&str]| self.kubectl(args).unwrap_or_else(|e| format!("{e:#}"));
        let status = self.get().map(|g| g["status"].to_string()).unwrap_or_default();
        let pods = show(&["get", "pods", "-o", "wide"]);
        let events = show(&["get", "events", "--sort-by=.lastTimestamp"]);
        let mut text = format!("status: {status}\n{pods}\n{}\n", last_lines(&events, 15));
        for role in ["metasrv", "datanode", "frontend"] {
            let pod = format!("{}-{role}-0", self.name);
            let logs = show(&["logs", &pod, "--tail=12"]);
            text += &format!("-- {pod}\n{logs}\n");
        }
        text
    }

    /// A port of the frontend on this machine; the connection goes to the service, whatever pod is behind it.
    pub fn forward(&self, local: u16, port: u16) -> Result<SocketAddr> {
        let listen = SocketAddr::from(([127, 0, 0, 1], local));
        match &self.cluster.lab {
            Some(lab) => {
                let host = format!("{}-frontend.{}.svc.cluster.local", self.name, self.namespace);
                forward::start(lab, listen, &Target { host, port })?;
            }
            None => self.port_forward(listen, port)?,
        }
        Ok(listen)
    }

    /// `kubectl port-forward`, which ends with its pod, again and again until this program ends.
    fn port_forward(&self, listen: SocketAddr, port: u16) -> Result<()> {
        static STARTED: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
        if !STARTED.lock().insert(listen) {
            return Ok(());
        }
        let service = format!("service/{}-frontend", self.name);
        let (ports, namespace) = (format!("{}:{port}", listen.port()), self.namespace.clone());
        let kubeconfig = self.cluster.kubeconfig.clone();
        std::thread::spawn(move || {
            loop {
                // Not to be left behind when this program ends, by whatever way.
                let mut kubectl = Command::new("setpriv");
                kubectl.args(["--pdeathsig", "KILL", "kubectl", "-n", &namespace, "port-forward"]);
                kubectl.args(["--address=127.0.0.1", &service, &ports]);
                kubectl.env("KUBECONFIG", &kubeconfig);
                // Without a pod it fails at once.
                let _ = kubectl.stdout(Stdio::null()).stderr(Stdio::null()).status();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let listens = || Ok(TcpStream::connect(listen).is_ok());
        let (limit, pause) = (Duration::from_secs(120), Duration::from_millis(100));
        wait_until("kubectl port-forward", limit, pause, listens, || self.explain())
    }

    pub fn http(&self, local: u16) -> Result<Http> {
        Http::new(&format!("http://{}", self.forward(local, 4000)?))
    }

    /// Names of the pods of a role.
    pub fn pods(&self, role: &str) -> Result<Vec<String>> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={role}",
            self.name
        );
        let names = self.kubectl(&[
            "get",
            "pods",
            "-l",
            &selector,
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])?;
        Ok(names.split_whitespace().map(str::to_string).collect())
    }

    /// All pods of the cluster, in one question.
    pub fn placed(&self) -> Result<Vec<Placed>> {
        let ours = format!("app.kubernetes.io/instance={}", self.name);
        let pods: Value = serde_json::from_str(&self.kubectl(&["get", "pods", "-l", &ours, "-o", "json"])?)?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.iter().map(Placed::of).collect())
    }

    /// A datanode's pod that is alone on its node: with none of these pods and not with the only frontend, without which
    /// nobody could see how the datanode's regions fare.
    pub fn datanode_alone(&self, needed: &[&str]) -> Result<Placed> {
        let pods = self.placed()?;
        let is_needed = |p: &&Placed| p.role == "frontend" || needed.contains(&p.pod.as_str());
        let taken: Vec<&str> = pods.iter().filter(is_needed).map(|p| p.node.as_str()).collect();
        let is_alone = |p: &&Placed| p.role == "datanode" && !taken.contains(&p.node.as_str());
        let alone = pods.iter().find(is_alone).cloned();
        alone.with_context(|| {
            format!("every datanode shares its node with the frontend or {needed:?}: {taken:?}")
        })
    }

    /// Uid and restarts of every pod: equal before and after means that nothing was restarted.
    pub fn pod_identities(&self) -> Result<String> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} \
                    {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        let ours = format!("app.kubernetes.io/instance={}", self.name);
        let pods = self.kubectl(&["get", "pods", "-l", &ours, "-o", path])?;
        // One of each role at least: nothing equals nothing, too.
        ensure!(pods.lines().count() >= 3, "where are the pods? {pods:?}");
        Ok(pods)
    }

    /// Deletes a pod and waits until its successor is ready.
    pub fn replace_pod(&self, pod: &str, limit: Duration) -> Result<Duration> {
        let watch = Stopwatch::start();
        let uid = self.pod_uid(pod)?;
        self.kubectl(&["delete", "pod", pod, "--wait=false"])?;
        self.wait_pod(pod, limit, |now| now != uid)?;
        Ok(watch.elapsed())
    }

    fn pod_uid(&self, pod: &str) -> Result<String> {
        self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])
    }

    /// Waits until the pod is ready, is not being deleted, and its uid is as asked for.
    pub fn wait_pod(&self, pod: &str, limit: Duration, uid: impl Fn(&str) -> bool) -> Result<()> {
        let done = || {
            let Ok(text) = self.kubectl(&["get", "pod", pod, "-o", "json"]) else {
                return Ok(false);
            };
            let now: Value = serde_json::from_str(&text)?;
            let is_ready = Placed::of(&now).is_ready;
            Ok(is_ready && now["metadata"]["uid"].as_str().is_some_and(&uid))
        };
        wait_until(
            &format!("{pod} ready again"),
            limit,
            Duration::from_millis(100),
            done,
            || self.explain(),
        )
    }

    /// Deletes the namespace and all that is in it, without waiting.
    pub fn discard(&self) -> Result<()> {
        self.kubectl(&[
            "delete",
            "namespace",
            &self.namespace,
            "--wait=false",
            "--ignore-not-found",
        ])
        .map(drop)
    }
}

pub fn apply(cluster: &Cluster, object: &Value) -> Result<()> {
    let file = std::env::temp_dir().join(format!("greptime-e2e-{}.json", std::process::id()));
    std::fs::write(&file, object.to_string())?;
    let applied = shell::finish(cluster.kubectl_command().arg("apply").arg("-f").arg(&file));
    std::fs::remove_file(&file)?;
    applied.map(drop)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
