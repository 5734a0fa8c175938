//! A cgroup for each node, which the node takes for the whole machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::addresses::Node;

const ROOT: &str = "/sys/fs/cgroup";
/// The cgroup above those of the nodes, in every hierarchy.
const PARENT: &str = "ctnodes";

/// A mounted hierarchy: where it is and the option that mounts it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub path: PathBuf,
    /// The controllers, or `name=...`; `None` is cgroup v2.
    pub option: Option<String>,
}

/// The hierarchies below `/sys/fs/cgroup`, read from the kernel's mount table.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let found = parse_mounts(&fs::read_to_string("/proc/self/mounts")?);
    if !found.iter().any(|h| h.option.is_some()) {
        bail!(
            "this machine has only cgroup v2; the laboratory needs the hierarchies of v1. \
             Boot with systemd.unified_cgroup_hierarchy=0 (with systemd 256 and 257 also \
             SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1), or use a cluster of your own through KUBECONFIG"
        );
    }
    Ok(found)
}

/// `/proc/self/mounts`: device, place, type, options.
fn parse_mounts(text: &str) -> Vec<Hierarchy> {
    let known = [
        "rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "xattr",
    ];
    let mounts = text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (Path::new(fields.next()?), fields.next()?, fields.next()?);
        if !path.starts_with(ROOT) || path == Path::new(ROOT) {
            return None;
        }
        let own: Vec<_> = options
            .split(',')
            .filter(|o| !known.contains(o) && !o.starts_with("release_agent="))
            .collect();
        let option = match kind {
            "cgroup" => Some(own.join(",")),
            "cgroup2" => None,
            _ => return None,
        };
        Some(Hierarchy {
            path: path.to_owned(),
            option,
        })
    });
    mounts.collect()
}

fn dir_of(hierarchy: &Hierarchy, node: Node) -> PathBuf {
    hierarchy.path.join(PARENT).join(node.name())
}

/// Makes the node's cgroups, empty.
pub fn make(node: Node) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = dir_of(&hierarchy, node);
        fs::create_dir_all(&dir).with_context(|| format!("cgroup {}", dir.display()))?;
        // A new cpuset allows no processor at all and then accepts no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(allowed) = fs::read_to_string(hierarchy.path.join(file)) {
                for dir in [hierarchy.path.join(PARENT), dir.clone()] {
                    fs::write(dir.join(file), allowed.trim())?;
                }
            }
        }
    }
    Ok(())
}

/// Moves this process into the node's cgroups.
pub fn enter(node: Node) -> Result<()> {
    for hierarchy in hierarchies()? {
        let file = dir_of(&hierarchy, node).join("cgroup.procs");
        fs::write(&file, std::process::id().to_string())
            .with_context(|| format!("entering {}", file.display()))?;
    }
    Ok(())
}

/// Every process in the node's cgroups, by its number on the machine.
pub fn processes(node: Node) -> Vec<i32> {
    let pids = Path::new(ROOT).join("pids").join(PARENT).join(node.name());
    let mut found = Vec::new();
    collect_processes(&pids, &mut found);
    found
}

/// The processes of one container, the first of them first.
pub fn container_processes(node: Node, container_id: &str) -> Vec<i32> {
    let pids = Path::new(ROOT).join("pids").join(PARENT).join(node.name());
    let mut found = Vec::new();
    if let Some(dir) = find_dir(&pids, container_id) {
        collect_processes(&dir, &mut found);
    }
    found
}

fn find_dir(dir: &Path, name: &str) -> Option<PathBuf> {
    subdirectories(dir).into_iter().find_map(|d| {
        if d.file_name().is_some_and(|n| n == name) {
            Some(d)
        } else {
            find_dir(&d, name)
        }
    })
}

fn collect_processes(dir: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for sub in subdirectories(dir) {
        collect_processes(&sub, found);
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// Removes the node's cgroups and all below. The processes must have gone.
pub fn remove(node: Node) -> Result<()> {
    for hierarchy in hierarchies()? {
        remove_tree(&dir_of(&hierarchy, node))?;
        // The last node takes the parent along.
        let _ = fs::remove_dir(hierarchy.path.join(PARENT));
    }
    Ok(())
}

/// A cgroup goes by `rmdir` once its children have gone; its files are not
/// files that could be removed. The kernel may need a moment after the death of
/// the last process.
fn remove_tree(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for sub in subdirectories(dir) {
        remove_tree(&sub)?;
    }
    for _ in 0..200 {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => return other.with_context(|| format!("removing {}", dir.display())),
        }
    }
    bail!("{} still holds processes", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_with_the_options_that_mount_them_again() {
        let text = "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0\n\
                    cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0\n\
                    cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/lib/x,name=systemd 0 0\n\
                    cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n\
                    proc /proc proc rw 0 0\n";
        let options: Vec<_> = parse_mounts(text).into_iter().map(|h| h.option).collect();
        assert_eq!(
            options,
            [
                Some("cpu,cpuacct".to_owned()),
                Some("name=systemd".to_owned()),
                None
            ]
        );
    }
}
