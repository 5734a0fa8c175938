//! What must hold, looked at whenever something happens that could break it.

use std::collections::BTreeMap;

use bytes::Bytes;
use greptime_log::{CommittedEntry, GroupStatus};
use greptime_rules::View;
use greptime_types::RegionId;

use crate::message::{Key, Object, Row, Rows, Written};
use crate::process::Address;
use crate::sim::{Micros, Sim};
use crate::tables::APPENDED;
use crate::trace::Branch;

/// What an entry did to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Nothing,
    Row(Row),
    /// Its request was applied before.
    Duplicate,
    /// Its request was finished before.
    Late,
}

/// What a read must show that begins now.
pub struct Expected {
    /// When it begins.
    at: Micros,
    /// Of [`Truth::required`], in append mode.
    count: usize,
    /// By key, otherwise.
    floor: BTreeMap<u32, u64>,
}

/// One region, as it really is.
#[derive(Default)]
struct Truth {
    /// Committed entries, as the first replica applied them.
    entries: BTreeMap<u64, (u64, Bytes, Applied)>,
    rows: BTreeMap<u64, Row>,
    /// The newest row of each value that was written.
    issued: u64,
    keys: BTreeMap<u64, u32>,
    view: View,
    /// Rows that every later read must show, in the order in which that came to be.
    required: Vec<u64>,
    is_required: BTreeMap<u64, ()>,
    floor: BTreeMap<u32, u64>,
    /// Who leads, or led, in a term: address and start.
    leaders: BTreeMap<u64, (Address, u64)>,
    writers: BTreeMap<u64, String>,
    last_ack: Option<Micros>,
    /// When the newest read began that was answered.
    last_read: Option<Micros>,
    acks: u64,
}

#[derive(Default)]
pub struct Oracle {
    regions: BTreeMap<RegionId, Truth>,
    next_key: u32,
    metasrv_epoch: u64,
    reads: u64,
}

impl Oracle {
    fn truth(&mut self, region: RegionId) -> &mut Truth {
        self.regions.entry(region).or_default()
    }

    /// When a write of the region was acknowledged last.
    pub fn last_ack(&self, region: RegionId) -> Option<Micros> {
        self.regions.get(&region)?.last_ack
    }

    /// When the newest read of the region began that was answered.
    pub fn last_read(&self, region: RegionId) -> Option<Micros> {
        self.regions.get(&region)?.last_read
    }

    pub fn acks(&self) -> u64 {
        self.regions.values().map(|t| t.acks).sum()
    }

    pub fn reads(&self) -> u64 {
        self.reads
    }
}

impl Sim {
    fn truth<T>(&self, region: RegionId, with: impl FnOnce(&mut Truth) -> T) -> T {
        with(self.oracle.borrow_mut().truth(region))
    }

    /// Numbers for keys that nobody had before.
    pub fn take_keys(&self, count: u32) -> u32 {
        let mut oracle = self.oracle.borrow_mut();
        oracle.next_key += count;
        oracle.next_key - count
    }

    /// The next row that somebody writes.
    pub fn next_row(&self, region: RegionId, key: u32) -> Row {
        self.truth(region, |truth| {
            truth.issued += 1;
            truth.keys.insert(truth.issued, key);
            Row {
                key,
                value: truth.issued,
            }
        })
    }

    /// A replica has applied an entry: all apply the same, and to the same effect.
    pub fn saw_applied(&self, at: Address, region: RegionId, entry: &CommittedEntry, applied: Applied) {
        let index = entry.index;
        let broken = self.truth(region, |truth| {
            let known = truth.entries.entry(index);
            let mut is_new = false;
            let (term, data, before) = known.or_insert_with(|| {
                is_new = true;
                (entry.term, entry.data.clone(), applied)
            });
            let differs = (*term, &*data, *before) != (entry.term, &entry.data, applied);
            let known = (*term, *before);
            if let (true, Applied::Row(row)) = (is_new, applied) {
                truth.rows.insert(index, row);
            }
            let older = truth
                .entries
                .range(..index)
                .next_back()
                .is_some_and(|(_, (term, _, _))| *term > entry.term);
            (differs || older).then_some(known)
        });
        if applied == Applied::Late {
            self.hit(Branch::LateEntryIsNotApplied);
        }
        if let Some(known) = broken {
            self.violation("replicas agree", || {
                format!(
                    "{at}, entry {index} of {region}: {applied:?} in term {}, was {known:?}",
                    entry.term
                )
            });
        }
    }

