//! What can go wrong, on purpose. Crashes and starts of whole nodes are in
//! [`crate::node`], those of etcd and S3 in [`crate::services`].

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::addresses::{API_PORT, HOST_IP, Node};
use crate::disk::Disk;
use crate::layout::Lab;
use crate::{cgroup, network, node};

/// Which packets of a node are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All: the cable is out. The node's containers go on running.
    Everything,
    /// Those that it sends; it still hears the others.
    Outgoing,
    /// Those that it should get; the others still hear it.
    Incoming,
    /// Those to the API server: Kubernetes takes the node for dead while its
    /// pods still serve.
    ApiServer,
}

impl FromStr for Cut {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "everything" => Cut::Everything,
            "outgoing" => Cut::Outgoing,
            "incoming" => Cut::Incoming,
            "api-server" => Cut::ApiServer,
            _ => bail!("{text:?}: say everything, outgoing, incoming or api-server"),
        })
    }
}

/// The rules of a cut, without the action: chain and what to match. Packets of
/// the node itself and those of its pods pass through different chains.
fn rules(cut: Cut) -> Vec<Vec<String>> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    match cut {
        Cut::Everything => Vec::new(),
        Cut::Outgoing => ["OUTPUT -o eth0", "FORWARD -o eth0"]
            .map(|r| words(r.to_owned()))
            .into(),
        Cut::Incoming => ["INPUT -i eth0", "FORWARD -i eth0"]
            .map(|r| words(r.to_owned()))
            .into(),
        Cut::ApiServer => vec![words(format!("OUTPUT -d {HOST_IP} -p tcp --dport {API_PORT}"))],
    }
}

/// The rules that keep one pod's packets from passing its node.
fn pod_rules(pod_ip: &str) -> Vec<Vec<String>> {
    ["-s", "-d"]
        .map(|side| vec!["FORWARD".to_owned(), side.to_owned(), pod_ip.to_owned()])
        .into()
}

/// Marks our rules, so that healing removes them and no others.
const MARK: [&str; 6] = ["-m", "comment", "--comment", "greptime-lab-fault", "-j", "DROP"];

pub fn partition(node: Node, cut: Cut) -> Result<()> {
    match cut {
        Cut::Everything => network::set_cable(node, false),
        _ => rules(cut).iter().try_for_each(|rule| insert(node, rule)),
    }
}

/// Makes everything hang that writes to the volumes on the node's disk, until it is healed. What was written before is
/// put down first.
pub fn freeze_disk(lab: &Lab, node: Node) -> Result<()> {
    let disk = Disk::of(lab, node);
    disk.sync()?;
    disk.freeze()
}

/// On which node's disk a pod's only claimed volume lies: that of the node where it was first used, wherever the pod is
/// now.
pub fn disk_of_pod(lab: &Lab, namespace: &str, pod: &str) -> Result<Node> {
    let get = |what: &[&str]| -> Result<Value> {
        let text = lab.kubectl(&[&["-n", namespace, "get", "-o", "json"], what].concat())?;
        Ok(serde_json::from_str(&text)?)
    };
    let claim = claim_of(&get(&["pod", pod])?)?;
    let claim = get(&["persistentvolumeclaim", &claim])?;
    let name = claim["spec"]["volumeName"]
        .as_str()
        .context("the claim has no volume")?;
    place_of(&get(&["persistentvolume", name])?)
        .with_context(|| format!("volume {name} of {namespace}/{pod}"))
}

fn claim_of(pod: &Value) -> Result<String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut claims = volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    match (claims.next(), claims.next()) {
        (Some(claim), None) => Ok(claim.to_owned()),
        _ => bail!("the pod has no claim, or several"),
    }
}

/// Volumes lie in `volumes/NODE`.
fn place_of(volume: &Value) -> Result<Node> {
    let path = volume["spec"]["local"]["path"]
        .as_str()
        .context("it is no directory")?;
    let dir = Path::new(path)
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    dir.with_context(|| format!("{path} is in no directory"))?.parse()
}

/// Undoes every partition of the node and of its pods, and lets its disk go on.
pub fn heal(lab: &Lab, node: Node) -> Result<()> {
    Disk::of(lab, node).thaw();
    if node::run_in_network(node, &["true"]).is_err() {
        return Ok(());
    }
    let listed = node::run_in_network(node, &["iptables-save", "-t", "filter"])?;
    for rule in marked_rules(&listed) {
        let args: Vec<_> = ["iptables", "-w", "-D"]
            .into_iter()
            .chain(rule.iter().map(String::as_str))
            .collect();
        node::run_in_network(node, &args)?;
    }
    network::set_cable(node, true)
}

/// Cuts one pod off from everything but its own node.
pub fn partition_pod(lab: &Lab, namespace: &str, pod: &str) -> Result<()> {
    let pod = find_pod(lab, namespace, pod)?;
    pod_rules(&pod.ip)
        .iter()
        .try_for_each(|rule| insert(pod.node, rule))
}

fn insert(node: Node, rule: &[String]) -> Result<()> {
    let rule = rule.iter().map(String::as_str);
    let args: Vec<_> = ["iptables", "-w", "-I"]
        .into_iter()
        .chain(rule)
        .chain(MARK)
        .collect();
    node::run_in_network(node, &args).map(drop)
}

/// The words after `-A` of those lines of `iptables-save` that are ours.
fn marked_rules(listed: &str) -> Vec<Vec<String>> {
    let ours = listed.lines().filter(|l| l.contains("greptime-lab-fault"));
    let rules = ours.filter_map(|l| l.strip_prefix("-A "));
    rules
        .map(|r| {
            r.split_whitespace()
                .map(|w| w.trim_matches('"').to_owned())
                .collect()
        })
        .collect()
}

