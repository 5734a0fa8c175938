//! Bringing the laboratory up and taking it down.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::addresses::{CLUSTER_DOMAIN, DNS_IP, HOST_IP, HOST_NETNS, Node, REGISTRY_NAME};
use crate::images::{self, ImageSpec};
use crate::layout::Lab;
use crate::process::{remove_if_there, write_atomically};
use crate::progress::{Stopwatch, wait_until};
use crate::services::{self, Service};
use crate::tools::{TOOLS, Toolbox};
use crate::{certificates, cgroup, controlplane, disk, faults, forward, kubeconfig, network, node, shell};

const MANIFESTS: [&str; 2] = [
    include_str!("../manifests/coredns.yaml"),
    include_str!("../manifests/storage.yaml"),
];

/// Programs that Debian packages provide, for a message that says so.
const SYSTEM_PROGRAMS: [&str; 13] = [
    "containerd",
    "runc",
    "ip",
    "iptables",
    "conntrack",
    "openssl",
    "curl",
    "nsenter",
    "unshare",
    "setsid",
    "losetup",
    "mkfs.ext4",
    "fsfreeze",
];

/// Brings the laboratory up from any state. One that works is kept, and what is
/// broken in it is mended; otherwise it is made anew.
pub fn up(lab: &Lab) -> Result<()> {
    let watch = Stopwatch::start();
    check_machine()?;
    let tools = Toolbox::from_env()?;
    tools.build_missing(&[], watch)?;
    if lives(lab) {
        watch.say("a laboratory is up already; mending what is broken");
        match install_program(lab).and_then(|()| mend(lab, watch)) {
            Ok(()) => return Ok(()),
            Err(e) => watch.say(&format!("it cannot be mended, so it is made anew: {e:#}")),
        }
    }
    remove(lab, watch)?;
    make(lab, &tools, watch).with_context(|| {
        format!(
            "the laboratory is left as it is; its logs are in {}",
            lab.path("log").display()
        )
    })
}

/// Ends everything and removes every trace.
pub fn down(lab: &Lab) -> Result<()> {
    let watch = Stopwatch::start();
    remove(lab, watch)?;
    watch.say("the laboratory is down");
    Ok(())
}

pub fn lives(lab: &Lab) -> bool {
    let processes = lab.processes();
    network::exists(HOST_NETNS)
        && lab.kubeconfig().exists()
        && processes.is_alive(controlplane::API_ETCD)
        && processes.is_alive(controlplane::API_SERVER)
}

