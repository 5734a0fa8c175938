//! Where metasrv keeps its records: etcd, a file (standalone), or memory (tests).

mod etcd;
mod file;
mod memory;

use std::collections::BTreeMap;

use async_trait::async_trait;
use greptime_types::Result;

pub use etcd::{EtcdConfig, EtcdStore};
pub use file::FileStore;
pub use memory::MemoryStore;

/// A value and the revision at which it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub value: Vec<u8>,
    pub revision: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(String, Vec<u8>),
    Delete(String),
}

/// What a commit expects of the one key that it compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent(String),
    Revision(String, i64),
}

/// A linearizable key-value store with compare-and-swap.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>>;

    /// Makes all changes at once if the expectation holds, and returns the store's new revision, which is that of
    /// every changed key; `None` if it did not hold. An error means that the outcome is unknown: the changes may
    /// have happened, or may still happen later.
    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>>;

    /// One cheap request, for the report of dependencies.
    async fn probe(&self) -> Result<()>;

    /// Deletes every key; for `deletionPolicy: Delete`.
    async fn destroy(&self) -> Result<()>;

    /// As the report of dependencies calls it.
    fn name(&self) -> &'static str;
}
