//! Who has which address. Everything lives in network namespaces of the
//! laboratory's own, so these addresses never meet those of the machine.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Result, bail};

/// The namespace that holds the control plane and whatever a production user
/// would run outside of Kubernetes. Its bridge joins the nodes.
pub const HOST_NETNS: &str = "ct-h0";
pub const BRIDGE: &str = "br-ct";
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);

pub const SERVICE_CIDR: &str = "10.96.0.0/16";
pub const POD_CIDR: &str = "10.211.0.0/16";
/// The address of the service `kubernetes`: the first of the range.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const CLUSTER_DOMAIN: &str = "cluster.local";

pub const API_PORT: u16 = 6443;
/// The API server's own etcd, on the loopback of [`HOST_NETNS`].
pub const API_ETCD_PORT: u16 = 2379;
pub const API_ETCD_PEER_PORT: u16 = 2380;
/// The database's etcd.
pub const ETCD_PORT: u16 = 23790;
pub const ETCD_PEER_PORT: u16 = 23800;
pub const S3_PORT: u16 = 7070;
pub const REGISTRY_PORT: u16 = 5000;
/// The name under which the nodes pull; containerd maps it to the address.
pub const REGISTRY_NAME: &str = "registry.lab";

pub const NODE_COUNT: u8 = 3;

/// One of the laboratory's nodes, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(u8);

impl Node {
    pub fn new(index: u8) -> Result<Self> {
        if index == 0 || index > NODE_COUNT {
            bail!("there is no node {index}: the nodes are 1 to {NODE_COUNT}");
        }
        Ok(Self(index))
    }

    pub fn all() -> impl Iterator<Item = Node> {
        (1..=NODE_COUNT).map(Node)
    }

    pub fn index(self) -> u8 {
        self.0
    }

    /// The name of the Kubernetes node object, and the host name.
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    pub fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, 0, 10 + self.0)
    }

    pub fn pod_cidr(self) -> String {
        format!("10.211.{}.0/24", self.0)
    }

    pub fn netns(self) -> String {
        format!("ct-n{}", self.0)
    }

    /// The end of the node's cable that is plugged into the bridge.
    pub fn veth(self) -> String {
        format!("ctn{}", self.0)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl FromStr for Node {
    type Err = anyhow::Error;

    /// Accepts `2` and `node2`.
    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("node").unwrap_or(text).parse() {
            Ok(index) => Node::new(index),
            Err(_) => bail!("{text:?} is not a node: say 1 or node1"),
        }
    }
}

pub fn etcd_endpoint() -> String {
    format!("http://{HOST_IP}:{ETCD_PORT}")
}

pub fn s3_endpoint() -> String {
    format!("http://{HOST_IP}:{S3_PORT}")
}

pub fn registry_address() -> String {
    format!("{HOST_IP}:{REGISTRY_PORT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_distinct_addresses_outside_of_the_pod_and_service_ranges() {
        let ips: Vec<_> = Node::all().map(|n| n.ip().to_string()).collect();
        assert_eq!(ips, ["10.200.0.11", "10.200.0.12", "10.200.0.13"]);
        assert!(Node::all().all(|n| n.pod_cidr().starts_with("10.211.")));
    }

    #[test]
    fn a_node_is_named_by_number_or_by_name() {
        assert_eq!("2".parse::<Node>().unwrap(), "node2".parse::<Node>().unwrap());
        assert!("node4".parse::<Node>().is_err());
        assert!("0".parse::<Node>().is_err());
        assert!("worker".parse::<Node>().is_err());
    }
}
