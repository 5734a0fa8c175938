//! The cluster that the tests run against: the laboratory, or any other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::addresses::{HOST_NETNS, Node, etcd_endpoint};
use crate::forward;
use crate::layout::Lab;
use crate::lifecycle;
use crate::network;
use crate::node;
use crate::progress::wait_until;
use crate::services::{S3, Service, s3};
use crate::{faults, shell};

/// A Kubernetes cluster with the etcd and the bucket that tests may use.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub kubeconfig: PathBuf,
    pub etcd_endpoints: Vec<String>,
    pub s3: S3,
    /// The laboratory, if this is it. Only there can nodes be broken, and etcd
    /// and S3 be stopped.
    pub lab: Option<Lab>,
}

impl Cluster {
    /// The cluster of `KUBECONFIG`; without it, the laboratory, which must be up.
    ///
    /// For a cluster other than the laboratory these say what it may use:
    /// `GREPTIME_TEST_ETCD` (endpoints, by commas), `GREPTIME_TEST_S3_ENDPOINT`,
    /// `GREPTIME_TEST_S3_BUCKET`, `GREPTIME_TEST_S3_REGION` (default us-east-1),
    /// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    pub fn from_env() -> Result<Self> {
        let lab = Lab::from_env();
        let named = std::env::var_os("KUBECONFIG")
            .filter(|k| !k.is_empty())
            .map(PathBuf::from);
        match named {
            Some(kubeconfig) if !same_file(&kubeconfig, &lab.kubeconfig()) => Self::foreign(kubeconfig),
            _ => Self::of_lab(lab),
        }
    }

    pub fn of_lab(lab: Lab) -> Result<Self> {
        if !lifecycle::lives(&lab) {
            bail!("no laboratory is up; run `greptime-lab up`, or set KUBECONFIG");
        }
        let kubeconfig = lab.kubeconfig();
        Ok(Self {
            kubeconfig,
            etcd_endpoints: vec![etcd_endpoint()],
            s3: s3(),
            lab: Some(lab),
        })
    }

    fn foreign(kubeconfig: PathBuf) -> Result<Self> {
        let get = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} must be set for a cluster of your own"))
        };
        let s3 = S3 {
            endpoint: get("GREPTIME_TEST_S3_ENDPOINT")?,
            region: std::env::var("GREPTIME_TEST_S3_REGION").unwrap_or_else(|_| "us-east-1".to_owned()),
            bucket: get("GREPTIME_TEST_S3_BUCKET")?,
            access_key_id: get("AWS_ACCESS_KEY_ID")?,
            secret_access_key: get("AWS_SECRET_ACCESS_KEY")?,
            path_style: true,
        };
        let etcd_endpoints = get("GREPTIME_TEST_ETCD")?.split(',').map(str::to_owned).collect();
        Ok(Self {
            kubeconfig,
            etcd_endpoints,
            s3,
            lab: None,
        })
    }

    /// The laboratory, for a test that breaks something only it can break.
    pub fn breakable(&self) -> Option<&Lab> {
        self.lab.as_ref()
    }

    /// A kubectl that talks to this cluster.
    pub fn kubectl_command(&self) -> Command {
        let program = self
            .lab
            .as_ref()
            .map_or_else(|| PathBuf::from("kubectl"), |lab| lab.tool("kubectl"));
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        shell::finish(self.kubectl_command().args(args))
    }

    /// A command that reaches the cluster's addresses and names, to start a
    /// client with. In a cluster of one's own that is up to whoever runs it.
    pub fn client_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.lab {
            Some(lab) => lab.client_command(program),
            None => Command::new(program),
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Lab {
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.tool("kubectl"));
        shell::finish(command.args(args).env("KUBECONFIG", self.kubeconfig()))
    }

    /// A command that runs in the control plane's network namespace, with the
    /// cluster's DNS, where pods, services and NodePorts can be reached.
    pub fn client_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        // Only the mount of one file is its own; all else is the machine's.
        let script = r#"mount --bind "$0" /etc/resolv.conf && exec nsenter "$@""#;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(self.config("host-resolv.conf"));
        command
            .arg(format!("--net=/run/netns/{HOST_NETNS}"))
            .arg("--")
            .arg(program);
        command
    }

    pub fn is_node_ready(&self, node: Node) -> bool {
        let path = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
        let status = self.kubectl(&["get", "node", &node.name(), "-o", &format!("jsonpath={path}")]);
        status.is_ok_and(|s| s == "True")
    }

    /// Waits until Kubernetes takes the node for ready, or no longer does.
    pub fn wait_for_node(&self, node: Node, ready: bool, limit: Duration) -> Result<()> {
        let what = format!("{node} {}", if ready { "ready" } else { "not ready" });
        let log = || {
            if ready {
                self.processes().tail(&format!("{node}-kubelet"))
            } else {
                String::new()
            }
        };
        wait_until(
            &what,
            limit,
            Duration::from_millis(100),
            || Ok(self.is_node_ready(node) == ready),
            log,
        )
    }
}

/// What `greptime-lab status` prints.
#[derive(Debug, Serialize)]
pub struct Status {
    pub up: bool,
    pub dir: PathBuf,
    pub kubeconfig: PathBuf,
    pub nodes: Vec<NodeStatus>,
    pub services: Vec<ServiceStatus>,
    pub etcd_endpoints: Vec<String>,
    pub s3: S3,
    pub registry: String,
    pub forwards: Vec<ForwardStatus>,
    /// Directory with kubectl, helm and crane.
    pub bin: PathBuf,
}

#[derive(Debug, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub ip: String,
    pub running: bool,
    pub partitioned: bool,
    pub ready: bool,
}

#[derive(Debug, Serialize)]
pub struct ServiceStatus {
    pub name: String,
    pub running: bool,
}

#[derive(Debug, Serialize)]
pub struct ForwardStatus {
    pub listen: String,
    pub to: String,
}

impl Status {
    pub fn of(lab: &Lab) -> Self {
        let up = lifecycle::lives(lab);
        let node_status = |n: Node| NodeStatus {
            name: n.name(),
            ip: n.ip().to_string(),
            running: node::is_running(lab, n),
            partitioned: network::exists(&n.netns()) && faults::is_partitioned(n),
            ready: up && lab.is_node_ready(n),
        };
        let service = |s: Service| ServiceStatus {
            name: s.to_string(),
            running: s.is_running(lab),
        };
        let forwards = forward::list(lab)
            .into_iter()
            .map(|(listen, to)| ForwardStatus { listen, to });
        Self {
            up,
            dir: lab.dir().to_owned(),
            kubeconfig: lab.kubeconfig(),
            nodes: Node::all().map(node_status).collect(),
            services: Service::ALL.map(service).into(),
            etcd_endpoints: vec![etcd_endpoint()],
            s3: s3(),
            registry: crate::addresses::REGISTRY_NAME.to_owned(),
            forwards: forwards.collect(),
            bin: lab.path("bin"),
        }
    }
}
