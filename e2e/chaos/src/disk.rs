//! Disks of our own: small file systems in sparse files, whose writes can be made to hang.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{owner, shell};

/// The log is cleaned at 512 MiB, and keeps a reserve for a full disk.
const SIZE: u64 = 2 << 30;
const FROZEN: &str = "fsfreeze --freeze";
const THAWED: &str = "fsfreeze --unfreeze";

/// A mounted file system. It is removed, with what is in it, when this is dropped.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// `number`: one for each disk of the run.
    pub fn make(number: usize, dir: &Path, at: &Path) -> Result<Self> {
        let image = dir.join(owner::name(&format!("disk-{number}.img")));
        File::create(&image)?.set_len(SIZE)?;
        let disk = Self {
            image,
            at: at.to_owned(),
        };
        fs::create_dir_all(at)?;
        let image = disk.image.display();
        shell::line(&format!("mkfs.ext4 -q -F -E lazy_itable_init=1 {image}"))?;
        // Without a second copy of everything in the page cache.
        let device = shell::line(&format!("losetup --find --show --direct-io=on {image}"))?;
        let device = device.trim();
        let mounted = shell::line(&format!("mount {device} {}", at.display()));
        // It goes when nothing uses it any more: when it is unmounted.
        shell::line(&format!("losetup --detach {device}"))?;
        mounted.context("an own disk cannot be mounted")?;
        Ok(disk)
    }

    /// Puts down what was written before. Freezing would do it, and meanwhile the other disks wait, which share a device
    /// with this one.
    pub fn sync(&self) -> Result<()> {
        shell::line(&format!("sync --file-system {}", self.at.display())).map(drop)
    }

    /// Everything that writes waits until the disk is thawed.
    pub fn freeze(&self) -> Result<()> {
        shell::line(&format!("{FROZEN} {}", self.at.display())).map(drop)
    }

    /// Also of one that is not frozen.
    pub fn thaw(&self) {
        let _ = shell::line(&format!("{THAWED} {}", self.at.display()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        // The next run finds what stays.
        let _ = shell::line(&format!("umount --lazy {}", self.at.display()));
        let _ = fs::remove_file(&self.image);
    }
}

/// A disk of a run that was killed.
pub struct Leftover {
    image: PathBuf,
    mounted: Vec<String>,
}

impl Leftover {
    pub fn thaw(&self) {
        for at in &self.mounted {
            let _ = shell::line(&format!("{THAWED} {at}"));
        }
    }

    pub fn remove(&self) {
        println!(
            "removing {}, which a killed run has left behind",
            self.image.display()
        );
        for at in &self.mounted {
            let _ = shell::line(&format!("umount --lazy {at}"));
        }
        let _ = fs::remove_file(&self.image);
    }
}

/// Disks of runs that were killed. Processes that wait for a frozen one cannot be killed, so all are thawed first.
pub fn left_behind() -> Vec<Leftover> {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let leftover = |device: fs::DirEntry| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        let image = Path::new(backing.trim()).to_owned();
        let is_ours = owner::is_left_behind(image.file_name()?.to_str()?);
        let device = format!("/dev/{}", device.file_name().to_str()?);
        is_ours.then(|| Leftover {
            image,
            mounted: mounted_at(&mounts, &device),
        })
    };
    devices.filter_map(|device| leftover(device.ok()?)).collect()
}

fn mounted_at(mounts: &str, device: &str) -> Vec<String> {
    let words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = words.filter(|words| words.first() == Some(&device));
    ours.filter_map(|words| words.get(1).map(|at| (*at).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_where_it_is_mounted() {
        let mounts = "/dev/loop1 /tmp/a ext4 rw 0 0\n/dev/loop10 /tmp/b ext4 rw 0 0\n";
        assert_eq!(mounted_at(mounts, "/dev/loop1"), ["/tmp/a"]);
    }
}
