//! What the kernel knows about a process and a directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// Linux counts CPU time for /proc in hundredths of a second on every architecture that it runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const BLOCK: u64 = 512;

/// A process at an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// User and system time of the process and of its children that ended, in seconds.
    pub cpu_seconds: f64,
    /// Resident bytes now.
    pub resident: u64,
    /// The most resident bytes so far.
    pub peak_resident: u64,
    /// Bytes that reached the layer below the page cache.
    pub written: u64,
}

/// What process `pid` has used.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))
    };
    let status = read("status")?;
    Ok(Usage {
        cpu_seconds: cpu_seconds(&read("stat")?).context("the kernel's `stat` reads unlike before")?,
        resident: kilobytes(&status, "VmRSS:"),
        peak_resident: kilobytes(&status, "VmHWM:"),
        // Only root may read those of others; the rest does not depend on it.
        written: read("io").map(|io| field(&io, "write_bytes:")).unwrap_or(0),
    })
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program stands in parentheses and may contain spaces.
    let after = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    // utime, stime, cutime, cstime: 14 to 17 of proc(5), where the state is 3.
    let ticks: Option<f64> = fields.get(11..15)?.iter().map(|f| f.parse::<f64>().ok()).sum();
    Some(ticks? / TICKS_PER_SECOND)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn kilobytes(status: &str, name: &str) -> u64 {
    field(status, name) * 1024
}

/// Begins a new peak. False where the kernel refuses; the peak is that of the whole life then.
pub fn reset_peak(pid: u32) -> bool {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// Bytes on disk below `path`, as the file system allocated them, of files that `wanted` takes. Files may vanish
/// meanwhile.
pub fn disk(path: &Path, wanted: &dyn Fn(&Path) -> bool) -> u64 {
    let Ok(meta) = path.symlink_metadata() else {
        return 0;
    };
    if !meta.is_dir() {
        return if wanted(path) { meta.blocks() * BLOCK } else { 0 };
    }
    let Ok(entries) = path.read_dir() else { return 0 };
    entries.flatten().map(|entry| disk(&entry.path(), wanted)).sum()
}

/// All files below `path` with this extension.
pub fn files(path: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let Ok(entries) = path.read_dir() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten().map(|e| e.path()) {
        if entry.is_dir() {
            found.extend(files(&entry, extension));
        } else if entry.extension().is_some_and(|e| e == extension) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 30 20 20 0 9 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.5));
    }

    #[test]
    fn this_process_has_used_memory() {
        let usage = usage(std::process::id()).unwrap();
        assert!(
            usage.resident > 0 && usage.peak_resident >= usage.resident,
            "{usage:?}"
        );
    }

    #[test]
    fn only_wanted_files_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        std::fs::write(dir.path().join("log/a"), vec![1; 10_000]).unwrap();
        std::fs::write(dir.path().join("b"), vec![1; 10_000]).unwrap();
        let all = disk(dir.path(), &|_| true);
        let some = disk(dir.path(), &|p| p.ends_with("b"));
        assert!(some >= 10_000 && all >= some * 2, "{some} of {all}");
    }
}
