//! An edit of the manifest: what is put, and how its bytes are known to be those that were written.

use greptime_types::{Error, RegionId, Result, TableInfo, format};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use crate::defences::Defence;
use crate::requests::RequestTable;
use crate::view::View;

/// Every so many versions an edit carries all files, so that a region is opened with a bounded number of reads.
const SNAPSHOT_EVERY: u64 = 32;

/// One file of a region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// A file that no edit names any more, and that is not known to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedFile {
    pub name: String,
    pub home: RegionId,
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
    /// Files that earlier edits removed, and that are gone from the bucket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// [`View::removed`] before this edit; present with `files_before`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_before: Vec<RemovedFile>,
}

/// How the bytes of an edit begin; the checksum of the others follows, then `END`.
const BEGIN: &[u8] = br#"{"checksum":""#;
const END: &[u8] = br#"","#;
/// Hexadecimal digits of a checksum.
const DIGITS: usize = 16;
/// How an edit began before it had a checksum.
const BEGIN_WITHOUT: &[u8] = br#"{"format":"#;

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

    /// JSON, whose first field is a checksum of the rest.
    pub fn encode(&self) -> Result<bytes::Bytes> {
        let json = serde_json::to_vec(self).map_err(|e| Error::internal(e.to_string()))?;
        let rest = json.get(1..).unwrap_or_default();
        let digits = format!("{:0DIGITS$x}", xxh64(rest, 0));
        Ok([BEGIN, digits.as_bytes(), END, rest].concat().into())
    }

    /// Errors: `Corruption` if the bytes are not what was written, `Unsupported` if they are of a newer format; both
    /// name `what`.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        verify(bytes).map_err(|why| Error::corruption(format!("manifest edit {what}: {why}")))?;
        let edit: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::corruption(format!("manifest edit {what}: {e}")))?;
        format::check(&format!("manifest edit {what}"), edit.format)?;
        Ok(edit)
    }
}

fn verify(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    let Some(after) = bytes.strip_prefix(BEGIN) else {
        let known = bytes.starts_with(BEGIN_WITHOUT);
        return known
            .then_some(())
            .ok_or_else(|| "it does not begin like one".into());
    };
    let (digits, after) = after.split_at_checked(DIGITS).unwrap_or_default();
    let rest = after.strip_prefix(END).ok_or("its checksum is damaged")?;
    let found = format!("{:0DIGITS$x}", xxh64(rest, 0));
    if digits != found.as_bytes() && Defence::EditHasAChecksum.holds() {
        let written = String::from_utf8_lossy(digits);
        return Err(format!(
            "its checksum is {written}, its bytes have {found}: they are damaged"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use greptime_types::ErrorKind;

    use super::*;
    use crate::testing::table;

    #[test]
    fn a_flipped_bit_is_found() {
        let edit = View::default().edit(1, "one".into(), table(), RequestTable::default());
        let bytes = edit.encode().unwrap();
        assert_eq!(Edit::decode(&bytes, "1").unwrap(), edit);
        // A digit that is another digit: only the checksum tells.
        let at = bytes.windows(9).position(|w| w == br#""epoch":1"#).unwrap() + 8;
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 2;
        let error = Edit::decode(&flipped, "1").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corruption);
    }
}