pub fn is_partitioned(node: Node) -> bool {
    let marked = || {
        let listed = node::run_in_network(node, &["iptables-save", "-t", "filter"]);
        listed.is_ok_and(|text| !marked_rules(&text).is_empty())
    };
    !network::is_plugged(node) || marked()
}

/// A pod that has been placed and started.
struct PlacedPod {
    node: Node,
    ip: String,
    /// Container name and id.
    containers: Vec<(String, String)>,
}

fn find_pod(lab: &Lab, namespace: &str, pod: &str) -> Result<PlacedPod> {
    let text = lab.kubectl(&["-n", namespace, "get", "pod", pod, "-o", "json"])?;
    parse_pod(&serde_json::from_str(&text)?).with_context(|| format!("pod {namespace}/{pod}"))
}

fn parse_pod(pod: &Value) -> Result<PlacedPod> {
    let statuses = pod["status"]["containerStatuses"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let containers = statuses.iter().filter_map(|s| {
        let id = s["containerID"].as_str()?.rsplit('/').next()?;
        Some((s["name"].as_str()?.to_owned(), id.to_owned()))
    });
    Ok(PlacedPod {
        node: pod["spec"]["nodeName"]
            .as_str()
            .context("it is on no node")?
            .parse()?,
        ip: pod["status"]["podIP"]
            .as_str()
            .context("it has no address")?
            .to_owned(),
        containers: containers.collect(),
    })
}

/// Sends a signal to every process of a container, or of the pod's only one,
/// from outside, where no process can refuse it. `KILL` is a crash; `STOP` makes
/// it hang, with its connections open, until `CONT`.
pub fn signal_container(
    lab: &Lab,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    signal: Signal,
) -> Result<()> {
    let pids = processes(lab, namespace, pod, container)?;
    for pid in pids.into_iter().filter_map(Pid::from_raw) {
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e).context("signal"),
        }
    }
    Ok(())
}

/// The processes of a container, or of the pod's only one.
fn processes(lab: &Lab, namespace: &str, pod: &str, container: Option<&str>) -> Result<Vec<i32>> {
    let placed = find_pod(lab, namespace, pod)?;
    let mut chosen = placed
        .containers
        .iter()
        .filter(|(name, _)| container.is_none_or(|c| c == name));
    let (Some((_, id)), None) = (chosen.next(), chosen.next()) else {
        let names: Vec<_> = placed.containers.iter().map(|(name, _)| name.as_str()).collect();
        bail!(
            "name one of the running containers of {namespace}/{pod}: {}",
            names.join(", ")
        );
    };
    let pids = cgroup::container_processes(placed.node, id);
    if pids.is_empty() {
        bail!("{namespace}/{pod} has no running process");
    }
    Ok(pids)
}

/// Bytes of memory that the processes of a pod's only container had at the most, each since it began.
pub fn peak_memory(lab: &Lab, namespace: &str, pod: &str) -> Result<u64> {
    let mut bytes = 0;
    for pid in processes(lab, namespace, pod, None)? {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        bytes += 1024 * peak.with_context(|| format!("{path} says no VmHWM"))?;
    }
    Ok(bytes)
}

pub fn parse_signal(name: &str) -> Result<Signal> {
    Ok(match name.trim_start_matches("SIG") {
        "KILL" => Signal::KILL,
        "TERM" => Signal::TERM,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        _ => bail!("{name:?}: say KILL, TERM, STOP or CONT"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn healing_removes_our_rules_and_no_others() {
        let listed = "-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
                      -A OUTPUT -o eth0 -m comment --comment greptime-lab-fault -j DROP\n\
                      :OUTPUT ACCEPT [0:0]\n";
        let rules = marked_rules(listed);
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0][..3], ["OUTPUT", "-o", "eth0"]);
    }

    #[test]
    fn a_cut_in_one_direction_concerns_the_node_and_its_pods() {
        assert_eq!(rules(Cut::Outgoing).len(), 2);
        assert_eq!(
            rules(Cut::ApiServer)[0].join(" "),
            "OUTPUT -d 10.200.0.1 -p tcp --dport 6443"
        );
    }

    #[test]
    fn a_pods_disk_is_that_of_the_node_where_its_volume_was_made() {
        let pod = json!({ "spec": { "volumes": [
            { "name": "settings", "configMap": {} },
            { "name": "data", "persistentVolumeClaim": { "claimName": "data-db-0" } },
        ] } });
        assert_eq!(claim_of(&pod).unwrap(), "data-db-0");
        assert!(claim_of(&json!({ "spec": {} })).is_err());
        let volume = |path: &str| json!({ "spec": { "local": { "path": path } } });
        assert_eq!(place_of(&volume("/lab/volumes/node3/pvc-1")).unwrap().index(), 3);
        assert!(place_of(&volume("/lab/volumes/pvc-1")).is_err());
    }

    #[test]
    fn a_pod_is_read_with_its_containers() {
        let pod = json!({
            "spec": { "nodeName": "node2" },
            "status": {
                "podIP": "10.211.2.7",
                "containerStatuses": [{ "name": "db", "containerID": "containerd://abc" }, { "name": "late" }],
            },
        });
        let placed = parse_pod(&pod).unwrap();
        assert_eq!(placed.node.index(), 2);
        assert_eq!(placed.containers, [("db".to_owned(), "abc".to_owned())]);
        assert!(parse_pod(&json!({ "spec": {} })).is_err());
    }
}
