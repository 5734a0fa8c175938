//! Section `[datanode]`.

use std::time::Duration;

use greptime_types::{Error, Result};
use serde::{Deserialize, Serialize};

use greptime_log::{LogDamage, LogSync};

use crate::compaction::MIXED;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatanodeConfig {
    /// A region is flushed when it holds so many bytes in memory.
    #[serde(with = "greptime_settings::size")]
    pub flush_size: u64,
    /// A region is flushed when its oldest row has been in memory for so long.
    #[serde(with = "greptime_settings::duration")]
    pub flush_age: Duration,
    /// A region is flushed when its log has so many entries that are not in files: whoever opens it, or takes over from
    /// its leader without having applied them, has to do so first.
    pub flush_entries: u64,
    pub flush_concurrency: usize,
    /// When all memtables together are larger, the largest are flushed.
    #[serde(with = "greptime_settings::size")]
    pub memtable_soft_limit: u64,
    /// When all memtables together are larger, writes are refused until flushes have made room.
    #[serde(with = "greptime_settings::size")]
    pub memtable_hard_limit: u64,
    /// The largest write to one region.
    #[serde(with = "greptime_settings::size")]
    pub max_write_size: u64,
    /// Writes that may wait for the log.
    pub write_queue: usize,
    /// Payload that is written with one fsync.
    #[serde(with = "greptime_settings::size")]
    pub log_turn_size: u64,
    /// When a write is on disk: before it is acknowledged, or `log_sync_interval` later.
    pub log_sync: LogSync,
    /// Between two syncs with `log_sync = "interval"`; the newest writes of so long may be lost with the power.
    #[serde(with = "greptime_settings::duration")]
    pub log_sync_interval: Duration,
    /// Whether a start fails over damage inside the log, or goes on without everything behind it.
    pub log_damage: LogDamage,
    #[serde(with = "greptime_settings::size")]
    pub log_file_size: u64,
    /// Log files are cleaned up once the log is larger.
    #[serde(with = "greptime_settings::size")]
    pub log_purge_threshold: u64,
    /// No rows are taken while the log is larger; 0: as large as its disk.
    #[serde(with = "greptime_settings::size")]
    pub log_limit: u64,
    /// Memory of all queries together; beyond it they spill to the data directory, or fail.
    #[serde(with = "greptime_settings::size")]
    pub query_memory: u64,
    /// Memory for parts of files as they are.
    #[serde(with = "greptime_settings::size")]
    pub cache_memory: u64,
    /// Disk space for parts of files, in the data directory; 0: none.
    #[serde(with = "greptime_settings::size")]
    pub cache_disk: u64,
    /// Memory for decoded columns of files.
    #[serde(with = "greptime_settings::size")]
    pub decoded_cache_size: u64,
    /// Disk space of all queries together; at most half of what is free, since the log is on the same disk.
    #[serde(with = "greptime_settings::size")]
    pub query_spill_limit: u64,
    /// Merges of files at the same time, each of another region.
    pub compaction_concurrency: usize,
    /// Memory of all merges together, about.
    #[serde(with = "greptime_settings::size")]
    pub compaction_memory: u64,
    /// Bytes that all merges together read and write in a second; 0 is no limit.
    #[serde(with = "greptime_settings::size")]
    pub compaction_rate: u64,
    /// No file is made larger, about; a sorted run of this size is not merged any more.
    #[serde(with = "greptime_settings::size")]
    pub compaction_file_size: u64,
    /// Sorted runs that a window of time may have while it is written to.
    pub compaction_active_runs: usize,
    /// Sorted runs that a window of time may have when it is not written to.
    pub compaction_inactive_runs: usize,
    /// A region with so many sorted runs in a window of time slows writes down.
    pub compaction_soft_runs: usize,
    /// A region with so many sorted runs in a window of time refuses writes until compactions have caught up.
    pub compaction_hard_runs: usize,
    /// How long files that were replaced are kept for readers that still use them.
    #[serde(with = "greptime_settings::duration")]
    pub file_grace: Duration,
    /// How often files that nothing names are looked for.
    #[serde(with = "greptime_settings::duration")]
    pub orphan_interval: Duration,
}

