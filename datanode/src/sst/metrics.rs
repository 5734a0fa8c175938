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

        impl ReadCounts {
            /// Names and values, for people.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

read_metrics! {
    /// Files that were opened.
    files,
    /// Row groups of those files that were asked for.
    row_groups,
    /// Row groups that cannot have a row of the wanted time.
    row_groups_pruned_by_time,
    /// Row groups that cannot have a row that passes the predicate, by their minima and maxima.
    row_groups_pruned_by_statistics,
    /// The same, by bloom filters.
    row_groups_pruned_by_bloom_filter,
    /// Pages of wanted columns in the row groups that were left.
    pages,
    /// Of these, pages that were not read.
    pages_pruned,
    /// Rows of the row groups that were left.
    rows,
    /// Of these, rows in pages that were not read.
    rows_pruned,
    /// Rows given out.
    rows_returned,
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
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn found(&self, tier: Tier, bytes: usize) {
        match tier {
            Tier::Memory => Self::add(&self.bytes_from_memory, bytes),
            Tier::Disk => Self::add(&self.bytes_from_disk, bytes),
        }
    }
}
