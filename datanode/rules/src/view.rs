//! What a chain of edits adds up to.

use std::collections::BTreeMap;
use std::sync::Arc;

use greptime_types::{Error, RegionId, Result, TableInfo, format};

use crate::defences::Defence;
use crate::edit::{Edit, FileMeta, RemovedFile};
use crate::requests::RequestTable;

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
    /// Files that were removed and may still lie in the bucket, with the region whose prefix they lie under.
    pub removed: BTreeMap<String, RegionId>,
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
    /// The next edit of this view that changes files only: what entries had built stays as of `flushed_seq`. `None`
    /// in version 0, which has no files to change.
    pub fn edit_files(&self, epoch: u64, id: String) -> Option<Edit> {
        let flushed = self.flushed.as_ref()?;
        Some(self.edit(epoch, id, flushed.table.clone(), flushed.requests.clone()))
    }

    /// The next edit of this view.
    pub fn edit(&self, epoch: u64, id: String, table: TableInfo, requests: RequestTable) -> Edit {
        let version = self.version + 1;
        let carries = Edit::carries_files(version);
        let files = || self.files.values().cloned().collect();
        let removed = self.removed.iter().filter(|_| carries);
        let removed = removed.map(|(name, home)| RemovedFile {
            name: name.clone(),
            home: *home,
        });
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
            files_before: carries.then(files),
            deleted: Vec::new(),
            removed_before: removed.collect(),
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
        for name in &edit.deleted {
            next.removed.remove(name);
        }
        for name in &edit.remove {
            if let Some(file) = next.files.remove(name) {
                next.removed.insert(file.name, file.home);
            }
        }
        let (table, requests) = (edit.table.clone(), edit.requests.clone());
        next.flushed = Some(Arc::new(FlushedState { table, requests }));
        next.files
            .extend(edit.add.iter().map(|f| (f.name.clone(), f.clone())));
        next.truncated_seq = next.truncated_seq.max(edit.truncated_seq);
        Ok(next.without_truncated(next.truncated_seq))
    }

    /// Without the files that have no row above `truncated_seq`; they are to be deleted.
    pub fn without_truncated(&self, truncated_seq: u64) -> Self {
        let mut next = self.clone();
        let is_gone =
            |file: &FileMeta| file.max_sequence <= truncated_seq && Defence::TruncatedFilesAreHidden.holds();
        let gone = next.files.values().filter(|file| is_gone(file));
        next.removed
            .extend(gone.map(|file| (file.name.clone(), file.home)));
        next.files.retain(|_, file| !is_gone(file));
        next
    }

    /// Rows up to this sequence are in its files: they leave memory when it is adopted, and whoever reads memory beside
    /// it leaves them out.
    pub fn in_files(&self) -> u64 {
        match Defence::FlushedRowsLeaveMemory.holds() {
            true => self.flushed_seq,
            false => 0,
        }
    }

    /// Whether it takes the place of a view that is known.
    pub fn replaces(&self, known: Option<&Self>) -> bool {
        known.is_none_or(|known| known.version <= self.version)
    }

    /// The files that a reader sees: those of the known view that are not truncated. `None`: it has to wait until there
    /// is one.
    pub fn shown(known: Option<&Arc<Self>>, truncated_seq: u64) -> Option<Arc<Self>> {
        let nothing = (!Defence::ReadsWaitForTheManifest.holds()).then(Arc::default);
        let view = known.or(nothing.as_ref())?;
        Some(match view.has_truncated(truncated_seq) {
            false => Arc::clone(view),
            true => Arc::new(view.without_truncated(truncated_seq)),
        })
    }

    /// Whether it has files whose rows are all gone.
    pub fn has_truncated(&self, truncated_seq: u64) -> bool {
        self.files.values().any(|file| file.max_sequence <= truncated_seq)
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
            removed: edit
                .removed_before
                .iter()
                .map(|f| (f.name.clone(), f.home))
                .collect(),
            flushed: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{file, table};

    #[test]
    fn files_whose_rows_are_all_truncated_are_hidden() {
        let mut edit = View::default().edit(1, "one".into(), table(), RequestTable::default());
        edit.add = vec![file("old", 1..=2), file("both", 2..=4)];
        let view = View::default().apply(&edit).unwrap();
        let shown = view.without_truncated(3);
        assert_eq!(shown.files.keys().collect::<Vec<_>>(), ["both"]);
        assert!(shown.removed.contains_key("old"));
        // One that comes later with older rows only is hidden alike.
        let late = View {
            truncated_seq: 3,
            ..View::default()
        };
        assert_eq!(late.apply(&edit).unwrap().files.len(), 1);
    }

    #[test]
    fn a_view_is_the_same_from_any_edit_that_carries_all_files() {
        let mut view = View::default();
        for version in 1..=70 {
            let mut edit = view.edit(1, version.to_string(), table(), RequestTable::default());
            edit.add.push(file(&format!("file-{version}"), version..=version));
            edit.flushed_seq = version;
            if Edit::carries_files(version) && version > 1 {
                edit.remove.push(format!("file-{}", version - 1));
                assert_eq!(
                    View::before(&edit).unwrap().apply(&edit).unwrap(),
                    view.apply(&edit).unwrap()
                );
            }
            view = view.apply(&edit).unwrap();
        }
        assert_eq!((view.files.len(), view.removed.len()), (68, 2));
    }
}
