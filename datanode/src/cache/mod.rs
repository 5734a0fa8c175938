//! What was read from object storage, kept near: parts of files as they are, their footers, and decoded columns.
//!
//! Nothing here is needed for an answer. Whatever the cache cannot give is read from the bucket, and whatever it
//! cannot keep is forgotten.

mod decoded;
mod disk;
mod metrics;
mod ranges;
mod watched;

pub use decoded::{ColumnKey, Decoded, DecodedCache, OneOf, Rows};
pub use metrics::CacheMetrics;
pub use ranges::{RangeCache, RangeKey, Tier};

use std::path::Path;
use std::sync::Arc;

use crate::sst::Footer;
use disk::Disk;

/// Budgets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSizes {
    /// Parts of files and footers in memory; a quarter of it is for footers.
    pub memory: u64,
    /// Parts of files on disk; 0: none.
    pub disk: u64,
    /// Decoded columns in memory.
    pub decoded: u64,
}

/// Footers by the name of their file.
pub type FooterCache = foyer::Cache<Arc<str>, Arc<Footer>>;

/// All caches of a datanode; cheap to clone.
#[derive(Clone, Debug)]
pub struct Caches {
    pub ranges: RangeCache,
    pub footers: FooterCache,
    pub decoded: DecodedCache,
}

impl Caches {
    /// With what an earlier process left in `dir`. Without a disk that works the caches are in memory only until it does,
    /// and the log says why.
    pub async fn open(sizes: CacheSizes, dir: &Path, metrics: CacheMetrics) -> Self {
        if sizes.disk == 0 {
            return Self::in_memory(sizes, metrics);
        }
        match Disk::open(dir, sizes.for_ranges(), sizes.disk, metrics.clone()).await {
            Ok(disk) => Self::new(RangeCache::with_disk(disk, metrics), sizes),
            Err(error) => {
                metrics.disk_failed();
                tracing::warn!(%error, "the cache works in memory only");
                Self::in_memory(sizes, metrics)
            }
        }
    }

    /// In memory only; nothing survives a restart.
    pub fn in_memory(sizes: CacheSizes, metrics: CacheMetrics) -> Self {
        Self::new(RangeCache::in_memory(sizes.for_ranges(), metrics), sizes)
    }

    fn new(ranges: RangeCache, sizes: CacheSizes) -> Self {
        Self {
            ranges,
            footers: footer_cache(sizes.memory - sizes.for_ranges()),
            decoded: DecodedCache::new(sizes.decoded),
        }
    }

    /// Waits until what was kept is on disk; called when the process ends in peace.
    pub async fn close(&self) {
        self.ranges.close().await;
    }
}

impl CacheSizes {
    /// Of the memory, what parts of files may take.
    fn for_ranges(&self) -> u64 {
        self.memory - self.memory / 4
    }
}

fn footer_cache(bytes: u64) -> FooterCache {
    foyer::CacheBuilder::new(bytes as usize)
        .with_name("footers")
        .with_shards(SHARDS)
        .with_weighter(|name: &Arc<str>, footer: &Arc<Footer>| name.len() + footer.memory_size())
        .build()
}

/// Parts that lock on their own. Each holds its share of the budget, and an entry larger than a share is not
/// kept, so there are few.
const SHARDS: usize = 4;

#[cfg(test)]
mod tests;
