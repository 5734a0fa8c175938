//! A node, seen from inside: the first process of its process namespace.
//!
//! `greptime-lab node-boot N` enters the node's cgroups and network and turns
//! into `unshare`, which starts `greptime-lab node-init N` in namespaces of its
//! own. That one mounts what a machine has mounted, starts the daemons of a
//! node, starts them again when they end, and buries orphans.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{WaitOptions, wait};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::addresses::{API_PORT, HOST_IP, Node};
use crate::cgroup::Hierarchy;
use crate::layout::Lab;
use crate::{cgroup, network, node, shell};

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Never returns unless it fails.
pub fn boot(lab: &Lab, node: Node) -> Result<()> {
    cgroup::enter(node)?;
    enter_network(&node.netns())?;
    let failed = Command::new("unshare")
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--cgroup",
            "--pid",
            "--fork",
            "--kill-child",
        ])
        .arg(lab.program())
        .args(["node-init", &node.index().to_string()])
        .exec();
    Err(failed).context("unshare")
}

/// Moves this thread, and with it what it starts, into a network namespace.
pub fn enter_network(netns: &str) -> Result<()> {
    let path = network::netns_path(netns);
    let file = File::open(&path).with_context(|| format!("no network namespace {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// The first process of the node. Never returns unless it fails.
pub fn init(lab: &Lab, node: Node) -> Result<()> {
    // /proc is still the machine's, so it shows the machine's number for us.
    let pid = fs::read_link("/proc/self")?;
    let hierarchies = cgroup::hierarchies()?;
    rustix::system::sethostname(node.name().as_bytes())?;
    mount_system(&hierarchies)?;
    mount_own(lab, node)?;
    let pid = pid.to_string_lossy();
    crate::process::write_atomically(&node::init_pid_file(lab, node), pid.as_bytes())?;
    let services = services(lab, node)?;
    Init {
        services,
        running: BTreeMap::new(),
    }
    .run()
}

fn mount_system(hierarchies: &[Hierarchy]) -> Result<()> {
    shell::line("mount -t proc proc /proc")?;
    // A new /sys shows the network devices of the new namespace.
    shell::line("mount -t sysfs sysfs /sys")?;
    shell::line("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup")?;
    for hierarchy in hierarchies {
        let path = hierarchy.path.display();
        fs::create_dir_all(&hierarchy.path)?;
        match &hierarchy.option {
            Some(option) => shell::line(&format!("mount -t cgroup -o {option} cgroup {path}"))?,
            None => shell::line(&format!("mount -t cgroup2 cgroup2 {path}"))?,
        };
    }
    shell::line("mount -t tmpfs -o mode=755 tmpfs /run").map(drop)
}

fn mount_own(lab: &Lab, node: Node) -> Result<()> {
    for (own, place) in node::OWN_DIRECTORIES {
        let own = lab.node_dir(node).join(own);
        shell::run("mount", &["--bind".as_ref(), own.as_os_str(), place.as_ref()])?;
    }
    // The kubelet's mounts for a pod have to reach containerd's containers.
    shell::line("mount --make-rshared /").map(drop)
}

/// A daemon of the node; `ready` tells when it may start.
struct Service {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    ready: fn() -> bool,
}

fn services(lab: &Lab, node: Node) -> Result<Vec<Service>> {
    let kubernetes = lab.tool("kubernetes");
    let config = |file: &str| lab.config(&format!("{node}-{file}")).display().to_string();
    let log = |name: &str| lab.processes().log(&format!("{node}-{name}"));
    let kubelet = [
        "kubelet".to_owned(),
        format!("--config={}", config("kubelet.json")),
        format!(
            "--kubeconfig={}",
            lab.pki(&format!("{node}.kubeconfig")).display()
        ),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", node.ip()),
        format!("--node-labels=topology.kubernetes.io/zone=zone{}", node.index()),
    ];
    Ok(vec![
        Service {
            name: "containerd",
            program: "containerd".into(),
            args: vec!["--config".to_owned(), config("containerd.toml")],
            log: log("containerd"),
            ready: || true,
        },
        Service {
            name: "kubelet",
            program: kubernetes.clone(),
            args: kubelet.to_vec(),
            log: log("kubelet"),
            ready: || Path::new(CONTAINERD_SOCKET).exists() && api_listens(),
        },
        Service {
            name: "kube-proxy",
            program: kubernetes,
            args: vec![
                "kube-proxy".to_owned(),
                format!("--config={}", config("kube-proxy.json")),
            ],
            log: log("kube-proxy"),
            ready: api_listens,
        },
    ])
}

/// A kubelet that finds no API server waits longer each time it asks; started
/// when there is one, it registers at once.
fn api_listens() -> bool {
    let api = SocketAddr::from((HOST_IP, API_PORT));
    TcpStream::connect_timeout(&api, Duration::from_secs(1)).is_ok()
}

struct Init {
    services: Vec<Service>,
    /// Process id to place in `services`.
    running: BTreeMap<i32, usize>,
}

impl Init {
    fn run(mut self) -> Result<()> {
        let mut waiting: Vec<usize> = (0..self.services.len()).collect();
        loop {
            let (ready, not_yet): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|i| (self.services[*i].ready)());
            waiting = not_yet;
            for i in ready {
                self.start(i)?;
            }
            waiting.extend(self.bury(waiting.is_empty())?);
            thread::sleep(Duration::from_millis(if waiting.is_empty() { 0 } else { 50 }));
        }
    }

    fn start(&mut self, i: usize) -> Result<()> {
        let service = &self.services[i];
        let log = File::options().create(true).append(true).open(&service.log)?;
        // Not waited for through this handle: `bury` waits for all children.
        let child = Command::new(&service.program)
            .args(&service.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", service.name))?;
        self.running.insert(i32::try_from(child.id())?, i);
        Ok(())
    }

    /// Buries what has ended, and returns the services among it. With nothing
    /// else to do it sleeps until something ends.
    fn bury(&mut self, sleep: bool) -> Result<Vec<usize>> {
        let mut ended = Vec::new();
        let mut options = if sleep {
            WaitOptions::empty()
        } else {
            WaitOptions::NOHANG
        };
        while let Some((pid, status)) = wait(options)? {
            options = WaitOptions::NOHANG;
            if let Some(i) = self.running.remove(&pid.as_raw_nonzero().get()) {
                eprintln!("{} ended ({status:?}), starting it again", self.services[i].name);
                // Not in a frenzy, if it cannot start at all.
                thread::sleep(Duration::from_secs(1));
                ended.push(i);
            }
        }
        Ok(ended)
    }
}
