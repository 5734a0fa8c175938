//! The store of metasrv's records, as its catalog speaks to it; here it is the simulated etcd.

use std::collections::BTreeMap;

use async_trait::async_trait;
use greptime_types::Result;

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

#[async_trait(?Send)]
pub trait Store {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>>;

    /// The new revision; `None` if the expectation did not hold. An error says nothing about the outcome.
    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>>;
}