    /// In each term at most one start of one datanode leads.
    pub fn saw_status(&self, (at, start): (Address, u64), region: RegionId, status: &GroupStatus) {
        if !status.leads {
            return;
        }
        let other = self.truth(region, |truth| {
            let leader = *truth.leaders.entry(status.term).or_insert((at, start));
            (leader != (at, start)).then_some(leader.0)
        });
        if let Some(other) = other {
            let term = status.term;
            self.violation("one leader in each term", || {
                format!("{at} leads {region} in term {term}, as {other} has")
            });
        }
    }

    /// A log may forget only what files have.
    pub fn saw_trim(&self, at: Address, region: RegionId, through: u64) {
        let flushed = self.truth(region, |truth| truth.view.flushed_seq);
        if through > flushed.max(1) {
            self.violation("trimmed rows are in files", || {
                format!("{at} trims {region} through {through}, files have rows through {flushed}")
            });
        }
    }

    /// A frontend has been told that its row is written.
    pub fn saw_ack(&self, region: RegionId, row: Row, written: Written) {
        let now = self.now();
        let lost = self.truth(region, |truth| {
            truth.last_ack = Some(now);
            truth.acks += 1;
            truth.require(region, row);
            let entry = truth.entries.get(&written.sequence);
            let is_there = entry
                .is_some_and(|(term, _, applied)| (*term, *applied) == (written.epoch, Applied::Row(row)));
            !written.duplicate && !is_there
        });
        if lost {
            self.violation("an acknowledged row is in the log", || {
                format!("{region}: row {row:?} was acknowledged as {written:?}, and is not there")
            });
        }
    }

    pub fn expect_of_read(&self, region: RegionId) -> Expected {
        let at = self.now();
        self.truth(region, |truth| Expected {
            at,
            count: truth.required.len(),
            floor: truth.floor.clone(),
        })
    }

    /// A read shows everything that was acknowledged or shown before it began, nothing twice, and nothing else.
    pub fn saw_read(&self, at: Address, region: RegionId, expected: &Expected, rows: &Rows) {
        let mut oracle = self.oracle.borrow_mut();
        oracle.reads += 1;
        let truth = oracle.truth(region);
        let broken = truth.check_read(region, expected, rows);
        truth.last_read = truth.last_read.max(Some(expected.at));
        for (_, row) in rows.iter() {
            truth.require(region, *row);
        }
        drop(oracle);
        for (name, what) in broken {
            self.violation(name, || format!("{at} reads {region}: {what}"));
        }
    }

    /// A metasrv has taken the catalog over.
    pub fn saw_metasrv(&self, at: Address, epoch: u64) {
        let mut oracle = self.oracle.borrow_mut();
        let before = std::mem::replace(&mut oracle.metasrv_epoch, epoch);
        drop(oracle);
        if epoch <= before {
            self.violation("epochs of metasrv grow", || {
                format!("{at} leads in {epoch} after {before}")
            });
        }
    }

    /// Something lies in the bucket. `find`: a file that is there.
    pub fn saw_put(&self, region: RegionId, key: &Key, object: &Object, find: &dyn Fn(&str) -> Option<Rows>) {
        let (Key::Manifest(version), Object::Edit(edit)) = (key, object) else {
            return;
        };
        let mut oracle = self.oracle.borrow_mut();
        let truth = oracle.truth(region);
        let writer = edit.id.split('-').next().unwrap_or_default().to_owned();
        let known = truth.writers.entry(edit.epoch).or_insert_with(|| writer.clone());
        let mut broken = Vec::new();
        if *known != writer {
            broken.push((
                "one writer of files in each epoch",
                format!("{known} and {writer}"),
            ));
        }
        if edit.epoch < truth.view.epoch {
            let before = truth.view.epoch;
            broken.push((
                "epochs of the manifest grow",
                format!("{} after {before}", edit.epoch),
            ));
        }
        match truth.view.apply(edit) {
            Ok(next) => truth.view = next,
            Err(error) => broken.push(("a version is put once", format!("{version}: {error}"))),
        }
        broken.extend(truth.check_files(region, find));
        let (epoch, flushed) = (edit.epoch, edit.flushed_seq);
        drop(oracle);
        self.note(|| {
            format!("manifest {version} of {region}: epoch {epoch}, files have rows through {flushed}")
        });
        for (name, what) in broken {
            self.violation(name, || format!("manifest {version} of {region}: {what}"));
        }
    }

