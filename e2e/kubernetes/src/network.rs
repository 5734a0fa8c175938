//! Network namespaces, cables and routes.
//!
//! ```text
//! ct-h0   bridge br-ct 10.200.0.1      control plane, etcd, S3, registry
//!           |ctn1     |ctn2     |ctn3
//!         ct-n1     ct-n2     ct-n3    eth0 10.200.0.11, .12, .13
//!         10.211.1.0/24  ...           pods
//! ```
//!
//! `ip netns exec` is never used: it mounts a /sys of its own, which hides the
//! cgroups. `nsenter --net` leaves the mounts alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::addresses::{BRIDGE, HOST_IP, HOST_NETNS, Node, SERVICE_CIDR};
use crate::shell;

pub fn netns_path(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

pub fn exists(netns: &str) -> bool {
    netns_path(netns).exists()
}

/// Makes the namespace of the control plane with its bridge.
pub fn make_host() -> Result<()> {
    make_netns(HOST_NETNS)?;
    shell::line(&format!("ip -n {HOST_NETNS} link add {BRIDGE} type bridge"))?;
    shell::line(&format!(
        "ip -n {HOST_NETNS} address add {HOST_IP}/24 dev {BRIDGE}"
    ))?;
    shell::line(&format!("ip -n {HOST_NETNS} link set {BRIDGE} up"))?;
    // Only that the packet leaves the routing table: the service rules rewrite
    // its destination before it would reach the bridge.
    shell::line(&format!(
        "ip -n {HOST_NETNS} route add {SERVICE_CIDR} dev {BRIDGE}"
    ))?;
    for node in Node::all() {
        shell::line(&format!(
            "ip -n {HOST_NETNS} route add {} via {}",
            node.pod_cidr(),
            node.ip()
        ))?;
    }
    Ok(())
}

/// Makes the namespace of a node and plugs it in, unplugging an older one.
pub fn make_node(node: Node) -> Result<()> {
    remove_node(node)?;
    let (netns, veth) = (node.netns(), node.veth());
    make_netns(&netns)?;
    shell::line(&format!(
        "ip -n {HOST_NETNS} link add {veth} type veth peer name eth0 netns {netns}"
    ))?;
    shell::line(&format!("ip -n {HOST_NETNS} link set {veth} master {BRIDGE} up"))?;
    shell::line(&format!("ip -n {netns} address add {}/24 dev eth0", node.ip()))?;
    shell::line(&format!("ip -n {netns} link set eth0 up"))?;
    for other in Node::all().filter(|o| *o != node) {
        shell::line(&format!(
            "ip -n {netns} route add {} via {}",
            other.pod_cidr(),
            other.ip()
        ))?;
    }
    // A default route lets kube-proxy's rules see packets to service addresses;
    // there is nothing behind it.
    shell::line(&format!("ip -n {netns} route add default via {HOST_IP}"))?;
    Ok(())
}

pub fn remove_node(node: Node) -> Result<()> {
    if exists(HOST_NETNS) && link_exists(HOST_NETNS, &node.veth()) {
        shell::line(&format!("ip -n {HOST_NETNS} link delete {}", node.veth()))?;
    }
    remove_netns(&node.netns())
}

/// Plugs the node's cable in or out, at the end of the bridge.
pub fn set_cable(node: Node, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    shell::line(&format!("ip -n {HOST_NETNS} link set {} {state}", node.veth())).map(drop)
}

pub fn is_plugged(node: Node) -> bool {
    let shown = shell::line(&format!("ip -n {HOST_NETNS} -o link show {}", node.veth()));
    shown.is_ok_and(|text| flags_of(&text).contains(&"UP"))
}

fn flags_of(link: &str) -> Vec<&str> {
    let inside = link.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or_else(Vec::new, |(flags, _)| flags.split(',').collect())
}

pub fn link_exists(netns: &str, link: &str) -> bool {
    shell::line(&format!("ip -n {netns} link show {link}")).is_ok()
}

fn make_netns(name: &str) -> Result<()> {
    shell::line(&format!("ip netns add {name}"))?;
    shell::line(&format!("ip -n {name} link set lo up"))?;
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
    shell::run(
        "nsenter",
        &[&format!("--net=/run/netns/{name}"), "sh", "-c", forward],
    )
}

/// Removes a namespace and, with the last one, the mount that `ip netns` makes
/// for all of them.
pub fn remove_netns(name: &str) -> Result<()> {
    if exists(name) {
        // A name without a namespace behind it is what an interrupted `ip netns
        // add` leaves; it is a plain file.
        if shell::line(&format!("ip netns delete {name}")).is_err() {
            let _ = shell::line(&format!("umount {}", netns_path(name).display()));
            crate::process::remove_if_there(&netns_path(name))?;
        }
    }
    Ok(())
}

pub fn remove_netns_directory_if_empty() {
    let dir = Path::new("/run/netns");
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()) {
        let _ = shell::line("umount /run/netns");
        let _ = fs::remove_dir(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_a_link_are_read() {
        let up = "5: ctn1@if2: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500";
        assert!(flags_of(up).contains(&"UP"));
        assert!(!flags_of("5: ctn1: <BROADCAST,MULTICAST,LOWER_UP> mtu").contains(&"UP"));
    }
}
