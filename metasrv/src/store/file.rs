//! The store of a standalone process: one JSON file, replaced as a whole with each change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use greptime_types::{Error, Result, format};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::memory::Contents;
use super::{Change, Expect, Store, Versioned};

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    revision: i64,
    /// Values are JSON documents, so the file can be read by a person.
    keys: BTreeMap<String, (i64, serde_json::Value)>,
}

/// Write to a new file, sync it, rename it over the old one, sync the directory: after a crash the file is the
/// old one or the new one.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    contents: Mutex<Contents>,
}

impl FileStore {
    pub fn open(path: &Path) -> Result<Self> {
        let contents = match fs::read(path) {
            Ok(bytes) => decode(path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(failed(path, &error)),
        };
        Ok(Self {
            path: path.to_path_buf(),
            contents: Mutex::new(contents),
        })
    }
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let on_disk: OnDisk = serde_json::from_slice(bytes)
        .map_err(|e| Error::corruption(format!("{} is damaged: {e}", path.display())))?;
    format::check(&path.display().to_string(), on_disk.format)?;
    let keys = on_disk.keys.into_iter().map(|(key, (revision, value))| {
        (
            key,
            Versioned {
                value: value.to_string().into_bytes(),
                revision,
            },
        )
    });
    Ok(Contents {
        revision: on_disk.revision,
        keys: keys.collect(),
    })
}

fn encode(contents: &Contents) -> Result<Vec<u8>> {
    let mut keys = BTreeMap::new();
    for (key, versioned) in &contents.keys {
        let value = serde_json::from_slice(&versioned.value)
            .map_err(|e| Error::internal(format!("record {key} is not JSON: {e}")))?;
        keys.insert(key.clone(), (versioned.revision, value));
    }
    let on_disk = OnDisk {
        format: format::FORMAT_VERSION,
        revision: contents.revision,
        keys,
    };
    serde_json::to_vec_pretty(&on_disk).map_err(|e| Error::internal(e.to_string()))
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("catalog file {}: {error}", path.display()))
}

#[async_trait]
impl Store for FileStore {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>> {
        Ok(self.contents.lock().await.list(prefix))
    }

    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>> {
        let mut contents = self.contents.lock().await;
        if !contents.holds(&expect) {
            return Ok(None);
        }
        let mut next = contents.clone();
        let revision = next.apply(changes);
        let (path, bytes) = (self.path.clone(), encode(&next)?);
        tokio::task::spawn_blocking(move || replace(&path, &bytes).map_err(|e| failed(&path, &e)))
            .await
            .map_err(|e| Error::internal(e.to_string()))??;
        *contents = next;
        Ok(Some(revision))
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn destroy(&self) -> Result<()> {
        let mut contents = self.contents.lock().await;
        *contents = Contents::default();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&self.path, &error)),
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        "catalog_file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Vec<Change> {
        vec![Change::Put(key.into(), value.as_bytes().to_vec())]
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.json");
        let store = FileStore::open(&path).unwrap();
        let first = store
            .commit(Expect::Absent("a".into()), put("a", "1"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            store
                .commit(Expect::Absent("a".into()), put("a", "2"))
                .await
                .unwrap(),
            None
        );
        drop(store);
        let store = FileStore::open(&path).unwrap();
        assert_eq!(
            store.list("a").await.unwrap()["a"],
            Versioned {
                value: b"1".to_vec(),
                revision: first
            }
        );
        let changed = store
            .commit(Expect::Revision("a".into(), first), put("a", "3"))
            .await
            .unwrap();
        assert!(changed.is_some());
    }

    #[tokio::test]
    async fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.json");
        fs::write(&path, "{").unwrap();
        let error = FileStore::open(&path).unwrap_err();
        assert!(error.message.contains("catalog.json"), "{error}");
    }
}
