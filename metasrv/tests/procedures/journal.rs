//! What was recorded of regions that move, and what datanodes were told of them, in one order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use greptime_metasrv::store::{Change, Expect, MemoryStore, Store, Versioned};
use greptime_types::{NodeId, RegionId, Result};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::RwLock;

/// A commit takes so long: whatever does not wait for it comes before it.
const COMMIT: Duration = Duration::from_millis(5);

#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<BTreeMap<RegionId, Vec<String>>>>);

impl Journal {
    pub fn note(&self, region: RegionId, line: String) {
        self.0.lock().entry(region).or_default().push(line);
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// What was recorded, and what was told after each record, without repetitions.
    pub fn lines(&self, region: RegionId) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut since_record = 0;
        for line in self.0.lock().get(&region).into_iter().flatten() {
            if line.starts_with("recorded") {
                since_record = lines.len();
            } else if lines[since_record..].contains(line) {
                continue;
            }
            lines.push(line.clone());
        }
        lines
    }
}

/// A store in memory that writes down in the journal what is recorded of migrations.
#[derive(Default)]
pub struct JournalStore {
    pub memory: MemoryStore,
    pub journal: Journal,
    /// Nothing is recorded while a test holds it.
    pub gate: RwLock<()>,
}

impl JournalStore {
    fn note(&self, records: &[(String, Value)]) {
        for (key, record) in records {
            let migration = &record["work"]["migration"];
            if !key.starts_with("procedure/") || migration.is_null() {
                continue;
            }
            let region: RegionId = serde_json::from_value(migration["region"].clone()).unwrap();
            let mut line = format!("recorded: {}", migration["phase"].as_str().unwrap());
            let membership = format!("membership/{}", region.table());
            if let Some((_, members)) = records.iter().find(|(key, _)| *key == membership) {
                let members = members["regions"][region.number().to_string()]
                    .as_array()
                    .unwrap();
                let nodes: Vec<NodeId> = members.iter().map(|m| m["node"].as_u64().unwrap()).collect();
                line += &format!(" {nodes:?}");
            }
            if let Some(reason) = record["reason"].as_str() {
                line += &format!(", {reason}");
            }
            self.journal.note(region, line);
        }
    }
}

#[async_trait]
impl Store for JournalStore {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>> {
        self.memory.list(prefix).await
    }

    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>> {
        let record = |change: &Change| match change {
            Change::Put(key, value) => Some((key.clone(), serde_json::from_slice(value).unwrap())),
            Change::Delete(_) => None,
        };
        let records: Vec<(String, Value)> = changes.iter().filter_map(record).collect();
        tokio::time::sleep(COMMIT).await;
        let _open = self.gate.read().await;
        let revision = self.memory.commit(expect, changes).await?;
        if revision.is_some() {
            self.note(&records);
        }
        Ok(revision)
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn destroy(&self) -> Result<()> {
        self.memory.destroy().await
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
