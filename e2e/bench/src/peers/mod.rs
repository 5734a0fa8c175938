//! The databases, each behind the same trait. One file each says how it is started, filled and asked.

pub mod engines;
pub mod influxdb;
mod manifest;
pub mod ours;
pub mod questdb;
pub mod victoria;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use greptime_clock::SharedClock;

use crate::answer::Answer;
use crate::load::Target;
use crate::queries::Query;

/// A query that takes longer has failed.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// For a server to begin to listen.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For everything that was acknowledged to be visible and merged.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What every database needs to know about this run.
#[derive(Clone)]
pub struct Place {
    /// Directory for data and logs; one below it for each database.
    pub dir: PathBuf,
    /// Where `install-peers.sh` put what it installed.
    pub installed: PathBuf,
    pub clock: SharedClock,
}

impl Place {
    /// A new empty directory of a database.
    pub fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// An answer, and how long it took until its last byte was there.
#[derive(Debug)]
pub struct Timed {
    pub took: Duration,
    /// None if only the time was wanted.
    pub answer: Option<Answer>,
}

/// How a database lies on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Everything that is kept for good, with indexes and catalogs.
    pub kept: u64,
    /// Logs, whose size depends on a setting and not on how much is kept.
    pub log: u64,
}

/// A database under test.
pub trait Database {
    fn name(&self) -> &'static str;
    fn version(&self) -> String;
    /// How it was started, and whether an acknowledged write has been synced. For the report.
    fn setup(&self) -> String;
    fn pid(&self) -> u32;

    /// None if it takes no writes: it reads Parquet.
    fn line_protocol(&self) -> Option<Target> {
        None
    }
    /// Where it takes Prometheus remote write.
    fn remote_write(&self) -> Option<Target> {
        None
    }
    /// Waits until `rows` rows can be read.
    fn await_visible(&mut self, rows: usize) -> anyhow::Result<()>;
    /// Waits until `samples` samples of remote write can be read, where that can be asked.
    fn await_samples(&mut self, _samples: usize) -> anyhow::Result<()> {
        Ok(())
    }
    /// Merges files as far as it can be asked to. Says what could not be done.
    fn compact(&mut self) -> anyhow::Result<Option<String>> {
        Ok(None)
    }
    fn disk(&self) -> Disk;
    /// Whether its files hold all `rows` rows, and not only its log.
    fn files_complete(&self, _rows: usize) -> bool {
        true
    }

    /// None if its language cannot say the query.
    fn query(&mut self, query: &Query, want_answer: bool) -> anyhow::Result<Option<Timed>>;
    /// Columns that its answers lack because of the language.
    fn lacks(&self, _query: &Query) -> &'static [&'static str] {
        &[]
    }
    /// Numbers of its own metrics, if it has some that matter here.
    fn metric(&mut self, _name: &str) -> Option<f64> {
        None
    }
    /// The Parquet files that hold its rows, if it has some.
    fn parquet_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Means of every field of every host over all rows.
    fn group_everything(&mut self) -> anyhow::Result<()> {
        anyhow::bail!("not asked")
    }
    /// Starts anew on the same data, with nothing of its files in a cache.
    fn restart_cold(&mut self) -> anyhow::Result<()> {
        anyhow::bail!("not asked")
    }
    fn stop(&mut self) -> anyhow::Result<()>;
}

/// Everything below a directory.
fn all(path: &Path) -> u64 {
    crate::measure::disk(path, &|_| true)
}

/// Version of an installed Debian package.
fn debian_version(package: &str) -> String {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .output();
    output
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
        .unwrap_or_default()
}

/// The directory below `dir` whose name begins with `prefix`; the last by name if there are several.
fn newest(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = dir.read_dir().ok()?.flatten().map(|e| e.path());
    let begins = |p: &PathBuf| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
    };
    entries.filter(|p| begins(p) && p.join("done").exists()).max()
}
