//! An edit, and what a chain of them adds up to.

use std::collections::BTreeMap;
use std::sync::Arc;

use greptime_types::{Error, RegionId, Result, TableInfo, format};
use serde::{Deserialize, Serialize};

use crate::region::RequestTable;

/// Every so many versions an edit carries all files, so that a region is opened with a bounded number of reads.
const SNAPSHOT_EVERY: u64 = 32;

/// One file of a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileMeta {
    /// `{epoch}-{uuid}`; unique, never reused.
    pub name: String,
    /// The region under whose prefix the file lies; others may come to use it.
    pub home: RegionId,
    pub rows: u64,
    pub bytes: u64,
    pub min_sequence: u64,
    pub max_sequence: u64,
    /// In the unit of the time index.
    pub min_time: i64,
    pub max_time: i64,
    /// Of the table when the file was written.
    pub schema_version: u64,
    /// Rows that say that an identity was deleted.
    #[serde(default)]
    pub deletes: u64,
    /// 0: flushed; otherwise one more than the highest of the files that it was merged from.
    #[serde(default)]
    pub level: u32,
}

/// What is put at `manifest/{version}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    pub format: u32,
    pub version: u64,
    /// Raft term of the leader that wrote it.
    pub epoch: u64,
    /// Made anew for every attempt, so that a writer recognises its own edit when it reads it back.
    pub id: String,
    pub add: Vec<FileMeta>,
    pub remove: Vec<String>,
    /// All rows up to this sequence are in files once this edit is there.
    pub flushed_seq: u64,
    /// Rows up to this sequence were truncated: files that have no others are removed, and can never be added.
    #[serde(default)]
    pub truncated_seq: u64,
    /// The table and the applied requests as of `flushed_seq`.
    pub table: TableInfo,
    pub requests: RequestTable,
    /// All files before this edit; present at every version that [`Edit::carries_files`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_before: Option<Vec<FileMeta>>,
}

impl Edit {
    pub fn carries_files(version: u64) -> bool {
        version % SNAPSHOT_EVERY == 1
    }

    /// The newest version up to `version` from which a view can be built.
    pub fn base_of(version: u64) -> u64 {
        version - (version - 1) % SNAPSHOT_EVERY
    }

    /// Removes the files of `view` whose rows are all gone; so is one that this edit would add.
    pub fn truncate(&mut self, view: &View, truncated_seq: u64) {
        self.truncated_seq = self.truncated_seq.max(truncated_seq);
        let through = self.truncated_seq;
        let gone = view.files.values().filter(|f| f.max_sequence <= through);
        self.remove.extend(gone.map(|f| f.name.clone()));
    }

    pub fn encode(&self) -> Result<bytes::Bytes> {
        serde_json::to_vec(self)
            .map(Into::into)
            .map_err(|e| Error::internal(e.to_string()))
    }

    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let edit: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::corruption(format!("manifest edit {what}: {e}")))?;
        format::check(&format!("manifest edit {what}"), edit.format)?;
        Ok(edit)
    }
}

/// The region's files as of one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// 0: nothing was ever put.
    pub version: u64,
    pub epoch: u64,
    pub flushed_seq: u64,
    /// Rows up to it were truncated; no file has only such rows.
    pub truncated_seq: u64,
    pub files: BTreeMap<String, FileMeta>,
    /// What else the entries up to `flushed_seq` had built; `None` in version 0.
    pub flushed: Option<Arc<FlushedState>>,
}

/// A region without its rows, as of the `flushed_seq` of an edit.
#[derive(Clone, Debug, PartialEq)]
pub struct FlushedState {
    pub table: TableInfo,
    pub requests: RequestTable,
}

impl View {
    /// The next edit of this view.
    pub fn edit(&self, epoch: u64, id: String, table: TableInfo, requests: RequestTable) -> Edit {
        let version = self.version + 1;
        let files = || self.files.values().cloned().collect();
        Edit {
            format: format::FORMAT_VERSION,
            version,
            epoch,
            id,
            add: Vec::new(),
            remove: Vec::new(),
            flushed_seq: self.flushed_seq,
            truncated_seq: self.truncated_seq,
            table,
            requests,
            files_before: Edit::carries_files(version).then(files),
        }
    }

    pub fn apply(&self, edit: &Edit) -> Result<Self> {
        if edit.version != self.version + 1 {
            return Err(Error::corruption(format!(
                "manifest edit {} cannot follow version {}",
                edit.version, self.version
            )));
        }
        let mut next = self.clone();
        next.version = edit.version;
        next.epoch = next.epoch.max(edit.epoch);
        next.flushed_seq = next.flushed_seq.max(edit.flushed_seq);
        for name in &edit.remove {
            next.files.remove(name);
        }
        let (table, requests) = (edit.table.clone(), edit.requests.clone());
        next.flushed = Some(Arc::new(FlushedState { table, requests }));
        next.files
            .extend(edit.add.iter().map(|f| (f.name.clone(), f.clone())));
        next.truncated_seq = next.truncated_seq.max(edit.truncated_seq);
        Ok(next.without_truncated(next.truncated_seq))
    }

    /// Without the files that have no row above `truncated_seq`.
    pub fn without_truncated(&self, truncated_seq: u64) -> Self {
        let mut next = self.clone();
        next.files.retain(|_, file| file.max_sequence > truncated_seq);
        next
    }

    /// The view just before an edit that carries all files.
    pub fn before(edit: &Edit) -> Result<Self> {
        let files = edit.files_before.as_ref().ok_or_else(|| {
            Error::corruption(format!("manifest edit {} should carry all files", edit.version))
        })?;
        Ok(Self {
            version: edit.version - 1,
            epoch: edit.epoch,
            flushed_seq: 0,
            truncated_seq: 0,
            files: files.iter().map(|f| (f.name.clone(), f.clone())).collect(),
            flushed: None,
        })
    }
}
