//! A file system of some MiB that is really full.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and said loudly, where this user may not mount. Where that should work, it is a failure.
    pub fn mount(at: &Path, mib: u32) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(at)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            assert!(
                !may_mount(),
                "no file system could be mounted at {}",
                at.display()
            );
            eprintln!("SKIPPED: no file system could be mounted, so nothing is known of full disks");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    pub fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    pub fn fill(&self) {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    /// What [`Self::fill`] took is free again.
    pub fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Whether nothing can be written. Files must not be open for writing when that begins.
    pub fn set_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        let mounted = Command::new("mount").args(["-o", options]).arg(&self.0).status();
        assert!(mounted.unwrap().success(), "{options}");
    }
}

/// Root may, and so may whoever runs CI, since nobody would notice what is skipped there.
fn may_mount() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    is_root || std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false")
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
