//! The cache's part of the disk.
//!
//! Its space is taken at the start, so that a disk that fills up later does not hit the cache, nor the cache the
//! log beside it. A disk that does not work is done without: a cache is never a reason to fail.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, EngineConfig, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, HybridCacheProperties, PsyncIoEngineConfig, RecoverMode, Source,
};
use greptime_types::{Error, Result};

use super::SHARDS;
use super::metrics::CacheMetrics;
use super::ranges::{RangeKey, Tier, weight};
use super::watched::{Context, DiskState, Opened, Pauses, Threads, WRITE_BUFFER, WatchedConfig};
use crate::defences::Defence;

/// The unit in which the disk is written and given up again.
const BLOCK_BYTES: u64 = 16 << 20;
/// The least that is of use.
const LEAST_BYTES: u64 = 4 * BLOCK_BYTES;

/// What `statfs` says of a file system in memory.
const TMPFS: i64 = 0x0102_1994;

/// Memory, and behind it the disk, as long as that works.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    cache: HybridCache<RangeKey, Bytes>,
    state: Arc<DiskState>,
}

impl Disk {
    /// Opens the cache in `dir`, with what an earlier process left there. If the disk has not so many bytes, or does not
    /// work, the cache does without it until it does.
    pub async fn open(dir: &Path, memory: u64, bytes: u64, metrics: CacheMetrics) -> Result<Self> {
        Self::open_with(Pauses::default(), dir, memory, bytes, metrics).await
    }

    /// The same, with other pauses before the disk is tried again.
    pub async fn open_with(
        pauses: Pauses,
        dir: &Path,
        memory: u64,
        bytes: u64,
        metrics: CacheMetrics,
    ) -> Result<Self> {
        let state = DiskState::new(dir.to_owned(), metrics);
        let watched: Box<dyn EngineConfig<RangeKey, Bytes, HybridCacheProperties>> =
            Box::new(WatchedConfig {
                state: Arc::clone(&state),
                bytes,
                pauses,
            });
        let cache = HybridCacheBuilder::new()
            .with_name("ranges")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            // What is in memory went to the disk when it was inserted.
            .with_flush_on_close(false)
            .memory(memory as usize)
            .with_shards(SHARDS)
            .with_weighter(weight)
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(watched)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await
            .map_err(|e| unusable(dir, &e))?;
        Ok(Self { cache, state })
    }

    pub async fn get(&self, key: &RangeKey) -> Option<(Bytes, Tier)> {
        if !self.works() {
            let entry = self.cache.memory().get(key)?;
            return Some((entry.value().clone(), Tier::Memory));
        }
        match self.cache.get(key).await {
            Ok(entry) => {
                let entry = entry?;
                let tier = if entry.source() == Source::Disk {
                    Tier::Disk
                } else {
                    Tier::Memory
                };
                Some((entry.value().clone(), tier))
            }
            Err(error) => {
                self.state.read_failed(&error);
                None
            }
        }
    }

    pub fn is_in_memory(&self, key: &RangeKey) -> bool {
        self.cache.memory().contains(key)
    }

    pub fn insert(&self, key: RangeKey, bytes: Bytes) {
        if self.works() {
            self.cache.insert(key, bytes);
        } else {
            self.cache.memory().insert(key, bytes);
        }
    }

    pub fn remove(&self, key: &RangeKey) {
        self.cache.remove(key);
    }

    pub async fn close(&self) {
        if let Err(error) = self.cache.close().await {
            tracing::warn!(%error, "what was kept last may not be on the cache's disk");
        }
    }

    /// Whether the disk is in use.
    pub fn works(&self) -> bool {
        self.state.works()
    }
}

