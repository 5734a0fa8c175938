//! Columns of row groups, decoded: repeated scans pay for decoding once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};

use super::SHARDS;

/// A column of a row group, or some rows of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnKey {
    pub file: Arc<str>,
    pub row_group: u32,
    /// Position in the file; of [`Rows::Starts`] none.
    pub column: u32,
    pub rows: Rows,
}

/// Which rows of a row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    All,
    OfSeries(OneOf),
    /// Where the series begin.
    Starts,
}

/// One row of each series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OneOf {
    /// For tags, which are the same in all rows of a series.
    First,
    Last,
}

/// What is kept of a row group.
#[derive(Clone, Debug)]
pub enum Decoded {
    Column(ArrayRef),
    /// Under [`Rows::Starts`].
    Series(crate::sst::Series),
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
/// were asked for often stay. What there is of series has a part to itself: it is small, and whole columns would push
/// it out.
#[derive(Clone, Debug)]
pub struct DecodedCache {
    columns: foyer::Cache<ColumnKey, Decoded>,
    of_series: foyer::Cache<ColumnKey, Decoded>,
    /// Columns of which a few rows were read lately.
    asked: foyer::Cache<ColumnKey, ()>,
}

/// One in so many bytes is for what there is of series.
const PART_FOR_SERIES: u64 = 8;
/// Columns that are remembered for having been asked for.
const ASKED: usize = 64 * 1024;

impl DecodedCache {
    pub fn new(bytes: u64) -> Self {
        let part = |name: &'static str, bytes: u64| {
            foyer::CacheBuilder::new(bytes as usize)
                .with_name(name)
                .with_shards(SHARDS)
                .with_eviction_config(foyer::LfuConfig::default())
                .with_weighter(|key: &ColumnKey, value: &Decoded| key.file.len() + 64 + value.memory_size())
                .build()
        };
        let for_series = bytes / PART_FOR_SERIES;
        let asked = foyer::CacheBuilder::new(ASKED)
            .with_name("columns asked for")
            .with_shards(SHARDS)
            .build();
        Self {
            columns: part("decoded", bytes - for_series),
            of_series: part("decoded of series", for_series),
            asked,
        }
    }

    fn part(&self, key: &ColumnKey) -> &foyer::Cache<ColumnKey, Decoded> {
        match key.rows {
            Rows::All => &self.columns,
            Rows::OfSeries(_) | Rows::Starts => &self.of_series,
        }
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
        self.part(key).get(key).map(|entry| entry.value().clone())
    }

    pub fn contains(&self, key: &ColumnKey) -> bool {
        self.part(key).contains(key)
    }

    pub fn insert(&self, key: ColumnKey, value: Decoded) {
        self.part(&key).insert(key, value);
    }

    /// Bytes in use.
    pub fn usage(&self) -> usize {
        self.columns.usage() + self.of_series.usage()
    }

    /// The largest column that is worth keeping.
    pub fn largest(&self) -> usize {
        self.columns.capacity() / (4 * SHARDS)
    }
}
