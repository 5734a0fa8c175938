//! Which sets of files can become one: the rules that keep rows in the order of their sequences.

use std::collections::BTreeSet;

use crate::defences::Defence;
use crate::manifest::FileMeta;

/// Hull of a set of files.
#[derive(Clone, Copy, Debug)]
pub struct Hull {
    pub time: (i64, i64),
    pub sequence: (u64, u64),
}

impl Hull {
    pub fn of(files: &[&FileMeta]) -> Option<Self> {
        let first = files.first()?;
        let start = Self {
            time: (first.min_time, first.max_time),
            sequence: (first.min_sequence, first.max_sequence),
        };
        Some(files.iter().fold(start, |hull, f| Self {
            time: (hull.time.0.min(f.min_time), hull.time.1.max(f.max_time)),
            sequence: (
                hull.sequence.0.min(f.min_sequence),
                hull.sequence.1.max(f.max_sequence),
            ),
        }))
    }

    pub fn overlaps(&self, file: &FileMeta) -> bool {
        file.min_time <= self.time.1 && self.time.0 <= file.max_time
    }

    /// Whether the file and everything in the set were written together.
    fn is_sibling(&self, set: &[&FileMeta], file: &FileMeta) -> bool {
        let is_whole = |f: &FileMeta| (f.min_sequence, f.max_sequence) == self.sequence;
        is_whole(file) && set.iter().all(|f| is_whole(f))
    }

    fn is_between(&self, file: &FileMeta) -> bool {
        file.min_sequence <= self.sequence.1 && self.sequence.0 <= file.max_sequence
    }
}

/// Files that overlap the set in time and lie between its members in sequence.
///
/// Not those that came of the same flush or merge as all of the set, which share no identity with it. Two merges with the
/// same sequences are apart in time, or one would have stood in the way of the other.
pub fn blockers<'a>(files: &[&'a FileMeta], set: &[&FileMeta]) -> Vec<&'a FileMeta> {
    let Some(hull) = Hull::of(set) else {
        return Vec::new();
    };
    let members: BTreeSet<&str> = set.iter().map(|f| f.name.as_str()).collect();
    let outside = files.iter().filter(|f| !members.contains(f.name.as_str()));
    outside
        .filter(|f| hull.overlaps(f) && hull.is_between(f) && !hull.is_sibling(set, f))
        .filter(|_| Defence::MergedFilesAreClosed.holds())
        .copied()
        .collect()
}

/// Whether no file outside of the set can have an older row of any of its identities. Memory never has one.
pub fn has_nothing_older(files: &[&FileMeta], set: &[&FileMeta]) -> bool {
    let Some(hull) = Hull::of(set) else {
        return true;
    };
    let members: BTreeSet<&str> = set.iter().map(|f| f.name.as_str()).collect();
    let outside = files.iter().filter(|f| !members.contains(f.name.as_str()));
    let mut older = outside.filter(|f| hull.overlaps(f) && f.min_sequence < hull.sequence.0);
    older.next().is_none() || !Defence::DeletesStayAboveOlderRows.holds()
}
