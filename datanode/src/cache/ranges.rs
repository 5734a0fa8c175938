//! Parts of files, as bytes: in memory, and on disk if there is one for it.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use foyer::Code;

use super::SHARDS;
use super::disk::Disk;
use super::metrics::CacheMetrics;

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

impl Code for RangeKey {
    fn encode(&self, to: &mut impl Write) -> foyer::Result<()> {
        self.offset.encode(to)?;
        self.file.as_ref().to_owned().encode(to)
    }

    fn decode(from: &mut impl Read) -> foyer::Result<Self> {
        let offset = u64::decode(from)?;
        let file = String::decode(from)?.into();
        Ok(Self { file, offset })
    }

    fn estimated_size(&self) -> usize {
        size_of::<u64>() + size_of::<usize>() + self.file.len()
    }
}

/// Where a part was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Memory,
    Disk,
}

/// Parts of files.
#[derive(Clone, Debug)]
pub struct RangeCache {
    kept: Kept,
    metrics: CacheMetrics,
}

#[derive(Clone, Debug)]
enum Kept {
    Memory(foyer::Cache<RangeKey, Bytes>),
    Both(Disk),
}

/// Bytes that an entry takes in memory.
pub(super) fn weight(key: &RangeKey, bytes: &Bytes) -> usize {
    key.file.len() + 64 + bytes.len()
}

impl RangeCache {
    pub fn in_memory(bytes: u64, metrics: CacheMetrics) -> Self {
        let memory = foyer::CacheBuilder::new(bytes as usize)
            .with_name("ranges")
            .with_shards(SHARDS)
            .with_weighter(weight)
            .build();
        let kept = Kept::Memory(memory);
        Self { kept, metrics }
    }

    pub(super) fn with_disk(disk: Disk, metrics: CacheMetrics) -> Self {
        let kept = Kept::Both(disk);
        Self { kept, metrics }
    }

    /// A part, and where it was. Whatever goes wrong on the way is as if it were not there.
    pub async fn get(&self, key: &RangeKey) -> Option<(Bytes, Tier)> {
        let found = match &self.kept {
            Kept::Memory(memory) => memory.get(key).map(|entry| (entry.value().clone(), Tier::Memory)),
            Kept::Both(disk) => disk.get(key).await,
        };
        match &found {
            Some((bytes, tier)) => self.metrics.hit(*tier, bytes.len()),
            None => self.metrics.miss(),
        }
        found
    }

    /// Whether a part can be had without waiting. It is not counted.
    pub fn is_in_memory(&self, key: &RangeKey) -> bool {
        match &self.kept {
            Kept::Memory(memory) => memory.contains(key),
            Kept::Both(disk) => disk.is_in_memory(key),
        }
    }

    pub fn insert(&self, key: RangeKey, bytes: Bytes) {
        self.metrics.inserted(bytes.len());
        match &self.kept {
            Kept::Memory(memory) => drop(memory.insert(key, bytes)),
            Kept::Both(disk) => disk.insert(key, bytes),
        }
    }

    /// Forgets a part whose copy here is not what was written.
    pub fn damaged(&self, key: &RangeKey) {
        self.metrics.damaged();
        match &self.kept {
            Kept::Memory(memory) => drop(memory.remove(key)),
            Kept::Both(disk) => disk.remove(key),
        }
    }

    /// Waits until what was inserted is on disk.
    pub async fn close(&self) {
        if let Kept::Both(disk) = &self.kept {
            disk.close().await;
        }
    }

    /// Whether parts survive a restart, as things are.
    pub fn has_disk(&self) -> bool {
        matches!(&self.kept, Kept::Both(disk) if disk.works())
    }
}
