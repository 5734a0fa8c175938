//! A node, seen from the machine: starting it, and the ways in which it fails.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::addresses::{CLUSTER_DOMAIN, DNS_IP, Node, REGISTRY_NAME, registry_address};
use crate::disk::Disk;
use crate::layout::Lab;
use crate::process::{Daemon, write_atomically};
use crate::progress::wait_until;
use crate::{cgroup, controlplane, network, shell};

/// Directories that each node sees its own version of. The left side is below
/// the node's directory; the right side has to exist on the machine, too.
pub const OWN_DIRECTORIES: [(&str, &str); 6] = [
    ("containerd", "/var/lib/containerd"),
    ("kubelet", "/var/lib/kubelet"),
    ("cni-state", "/var/lib/cni"),
    ("cni", "/etc/cni/net.d"),
    ("pods", "/var/log/pods"),
    ("containers", "/var/log/containers"),
];

/// The image of the process that holds a pod's namespaces.
pub fn pause_image() -> String {
    format!("{REGISTRY_NAME}/pause:1")
}

/// Where the node's init writes its process id, as the machine counts.
pub fn init_pid_file(lab: &Lab, node: Node) -> PathBuf {
    lab.node_dir(node).join("init.pid")
}

/// Writes the configuration of everything that runs in the node.
pub fn configure(lab: &Lab, node: Node) -> Result<()> {
    for (own, _) in OWN_DIRECTORIES {
        fs::create_dir_all(lab.node_dir(node).join(own))?;
    }
    let json = |value: &Value| serde_json::to_vec_pretty(value);
    let config = |file: &str| lab.config(&format!("{node}-{file}"));
    write_atomically(&config("kubelet.json"), &json(&kubelet_config(lab))?)?;
    let proxy = controlplane::proxy_config(lab, node.name());
    write_atomically(&config("kube-proxy.json"), &json(&proxy)?)?;
    write_atomically(&config("containerd.toml"), containerd_config(lab).as_bytes())?;
    let cni = lab.node_dir(node).join("cni/10-lab.conflist");
    write_atomically(&cni, &json(&cni_config(node))?)?;
    let hosts = lab.config("registries").join(REGISTRY_NAME).join("hosts.toml");
    write_atomically(&hosts, registry_hosts().as_bytes())?;
    // Pods with dnsPolicy Default get this; there is nothing behind the node.
    write_atomically(
        &lab.config("node-resolv.conf"),
        format!("nameserver {DNS_IP}\n").as_bytes(),
    )
}

fn kubelet_config(lab: &Lab) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": lab.pki("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "clusterDNS": [DNS_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "resolvConf": lab.config("node-resolv.conf"),
        "oomScoreAdj": 0,
        "failSwapOn": false,
        "enforceNodeAllocatable": ["pods"],
        // The nodes share a disk that is the user's; its fullness is not theirs
        // to judge.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "100Mi" },
        "featureGates": {
            // Tolerates the kernel settings that a container may not change.
            "KubeletInUserNamespace": true,
            "KubeletCrashLoopBackOffMax": true,
            "ReduceDefaultCrashLoopBackOffDecay": true,
        },
        // A test that kills a process over and over should not wait for minutes.
        "crashLoopBackOff": { "maxContainerRestartPeriod": "2s" },
        // With the controller manager's grace of 4 s.
        "nodeStatusUpdateFrequency": "1s",
        "nodeLeaseDurationSeconds": 4,
        "serializeImagePulls": false,
    })
}

fn containerd_config(lab: &Lab) -> String {
    let (pause, registries) = (pause_image(), lab.config("registries"));
    format!(
        r#"version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{}"
"#,
        registries.display()
    )
}

fn registry_hosts() -> String {
    let server = format!("http://{}", registry_address());
    format!("server = \"{server}\"\n\n[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// Pods are routed one by one (`ptp`) and not bridged, since bridged packets
/// pass the service rules only with a kernel setting that is not everywhere.
fn cni_config(node: Node) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": node.pod_cidr() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
                // In memory: after a crash of the node no address is taken.
                "dataDir": "/run/cni-addresses",
            },
        }],
    })
}