impl Default for DatanodeConfig {
    fn default() -> Self {
        Self {
            flush_size: 64 << 20,
            flush_age: Duration::from_secs(30 * 60),
            flush_entries: 20_000,
            flush_concurrency: 2,
            memtable_soft_limit: 256 << 20,
            memtable_hard_limit: 512 << 20,
            max_write_size: 16 << 20,
            write_queue: 1024,
            log_turn_size: 4 << 20,
            log_sync: LogSync::Always,
            log_sync_interval: Duration::from_secs(1),
            log_damage: LogDamage::Auto,
            log_file_size: 64 << 20,
            log_purge_threshold: 512 << 20,
            log_limit: 4 << 30,
            query_memory: 512 << 20,
            cache_memory: 128 << 20,
            cache_disk: 512 << 20,
            decoded_cache_size: 256 << 20,
            query_spill_limit: 4 << 30,
            compaction_concurrency: 1,
            compaction_memory: 256 << 20,
            compaction_rate: 128 << 20,
            compaction_file_size: 512 << 20,
            compaction_active_runs: 8,
            compaction_inactive_runs: 2,
            compaction_soft_runs: 48,
            compaction_hard_runs: 96,
            file_grace: Duration::from_secs(10 * 60),
            orphan_interval: Duration::from_secs(60 * 60),
        }
    }
}

impl DatanodeConfig {
    /// What may be in memory, by what for, in bytes. All of them together may be.
    pub fn memory_limits(&self) -> [(&'static str, u64); 5] {
        [
            ("memtable", self.memtable_hard_limit),
            ("query", self.query_memory),
            ("cache", self.cache_memory),
            ("decoded_cache", self.decoded_cache_size),
            ("compaction", self.compaction_memory),
        ]
    }

    /// `log_limit`, or as much as the log takes when nothing is wrong; 0: none.
    pub fn log_limit_in_force(&self) -> u64 {
        let usual = self.log_purge_threshold.saturating_add(8 * self.log_file_size);
        match self.log_limit {
            0 => 0,
            limit => limit.max(usual),
        }
    }

    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(format!("datanode.{what}")));
        if self.memtable_hard_limit <= self.memtable_soft_limit {
            return wrong("memtable_hard_limit must be larger than datanode.memtable_soft_limit");
        }
        if self.max_write_size > self.memtable_hard_limit / 2 || self.max_write_size > 48 << 20 {
            // A message between nodes has at most 64 MiB.
            return wrong("max_write_size must be at most half of datanode.memtable_hard_limit, and 48MiB");
        }
        if self.log_purge_threshold < self.log_file_size {
            return wrong("log_purge_threshold must be at least datanode.log_file_size");
        }
        if self.log_sync_interval < Duration::from_millis(10) {
            return wrong("log_sync_interval must be at least 10ms");
        }
        if self.flush_concurrency == 0
            || self.flush_entries == 0
            || self.write_queue == 0
            || self.log_turn_size == 0
        {
            return wrong(
                "flush_concurrency, flush_entries, write_queue and log_turn_size must be at least 1",
            );
        }
        if self.cache_disk > 0 && self.cache_disk < 64 << 20 {
            return wrong("cache_disk must be at least 64MiB, or 0 for none");
        }
        self.validate_compaction()
    }

    fn validate_compaction(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(format!("datanode.{what}")));
        if self.compaction_concurrency == 0 || self.compaction_active_runs == 0 {
            return wrong("compaction_concurrency and compaction_active_runs must be at least 1");
        }
        if self.compaction_inactive_runs == 0 || self.compaction_inactive_runs > self.compaction_active_runs {
            return wrong(
                "compaction_inactive_runs must be at least 1, and at most datanode.compaction_active_runs",
            );
        }
        if self.compaction_soft_runs <= MIXED * self.compaction_active_runs {
            return wrong(
                "compaction_soft_runs must be more than four times datanode.compaction_active_runs",
            );
        }
        if self.compaction_hard_runs <= self.compaction_soft_runs {
            return wrong("compaction_hard_runs must be larger than datanode.compaction_soft_runs");
        }
        if self.compaction_file_size < 1 << 20 || self.compaction_memory < 16 << 20 {
            return wrong("compaction_file_size must be at least 1MiB, compaction_memory at least 16MiB");
        }
        if self.orphan_interval.is_zero() {
            return wrong("orphan_interval must be more than nothing");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_wrong_limit_is_named() {
        DatanodeConfig::default().validate().unwrap();
        let config = DatanodeConfig {
            memtable_hard_limit: 1,
            ..DatanodeConfig::default()
        };
        assert!(
            config
                .validate()
                .unwrap_err()
                .message
                .contains("memtable_soft_limit")
        );
    }
}
