//! What was read from object storage, kept near: parts of files as they are, their footers, and decoded columns.
//!
//! Nothing here is needed for an answer. Whatever the cache cannot give is read from the bucket, and whatever it
//! cannot keep is forgotten.

mod decoded;
mod ranges;

pub use decoded::{ColumnKey, Decoded, DecodedCache};
pub use ranges::{RangeCache, RangeKey, Tier};

use std::sync::Arc;

use crate::sst::Footer;

/// Budgets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSizes {
    /// Parts of files and footers in memory; a quarter of it is for footers.
    pub memory: u64,
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
    /// In memory only; nothing survives a restart.
    pub fn in_memory(sizes: CacheSizes) -> Self {
        let for_footers = sizes.memory / 4;
        Self {
            ranges: RangeCache::in_memory(sizes.memory - for_footers),
            footers: footer_cache(for_footers),
            decoded: DecodedCache::new(sizes.decoded),
        }
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
