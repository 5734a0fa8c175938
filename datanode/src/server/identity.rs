//! Who this node is, and that no second process uses its disk.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use greptime_clock::SharedIds;
use greptime_types::{ClusterId, Error, NodeId, Result, format};
use serde::{Deserialize, Serialize};

use crate::defences::Defence;

const IDENTITY_FILE: &str = "identity.json";
const LOCK_FILE: &str = "lock";

/// What `identity.json` in the data directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    pub node_id: NodeId,
    /// Random, made with the disk: an empty or replaced disk is another replica.
    pub disk_id: String,
    /// Empty until metasrv has said it.
    pub cluster_id: ClusterId,
}

/// The data directory, locked as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::internal(format!("{doing} {}: {error}", path.display()))
}

impl DataDir {
    pub fn lock(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| failed("creating", path, &e))?;
        let file = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(|e| failed("opening", &file, &e))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Defence::DirectoryIsLocked.holds() => {
                Err(Error::conflict(format!(
                    "another process uses the data directory {}; stop it first",
                    path.display()
                )))
            }
            Err(TryLockError::Error(error)) => Err(failed("locking", &file, &error)),
            _ => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The identity on this disk; a new disk gets one.
    pub fn identity(&self, node_id: NodeId, ids: &SharedIds) -> Result<Identity> {
        let file = self.path(IDENTITY_FILE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let identity = Identity {
                    format: format::FORMAT_VERSION,
                    node_id,
                    disk_id: ids.uuid(),
                    cluster_id: String::new(),
                };
                self.store(&identity)?;
                return Ok(identity);
            }
            Err(error) => return Err(failed("reading", &file, &error)),
        };
        let identity: Identity = serde_json::from_slice(&bytes)
            .map_err(|e| Error::corruption(format!("{}: {e}", file.display())))?;
        format::check("identity.json", identity.format)?;
        if identity.node_id != node_id && Defence::DiskIsOfOneNode.holds() {
            return Err(Error::conflict(format!(
                "the data directory {} belongs to node {}, this is node {node_id}; give each node its own",
                self.path.display(),
                identity.node_id
            )));
        }
        Ok(identity)
    }

    /// From now on this is another disk: what was on it under the old name is nobody's replica any more.
    pub fn renew(&self, node_id: NodeId, ids: &SharedIds) -> Result<()> {
        let identity = Identity {
            disk_id: ids.uuid(),
            ..self.identity(node_id, ids)?
        };
        self.store(&identity)
    }

    pub fn store(&self, identity: &Identity) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(identity).map_err(|e| Error::internal(e.to_string()))?;
        write_durably(&self.path(IDENTITY_FILE), &bytes)
    }
}

/// A file that is there completely, or as before, after a crash.
pub fn write_durably(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&new, file)?;
        sync_dir(file)
    };
    write().map_err(|e| failed("writing", file, &e))
}

fn sync_dir(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// A file that is gone after a crash, too.
pub fn remove_durably(file: &Path) -> Result<()> {
    match std::fs::remove_file(file).and_then(|()| sync_dir(file)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("removing", file, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use greptime_clock::SystemIds;

    use super::*;

    #[test]
    fn a_disk_keeps_its_identity_and_refuses_another_node() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        let ids = SystemIds::shared();
        let first = data.identity(3, &ids).unwrap();
        assert_eq!(data.identity(3, &ids).unwrap(), first);
        let error = data.identity(4, &ids).unwrap_err();
        assert!(error.message.contains("belongs to node 3"), "{error}");
    }

    #[test]
    fn one_process_per_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        let error = DataDir::lock(dir.path()).unwrap_err();
        assert!(error.message.contains("another process"), "{error}");
        drop(data);
        DataDir::lock(dir.path()).unwrap();
    }
}
