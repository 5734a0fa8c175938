//! The cache's part of the disk.
//!
//! Its space is taken at the start, so that a disk that fills up later does not hit the cache, nor the cache the
//! log beside it. A disk that does not work is done without: a cache is never a reason to fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig, RecoverMode, Source,
};
use greptime_types::{Error, Result};

use super::SHARDS;
use super::metrics::CacheMetrics;
use super::ranges::{RangeKey, Tier, weight};

/// The unit in which the disk is written and given up again.
const BLOCK_BYTES: u64 = 16 << 20;
/// The least that is of use.
const LEAST_BYTES: u64 = 4 * BLOCK_BYTES;
/// Bytes on their way to the disk.
const WRITE_BUFFER: usize = 8 << 20;
/// After so many errors the disk is not asked again.
const ERRORS: u32 = 16;

/// Memory, and behind it the disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    cache: HybridCache<RangeKey, Bytes>,
    errors: Arc<AtomicU32>,
    metrics: CacheMetrics,
}

impl Disk {
    /// Opens the cache in `dir`, with what an earlier process left there.
    ///
    /// Errors: if the disk has not so many bytes, or does not work.
    pub async fn open(dir: &Path, memory: u64, bytes: u64, metrics: CacheMetrics) -> Result<Self> {
        let bytes = bytes.max(LEAST_BYTES).next_multiple_of(BLOCK_BYTES);
        std::fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
        has_room(dir, bytes)?;
        let device = FsDeviceBuilder::new(dir).with_capacity(bytes as usize).build();
        let engine = BlockEngineConfig::new(device.map_err(|e| unusable(dir, &e))?)
            .with_block_size(BLOCK_BYTES as usize)
            .with_buffer_pool_size(WRITE_BUFFER)
            .with_submit_queue_size_threshold(4 * WRITE_BUFFER);
        let cache = HybridCacheBuilder::new()
            .with_name("ranges")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(memory as usize)
            .with_shards(SHARDS)
            .with_weighter(weight)
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await
            .map_err(|e| unusable(dir, &e))?;
        let path = dir.to_owned();
        let taken = tokio::task::spawn_blocking(move || take_space(&path)).await;
        if let Err(error) = taken.map_err(std::io::Error::other).flatten() {
            let _ = cache.close().await;
            return Err(unusable(dir, &error));
        }
        Ok(Self {
            cache,
            errors: Arc::default(),
            metrics,
        })
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
                self.failed(&error);
                None
            }
        }
    }

    pub fn insert(&self, key: RangeKey, bytes: Bytes) {
        if self.works() {
            self.cache.insert(key, bytes);
        } else {
            self.cache.memory().insert(key, bytes);
        }
    }

    pub fn insert_cold(&self, key: RangeKey, bytes: Bytes) {
        if self.works() {
            self.cache.storage_writer(key).force().insert(bytes);
        }
    }

    pub fn remove(&self, key: &RangeKey) {
        self.cache.remove(key);
    }

    pub async fn close(&self) {
        if let Err(error) = self.cache.close().await {
            self.failed(&error);
        }
    }

    fn works(&self) -> bool {
        self.errors.load(Ordering::Relaxed) < ERRORS
    }

    /// Counts an error; the one that is too many is logged.
    fn failed(&self, error: &foyer::Error) {
        self.metrics.disk_failed();
        if self.errors.fetch_add(1, Ordering::Relaxed) + 1 == ERRORS {
            tracing::warn!(%error, "the cache goes on without its disk, until the next start");
        }
    }
}

fn unusable(dir: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("the cache's directory {}: {error}", dir.display()))
}

/// Whether the disk has room for `bytes`, with what the cache has of it already.
fn has_room(dir: &Path, bytes: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(dir).map_err(|e| unusable(dir, &e))?;
    let mut room = disk.f_bavail.saturating_mul(disk.f_frsize);
    for file in std::fs::read_dir(dir).map_err(|e| unusable(dir, &e))? {
        let meta = file.and_then(|f| f.metadata()).map_err(|e| unusable(dir, &e))?;
        room += meta.len();
    }
    if room < bytes {
        return Err(unusable(
            dir,
            &format!("it needs {bytes} bytes (datanode.cache_disk), {room} are free"),
        ));
    }
    Ok(())
}

/// Makes the cache's files as large on disk as they say they are.
fn take_space(dir: &Path) -> std::io::Result<()> {
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
