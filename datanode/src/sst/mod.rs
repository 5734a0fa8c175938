//! Files: Parquet with the table's columns, sorted as rows are in a region, plus sequence and operation.

mod ahead;
mod checksum;
mod columns;
mod decode;
mod encode;
mod encoding;
mod filter;
mod footer;
mod layout;
mod metrics;
mod prune;
mod read;
mod series;
mod source;
mod upload;
mod write;

pub use footer::Footer;
#[cfg(test)]
pub use footer::Tail;
pub use metrics::{ReadCounts, ReadMetrics};
pub use prune::Access;
pub use read::{ReadRequest, read_ahead};
pub use series::Series;
pub use source::{FileSource, SstFile};
pub use write::{FileWriter, key_of, write_file};

/// Names in the footer's key-value metadata.
pub const FORMAT_KEY: &str = "greptime.format";
pub const REGION_KEY: &str = "greptime.region";
pub const EPOCH_KEY: &str = "greptime.epoch";
/// `greptime_types::TableInfo` when the file was written.
pub const TABLE_KEY: &str = "greptime.table";
/// There if a row group has no minimum and maximum of a column in which it has a NaN. Those of Parquet leave NaN out,
/// while a comparison here takes it for larger, or smaller, than any other number.
pub const FLOATS_KEY: &str = "greptime.floats";

/// How the files of this engine say who wrote them; such files have checksums.
pub const CREATED_BY: &str = "greptime-datanode";

#[cfg(test)]
mod tests;
