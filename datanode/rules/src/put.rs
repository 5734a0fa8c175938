//! An edit and what becomes of it.

use greptime_types::Result;

use crate::defences::Defence;
use crate::edit::{Edit, FileMeta};
use crate::view::{FlushedState, View};

/// What a writer does after a put, and a look at the version that it was put at.
#[derive(Clone, Debug, PartialEq)]
pub enum AfterPut {
    /// The edit is there; the view includes it.
    Adopt(View),
    /// Another edit has its version, so the own one is void. A new one is made from this view and what followed it.
    Renew(View),
    /// It is not there, and may still arrive: the same edit is put again.
    Again,
}

/// Whether a put spares what is there.
pub fn put_if_absent() -> bool {
    Defence::EditIsPutIfAbsent.holds()
}

/// `put_worked`: what the put answered, which proves nothing. `found`: the edit that is there.
pub fn after_put(view: &View, edit: &Edit, put_worked: bool, found: Option<&Edit>) -> Result<AfterPut> {
    if !Defence::OutcomeIsRead.holds() {
        return Ok(match put_worked {
            true => AfterPut::Adopt(view.apply(edit)?),
            false => AfterPut::Renew(view.clone()),
        });
    }
    let Some(found) = found else {
        return Ok(AfterPut::Again);
    };
    let is_own = match found.id == edit.id {
        true => Defence::OwnEditIsAdopted.holds(),
        false => !Defence::OthersEditIsNotOwn.holds(),
    };
    let next = view.apply(found)?;
    Ok(match is_own {
        true => AfterPut::Adopt(next),
        false => AfterPut::Renew(next),
    })
}

/// What counts as known before the outcome of `edit` is: nothing of it.
pub fn known_before_put(view: &View, edit: &Edit) -> Result<Option<View>> {
    match Defence::TrimFollowsTheEdit.holds() {
        true => Ok(None),
        false => view.apply(edit).map(Some),
    }
}

/// Rows that were taken for a flush.
#[derive(Clone, Debug)]
pub struct Flush {
    /// Every row up to it is in `files`, or in those of the view.
    pub through: u64,
    pub truncated_seq: u64,
    /// The region without its rows as of `through`: entries that came since are replayed after a restart, and must
    /// find what they found before.
    pub built: FlushedState,
    pub files: Vec<FileMeta>,
}

impl Flush {
    /// The edit that makes it visible. `now`: what the region has become meanwhile.
    pub fn edit(self, view: &View, epoch: u64, id: String, now: impl FnOnce() -> FlushedState) -> Edit {
        let FlushedState {
            mut table,
            mut requests,
        } = self.built;
        if !Defence::EditHasTheSchemaOfItsRows.holds() {
            table = now().table;
        } else if !Defence::EditHasTheIdsOfItsRows.holds() {
            requests = now().requests;
        }
        if !Defence::EditHasTheIds.holds() {
            requests = Default::default();
        }
        let mut edit = view.edit(epoch, id, table, requests);
        edit.flushed_seq = self.through;
        edit.add = self.files;
        if Defence::TruncationIsInTheEdit.holds() {
            edit.truncate(view, self.truncated_seq);
        }
        edit
    }
}

/// Whether a merge may still take the place of its inputs: they are all there, and `is_closed`: no file that came
/// meanwhile lies between them.
pub fn merge_fits(inputs: &[String], view: &View, is_closed: impl FnOnce(&View) -> bool) -> bool {
    let are_there = inputs.iter().all(|name| view.files.contains_key(name));
    (are_there && is_closed(view)) || !Defence::MergeStillFits.holds()
}

/// What is known of own uploads that no adopted edit names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploads {
    /// No edit that names them was put, or its version is known to hold another.
    Void,
    /// An edit that names them may be there, or come.
    Unknown,
}

impl Uploads {
    /// Whether they are deleted now. If not, the collector finds them.
    pub fn are_deleted(self) -> bool {
        match self {
            Self::Void => Defence::VoidUploadsAreDeleted.holds(),
            Self::Unknown => !Defence::UnknownEditKeepsItsFiles.holds(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::table;

    #[test]
    fn an_edit_is_as_of_its_rows() {
        let built = |version| {
            let (mut table, requests) = (table(), Default::default());
            table.schema.version = version;
            FlushedState { table, requests }
        };
        let flush = Flush {
            through: 3,
            truncated_seq: 0,
            built: built(1),
            files: Vec::new(),
        };
        let edit = flush.edit(&View::default(), 1, "one".into(), || built(2));
        assert_eq!((edit.flushed_seq, edit.table.schema.version), (3, 1));
    }

    #[test]
    fn uploads_are_deleted_when_nothing_can_come_to_name_them() {
        assert!(Uploads::Void.are_deleted());
        assert!(!Uploads::Unknown.are_deleted());
    }
}
