//! The store's contract in memory, for tests and as the heart of the file store.

use std::collections::BTreeMap;

use async_trait::async_trait;
use greptime_types::Result;
use parking_lot::Mutex;

use super::{Change, Expect, Store, Versioned};

#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<String, Versioned>,
}

impl Contents {
    pub(super) fn list(&self, prefix: &str) -> BTreeMap<String, Versioned> {
        let from_prefix = self.keys.range(prefix.to_string()..);
        from_prefix
            .take_while(|(k, _)| k.starts_with(prefix))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    pub(super) fn holds(&self, expect: &Expect) -> bool {
        match expect {
            Expect::Absent(key) => !self.keys.contains_key(key),
            Expect::Revision(key, revision) => self.keys.get(key).is_some_and(|v| v.revision == *revision),
        }
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) -> i64 {
        self.revision += 1;
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    self.keys.insert(
                        key,
                        Versioned {
                            value,
                            revision: self.revision,
                        },
                    );
                }
                Change::Delete(key) => {
                    self.keys.remove(&key);
                }
            }
        }
        self.revision
    }
}

/// Lost with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
}

#[async_trait]
impl Store for MemoryStore {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>> {
        Ok(self.contents.lock().list(prefix))
    }

    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>> {
        let mut contents = self.contents.lock();
        Ok(contents.holds(&expect).then(|| contents.apply(changes)))
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn destroy(&self) -> Result<()> {
        *self.contents.lock() = Contents::default();
        Ok(())
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
