//! The bucket, as all processes see it.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use crate::{Checkpoint, Edit, View, put_if_absent};

/// Numbers of requests by the sequences of their rows. A request has one row.
pub type Rows = BTreeMap<u64, u8>;

/// What states have in common, by value.
#[derive(Debug, PartialEq)]
pub struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }

    pub fn arc(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

// The table is the same in all states, so it is left out.

impl Hash for Shared<Edit> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let edit = &self.0;
        (
            edit.version,
            edit.epoch,
            &edit.id,
            edit.flushed_seq,
            edit.truncated_seq,
        )
            .hash(state);
        (&edit.add, &edit.remove, &edit.requests, &edit.deleted).hash(state);
    }
}

impl Hash for Shared<View> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let view = &self.0;
        (view.version, view.epoch, view.flushed_seq, view.truncated_seq).hash(state);
        (&view.files, &view.removed).hash(state);
        view.flushed.as_ref().map(|flushed| &flushed.requests).hash(state);
    }
}

impl Hash for Shared<Checkpoint> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.flushed_seq, self.0.manifest_version, &self.0.requests).hash(state);
    }
}

/// How a put goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Put {
    Answered,
    /// It happened, and nobody is told.
    AnswerLost,
    /// It has not happened, and still may.
    Late,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Bucket {
    /// Versions 1 and on.
    pub edits: Vec<Shared<Edit>>,
    pub files: BTreeMap<String, Rows>,
    /// Puts of edits that may still happen.
    pub late: Vec<Shared<Edit>>,
    /// What the edits add up to; `None` if they do not fit.
    pub newest: Option<Shared<View>>,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            edits: Vec::new(),
            files: BTreeMap::new(),
            late: Vec::new(),
            newest: Some(Shared::new(View::default())),
        }
    }
}

impl Bucket {
    /// Whether it answers that it worked.
    pub fn put(&mut self, edit: &Shared<Edit>) -> bool {
        let (at, next) = (edit.version as usize - 1, self.edits.len());
        match self.edits.get_mut(at) {
            Some(there) if !put_if_absent() => *there = edit.clone(),
            None if at == next => self.edits.push(edit.clone()),
            _ => return false,
        }
        self.newest = self.advance(&View::default()).map(Shared::new);
        true
    }

    pub fn read(&self, version: u64) -> Option<&Edit> {
        self.edits.get(version as usize - 1).map(|edit| &**edit)
    }

    /// `view` with every edit that followed it; `None` if they do not fit.
    pub fn advance(&self, view: &View) -> Option<View> {
        let followed = self.edits.get(view.version as usize..).unwrap_or_default();
        followed
            .iter()
            .try_fold(view.clone(), |view, edit| view.apply(edit).ok())
    }

    /// Whether all files of the view are there.
    pub fn has_all(&self, view: &View) -> bool {
        view.files.keys().all(|name| self.files.contains_key(name))
    }

    /// Rows of the view's files.
    pub fn rows_of(&self, view: &View) -> Vec<u8> {
        let files = view.files.keys().filter_map(|name| self.files.get(name));
        files.flat_map(|rows| rows.values().copied()).collect()
    }
}
