//! Section `[frontend]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontendConfig {
    /// How long a write may take, with everything that it waits for.
    #[serde(with = "greptime_settings::duration")]
    pub write_timeout: Duration,
    /// How long a query may take until its last row.
    #[serde(with = "greptime_settings::duration")]
    pub query_timeout: Duration,
    /// How long a change of the catalog may take.
    #[serde(with = "greptime_settings::duration")]
    pub ddl_timeout: Duration,
    /// For a connection to a datanode. Short: a pod that is gone does not refuse, it is silent.
    #[serde(with = "greptime_settings::duration")]
    pub connect_timeout: Duration,
    /// Memory of all running queries and of the answers that are held for HTTP; beyond it they spill, and what
    /// cannot spill fails.
    #[serde(with = "greptime_settings::size")]
    pub query_memory: u64,
    /// Where queries spill; the system's temporary directory if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spill_dir: Option<PathBuf>,
    /// Disk that spilling may use.
    #[serde(with = "greptime_settings::size")]
    pub spill_limit: u64,
    /// Rows of writes that are under way; a writer beyond it waits.
    #[serde(with = "greptime_settings::size")]
    pub write_memory: u64,
    /// Rows of writes that wait for a region that cannot be reached; a write beyond it fails at once.
    #[serde(with = "greptime_settings::size")]
    pub hold_memory: u64,
    /// One write to one region is cut into parts of about this size.
    #[serde(with = "greptime_settings::size")]
    pub write_part: u64,
    /// Largest HTTP body, also after it was uncompressed.
    #[serde(with = "greptime_settings::size")]
    pub max_body: u64,
    /// Largest answer of HTTP as JSON or as a drawn table, which are held in memory until they are complete; CSV,
    /// MySQL and PostgreSQL stream.
    #[serde(with = "greptime_settings::size")]
    pub max_result: u64,
    /// Regions of `greptime_physical_table` when Prometheus first writes to a database.
    pub metric_regions: u32,
    /// Parallel streams inside one query; 0 is the number of cores.
    pub query_parallelism: usize,
}

impl FrontendConfig {
    /// What may be in memory, by what for, in bytes. All of them together may be.
    pub fn memory_limits(&self) -> [(&'static str, u64); 3] {
        [
            ("query", self.query_memory),
            ("write", self.write_memory),
            ("hold", self.hold_memory),
        ]
    }
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self {
            write_timeout: Duration::from_secs(30),
            query_timeout: Duration::from_secs(300),
            ddl_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_millis(500),
            query_memory: 256 << 20,
            spill_dir: None,
            spill_limit: 1 << 30,
            write_memory: 128 << 20,
            hold_memory: 64 << 20,
            write_part: 2 << 20,
            max_body: 64 << 20,
            max_result: 128 << 20,
            metric_regions: 3,
            query_parallelism: 0,
        }
    }
}
