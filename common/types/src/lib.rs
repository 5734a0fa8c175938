//! Ids, schemas, partition rules, catalog records and errors that every component shares.
//!
//! Nothing here does I/O, knows a clock or depends on a component.

pub mod alter;
pub mod catalog;
pub mod error;
pub mod format;
pub mod id;
pub mod partition;
pub mod requests;
pub mod schema;
pub mod ttl;

pub use alter::Change;
pub use catalog::{DatabaseInfo, MergeMode, TIME_WINDOW, TableInfo, TableOptions, TableState, time_window};
pub use error::{Error, ErrorKind, Result};
pub use id::{ClusterId, NodeId, NodeRole, RegionId, RequestId, TableId};
pub use partition::{Partition, PartitionExpr, PartitionRule, Value};
pub use requests::{Finished, Requests};
pub use schema::{ColumnSchema, ColumnType, Semantic, TableSchema, TimeUnit};
pub use ttl::Ttl;
