//! What to do with the files of a region: merge some, drop some, or nothing. No clock, no I/O, no choice anywhere else.
//!
//! **Runs.** The files of a window whose sequences intersect are one run: outputs of one merge, or of one flush. They
//! share no identity, so a run is one sorted sequence of rows. (Rarely files that do are joined by a third, whose
//! sequences intersect those of both; only [`Question::everything`] cares.)
//!
//! **Closed sets.** What is merged becomes one run with one place in the order of sequences. So no file outside of the
//! set may overlap it in time and lie between its members: its rows would be newer than some and older than others.
//!
//! **When.** In a window that is written to, [`Policy::active_runs`] runs may lie that were merged fewer than
//! [`SETTLED`] times; one more, and those that were merged least often become one. So a row is written once more with
//! each level, and levels hold `C(runs + level, level)` flushes: with 8 runs, 164 flushes before a row is merged a
//! fourth time. Runs that were merged that often may be twice as many, and full ones are left alone, unless there are
//! many others between them. A window that is no longer written to keeps [`Policy::inactive_runs`], and only one if it is
//! not much larger than the others.

mod closed;
mod runs;

use std::collections::BTreeMap;
use std::ops::Range;

use closed::{Hull, blockers, has_nothing_older};
use runs::{Run, active, bounded, inactive, windows_of};

use super::window::{self, WindowPolicy, index_of, is_wide};
use crate::defences::Defence;
use crate::manifest::FileMeta;

/// A run that was merged so often is left alone until there are many of its kind.
pub const SETTLED: u32 = 3;
/// Of all runs that are not full, so many times [`Policy::active_runs`] may lie in a window without anything being behind.
pub const MIXED: usize = 4;
/// Windows that one merge writes to at most: each has a writer with its memory.
pub const PIECES: usize = 8;
/// Files that one edit drops at most.
pub const MAX_DROPPED: usize = 1000;

/// Limits of what is picked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Runs in a window that is written to, see the module.
    pub active_runs: usize,
    /// Runs in a window that is not.
    pub inactive_runs: usize,
    /// Files that are merged at once, at least 2, better 4: each has a reader with its memory.
    pub max_inputs: usize,
    /// A run of this size is full; no file is larger.
    pub max_file_bytes: u64,
    /// Bytes that are merged at once, unless two runs are larger.
    pub max_merge_bytes: u64,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub files: &'a BTreeMap<String, FileMeta>,
    pub policy: &'a Policy,
    pub window: WindowPolicy,
    /// In the unit of the time index.
    pub now: i64,
    /// Rows before it have lived their time.
    pub ttl_cutoff: Option<i64>,
    /// Nothing is being written: every window counts as one that is not written to.
    pub quiet: bool,
    /// One run in each window, whatever that costs.
    pub everything: bool,
}

/// What to do next. Another question follows when it is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    Nothing,
    /// All rows of these files have lived their time.
    Drop(Vec<String>),
    Merge(Merge),
}

/// Files that become one run in each window that they have rows of.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// Sorted by name.
    pub inputs: Vec<String>,
    /// Times at which a new file begins, ascending.
    pub cuts: Vec<i64>,
    /// No older row of the same identities exists, so deletes have done their work.
    pub drop_deletes: bool,
    /// Level of the outputs.
    pub level: u32,
    pub min_sequence: u64,
    pub max_sequence: u64,
    pub rows: u64,
    pub bytes: u64,
    pub why: Why,
}

/// Why files are merged.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// A window had more runs than it may have.
    Runs { window: i64, runs: usize },
    /// A file with rows of several windows stands between files that should be merged.
    Wide { file: String },
    /// A window that is not written to has small runs beside not much larger ones.
    Small { window: i64 },
    /// Deletes that have done their work; only when everything is asked for.
    Deletes { window: i64 },
}

/// Why something is not done, or not yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Waiting {
    /// All rows of `file` have lived their time, but `older` may have earlier ones of the same identities, which
    /// would appear again.
    Expired { file: String, older: String },
    /// The runs of the window, or what has to be merged with a file of several, have too many files to be opened together.
    TooManyFiles { window: i64, files: usize },
    /// No window has more runs than it may have.
    FewRuns,
}

/// What was seen, for people, metrics and back-pressure.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Length of the windows, in the unit of the time index.
    pub window: i64,
    /// The most runs of any window that are not full.
    pub runs: usize,
    /// Bytes in windows that have more runs than they may have.
    pub pending_bytes: u64,
    pub waiting: Vec<Waiting>,
}