    /// A file is gone.
    pub fn saw_delete(&self, region: RegionId, name: &str) {
        let is_named = self.truth(region, |truth| truth.view.files.contains_key(name));
        if is_named {
            self.violation("files that the manifest names are there", || {
                format!("{region}: {name} is deleted")
            });
        }
    }
}

fn is_append(region: RegionId) -> bool {
    region.table() == APPENDED
}

type Broken = Vec<(&'static str, String)>;

impl Truth {
    /// From now on every read must show it, or something newer in its place.
    fn require(&mut self, region: RegionId, row: Row) {
        if is_append(region) {
            if self.is_required.insert(row.value, ()).is_none() {
                self.required.push(row.value);
            }
        } else {
            let floor = self.floor.entry(row.key).or_default();
            *floor = (*floor).max(row.value);
        }
    }

    fn check_read(&self, region: RegionId, expected: &Expected, rows: &Rows) -> Broken {
        let mut broken = Broken::new();
        if let Some(row) = rows
            .iter()
            .find(|(sequence, row)| self.rows.get(sequence) != Some(row))
        {
            broken.push(("nothing is shown that is not committed", format!("{row:?}")));
        }
        let mut shown: Vec<u64> = rows.iter().map(|(_, row)| row.value).collect();
        shown.sort_unstable();
        if let Some(pair) = shown.windows(2).find(|pair| pair[0] == pair[1]) {
            broken.push(("no row is shown twice", format!("row {}", pair[0])));
        }
        if is_append(region) {
            let is_missing = |value: &&u64| shown.binary_search(value).is_err();
            if let Some(value) = self.required[..expected.count].iter().find(is_missing) {
                broken.push((
                    "what was acknowledged or shown is shown",
                    format!("row {value} is missing"),
                ));
            }
            return broken;
        }
        let by_key: BTreeMap<u32, u64> = rows.iter().map(|(_, row)| (row.key, row.value)).collect();
        let goes_back = |(key, floor): &(&u32, &u64)| by_key.get(key).is_none_or(|value| value < floor);
        if let Some((key, floor)) = expected.floor.iter().find(goes_back) {
            let has = by_key.get(key);
            broken.push(("no read goes back", format!("key {key} has {has:?}, had {floor}")));
        }
        broken
    }

    /// The files of the newest version are there, and have the rows up to its `flushed_seq` and no others.
    fn check_files(&self, region: RegionId, find: &dyn Fn(&str) -> Option<Rows>) -> Broken {
        let mut broken = Broken::new();
        let mut found: Vec<(u64, Row)> = Vec::new();
        for name in self.view.files.keys() {
            match find(name) {
                Some(rows) => found.extend(rows.iter().copied()),
                None => broken.push(("files that the manifest names are there", name.clone())),
            }
        }
        found.sort_unstable();
        let through = self.view.flushed_seq;
        let written = self
            .rows
            .range(..=through)
            .map(|(sequence, row)| (*sequence, *row));
        let (found, written): (Vec<_>, Vec<_>) = match is_append(region) {
            true => (found, written.collect()),
            false => (by_key(found.into_iter()), by_key(written)),
        };
        if found != written {
            let differ = found.iter().zip(&written).find(|(a, b)| a != b);
            let (has, should) = (found.len(), written.len());
            broken.push((
                "files have the rows that were written",
                format!("{has} instead of {should}: {differ:?}"),
            ));
        }
        broken
    }
}

fn by_key(rows: impl Iterator<Item = (u64, Row)>) -> Vec<(u64, Row)> {
    let newest: BTreeMap<u32, (u64, Row)> = rows.map(|row| (row.1.key, row)).collect();
    newest.into_values().collect()
}
