//! The datanode as frontends and metasrv see it, over a log and a bucket that fail.

mod alter;
mod bucket;
mod compaction;
mod durability;
mod faults;
mod full_disk;
mod golden;
mod model;
mod quorum;
mod report;
mod retries;
mod rows;
mod series;
mod session;
mod truncate;
mod versions;
mod wire;
