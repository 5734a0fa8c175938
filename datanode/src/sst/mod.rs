//! Files: Parquet with the table's columns, sorted as rows are in a region, plus sequence and operation.

mod write;

pub use write::{FileWriter, key_of, write_file};

/// Names in the footer's key-value metadata.
pub const FORMAT_KEY: &str = "greptime.format";
pub const REGION_KEY: &str = "greptime.region";
pub const EPOCH_KEY: &str = "greptime.epoch";
/// `greptime_types::TableInfo` when the file was written.
pub const TABLE_KEY: &str = "greptime.table";
