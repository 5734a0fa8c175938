//! The faults: how each is done on a real cluster, and undone.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use greptime_lab::faults::{Cut, disk_of_pod, freeze_disk, heal, partition, signal_container};
use greptime_lab::{Lab, Node, Service, Stop, node};
use rustix::process::Signal;
use serde_json::json;

use super::BACK;
use crate::database::Database;
use crate::regions::Region;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL of a datanode's process.
    Kill,
    /// SIGSTOP of it, for two seconds.
    Stop,
    /// Its node loses its power, and all that runs there.
    NodeCrash,
    /// The cable of its node is out, for two seconds.
    Partition,
    /// The same in one direction, by turns.
    PartitionOneWay,
    /// The disk that a datanode's volume lies on hangs, for three seconds.
    SlowDisk,
    /// SIGKILL of the metasrv that leads.
    MetasrvKill,
    /// etcd dies, and is back after two seconds.
    EtcdKill,
    /// A region's leadership moves to another datanode.
    Migrate,
    /// Every datanode's pod is deleted, one after the other.
    RollingRestart,
    /// No fault: on each node a pod comes and goes that has nothing to do with the database. What that costs is in every
    /// restart, too.
    Bystanders,
}

impl Fault {
    /// As in the report of `make chaos`.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// For how long it lasts at the least.
    pub fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Migrate | Self::RollingRestart | Self::Bystanders => 0,
            // Another one leads when the session of the one before has ended.
            Self::MetasrvKill => 8_000,
            Self::SlowDisk => 3_000,
            _ => 2_000,
        })
    }
}

/// Whom a fault hits.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod of the metasrv that leads.
    pub metasrv: String,
    /// A datanode's pod, and its node.
    pub datanode: String,
    pub node: Node,
    /// A region that the datanode leads.
    pub region: Region,
    /// For faults that take turns.
    pub turn: usize,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {}, leading {}; {} leads",
            self.datanode, self.node, self.region.region, self.metasrv
        )
    }
}

/// What must be undone.
pub enum Done {
    Nothing,
    /// The pod's container is dead. It is replaced: the kubelet would wait longer with every time.
    Killed {
        pod: String,
    },
    Stopped {
        pod: String,
    },
    Crashed(Node),
    /// Its network, or its disk.
    Hurt(Node),
    EtcdIsAway,
}

pub fn inflict(fault: Fault, lab: &Lab, database: &Database, target: &Target) -> Result<Done> {
    let signal = |pod: &str, signal| signal_container(lab, &database.namespace, pod, None, signal);
    let (pod, node) = (target.datanode.clone(), target.node);
    Ok(match fault {
        Fault::Kill => {
            signal(&pod, Signal::KILL)?;
            Done::Killed { pod }
        }
        Fault::MetasrvKill => {
            signal(&target.metasrv, Signal::KILL)?;
            Done::Killed {
                pod: target.metasrv.clone(),
            }
        }
        Fault::Stop => {
            signal(&pod, Signal::STOP)?;
            Done::Stopped { pod }
        }
        Fault::NodeCrash => {
            node::crash(lab, node)?;
            Done::Crashed(node)
        }
        Fault::Partition => {
            partition(node, Cut::Everything)?;
            Done::Hurt(node)
        }
        Fault::PartitionOneWay => {
            partition(
                node,
                if target.turn.is_multiple_of(2) {
                    Cut::Incoming
                } else {
                    Cut::Outgoing
                },
            )?;
            Done::Hurt(node)
        }
        Fault::SlowDisk => {
            let disk = disk_of_pod(lab, &database.namespace, &pod)?;
            freeze_disk(lab, disk)?;
            Done::Hurt(disk)
        }
        Fault::EtcdKill => {
            Service::Etcd.stop(lab, Stop::Abruptly)?;
            Done::EtcdIsAway
        }
        // Somebody orders it.
        Fault::Migrate => Done::Nothing,
        Fault::RollingRestart => {
            for pod in database.pods("datanode")? {
                database.replace_pod(&pod, BACK)?;
            }
            Done::Nothing
        }
        Fault::Bystanders => {
            Node::all().try_for_each(|node| come_and_go(database, node))?;
            Done::Nothing
        }
    })
}

/// A pod that does nothing is started and deleted.
fn come_and_go(database: &Database, node: Node) -> Result<()> {
    database.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "bystander", "namespace": database.namespace},
        "spec": {
            "nodeName": node.name(), "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "pause", "image": node::pause_image()}],
        },
    }))?;
    let timeout = format!("--timeout={}s", BACK.as_secs());
    database.kubectl(&["wait", "--for=condition=Ready", "pod/bystander", &timeout])?;
    database
        .kubectl(&["delete", "pod", "bystander", &timeout])
        .map(drop)
}

pub fn undo(fault: Fault, lab: &Lab, database: &Database, done: &Done) -> Result<()> {
    match done {
        Done::Nothing => Ok(()),
        Done::Killed { pod } => {
            let delete = [
                "delete",
                "pod",
                pod,
                "--force",
                "--grace-period=0",
                "--ignore-not-found",
            ];
            database.kubectl(&delete).map(drop)
        }
        Done::Stopped { pod } => signal_container(lab, &database.namespace, pod, None, Signal::CONT),
        Done::Crashed(node) => {
            node::start(lab, *node)?;
            // Kubernetes takes it for ready until it has missed it for a while; its pods say when they run again.
            lab.wait_for_node(*node, true, BACK)
        }
        Done::Hurt(node) => heal(lab, *node),
        Done::EtcdIsAway => Service::Etcd.start(lab),
    }?;
    if fault == Fault::NodeCrash {
        // What is said of its pods is old until its kubelet has looked.
        std::thread::sleep(Duration::from_secs(5));
    }
    Ok(())
}