/// Starts a node that does not run, from whatever an earlier one left. Its
/// containers' data survive, as on the disk of a machine that was switched off.
pub fn start(lab: &Lab, node: Node) -> Result<()> {
    if is_running(lab, node) {
        return Ok(());
    }
    clear(lab, node)?;
    network::make_node(node)?;
    cgroup::make(node)?;
    let index = node.index().to_string();
    let boot = Daemon::new(node.name(), lab.program())
        .args(["node-boot".to_owned(), index])
        .env("GREPTIME_LAB_DIR", &lab.dir().display().to_string());
    lab.processes().start(&boot)?;
    let started = || {
        lab.processes().expect_alive(&node.name())?;
        Ok(init_pid(lab, node).is_some())
    };
    let tail = || lab.processes().tail(&node.name());
    wait_until(
        &format!("init of {node}"),
        Duration::from_secs(10),
        Duration::from_millis(5),
        started,
        tail,
    )
}

/// Ends the node at once, without a word to anyone, as a power cut does. The
/// cable goes first: from a dead machine comes silence, not a refusal.
pub fn crash(lab: &Lab, node: Node) -> Result<()> {
    if network::exists(&node.netns()) {
        network::set_cable(node, false)?;
    }
    kill_init(lab, node)
}

/// Ends the node and removes all that it had outside of its directory.
pub fn clear(lab: &Lab, node: Node) -> Result<()> {
    kill_init(lab, node)?;
    cgroup::remove(node)?;
    network::remove_node(node)
}

/// With the init dies everything in the node: the kernel sees to that.
fn kill_init(lab: &Lab, node: Node) -> Result<()> {
    // A process that waits for a frozen disk cannot be killed.
    Disk::of(lab, node).thaw();
    lab.processes().stop(&node.name(), Duration::ZERO)?;
    crate::process::remove_if_there(&init_pid_file(lab, node))?;
    // A process that was being started when its parent died, if any.
    let leftover = || {
        for pid in cgroup::processes(node) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(cgroup::processes(node).is_empty())
    };
    wait_until(
        &format!("end of {node}"),
        Duration::from_secs(20),
        Duration::from_millis(10),
        leftover,
        || format!("left in its cgroup: {:?}", cgroup::processes(node)),
    )
}

pub fn is_running(lab: &Lab, node: Node) -> bool {
    lab.processes().is_alive(&node.name()) && init_pid(lab, node).is_some()
}

pub fn init_pid(lab: &Lab, node: Node) -> Option<i32> {
    let pid = fs::read_to_string(init_pid_file(lab, node))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    std::path::Path::new(&format!("/proc/{pid}"))
        .exists()
        .then_some(pid)
}

/// A command that runs inside the node, as a login there would.
pub fn command_in(lab: &Lab, node: Node, program: &str) -> Result<Command> {
    let Some(pid) = init_pid(lab, node) else {
        bail!("{node} does not run")
    };
    let mut command = Command::new("nsenter");
    command.args([
        "-t",
        &pid.to_string(),
        "-m",
        "-u",
        "-i",
        "-n",
        "-p",
        "-C",
        "--",
        program,
    ]);
    Ok(command)
}

/// Runs a command in the node's network namespace, which survives a crash.
pub fn run_in_network(node: Node, args: &[&str]) -> Result<String> {
    let netns = format!("--net=/run/netns/{}", node.netns());
    let words: Vec<_> = std::iter::once(netns.as_str())
        .chain(args.iter().copied())
        .collect();
    shell::output("nsenter", &words).with_context(|| format!("in the network of {node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_gives_its_pods_addresses_of_its_own_range() {
        let config = cni_config(Node::new(3).unwrap());
        assert_eq!(
            config["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.211.3.0/24"
        );
    }

    #[test]
    fn nodes_pull_from_the_registry_by_its_name() {
        let config = containerd_config(&Lab::at("/lab"));
        assert!(config.contains(r#"config_path = "/lab/config/registries""#));
        assert!(config.contains(r#"sandbox_image = "registry.lab/pause:1""#));
        assert!(registry_hosts().starts_with(r#"server = "http://10.200.0.1:5000""#));
    }

    #[test]
    fn the_kubelet_reports_fast_enough_for_the_grace_of_the_control_plane() {
        let config = kubelet_config(&Lab::at("/lab"));
        assert_eq!(config["nodeStatusUpdateFrequency"], "1s");
        assert_eq!(config["clusterDNS"][0], "10.96.0.10");
    }
}