/// Decides. Equal questions have equal answers.
pub fn pick(question: &Question<'_>) -> (Plan, Report) {
    let files: Vec<&FileMeta> = question.files.values().collect();
    let length = window::choose(&files, &question.window);
    let windows = windows_of(&files, length);
    let mut report = survey(question, &windows, length);
    let expired = expired(question, &mut report);
    if !expired.is_empty() {
        return (Plan::Drop(expired), report);
    }
    let picker = Picker {
        question,
        files: &files,
        length,
        active_from: active_from(question, &files, length),
    };
    let merge = picker.urgent(&windows, &mut report);
    let merge = merge.or_else(|| picker.remaining_wide(&mut report));
    match merge {
        Some(merge) => (Plan::Merge(merge), report),
        None => {
            if report.waiting.is_empty() {
                report.waiting.push(Waiting::FewRuns);
            }
            (Plan::Nothing, report)
        }
    }
}

/// Whether the outcome of `merge` may take the place of its inputs in `files`, which may have changed since it was
/// picked: all inputs are there, nothing has come between them, nor below them if deletes are dropped.
pub fn still_valid(merge: &Merge, files: &BTreeMap<String, FileMeta>) -> bool {
    let inputs: Option<Vec<&FileMeta>> = merge.inputs.iter().map(|name| files.get(name)).collect();
    let Some(inputs) = inputs else { return false };
    let all: Vec<&FileMeta> = files.values().collect();
    blockers(&all, &inputs).is_empty() && (!merge.drop_deletes || has_nothing_older(&all, &inputs))
}

/// Files whose rows have all lived their time, and below which nothing remains that they hide. Oldest first.
fn expired(question: &Question<'_>, report: &mut Report) -> Vec<String> {
    let Some(cutoff) = question.ttl_cutoff else {
        return Vec::new();
    };
    let mut dead: Vec<&FileMeta> = question.files.values().filter(|f| f.max_time < cutoff).collect();
    dead.sort_by_key(|f| (f.max_sequence, &f.name));
    // Only a file that reaches beyond the cutoff, or one that must stay itself, can lie below.
    let mut staying: Vec<&FileMeta> = question
        .files
        .values()
        .filter(|f| f.max_time >= cutoff && f.min_time < cutoff)
        .collect();
    let mut dropped = Vec::new();
    for file in dead {
        let hides = |other: &&&FileMeta| {
            other.max_sequence < file.max_sequence
                && other.min_time <= file.max_time
                && file.min_time <= other.max_time
        };
        match staying.iter().find(hides) {
            Some(older) if Defence::ExpiredFilesHideNothing.holds() => {
                report.waiting.push(Waiting::Expired {
                    file: file.name.clone(),
                    older: older.name.clone(),
                });
                staying.push(file);
            }
            _ => dropped.push(file.name.clone()),
        }
    }
    dropped.truncate(MAX_DROPPED);
    dropped
}

/// The first window that may still be written to: that of now, or of the newest row if it is older.
fn active_from(question: &Question<'_>, files: &[&FileMeta], length: i64) -> i64 {
    let newest = files.iter().map(|f| f.max_time).max().unwrap_or(i64::MAX);
    if question.quiet {
        i64::MAX
    } else {
        index_of(newest.min(question.now), length)
    }
}

fn survey(question: &Question<'_>, windows: &BTreeMap<i64, Vec<Run<'_>>>, length: i64) -> Report {
    let policy = question.policy;
    let open = |runs: &[Run<'_>]| runs.iter().filter(|r| !r.is_full(policy)).count();
    let over = windows.values().filter(|runs| open(runs) > policy.active_runs);
    Report {
        window: length,
        runs: windows.values().map(|runs| open(runs)).max().unwrap_or(0),
        pending_bytes: over
            .flatten()
            .filter(|r| !r.is_full(policy))
            .map(|r| r.bytes)
            .sum(),
        waiting: Vec::new(),
    }
}

struct Picker<'a> {
    question: &'a Question<'a>,
    files: &'a [&'a FileMeta],
    length: i64,
    active_from: i64,
}

/// Files of a window that should become one run, and why.
struct Candidate<'a> {
    files: Vec<&'a FileMeta>,
    excess: usize,
    why: Why,
}

