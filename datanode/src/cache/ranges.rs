//! Parts of files, as bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::SHARDS;

/// A part of a file: files never change, so the name and the position say everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RangeKey {
    /// See [`crate::manifest::FileMeta::name`].
    pub file: Arc<str>,
    pub offset: u64,
}

impl RangeKey {
    pub fn new(file: &Arc<str>, offset: u64) -> Self {
        let file = Arc::clone(file);
        Self { file, offset }
    }

    /// The end of a file, with its footer.
    pub fn tail(file: &Arc<str>) -> Self {
        Self::new(file, u64::MAX)
    }
}

/// Where a part was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Memory,
    Disk,
}

/// Parts of files in memory.
#[derive(Clone, Debug)]
pub struct RangeCache {
    memory: foyer::Cache<RangeKey, Bytes>,
}

impl RangeCache {
    pub fn in_memory(bytes: u64) -> Self {
        let memory = foyer::CacheBuilder::new(bytes as usize)
            .with_name("ranges")
            .with_shards(SHARDS)
            .with_weighter(|key: &RangeKey, bytes: &Bytes| key.file.len() + 64 + bytes.len())
            .build();
        Self { memory }
    }

    pub async fn get(&self, key: &RangeKey) -> Option<(Bytes, Tier)> {
        self.memory
            .get(key)
            .map(|entry| (entry.value().clone(), Tier::Memory))
    }

    pub fn insert(&self, key: RangeKey, bytes: Bytes) {
        self.memory.insert(key, bytes);
    }

    /// Forgets a part whose copy here is not what was written.
    pub fn damaged(&self, key: &RangeKey) {
        self.memory.remove(key);
    }
}
