//! Columns of row groups, decoded: repeated scans pay for decoding once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};

use super::SHARDS;

/// A column of a row group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnKey {
    pub file: Arc<str>,
    pub row_group: u32,
    /// Position in the file.
    pub column: u32,
}

/// What is kept of a row group.
#[derive(Clone, Debug)]
pub enum Decoded {
    Column(ArrayRef),
    /// Where its series begin; the position of the column is that of none.
    Series(Arc<crate::sst::Series>),
}

impl Decoded {
    fn memory_size(&self) -> usize {
        match self {
            Self::Column(array) => array.get_array_memory_size(),
            Self::Series(series) => series.memory_size(),
        }
    }
}

/// Decoded columns within a budget of memory. Scans larger than the budget keep a part of it useful: entries that
/// were asked for often stay.
#[derive(Clone, Debug)]
pub struct DecodedCache {
    entries: foyer::Cache<ColumnKey, Decoded>,
    /// Columns of which a few rows were read lately.
    asked: foyer::Cache<ColumnKey, ()>,
}

/// Columns that are remembered for having been asked for.
const ASKED: usize = 64 * 1024;

impl DecodedCache {
    pub fn new(bytes: u64) -> Self {
        let entries = foyer::CacheBuilder::new(bytes as usize)
            .with_name("decoded")
            .with_shards(SHARDS)
            .with_eviction_config(foyer::LfuConfig::default())
            .with_weighter(|key: &ColumnKey, value: &Decoded| key.file.len() + 64 + value.memory_size())
            .build();
        let asked = foyer::CacheBuilder::new(ASKED)
            .with_name("columns asked for")
            .with_shards(SHARDS)
            .build();
        Self { entries, asked }
    }

    /// Whether a column is asked for again, and may be worth keeping though few of its rows are wanted.
    pub fn is_asked_again(&self, key: &ColumnKey) -> bool {
        let again = self.asked.contains(key);
        if !again {
            self.asked.insert(key.clone(), ());
        }
        again
    }

    pub fn get(&self, key: &ColumnKey) -> Option<Decoded> {
        self.entries.get(key).map(|entry| entry.value().clone())
    }

    pub fn contains(&self, key: &ColumnKey) -> bool {
        self.entries.contains(key)
    }

    pub fn insert(&self, key: ColumnKey, value: Decoded) {
        self.entries.insert(key, value);
    }

    /// Bytes in use.
    pub fn usage(&self) -> usize {
        self.entries.usage()
    }

    /// The largest entry that is worth keeping.
    pub fn largest(&self) -> usize {
        self.entries.capacity() / (4 * SHARDS)
    }
}
