//! The datanodes' disks: each a small file system of its own, whose writes can be made to hang.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::Result;
use greptime_lab::disk::Disk;

use crate::owner;

/// The log is cleaned at 512 MiB, and keeps a reserve for a full disk.
const SIZE: u64 = 2 << 30;

/// A disk of this run. It is removed, with what is in it, when this is dropped.
pub struct OwnDisk(Disk);

impl OwnDisk {
    /// `number`: one for each disk of the run.
    pub fn make(number: usize, dir: &Path, at: &Path) -> Result<Self> {
        let image = dir.join(owner::name(&format!("disk-{number}.img")));
        let disk = Self(Disk::new(image, at.to_owned()));
        disk.make(SIZE)?;
        Ok(disk)
    }
}

impl Deref for OwnDisk {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.0
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        // The next run finds what stays.
        let _ = self.remove();
    }
}

/// Disks of runs that were killed. Processes that wait for a frozen one cannot be killed, so all are thawed first.
pub fn left_behind() -> Vec<Disk> {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let leftover = |device: fs::DirEntry| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        let image = Path::new(backing.trim()).to_owned();
        let device = format!("/dev/{}", device.file_name().to_str()?);
        let at = mounted_at(&mounts, &device).unwrap_or_default();
        let is_ours = owner::is_left_behind(image.file_name()?.to_str()?);
        is_ours.then(|| Disk::new(image, at))
    };
    devices.filter_map(|device| leftover(device.ok()?)).collect()
}

fn mounted_at(mounts: &str, device: &str) -> Option<PathBuf> {
    let mut words = mounts.lines().map(|line| line.split(' '));
    words.find_map(|mut words| (words.next() == Some(device)).then(|| words.next().map(PathBuf::from))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_where_it_is_mounted() {
        let mounts = "/dev/loop1 /tmp/a ext4 rw 0 0\n/dev/loop10 /tmp/b ext4 rw 0 0\n";
        assert_eq!(mounted_at(mounts, "/dev/loop1").unwrap(), Path::new("/tmp/a"));
        assert_eq!(mounted_at(mounts, "/dev/loop"), None);
    }
}
