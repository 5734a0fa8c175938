//! What reading files cost.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::Tier;

macro_rules! read_metrics {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one query's reading; shared by all its streams.
        #[derive(Debug, Default)]
        pub struct ReadMetrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ReadCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ReadMetrics {
            pub fn counts(&self) -> ReadCounts {
                ReadCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

    };
}

read_metrics! {
    /// Files that were opened.
    files,
    /// Files that have no row of the wanted time, and were not opened.
    files_pruned,
    /// Row groups of those files that were asked for.
    row_groups,
    /// Row groups that cannot have a row of the wanted time.
    row_groups_pruned_by_time,
    /// Row groups that cannot have a row that passes the predicate, by their minima and maxima.
    row_groups_pruned_by_statistics,
    /// The same, by bloom filters.
    row_groups_pruned_by_bloom_filter,
    /// The same, by minima and maxima of all of their pages.
    row_groups_pruned_by_pages,
    /// Pages of wanted columns in the row groups that were left, but for columns that were decoded before.
    pages,
    /// Of these, pages that were not read.
    pages_pruned,
    /// Rows of the row groups that were left.
    rows,
    /// Of these, rows in pages that were not read.
    rows_pruned,
    /// Rows given out by readers of pages.
    rows_returned,
    /// Rows in memory that no file has, and that may be of the wanted time.
    rows_in_memory,
    /// Rows of wanted series and times, of files and memory; each identity once.
    rows_selected,
    /// Time for opening files and choosing row groups, in nanoseconds.
    opening_nanos,
    /// Time that requests to object storage took, each by itself, in nanoseconds.
    store_nanos,
    /// Bytes that were found in memory.
    bytes_from_memory,
    /// Bytes that were found on the cache's disk.
    bytes_from_disk,
    /// Bytes that were read from object storage.
    bytes_from_store,
    /// Requests to object storage.
    store_requests,
    /// Bytes of decoded columns that were found in memory.
    bytes_decoded_before,
    /// Bytes of columns that were decoded.
    bytes_decoded,
}

impl ReadMetrics {
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub fn has_asked_the_store(&self) -> bool {
        self.store_requests.load(Ordering::Relaxed) > 0
    }

    pub(super) fn found(&self, tier: Tier, bytes: usize) {
        match tier {
            Tier::Memory => Self::add(&self.bytes_from_memory, bytes),
            Tier::Disk => Self::add(&self.bytes_from_disk, bytes),
        }
    }
}
