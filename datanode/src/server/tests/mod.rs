//! The datanode as frontends and metasrv see it, over a log and a bucket that fail.

mod alter;
mod bucket;
mod budgets;
mod cache_disk;
mod cancel;
mod compaction;
mod damaged_log;
mod durability;
mod faults;
mod forget;
mod full_disk;
mod golden;
mod large;
mod memory;
mod model;
mod quorum;
mod report;
mod retries;
mod rows;
mod series;
mod session;
mod slow_bucket;
mod truncate;
mod types;
mod versions;
mod wire;
