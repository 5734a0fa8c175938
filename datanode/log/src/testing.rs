//! What tests of other crates do to a log: a disk that keeps of what was not synced what it likes, and electricity that
//! goes in the middle of anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prometheus_client::metrics::counter::Counter;

use super::disk::{Disk, Op};
use super::{EngineLog, EngineOptions, LogError};

/// What a disk writes all of or nothing.
const SECTOR: usize = 512;

/// By name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The electricity of one machine. Whatever it changes asks, and what comes after the end has not happened.
#[derive(Debug)]
pub struct Power(AtomicI64);

impl Default for Power {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Power {
    /// It goes when so many more changes have happened.
    pub fn goes_after(&self, changes: u64) {
        self.0.store(changes as i64, Ordering::SeqCst);
    }

    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// Whether one change more happens.
    pub fn takes(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) > 0
    }
}

/// A log on the disk of a machine, as long as that has power.
pub struct Machine {
    before: Files,
    disk: Arc<Disk>,
}

impl Machine {
    /// Writes the files that are found into the directory, which is empty or not there, and opens the log there.
    pub fn start(
        options: &EngineOptions,
        found: Files,
        power: &Arc<Power>,
    ) -> Result<(Self, EngineLog), LogError> {
        std::fs::create_dir_all(&options.dir).expect("a directory for the test");
        write_files(&options.dir, &found);
        let disk = Arc::new(Disk::powered(Arc::clone(power)));
        let log = EngineLog::open_in(options, Counter::default(), Arc::clone(&disk))?;
        Ok((Self { before: found, disk }, log))
    }

    /// The files as the next start may find them, if the power went when it did. Whoever has written ghosts since then
    /// has let go of the log.
    pub fn found(&self, mut dice: impl FnMut(u64) -> u64) -> Files {
        found(&self.before, &self.disk.ops(self.disk.done()), &mut dice)
    }
}

/// A file, and what was done to it since it was synced.
#[derive(Default)]
struct OnDisk {
    synced: Vec<u8>,
    since: Vec<Op>,
}

fn name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn change(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { at, bytes: new, .. } => {
            let at = *at as usize;
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(new);
        }
        Op::Resize { length, .. } => bytes.resize(*length as usize, 0),
        Op::Create(_) | Op::Sync(_) | Op::Delete(_) => unreachable!("{op:?} changes no bytes"),
    }
}

impl OnDisk {
    /// After the first so many changes.
    fn after(&self, changes: usize) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        self.since[..changes].iter().for_each(|op| change(&mut bytes, op));
        bytes
    }

    fn all(&self) -> Vec<u8> {
        self.after(self.since.len())
    }

    /// What may be left of it.
    fn found(&self, dice: &mut impl FnMut(u64) -> u64) -> Vec<u8> {
        match dice(4) {
            0 => self.synced.clone(),
            1 => self.all(),
            2 => self.beginning(dice),
            _ => self.sectors(dice),
        }
    }

    /// The first changes, and a piece of the next.
    fn beginning(&self, dice: &mut impl FnMut(u64) -> u64) -> Vec<u8> {
        let whole = dice(self.since.len() as u64 + 1) as usize;
        let mut bytes = self.after(whole);
        if let Some(Op::Write { file, at, bytes: new }) = self.since.get(whole) {
            let piece = Op::Write {
                file: file.clone(),
                at: *at,
                bytes: new[..dice(new.len() as u64 + 1) as usize].to_vec(),
            };
            change(&mut bytes, &piece);
        }
        bytes
    }

    /// Each sector as it was after some of the changes; neighbours mostly after as many.
    fn sectors(&self, dice: &mut impl FnMut(u64) -> u64) -> Vec<u8> {
        let moments = self.since.len() as u64 + 1;
        let mut bytes = self.after(dice(moments) as usize);
        let length = bytes.len();
        for _ in 0..dice(4) {
            let other = self.after(dice(moments) as usize);
            let sectors = (length / SECTOR + 1) as u64;
            let (from, to) = (dice(sectors) as usize, dice(sectors) as usize);
            let all = dice(2) == 0;
            for sector in from.min(to)..=from.max(to) {
                let start = (sector * SECTOR).min(length);
                let end = (start + SECTOR).min(length);
                if all || dice(2) == 0 {
                    let there = other.get(start..end.min(other.len())).unwrap_or(&[]);
                    let (old, beyond) = bytes[start..end].split_at_mut(there.len());
                    old.copy_from_slice(there);
                    beyond.fill(0);
                }
            }
        }
        bytes
    }
}

/// The files as they may be found when the power fails after `ops`, which began with those of `before`. `dice` says a
/// number below what it is given.
pub fn found(before: &Files, ops: &[Op], dice: &mut impl FnMut(u64) -> u64) -> Files {
    let mut files: BTreeMap<String, OnDisk> = BTreeMap::new();
    for (name, bytes) in before {
        files.entry(name.clone()).or_default().synced.clone_from(bytes);
    }
    // A directory changes in order, and all of it is on disk when a new file is.
    let mut deleted: Vec<String> = Vec::new();
    for op in ops {
        match op {
            Op::Create(file) => {
                for gone in deleted.drain(..) {
                    files.remove(&gone);
                }
                files.insert(name(file), OnDisk::default());
            }
            Op::Write { file, .. } | Op::Resize { file, .. } => {
                files
                    .get_mut(&name(file))
                    .expect("it was created")
                    .since
                    .push(op.clone());
            }
            Op::Sync(file) => {
                let file = files.get_mut(&name(file)).expect("it was created");
                file.synced = file.all();
                file.since.clear();
            }
            Op::Delete(file) => deleted.push(name(file)),
        }
    }
    let gone = dice(deleted.len() as u64 + 1) as usize;
    let gone: BTreeSet<&String> = deleted[..gone].iter().collect();
    let left = files.iter().filter(|(name, _)| !gone.contains(name));
    left.map(|(name, file)| (name.clone(), file.found(dice)))
        .collect()
}

/// Puts files into an empty directory.
pub fn write_files(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a file for the test");
    }
}

/// The files of a log that nobody writes to.
pub fn files_in(dir: &Path) -> Files {
    let names = std::fs::read_dir(dir).expect("the directory of a log");
    let files = names.map(|f| f.expect("a file of a log").path());
    let files = files.filter(|path| path.extension().is_some());
    let files = files.map(|path| (name(&path), std::fs::read(&path).expect("a file of a log")));
    files.collect()
}