impl<'a> Picker<'a> {
    /// The merge of the window that is furthest above its limit; of equal ones the newest.
    fn urgent(&self, windows: &BTreeMap<i64, Vec<Run<'a>>>, report: &mut Report) -> Option<Merge> {
        let mut candidates: Vec<(usize, i64, Candidate<'a>)> = Vec::new();
        for (window, runs) in windows {
            match self.candidate(*window, runs) {
                Ok(Some(found)) => candidates.push((found.excess, *window, found)),
                Ok(None) => {}
                Err(waiting) => report.waiting.push(waiting),
            }
        }
        let (_, _, best) = candidates
            .into_iter()
            .max_by_key(|(excess, window, _)| (*excess, *window))?;
        let between = blockers(self.files, &best.files);
        if between.is_empty() {
            return Some(self.merge(best.files, best.why));
        }
        // What is between lies in another window, since the candidate has all runs of its own that are. They overlap,
        // so one of them has rows of several windows. Cut at the windows, it stands in nobody's way.
        let involved = between.into_iter().chain(best.files);
        self.cut_oldest(involved, report)
    }

    /// Cuts the oldest of the files that has rows of several windows, with those that it shares a merge with.
    fn cut_oldest(&self, files: impl Iterator<Item = &'a FileMeta>, report: &mut Report) -> Option<Merge> {
        let wide = files
            .filter(|f| is_wide(f, self.length))
            .min_by_key(|f| (f.max_sequence, &f.name))?;
        let set = self.closed(vec![wide]);
        if set.len() > self.question.policy.max_inputs {
            let window = index_of(wide.max_time, self.length);
            let files = set.len();
            report.waiting.push(Waiting::TooManyFiles { window, files });
            return None;
        }
        let why = Why::Wide {
            file: wide.name.clone(),
        };
        Some(self.merge(set, why))
    }

    /// When everything is asked for, files of several windows are cut even if they stand in nobody's way.
    fn remaining_wide(&self, report: &mut Report) -> Option<Merge> {
        if !self.question.everything {
            return None;
        }
        self.cut_oldest(self.files.iter().copied(), report)
    }

    fn candidate(&self, window: i64, runs: &[Run<'a>]) -> Result<Option<Candidate<'a>>, Waiting> {
        let policy = self.question.policy;
        let found = if self.question.everything {
            self.all(window, runs)
        } else if window >= self.active_from {
            active(runs, policy).map(|(range, excess)| {
                let why = Why::Runs {
                    window,
                    runs: runs.len(),
                };
                (range, excess, why)
            })
        } else {
            inactive(window, runs, policy)
        };
        let Some((range, excess, why)) = found else {
            return Ok(None);
        };
        let range = bounded(runs, range, self.question);
        let taken: Vec<&FileMeta> = runs[range.clone()]
            .iter()
            .flat_map(|r| r.files.iter().copied())
            .collect();
        let files = match taken.len() > policy.max_inputs {
            false => taken,
            true => {
                let files = taken.len();
                let of_one = runs[range].iter().filter_map(|run| self.neighbours(run));
                of_one
                    .max_by_key(Vec::len)
                    .ok_or(Waiting::TooManyFiles { window, files })?
            }
        };
        Ok(Some(Candidate { files, excess, why }))
    }

    /// Of a run that has too many files to be merged with another: those that follow each other in time and become one
    /// file.
    fn neighbours(&self, run: &Run<'a>) -> Option<Vec<&'a FileMeta>> {
        let policy = self.question.policy;
        let fits = |set: &Vec<&FileMeta>| {
            let bytes: u64 = set.iter().map(|f| f.bytes).sum();
            set.len() <= policy.max_inputs && bytes <= policy.max_file_bytes
        };
        let mut files = run.files.clone();
        files.sort_by_key(|f| (f.min_time, &f.name));
        let from = |first: usize| {
            let ends = first + 2..=files.len();
            let sets = ends.map(|end| self.closed(files[first..end].to_vec()));
            sets.take_while(fits).last()
        };
        (0..files.len()).filter_map(from).max_by_key(Vec::len)
    }

    /// With all that has to be merged with these files.
    fn closed(&self, mut set: Vec<&'a FileMeta>) -> Vec<&'a FileMeta> {
        loop {
            let more = blockers(self.files, &set);
            if more.is_empty() {
                return set;
            }
            set.extend(more);
        }
    }

    /// All runs of a window, or its only one if it is not sorted as a whole or has deletes that may go.
    fn all(&self, window: i64, runs: &[Run<'a>]) -> Option<(Range<usize>, usize, Why)> {
        if runs.len() > 1 {
            let count = runs.len();
            return Some((0..count, count - 1, Why::Runs { window, runs: count }));
        }
        let only = runs.first()?;
        if only.is_mixed() {
            return Some((0..1, 1, Why::Runs { window, runs: 1 }));
        }
        let deletes: u64 = only.files.iter().map(|f| f.deletes).sum();
        let may_go = deletes > 0 && has_nothing_older(self.files, &only.files);
        may_go.then_some((0..1, 1, Why::Deletes { window }))
    }

    fn merge(&self, mut files: Vec<&FileMeta>, why: Why) -> Merge {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let hull = Hull::of(&files).unwrap_or(Hull {
            time: (0, 0),
            sequence: (0, 0),
        });
        let deletes: u64 = files.iter().map(|f| f.deletes).sum();
        Merge {
            cuts: window::cuts(hull.time.0, hull.time.1, self.length, PIECES),
            drop_deletes: deletes > 0 && has_nothing_older(self.files, &files),
            level: 1 + files.iter().map(|f| f.level).max().unwrap_or(0),
            min_sequence: hull.sequence.0,
            max_sequence: hull.sequence.1,
            rows: files.iter().map(|f| f.rows).sum(),
            bytes: files.iter().map(|f| f.bytes).sum(),
            inputs: files.into_iter().map(|f| f.name.clone()).collect(),
            why,
        }
    }
}

#[cfg(test)]
mod tests;
