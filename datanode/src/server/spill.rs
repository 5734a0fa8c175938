//! The disk space of queries: as much as the setting says, but never more than half of what is free, since the log lies
//! on the same disk. What is free changes while the node runs, so that is looked at again and again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::disk_manager::DiskManager;
use greptime_query::SpillLimit;
use greptime_types::{Error, Result};

use super::Datanode;
use super::identity::DataDir;
use crate::config::DatanodeConfig;
use crate::defences::Defence;

/// A query that was refused for want of space can be tried again after so long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where queries spill, and how much they may.
pub struct SpillSpace {
    dir: PathBuf,
    /// Its files have not taken all of their space yet where the file system does not give it ahead.
    cache: PathBuf,
    /// See [`DatanodeConfig::query_spill_limit`].
    wanted: u64,
}

impl SpillSpace {
    /// An empty directory for spill files: what an earlier process left there serves nobody.
    pub fn open(config: &DatanodeConfig, data_dir: &DataDir) -> Result<Self> {
        let dir = data_dir.path("spill");
        for old in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            // The directory itself stays: a full disk may have no room for a new one.
            let _ = std::fs::remove_dir_all(old.path()).or_else(|_| std::fs::remove_file(old.path()));
        }
        std::fs::create_dir_all(&dir).map_err(|e| Error::internal(format!("{}: {e}", dir.display())))?;
        Ok(Self {
            dir,
            cache: data_dir.path("cache"),
            wanted: config.query_spill_limit,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that all queries together may have on disk, when they have `spilled` there already.
    pub fn limit(&self, spilled: u64) -> Result<u64> {
        let free = free_bytes(&self.dir, &self.cache);
        let free = free.map_err(|e| Error::internal(format!("the disk of {}: {e}", self.dir.display())))?;
        Ok(limit_of(self.wanted, free + spilled))
    }

    /// Sets the limit to what there is now, and says when it begins or ends to be less than what was wanted.
    pub fn follow(&self, disk: &DiskManager) -> Result<()> {
        if !Defence::SpillFollowsTheDisk.holds() {
            return Ok(());
        }
        let before = disk.max_temp_directory_size();
        let limit = self.limit(disk.used_disk_space())?;
        let set = disk.set_max_temp_directory_size(limit);
        set.map_err(|e| Error::internal(format!("the limit of spill files: {e}")))?;
        match (before < self.wanted, limit < self.wanted) {
            (false, true) => tracing::info!(
                limit,
                "queries may spill less than datanode.query_spill_limit, for the sake of the log"
            ),
            (true, false) => tracing::info!(limit, "queries may spill as much as the setting says again"),
            _ => {}
        }
        Ok(())
    }

    /// The limit as it is now, for a message.
    pub fn told(&self, disk: &DiskManager) -> SpillLimit {
        let bytes = disk.max_temp_directory_size();
        SpillLimit {
            bytes,
            setting: "datanode.query_spill_limit",
            is_cut: bytes < self.wanted,
        }
    }
}

impl Datanode {
    pub(super) async fn follow_free_space(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (spill, runtime) = (Arc::clone(&self.spill), self.queries.runtime_env());
            // The disk may take its time.
            let followed = tokio::task::spawn_blocking(move || spill.follow(&runtime.disk_manager)).await;
            let followed = followed.map_err(|e| Error::internal(e.to_string())).flatten();
            if let Err(error) = followed {
                // The limit stays what it was; whether the disk works at all is for the log to say.
                tracing::debug!(%error, "how much queries may spill is not known");
            }
        }
    }
}

/// At most half of those that are free, or were before queries took some.
fn limit_of(wanted: u64, free: u64) -> u64 {
    match Defence::SpillLeavesRoomForTheLog.holds() {
        true => wanted.min(free / 2),
        false => wanted,
    }
}

/// Bytes that are free on the disk of `dir`, without those that files in `cache` have not taken yet but will.
fn free_bytes(dir: &Path, cache: &Path) -> std::io::Result<u64> {
    const BLOCK: u64 = 512;
    let mut free = greptime_log::room(dir)?;
    for file in std::fs::read_dir(cache).into_iter().flatten() {
        let file = file?.metadata()?;
        free = free.saturating_sub(file.len().saturating_sub(BLOCK * file.blocks()));
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundless(spill: &Path, cache: &Path) -> SpillSpace {
        SpillSpace {
            dir: spill.to_owned(),
            cache: cache.to_owned(),
            wanted: u64::MAX,
        }
    }

    #[test]
    fn spilling_leaves_half_of_what_is_free_to_the_log() {
        assert_eq!(limit_of(4 << 30, 10 << 30), 4 << 30);
        assert_eq!(limit_of(4 << 30, 6 << 30), 3 << 30);
        assert_eq!(limit_of(4 << 30, 0), 0);
    }

    #[test]
    fn what_queries_have_spilled_is_not_taken_from_their_limit() {
        let (spill, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let space = boundless(spill.path(), cache.path());
        let much = 1 << 50;
        let (without, with) = (space.limit(0).unwrap(), space.limit(much).unwrap());
        // Others use the disk meanwhile.
        assert!(with > without / 2 + much / 2, "{without} {with}");
    }

    #[test]
    fn the_limit_follows_what_is_free() {
        let (spill, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let space = boundless(spill.path(), cache.path());
        let disk = DiskManager::builder().with_max_temp_directory_size(u64::MAX);
        let disk = disk.build().unwrap();
        let limit = || {
            space.follow(&disk).unwrap();
            disk.max_temp_directory_size()
        };
        let before = limit();
        assert!(before < u64::MAX, "as much as was wanted");
        // All that queries may take now, which is half of what is free.
        let path = cache.path().join("block");
        std::fs::File::create(&path).unwrap().set_len(before).unwrap();
        // Others use the disk meanwhile.
        let less = limit();
        assert!(less < before / 4 * 3, "{before} {less}");
        std::fs::remove_file(&path).unwrap();
        let again = limit();
        assert!(again > before / 4 * 3, "{before} {again}");
    }

    #[test]
    fn what_the_cache_will_take_is_not_free() {
        let (spill, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let free = || free_bytes(spill.path(), cache.path()).unwrap();
        let before = free();
        let file = std::fs::File::create(cache.path().join("block")).unwrap();
        file.set_len(before / 2).unwrap();
        // Others use the disk meanwhile.
        assert!(free() < before / 4 * 3, "{before} {}", free());
        let gone = cache.path().join("gone");
        assert!(free_bytes(spill.path(), &gone).unwrap() > before / 4 * 3);
    }
}
