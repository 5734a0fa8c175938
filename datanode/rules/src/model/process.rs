//! One replica of the region: what it knows, and what it does with entries and views.

use greptime_types::{Finished, RequestId};

use super::bucket::{Bucket, Rows, Shared};
use crate::testing::table;
use crate::{
    Checkpoint, Cleaning, Edit, Lead, Listed, Meeting, RequestTable, Seen, Standing, Trimmed, View,
    keeps_view, may_follow, meet,
};

/// One of the committed entries of the region's log.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Entry {
    pub term: u64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Body {
    /// The first of its term.
    Began,
    Write {
        number: u8,
        finished: Finished,
    },
    Truncate,
    Trim(Shared<Checkpoint>),
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Frozen {
    pub sequence: u64,
    pub truncated_seq: u64,
    pub requests: RequestTable,
}

/// Why an edit is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Flush,
    Merge,
    /// An edit of the own epoch is to be known.
    Claim,
}

/// An edit on its way; no other is made meanwhile.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Pending {
    pub purpose: Purpose,
    pub base: Shared<View>,
    pub edit: Shared<Edit>,
    /// What the put answered.
    pub answer: Option<bool>,
}

/// A file that is uploaded and is to take the place of others.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Merged {
    pub epoch: u64,
    pub inputs: Vec<String>,
    pub output: crate::FileMeta,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Process {
    pub lead: Lead,
    /// It stopped for good, and said so.
    pub has_failed: bool,
    pub applied: u64,
    pub term_began: u64,
    pub memory: Rows,
    pub frozen: Option<Frozen>,
    /// Only an edit takes its entries off the log, though they left no row.
    pub rowless: bool,
    pub truncated_seq: u64,
    pub requests: RequestTable,
    pub trimmed: Trimmed,
    pub view: Option<Shared<View>>,
    pub pending: Option<Pending>,
    pub merged: Option<Merged>,
    pub cleaning: Cleaning,
    pub listed: Option<Vec<Listed>>,
    /// On its disk: what the trimmed entries had built.
    pub checkpoint: Shared<Checkpoint>,
    /// Names that it has given, to files and to edits.
    pub names: u8,
}

impl Process {
    pub fn new() -> Self {
        let checkpoint = Checkpoint {
            format: 1,
            table: table(),
            flushed_seq: 0,
            manifest_version: 0,
            requests: RequestTable::default(),
        };
        Self::start(Shared::new(checkpoint), 0)
    }

    /// From what is on its disk.
    pub fn start(checkpoint: Shared<Checkpoint>, names: u8) -> Self {
        Self {
            lead: Lead::default(),
            has_failed: false,
            applied: checkpoint.flushed_seq,
            term_began: 0,
            memory: Rows::new(),
            frozen: None,
            rowless: false,
            truncated_seq: 0,
            requests: checkpoint.requests.clone(),
            trimmed: Trimmed::of(&checkpoint),
            view: None,
            pending: None,
            merged: None,
            cleaning: Cleaning::default(),
            listed: None,
            checkpoint,
            names,
        }
    }

    /// The log says that what is in memory counts for nothing.
    pub fn restore(&mut self, checkpoint: &Shared<Checkpoint>) {
        let view = self.view.take().filter(|view| keeps_view(view, checkpoint));
        *self = Self {
            lead: Lead {
                applied_term: 0,
                ..self.lead
            },
            has_failed: self.has_failed,
            view,
            pending: self.pending.take(),
            merged: self.merged.take(),
            cleaning: std::mem::take(&mut self.cleaning),
            listed: self.listed.take(),
            ..Self::start(checkpoint.clone(), self.names)
        };
    }

    pub fn serves(&self) -> Option<u64> {
        self.lead.serves().ok().filter(|_| !self.has_failed)
    }

    /// The epoch in which it leads, and the files that it knows.
    pub fn leading_view(&self) -> Option<(u64, Shared<View>)> {
        Some((self.serves()?, self.view.clone()?))
    }

    pub fn name(&mut self) -> u8 {
        self.names += 1;
        self.names
    }

    /// Applies the next entry; returns the number of a request that is done.
    pub fn apply(&mut self, entry: &Entry) -> Option<u8> {
        self.applied += 1;
        if entry.term != self.lead.applied_term {
            self.term_began = self.applied;
        }
        self.lead.applied_term = entry.term;
        match &entry.body {
            Body::Began => None,
            Body::Write { number, finished } => {
                let seen = self.requests.first_time(request(*number));
                if seen == Seen::Finished {
                    return None;
                }
                if seen == Seen::New {
                    self.memory.insert(self.applied, *number);
                }
                self.requests.apply(request(*number), finished);
                Some(*number)
            }
            Body::Truncate => {
                self.memory.clear();
                self.frozen = None;
                self.truncated_seq = self.applied;
                self.rowless = true;
                None
            }
            Body::Trim(checkpoint) => {
                if checkpoint.flushed_seq > self.checkpoint.flushed_seq {
                    self.checkpoint = checkpoint.clone();
                }
                let leaving = self.trimmed.told(checkpoint);
                self.memory.retain(|sequence, _| *sequence > leaving);
                None
            }
        }
    }

    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.frozen.is_none() && (!self.memory.is_empty() || self.rowless) {
            self.rowless = false;
            self.frozen = Some(Frozen {
                sequence: self.applied,
                truncated_seq: self.truncated_seq,
                requests: self.requests.clone(),
            });
        }
        self.frozen.clone()
    }

    pub fn adopt(&mut self, view: View) {
        if !view.replaces(self.view.as_deref()) {
            return;
        }
        if self
            .frozen
            .as_ref()
            .is_some_and(|f| f.sequence <= view.flushed_seq)
        {
            let frozen = self.frozen.take().map_or(0, |f| f.sequence);
            self.memory.retain(|sequence, _| *sequence > frozen);
        }
        let in_files = view.in_files();
        self.memory.retain(|sequence, _| *sequence > in_files);
        self.truncated_seq = self.truncated_seq.max(view.truncated_seq);
        self.view = Some(Shared::new(view));
    }

    /// Takes a view that others may have written.
    pub fn take(&mut self, view: View) {
        if !self.lead.leads {
            if may_follow(&view, self.applied) {
                self.adopt(view);
            }
            return;
        }
        let Some(epoch) = self.serves() else { return };
        let standing = Standing {
            epoch,
            applied: self.applied,
            term_began: self.term_began,
            is_first: self.view.is_none(),
        };
        match meet(&view, &standing) {
            Meeting::Adopt => self.adopt(view),
            Meeting::Replaced => self.lead.deposed_in = epoch,
            Meeting::LogLostItsEnd => self.has_failed = true,
        }
    }

    /// The numbers that a reader is shown; `None` if it has to wait, or finds a file missing and looks at the newest
    /// manifest.
    pub fn shows(&self, bucket: &Bucket) -> Option<Vec<u8>> {
        self.serves()?;
        let view = View::shown(self.view.as_ref().map(Shared::arc), self.truncated_seq)?;
        if !bucket.has_all(&view) {
            return None;
        }
        let mut shown = bucket.rows_of(&view);
        let in_files = view.in_files();
        shown.extend(self.memory.range(in_files + 1..).map(|(_, number)| *number));
        shown.sort_unstable();
        Some(shown)
    }
}

pub fn request(number: u8) -> RequestId {
    RequestId {
        incarnation: 1,
        number: u64::from(number),
    }
}
