//! The components that run once, in the namespace of the control plane.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::addresses::{
    API_ETCD_PEER_PORT, API_ETCD_PORT, API_PORT, HOST_IP, HOST_NETNS, Node, POD_CIDR, SERVICE_CIDR,
};
use crate::layout::Lab;
use crate::process::{Daemon, write_atomically};
use crate::progress::wait_until;

pub const API_ETCD: &str = "etcd-api";
pub const API_SERVER: &str = "kube-apiserver";
pub const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub const SCHEDULER: &str = "kube-scheduler";
pub const PROVISIONER: &str = "volume-provisioner";
pub const HOST_PROXY: &str = "kube-proxy-host";

/// How long a node may be silent until it counts as NotReady. The defaults of
/// Kubernetes (50 s) would make every test of a node's crash wait.
const NODE_GRACE: &str = "--node-monitor-grace-period=4s";
/// How long pods stay bound to a node that is NotReady, instead of 300 s.
const TOLERATION_SECONDS: u32 = 3;
/// The defaults (20 requests a second) make hundreds of pods wait for minutes.
const CLIENT_RATE: [&str; 2] = ["--kube-api-qps=300", "--kube-api-burst=600"];

pub fn api_etcd(lab: &Lab) -> Daemon {
    let client = format!("http://127.0.0.1:{API_ETCD_PORT}");
    let peer = format!("http://127.0.0.1:{API_ETCD_PEER_PORT}");
    Daemon::new(API_ETCD, lab.tool("etcd")).netns(HOST_NETNS).args([
        format!("--data-dir={}", lab.text("etcd-api")),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".to_owned(),
        // Nothing here outlives the machine, so nothing need survive its crash.
        "--unsafe-no-fsync".to_owned(),
    ])
}

fn component(lab: &Lab, name: &str) -> Daemon {
    Daemon::new(name, lab.tool("kubernetes"))
        .netns(HOST_NETNS)
        .args([name])
}

pub fn api_server(lab: &Lab) -> Daemon {
    let pki = |file: &str| lab.pki(file).display().to_string();
    component(lab, API_SERVER)
        .args([
            format!("--etcd-servers=http://127.0.0.1:{API_ETCD_PORT}"),
            format!("--advertise-address={HOST_IP}"),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!(
                "--kubelet-client-certificate={}",
                pki("apiserver-kubelet-client.crt")
            ),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", pki("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                pki("service-account.key")
            ),
            format!("--requestheader-client-ca-file={}", pki("ca.crt")),
            format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
            format!("--default-not-ready-toleration-seconds={TOLERATION_SECONDS}"),
            format!("--default-unreachable-toleration-seconds={TOLERATION_SECONDS}"),
        ])
        .args([
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=lease",
            "--kubelet-preferred-address-types=InternalIP",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--enable-aggregator-routing=true",
        ])
}

pub fn controller_manager(lab: &Lab) -> Daemon {
    let pki = |file: &str| lab.pki(file).display().to_string();
    component(lab, CONTROLLER_MANAGER)
        .args([
            format!("--kubeconfig={}", pki("controller-manager.kubeconfig")),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!(
                "--service-account-private-key-file={}",
                pki("service-account.key")
            ),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
        ])
        .args([
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--allocate-node-cidrs=false",
            "--bind-address=127.0.0.1",
            "--node-monitor-period=1s",
            NODE_GRACE,
        ])
        .args(CLIENT_RATE)
}

pub fn scheduler(lab: &Lab) -> Daemon {
    component(lab, SCHEDULER)
        .args([format!(
            "--kubeconfig={}",
            lab.pki("scheduler.kubeconfig").display()
        )])
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
        .args(CLIENT_RATE)
}

pub fn provisioner(lab: &Lab) -> Daemon {
    component(lab, PROVISIONER).args([
        format!(
            "--kubeconfig={}",
            lab.pki("volume-provisioner.kubeconfig").display()
        ),
        format!("--dir={}", lab.text("volumes")),
    ])
}

/// The proxy of the control plane's namespace, so that clients there reach the
/// addresses of services whichever nodes are dead. It takes its node's name
/// only because it has to have one.
pub fn host_proxy(lab: &Lab) -> Result<Daemon> {
    let file = lab.config("host-kube-proxy.json");
    let mut config = proxy_config(lab, Node::all().next().map_or_else(String::new, Node::name));
    // The health ports of a node's proxy; nobody asks here.
    config["healthzBindAddress"] = json!("127.0.0.1:10256");
    write_atomically(&file, &serde_json::to_vec_pretty(&config)?)?;
    let daemon = Daemon::new(HOST_PROXY, lab.tool("kubernetes")).netns(HOST_NETNS);
    Ok(daemon.args(["kube-proxy".to_owned(), format!("--config={}", file.display())]))
}

pub fn proxy_config(lab: &Lab, node_name: String) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": node_name,
        "clientConnection": { "kubeconfig": lab.pki("kube-proxy.kubeconfig") },
        "clusterCIDR": POD_CIDR,
        "detectLocalMode": "ClusterCIDR",
        "oomScoreAdj": 0,
        // The default of one second between two changes of the rules would be
        // the longest part of a failover here.
        "iptables": { "minSyncPeriod": "100ms", "syncPeriod": "30s" },
        // The limits of the connection table belong to the whole machine.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

/// Starts the API server and the etcd below it.
pub fn start_api(lab: &Lab) -> Result<()> {
    let processes = lab.processes();
    processes.start(&api_etcd(lab))?;
    processes.start(&api_server(lab)).map(drop)
}

/// Starts what needs a working API server.
pub fn start_controllers(lab: &Lab) -> Result<()> {
    let processes = lab.processes();
    processes.start(&controller_manager(lab))?;
    processes.start(&scheduler(lab))?;
    processes.start(&provisioner(lab)).map(drop)
}

/// Waits until the API server says that it is ready, through the forwarder.
pub fn wait_for_api(lab: &Lab, limit: Duration) -> Result<()> {
    let processes = lab.processes();
    let ready = || {
        processes.expect_alive(API_ETCD)?;
        processes.expect_alive(API_SERVER)?;
        Ok(lab.kubectl(&["get", "--raw", "/readyz"]).is_ok())
    };
    wait_until("API server", limit, Duration::from_millis(150), ready, || {
        processes.tail(API_SERVER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_leaves_the_limits_of_the_machine_alone() {
        let config = proxy_config(&Lab::at("/lab"), "node1".to_owned());
        assert_eq!(config["conntrack"]["maxPerCore"], 0);
        assert_eq!(config["hostnameOverride"], "node1");
    }
}