/// Opens the cache's files, and makes them.
///
/// Errors: if the disk has not so many bytes, or does not work.
pub(super) async fn open_files(dir: &Path, bytes: u64, context: &Context) -> Result<Opened> {
    std::fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
    let bytes = capacity(bytes, room(dir)?);
    let bytes =
        bytes.ok_or_else(|| unusable(dir, &"its disk has no room for a cache (datanode.cache_disk)"))?;
    let threads = Threads::start().map_err(|e| unusable(dir, &e))?;
    let device = FsDeviceBuilder::new(dir).with_capacity(bytes as usize).build();
    let config = BlockEngineConfig::new(device.map_err(|e| unusable(dir, &e))?)
        .with_block_size(BLOCK_BYTES as usize)
        .with_buffer_pool_size(WRITE_BUFFER)
        .with_submit_queue_size_threshold(4 * WRITE_BUFFER);
    let engine = EngineConfig::build(Box::new(config), context(threads.spawner())).await;
    let opened = Opened::new(threads, engine.map_err(|e| unusable(dir, &e))?);
    let path = dir.to_owned();
    let taken = tokio::task::spawn_blocking(move || take_space(&path)).await;
    let taken = taken.map_err(std::io::Error::other).flatten();
    taken.map_err(|e| unusable(dir, &e))?;
    Ok(opened)
}

fn unusable(dir: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("the cache's directory {}: {error}", dir.display()))
}

/// Bytes that the cache may have of its disk: those that are free, and its own.
fn room(dir: &Path) -> Result<u64> {
    const BLOCK: u64 = 512;
    let mut room = greptime_log::room(dir).map_err(|e| unusable(dir, &e))?;
    for file in std::fs::read_dir(dir).map_err(|e| unusable(dir, &e))? {
        let meta = file.and_then(|f| f.metadata()).map_err(|e| unusable(dir, &e))?;
        room += meta.blocks() * BLOCK;
    }
    Ok(room)
}

/// What the cache takes: what it was given, but at most half of the room, since the log lies on the same disk.
/// `None` if that is too little to be of use.
fn capacity(wanted: u64, room: u64) -> Option<u64> {
    let room = if Defence::CacheLeavesRoomForTheLog.holds() {
        room / 2
    } else {
        room
    };
    let bytes = wanted.max(LEAST_BYTES).min(room);
    let bytes = bytes - bytes % BLOCK_BYTES;
    (bytes >= LEAST_BYTES).then_some(bytes)
}

/// Makes the cache's files as large on disk as they say they are.
fn take_space(dir: &Path) -> std::io::Result<()> {
    if rustix::fs::statfs(dir)?.f_type == TMPFS {
        // That would be memory.
        return Ok(());
    }
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            continue;
        }
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length) {
            // Not every file system can; then space is taken as it is written.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::watched::READ_ERRORS;

    #[test]
    fn the_cache_takes_whole_blocks_and_leaves_half_of_the_room_to_the_log() {
        assert_eq!(capacity(1 << 30, 4 << 30), Some(1 << 30));
        assert_eq!(capacity(4 << 30, 4 << 30), Some(2 << 30));
        assert_eq!(capacity(100 << 20, 4 << 30), Some(96 << 20));
        assert_eq!(capacity(1, 4 << 30), Some(LEAST_BYTES));
        assert_eq!(capacity(1 << 30, 100 << 20), None);
    }

    #[tokio::test]
    async fn errors_of_the_disk_end_its_use_and_memory_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = CacheMetrics::default();
        let disk = Disk::open(dir.path(), 1 << 20, LEAST_BYTES, metrics.clone())
            .await
            .unwrap();
        let key = RangeKey::new(&"3-a".into(), 0);
        disk.insert(key.clone(), Bytes::from_static(b"part"));
        let error = foyer::Error::io_error(std::io::Error::other("gone"));
        for _ in 0..READ_ERRORS {
            assert!(disk.works());
            disk.state.read_failed(&error);
        }
        assert!(!disk.works());
        assert_eq!(metrics.disk_errors(), u64::from(READ_ERRORS));
        let other = RangeKey::new(&"3-a".into(), 1);
        disk.insert(other.clone(), Bytes::from_static(b"another"));
        for key in [key, other] {
            assert!(matches!(disk.get(&key).await, Some((_, Tier::Memory))));
        }
    }
}
