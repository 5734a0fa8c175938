//! Disks of our own: small file systems in sparse files, whose writes can be made to hang.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::addresses::Node;
use crate::layout::Lab;
use crate::process::remove_if_there;
use crate::shell;

/// More than all volumes of a node take. What is not written takes no room.
const NODE_SIZE: u64 = 32 << 30;

/// A file system in a file; whether it is there and mounted is the machine's to know.
#[derive(Debug, Clone)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// That of a node, where the volumes lie that were first used there.
    pub fn of(lab: &Lab, node: Node) -> Self {
        Self::new(
            lab.path("disks").join(format!("{node}.img")),
            lab.path("volumes").join(node.name()),
        )
    }

    /// One in the file `image`, mounted at the directory `at`.
    pub fn new(image: PathBuf, at: PathBuf) -> Self {
        Self { image, at }
    }

    /// Makes and mounts it, empty, for at most `bytes`.
    pub fn make(&self, bytes: u64) -> Result<()> {
        for dir in [
            self.image.parent().context("an image lies in a directory")?,
            &self.at,
        ] {
            fs::create_dir_all(dir)?;
        }
        File::create(&self.image)?.set_len(bytes)?;
        let image = self.image.display();
        shell::line(&format!("mkfs.ext4 -q -F -E lazy_itable_init=1 {image}"))?;
        // Without a second copy of everything in the page cache.
        let device = shell::line(&format!("losetup --find --show --direct-io=on {image}"))?;
        let device = device.trim();
        let mounted = shell::line(&format!("mount {device} {}", self.at.display()));
        // It goes when nothing uses it any more: when it is unmounted.
        shell::line(&format!("losetup --detach {device}"))?;
        mounted.context("a disk of our own cannot be mounted").map(drop)
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        is_mounted_at(&mounts, &self.at)
    }

    /// Puts down what was written before. Freezing would do it, and meanwhile other disks wait whose files lie beside
    /// this one's.
    pub fn sync(&self) -> Result<()> {
        shell::line(&format!("sync --file-system {}", self.at.display())).map(drop)
    }

    /// Everything that writes waits until it is thawed.
    pub fn freeze(&self) -> Result<()> {
        if !self.is_mounted() {
            bail!(
                "{} is no file system of its own, so it cannot hang",
                self.at.display()
            );
        }
        shell::line(&format!("fsfreeze --freeze {}", self.at.display())).map(drop)
    }

    /// Also one that is not frozen. One that is not mounted is left alone: its directory is another file system's.
    pub fn thaw(&self) {
        if !self.is_mounted() {
            return;
        }
        let _ = shell::line(&format!("fsfreeze --unfreeze {}", self.at.display()));
    }

    /// Thaws and removes it with what is in it, mounted or not.
    pub fn remove(&self) -> Result<()> {
        if self.is_mounted() {
            self.thaw();
            shell::line(&format!("umount --lazy {}", self.at.display()))?;
        }
        remove_if_there(&self.image)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.image.display().fmt(f)
    }
}

/// Makes those of all nodes.
pub fn make_all(lab: &Lab) -> Result<()> {
    Node::all().try_for_each(|node| Disk::of(lab, node).make(NODE_SIZE))
}

/// Removes those of all nodes.
pub fn remove_all(lab: &Lab) -> Result<()> {
    Node::all().try_for_each(|node| Disk::of(lab, node).remove())
}

fn is_mounted_at(mounts: &str, at: &Path) -> bool {
    let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.any(|place| Path::new(place) == at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_mounted_where_the_table_says() {
        let mounts =
            "/dev/loop1 /lab/volumes/node1 ext4 rw 0 0\n/dev/loop2 /lab/volumes/node10 ext4 rw 0 0\n";
        assert!(is_mounted_at(mounts, Path::new("/lab/volumes/node1")));
        assert!(!is_mounted_at(mounts, Path::new("/lab/volumes")));
        assert!(!is_mounted_at(mounts, Path::new("/dev/loop1")));
    }

    #[test]
    fn what_is_no_file_system_of_its_own_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path().join("image"), dir.path().to_owned());
        let refused = disk.freeze().unwrap_err().to_string();
        assert!(refused.contains("cannot hang"), "{refused}");
        // Nor is there anything to undo.
        disk.remove().unwrap();
    }
}