fn check_machine() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the laboratory needs root: it makes namespaces, mounts and cgroups");
    }
    cgroup::hierarchies()?;
    let missing: Vec<_> = SYSTEM_PROGRAMS.into_iter().filter(|p| !is_installed(p)).collect();
    if !missing.is_empty() {
        bail!(
            "not installed: {}; run e2e/kubernetes/install-packages.sh",
            missing.join(", ")
        );
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn make(lab: &Lab, tools: &Toolbox, watch: Stopwatch) -> Result<()> {
    make_disks(lab, watch)?;
    make_mount_points(lab)?;
    install_program(lab)?;
    for tool in TOOLS {
        symlink(tools.program(tool.name), lab.tool(tool.name))?;
    }
    symlink("kubernetes", lab.tool("kubectl"))?;
    network::make_host()?;
    certificates::make(lab)?;
    kubeconfig::write_all(lab)?;
    write_atomically(&lab.config("host-resolv.conf"), host_resolv_conf().as_bytes())?;
    watch.say("certificates and networks made");

    controlplane::start_api(lab)?;
    for service in Service::ALL {
        service.launch(lab)?;
    }
    Node::all().try_for_each(|node| node::configure(lab, node))?;
    forward::start_api(lab)?;
    // The images are made and the nodes start while the API server does.
    thread::scope(|scope| {
        let images = scope.spawn(|| push_system_images(lab));
        let nodes: Vec<_> = Node::all()
            .map(|n| scope.spawn(move || node::start(lab, n)))
            .collect();
        controlplane::wait_for_api(lab, Duration::from_secs(90))?;
        watch.say("API server ready");
        controlplane::start_controllers(lab)?;
        apply(lab, &manifests())?;
        nodes.into_iter().chain([images]).try_for_each(join)
    })?;
    wait_for_services(lab)?;
    watch.say("images pushed, etcd and S3 ready");
    wait_for_nodes(lab, watch)?;
    finish(lab, watch)
}

/// Starts whatever does not run, and undoes the faults.
fn mend(lab: &Lab, watch: Stopwatch) -> Result<()> {
    for service in Service::ALL {
        service.launch(lab)?;
    }
    forward::start_api(lab)?;
    controlplane::wait_for_api(lab, Duration::from_secs(20))?;
    controlplane::start_controllers(lab)?;
    apply(lab, &manifests())?;
    wait_for_services(lab)?;
    for node in Node::all() {
        node::start(lab, node)?;
        faults::heal(lab, node)?;
    }
    wait_for_nodes(lab, watch)?;
    finish(lab, watch)
}

fn finish(lab: &Lab, watch: Stopwatch) -> Result<()> {
    // It asks for its node, so it starts only when there is one.
    lab.processes().start(&controlplane::host_proxy(lab)?)?;
    let rollout = [
        "-n",
        "kube-system",
        "rollout",
        "status",
        "deployment/coredns",
        "--timeout=90s",
    ];
    if let Err(e) = lab.kubectl(&rollout) {
        let pods = lab
            .kubectl(&["-n", "kube-system", "describe", "pods"])
            .unwrap_or_default();
        bail!("cluster DNS does not come up: {e:#}\n{pods}");
    }
    watch.say("cluster DNS ready: the laboratory is up");
    Ok(())
}

fn join(thread: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

/// Nodes find them mounted, so they have to be there before. Where the machine has no devices for them, volumes are
/// directories of its own disk: that does for everything but a disk that hangs.
fn make_disks(lab: &Lab, watch: Stopwatch) -> Result<()> {
    fs::create_dir_all(lab.path("volumes"))?;
    disk::make_all(lab).or_else(|e| {
        watch.say(&format!(
            "the nodes get no disks of their own, so none can hang: {e:#}"
        ));
        disk::remove_all(lab)
    })
}

/// The nodes' own directories are mounted over these, so they have to exist.
/// Those that did not are noted, and `down` removes them.
fn make_mount_points(lab: &Lab) -> Result<()> {
    let mut made = fs::File::create(lab.path("made-directories"))?;
    for (_, place) in node::OWN_DIRECTORIES {
        let missing = Path::new(place).ancestors().take_while(|a| !a.exists());
        let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
        missing.reverse();
        for dir in missing {
            fs::create_dir(&dir)?;
            writeln!(made, "{}", dir.display())?;
        }
    }
    Ok(())
}

/// Nodes and forwarders run a copy of this program.
fn install_program(lab: &Lab) -> Result<()> {
    let (own, copy) = (std::env::current_exe()?, lab.program());
    if own == copy {
        return Ok(());
    }
    fs::create_dir_all(lab.path("bin"))?;
    let new = copy.with_extension("new");
    fs::copy(own, &new)?;
    fs::rename(new, copy)?;
    Ok(())
}

fn host_resolv_conf() -> String {
    let search = format!("default.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}");
    format!("nameserver {DNS_IP}\nsearch {search}\noptions ndots:5\n")
}

fn coredns_image() -> String {
    format!("{REGISTRY_NAME}/coredns:1")
}

fn manifests() -> String {
    MANIFESTS
        .join("---\n")
        .replace("{{HOST_IP}}", &HOST_IP.to_string())
        .replace("{{DNS_IP}}", &DNS_IP.to_string())
        .replace("{{CLUSTER_DOMAIN}}", CLUSTER_DOMAIN)
        .replace("{{COREDNS_IMAGE}}", &coredns_image())
}

fn push_system_images(lab: &Lab) -> Result<()> {
    Service::Registry.wait(lab)?;
    for (tool, name) in [("pause", node::pause_image()), ("coredns", coredns_image())] {
        let program = fs::canonicalize(lab.tool(tool))?;
        // CoreDNS binds port 53, which only root may.
        let spec = ImageSpec {
            root: true,
            ..ImageSpec::new(&name, program, &format!("/{tool}"))
        };
        images::build_and_push(lab, &spec)?;
    }
    Ok(())
}

fn wait_for_services(lab: &Lab) -> Result<()> {
    Service::ALL
        .into_iter()
        .try_for_each(|service| service.wait(lab))?;
    services::make_bucket(&services::s3())
}

fn apply(lab: &Lab, yaml: &str) -> Result<()> {
    let mut command = Command::new(lab.tool("kubectl"));
    command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    command.env("KUBECONFIG", lab.kubeconfig());
    shell::feed(&mut command, yaml).map(drop)
}

fn wait_for_nodes(lab: &Lab, watch: Stopwatch) -> Result<()> {
    let all_ready = || {
        for node in Node::all() {
            lab.processes().expect_alive(&node.name())?;
        }
        Ok(Node::all().all(|node| lab.is_node_ready(node)))
    };
    let explain = || {
        let silent = Node::all().find(|n| !lab.is_node_ready(*n));
        silent.map_or_else(String::new, |n| lab.processes().tail(&format!("{n}-kubelet")))
    };
    wait_until(
        "nodes ready",
        Duration::from_secs(90),
        Duration::from_millis(200),
        all_ready,
        explain,
    )?;
    watch.say("nodes ready");
    Ok(())
}

fn remove(lab: &Lab, watch: Stopwatch) -> Result<()> {
    let processes = lab.processes();
    let traces = lab.dir().exists() || network::exists(HOST_NETNS);
    if traces {
        watch.say("removing what is there");
    }
    // In parallel: each takes as long as the kernel needs to end its processes.
    thread::scope(|scope| {
        let nodes: Vec<_> = Node::all()
            .map(|n| scope.spawn(move || node::clear(lab, n)))
            .collect();
        nodes.into_iter().try_for_each(join)
    })?;
    // Their data go as well, so nobody has to save anything.
    processes
        .names()
        .iter()
        .try_for_each(|name| processes.stop(name, Duration::ZERO))?;
    end_strays(lab)?;
    disk::remove_all(lab)?;
    network::remove_netns(HOST_NETNS)?;
    network::remove_netns_directory_if_empty();
    if lab.dir().exists() {
        remove_made_directories(lab);
        fs::remove_dir_all(lab.dir()).with_context(|| format!("removing {}", lab.dir().display()))?;
    }
    Ok(())
}

/// Ends processes without a record, as after the directory was removed by hand:
/// what is in our network namespace, and what runs our copy of this program
/// (the forwarders), can only be ours.
fn end_strays(lab: &Lab) -> Result<()> {
    let in_namespace = if network::exists(HOST_NETNS) {
        shell::line(&format!("ip netns pids {HOST_NETNS}"))?
    } else {
        String::new()
    };
    let in_namespace = in_namespace.lines().filter_map(|l| l.trim().parse::<u32>().ok());
    for pid in in_namespace.chain(processes_running(&lab.program())) {
        if pid != std::process::id() {
            // It may have ended meanwhile.
            let _ = shell::line(&format!("kill -KILL {pid}"));
        }
    }
    Ok(())
}

/// The processes that were started from this file, even if it has gone since.
fn processes_running(program: &Path) -> Vec<u32> {
    let gone = format!("{} (deleted)", program.display());
    let runs = |pid: &u32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe == program || exe == Path::new(&gone))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(runs)
        .collect()
}

fn remove_made_directories(lab: &Lab) {
    let list = fs::read_to_string(lab.path("made-directories")).unwrap_or_default();
    for dir in list.lines().rev() {
        // Somebody else may use it by now; then it stays.
        let _ = fs::remove_dir(dir);
    }
    let _ = remove_if_there(&lab.path("made-directories"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_in_the_manifests() {
        let text = manifests();
        assert!(!text.contains("{{"), "{text}");
        assert!(text.contains("clusterIP: 10.96.0.10"));
        assert!(text.contains("image: registry.lab/coredns:1"));
    }
}
