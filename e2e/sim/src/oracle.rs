//! What must hold, looked at whenever something happens that could break it.

mod lost;

use std::collections::BTreeMap;

use bytes::Bytes;
use greptime_log::{CommittedEntry, GroupStatus};
use greptime_rules::View;
use greptime_types::RegionId;

use crate::entry::Entry;
use crate::message::{Key, Object, Row, Rows, Written};
use crate::process::Address;
use crate::sim::{Micros, Sim};
use crate::tables::APPENDED;
use crate::trace::Branch;
use lost::GivenUp;

/// What an entry did to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Nothing,
    Row(Row),
    /// By its number.
    Truncated(u64),
    /// What the table is now.
    Altered {
        version: u64,
        writes_from: u64,
    },
    /// It has columns of before.
    Stale,
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
    /// Nothing up to it may be shown.
    truncated: u64,
    /// How often a replica had gone on alone.
    lineage: u64,
}

/// One region, as it really is.
#[derive(Default)]
struct Truth {
    /// Committed entries, as the first replica applied them.
    entries: BTreeMap<u64, (u64, Bytes, Applied)>,
    rows: BTreeMap<u64, Row>,
    /// Where a row is, by its value.
    places: BTreeMap<u64, u64>,
    /// Numbers of truncations, by where they are.
    truncations: BTreeMap<u64, u64>,
    /// Version of the table and the oldest one whose rows it takes, by where that came to be.
    schemas: BTreeMap<u64, (u64, u64)>,
    /// The newest value of a row, or number of a truncation, that was asked for.
    issued: u64,
    view: View,
    /// Rows that every later read must show, in the order in which that came to be.
    required: Vec<u64>,
    /// Keys of rows by their values, of these and of those that a newer one has replaced.
    is_required: BTreeMap<u64, u32>,
    /// The same of those that were acknowledged.
    acknowledged: BTreeMap<u64, u32>,
    floor: BTreeMap<u32, u64>,
    /// A truncation that was acknowledged, or that a read has shown: every later one shows it.
    truncated: u64,
    /// Who leads, or led, in a term: address and start.
    leaders: BTreeMap<u64, (Address, u64)>,
    writers: BTreeMap<u64, String>,
    last_ack: Option<Micros>,
    /// When the newest read began that was answered.
    last_read: Option<Micros>,
    acks: u64,
    given_up: GivenUp,
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
            let value = truth.issue();
            Row { key, value }
        })
    }

    /// The next truncation that somebody asks for.
    pub fn next_truncation(&self, region: RegionId) -> u64 {
        self.truth(region, Truth::issue)
    }

    /// A replica has applied an entry: all apply the same, and to the same effect.
    pub fn saw_applied(&self, at: Address, region: RegionId, entry: &CommittedEntry, applied: Applied) {
        let index = entry.index;
        let is_void = self.truth(region, |truth| truth.given_up.has_entry(index, entry.term));
        if is_void {
            return;
        }
        let broken = self.truth(region, |truth| {
            let known = truth.entries.entry(index);
            let mut is_new = false;
            let (term, data, before) = known.or_insert_with(|| {
                is_new = true;
                (entry.term, entry.data.clone(), applied)
            });
            let differs = (*term, &*data, *before) != (entry.term, &entry.data, applied);
            let known = (*term, *before);
            if is_new {
                truth.note(index, applied);
            }
            let older = truth
                .entries
                .range(..index)
                .next_back()
                .is_some_and(|(_, (term, _, _))| *term > entry.term);
            (differs || older).then_some(known)
        });
        match applied {
            Applied::Late => self.hit(Branch::LateEntryIsNotApplied),
            Applied::Stale => self.hit(Branch::StaleRowsAreRefusedInTheLog),
            Applied::Row(_) => self.check_columns(at, region, entry),
            _ => {}
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

    /// A row that is applied has columns that mean what its writer meant.
    fn check_columns(&self, at: Address, region: RegionId, entry: &CommittedEntry) {
        let Some(Entry::Write(write)) = Entry::decode(&entry.data) else {
            return;
        };
        let (version, writes_from) = self.truth(region, |truth| truth.schema_at(entry.index));
        if !(writes_from..=version).contains(&write.made_for) {
            self.violation("rows are of columns that are there", || {
                let (index, made_for) = (entry.index, write.made_for);
                format!(
                    "{at}, entry {index} of {region}: made for {made_for}, not {writes_from} to {version}"
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
        let is_lost = self.is_lost(region, row, written);
        let lost = self.truth(region, |truth| {
            truth.last_ack = Some(now);
            truth.acks += 1;
            if is_lost {
                return false;
            }
            truth.acknowledged.insert(row.value, row.key);
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

    /// A frontend has been told that a region is truncated.
    pub fn saw_truncated(&self, region: RegionId, number: u64, written: Written) {
        if let Some(lost) = self.truth(region, |truth| truth.given_up.truncated(number)) {
            if let Some(what) = lost {
                self.violation("what is said to be kept is kept", || format!("{region}: {what}"));
            }
            return;
        }
        let is_there = self.truth(region, |truth| {
            let place = truth.truncations.iter().find(|(_, known)| **known == number);
            let place = place.map(|(place, _)| *place);
            truth.truncated = truth.truncated.max(place.unwrap_or(0));
            place.is_some()
        });
        if !is_there {
            self.violation("an acknowledged truncation is in the log", || {
                format!("{region}: truncation {number} was acknowledged as {written:?}, and is not there")
            });
        }
    }

    pub fn expect_of_read(&self, region: RegionId) -> Expected {
        let at = self.now();
        self.truth(region, |truth| Expected {
            at,
            count: truth.required.len(),
            floor: truth.floor.clone(),
            truncated: truth.truncated,
            lineage: truth.given_up.lineage,
        })
    }

    /// A read shows everything that was acknowledged or shown before it began, nothing twice, and nothing else.
    pub fn saw_read(&self, at: Address, region: RegionId, expected: &Expected, rows: &Rows) {
        let mut oracle = self.oracle.borrow_mut();
        oracle.reads += 1;
        let truth = oracle.truth(region);
        // What began before a replica went on alone may show what is lost, and who began it may expect that.
        if expected.lineage != truth.given_up.lineage {
            return;
        }
        let (broken, truncated) = truth.check_read(region, expected, rows);
        truth.truncated = truth.truncated.max(truncated);
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
        let (of_rows, _) = truth.schema_at(edit.flushed_seq);
        if edit.table.schema.version != of_rows {
            let has = edit.table.schema.version;
            broken.push((
                "an edit has the table of its rows",
                format!("version {has}, rows through {} have {of_rows}", edit.flushed_seq),
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
        let is_new = self.is_required.insert(row.value, row.key).is_none();
        if is_append(region) {
            if is_new {
                self.required.push(row.value);
            }
        } else {
            let floor = self.floor.entry(row.key).or_default();
            *floor = (*floor).max(row.value);
        }
    }

    fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// What an entry has done, when the first replica applies it.
    fn note(&mut self, index: u64, applied: Applied) {
        match applied {
            Applied::Row(row) => {
                self.rows.insert(index, row);
                self.places.insert(row.value, index);
            }
            Applied::Truncated(number) => {
                self.truncations.insert(index, number);
            }
            Applied::Altered { version, writes_from } => {
                self.schemas.insert(index, (version, writes_from));
            }
            Applied::Nothing | Applied::Stale | Applied::Duplicate | Applied::Late => {}
        }
    }

    /// Version of the table and the oldest one whose rows it takes, after an entry.
    fn schema_at(&self, index: u64) -> (u64, u64) {
        let known = self.schemas.range(..=index).next_back();
        known.map_or((1, 1), |(_, schema)| *schema)
    }

    /// The newest truncation up to an entry; 0 if there is none.
    fn truncation_at(&self, index: u64) -> u64 {
        let known = self.truncations.range(..=index).next_back();
        known.map_or(0, |(place, _)| *place)
    }

    /// What is wrong with a read, and the truncation that it shows for certain: rows are missing that were there.
    fn check_read(&self, region: RegionId, expected: &Expected, rows: &Rows) -> (Broken, u64) {
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
        let oldest = rows.iter().map(|(sequence, _)| *sequence).min();
        if let Some(oldest) = oldest.filter(|oldest| *oldest <= expected.truncated) {
            let through = expected.truncated;
            broken.push((
                "what was truncated stays away",
                format!("row at {oldest} of {through}"),
            ));
        }
        // The newest one after which all of them may have come.
        let truncation = self.truncation_at(oldest.map_or(u64::MAX, |oldest| oldest - 1));
        let missing = match is_append(region) {
            true => self.missing(expected, &shown),
            false => self.missing_keys(expected, rows),
        };
        let place = |value: &u64| self.places.get(value).copied().unwrap_or(u64::MAX);
        if let Some(value) = missing.iter().find(|value| place(value) > truncation) {
            let name = match is_append(region) {
                true => "what was acknowledged or shown is shown",
                false => "no read goes back",
            };
            broken.push((name, format!("row {value} at {} is missing", place(value))));
            return (broken, 0);
        }
        let newest = missing.iter().map(place).max();
        let shown = newest.and_then(|newest| self.truncations.range(newest..).next());
        (broken, shown.map_or(0, |(place, _)| *place))
    }

    /// Values that a read should show, and does not.
    fn missing(&self, expected: &Expected, shown: &[u64]) -> Vec<u64> {
        let required = self.required[..expected.count].iter();
        let missing = required.filter(|value| shown.binary_search(value).is_err());
        missing
            .filter(|value| !self.given_up.has_row(**value))
            .copied()
            .collect()
    }

    /// The same where the newest value of a key counts.
    fn missing_keys(&self, expected: &Expected, rows: &Rows) -> Vec<u64> {
        let by_key: BTreeMap<u32, u64> = rows.iter().map(|(_, row)| (row.key, row.value)).collect();
        let goes_back = |(key, floor): &(&u32, &u64)| by_key.get(key).is_none_or(|value| value < floor);
        let missing = expected.floor.iter().filter(goes_back);
        missing.map(|(_, floor)| *floor).collect()
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
            .range(self.truncation_at(through)..=through)
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
