//! The log on disk: TiKV's `raft-engine`, one for all regions of a datanode.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use greptime_types::RegionId;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use raft::eraftpb::Entry;
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};
use serde::{Deserialize, Serialize};

use super::damage::{self, Damage};
use super::disk::Disk;
use super::files::{self, Cut, LogFiles};
use super::reserve::Reserve;
use super::{Batch, Full, Key, LogError, LogStore, RegionBatch};
use crate::defences::Defence;

/// When what was appended is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSync {
    /// Before it is acknowledged.
    #[default]
    Always,
    /// When [`LogStore::sync`] is called. What only the log knows may be lost when the power fails; what changes
    /// regions is synced at once all the same.
    Interval,
}

/// What a start does with a log that is damaged before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogDamage {
    /// Whoever has it does as by `Discard` if others have everything, and as by `Refuse` if not.
    #[default]
    Auto,
    /// It fails, and says what is damaged.
    Refuse,
    /// It goes on without everything behind the damage: a person has agreed to lose it.
    Cut,
    /// Whoever has it puts all of it aside and begins anew. The log itself fails as by `Refuse`, here and by `Auto`.
    Discard,
}

#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub dir: PathBuf,
    pub sync: LogSync,
    pub damage: LogDamage,
    pub file_size: u64,
    /// Space that is kept for a full disk; it must hold what one turn writes.
    pub reserve: u64,
    /// Old files are removed once the log is larger; what still lives in them is rewritten.
    pub purge_threshold: u64,
    /// No rows are taken while it is larger; 0: as large as its disk.
    pub limit: u64,
}

/// A group of the engine that is no region; what a sync by interval writes goes there.
const SYNC_GROUP: u64 = u64::MAX;

/// Below it in the directory of the log.
const RESERVE: &str = "reserve";

/// Room that cleaning the log should have: what it writes is little, and must not fail half way.
const CLEANING_ROOM: u64 = 1 << 20;

/// How soon a write is tried again for which the disk had no room.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// How the engine finds the index in an entry.
struct RaftEntries;

impl MessageExt for RaftEntries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

pub struct EngineLog {
    engine: Engine<LogFiles>,
    dir: PathBuf,
    sync: LogSync,
    /// Something was appended and not synced.
    dirty: AtomicBool,
    reserve: Reserve,
    /// There was no room for a write, and the reserve has not been whole since.
    full: AtomicBool,
    /// The node stops: nobody waits for room any more.
    stopping: AtomicBool,
    /// Something was trimmed since the log was last cleaned.
    trimmed: AtomicBool,
    /// One batch at a time is under way. A second one, complete behind a torn one, would look like damage.
    writing: Mutex<()>,
    file_size: u64,
    purge_threshold: u64,
    limit: u64,
    cuts: Vec<Cut>,
    files: Arc<LogFiles>,
}

impl EngineLog {
    /// Opens the log and cuts a torn tail: after a power cut it is normal, and nobody was told that it is here, since
    /// that is said after the sync. What was cut is in [`Self::cuts`]. Damage that is no torn tail is refused before anything
    /// is cut, unless [`LogDamage::Cut`] allows it, or batches were not synced one by one.
    pub fn open(options: &EngineOptions, fsyncs: Counter) -> Result<Self, LogError> {
        Self::open_in(options, fsyncs, Arc::default())
    }

    /// The same on a disk of which a test says how full it is.
    pub(super) fn open_in(
        options: &EngineOptions,
        fsyncs: Counter,
        disk: Arc<Disk>,
    ) -> Result<Self, LogError> {
        let failed = |e: std::io::Error| LogError::Read(format!("{}: {e}", options.dir.display()));
        if Defence::EmptyEndIsRemoved.holds() {
            damage::remove_empty_end(&options.dir).map_err(failed)?;
        }
        let found = damage::at_the_end(&options.dir).map_err(failed)?;
        let may_cut = options.sync == LogSync::Interval
            || options.damage == LogDamage::Cut
            || !Defence::DamageIsNoTornTail.holds();
        let inside = |d: &&Damage| d.proof.is_some();
        // The engine cuts a torn end, but for batches of which only the entries are torn.
        let is_left =
            |d: &&Damage| d.proof.is_some() || (d.only_entries && Defence::TornEntriesAreCut.holds());
        if let Some(damage) = found.iter().filter(inside).find(|d| !d.only_entries && !may_cut) {
            return Err(refused(damage, &options.dir));
        }
        let mut log = Self::open_engine(options, fsyncs.clone(), Arc::clone(&disk))?;
        if !found.iter().any(|d| is_left(&d)) {
            return Ok(log);
        }
        let mut damaged: Vec<PathBuf> = found.iter().filter(inside).map(|d| d.file.clone()).collect();
        // The engine looks at entries only when they are needed, and those of trimmed entries never are.
        for damage in damage::at_the_end(&options.dir)
            .map_err(failed)?
            .iter()
            .filter(is_left)
        {
            if log.all_readable() {
                tracing::warn!(%damage, "the log is damaged where nothing is needed any more");
                continue;
            }
            // The engine has cut the last batch if that was torn: another one was behind this one.
            if !may_cut {
                return Err(refused(damage, &options.dir));
            }
            let mut cuts = std::mem::take(&mut log.cuts);
            drop(log);
            cut(damage).map_err(failed)?;
            disk.resized(&damage.file, damage.offset);
            disk.synced(&damage.file);
            log = Self::open_engine(options, fsyncs.clone(), Arc::clone(&disk))?;
            cuts.append(&mut log.cuts);
            cuts.retain(|c| c.file != damage.file || c.offset < damage.offset);
            let at_first = |d: &&Damage| d.file == damage.file && d.offset == damage.offset;
            cuts.push(Cut::from(found.iter().find(at_first).unwrap_or(damage)));
            log.cuts = cuts;
            damaged.push(damage.file.clone());
        }
        if options.sync == LogSync::Always {
            let cuts = log.cuts.iter_mut().filter(|c| damaged.contains(&c.file));
            cuts.for_each(|c| c.acknowledged = true);
        }
        Ok(log)
    }

    /// A disk may be full already: then it opens with what the reserve gives, and counts as full.
    fn open_engine(options: &EngineOptions, fsyncs: Counter, disk: Arc<Disk>) -> Result<Self, LogError> {
        let recovery_mode = match Defence::TornTailIsCut.holds() {
            true => RecoveryMode::TolerateTailCorruption,
            false => RecoveryMode::AbsoluteConsistency,
        };
        let config = Config {
            dir: options.dir.display().to_string(),
            recovery_mode,
            target_file_size: ReadableSize(options.file_size),
            // When old files are removed is decided in [`Self::reclaim`]: the engine would keep them on a full disk.
            purge_threshold: ReadableSize(options.file_size),
            purge_rewrite_threshold: Some(ReadableSize(options.file_size.max(options.purge_threshold / 10))),
            // What is removed makes room.
            enable_log_recycle: false,
            ..Config::default()
        };
        let reserve = Reserve::new(options.dir.join(RESERVE), options.reserve, Arc::clone(&disk));
        let files = Arc::new(LogFiles::new(fsyncs, disk));
        let engine = loop {
            match Engine::open_with_file_system(config.clone(), Arc::clone(&files)) {
                Ok(engine) => break engine,
                Err(error) if is_full(&error) && reserve.give_up() => {}
                Err(error) if is_full(&error) => return Err(no_room(&options.dir)),
                // Another process has it, or the directory is none: nothing is damaged.
                Err(raft_engine::Error::Other(error)) => {
                    return Err(LogError::Read(format!("{}: {error}", options.dir.display())));
                }
                // Nor is a log of which a read fails; the next one may not.
                Err(raft_engine::Error::Io(error)) if !ends_too_early(&error) => {
                    return Err(LogError::Read(format!("{}: {error}", options.dir.display())));
                }
                Err(error) => return Err(LogError::Corruption(damaged(&options.dir, &error))),
            }
        };
        let log = Self {
            engine,
            dir: options.dir.clone(),
            sync: options.sync,
            dirty: AtomicBool::new(false),
            full: AtomicBool::new(!reserve.refill()),
            reserve,
            stopping: AtomicBool::new(false),
            trimmed: AtomicBool::new(true),
            writing: Mutex::default(),
            file_size: options.file_size,
            purge_threshold: options.purge_threshold,
            limit: options.limit,
            cuts: files.recovered(),
            files,
        };
        if log.has_no_room() {
            tracing::error!(dir = %log.dir.display(), "the disk of the log is full; writes are refused until there is space");
        }
        Ok(log)
    }

    /// Whether every entry that is not trimmed can be read.
    fn all_readable(&self) -> bool {
        self.engine.raft_groups().into_iter().all(|id| {
            let (first, last) = (self.engine.first_index(id), self.engine.last_index(id));
            let (Some(first), Some(last)) = (first, last) else {
                return true;
            };
            (first..=last).all(|index| matches!(self.engine.get_entry::<RaftEntries>(id, index), Ok(Some(_))))
        })
    }

    /// Whether the entries of a region end at this index, or before.
    fn ends_by(&self, region: u64, index: u64) -> bool {
        self.engine.last_index(region).is_some_and(|last| last <= index)
    }

    /// Writes a region anew, without entries. The engine may remove the file that tells of a trim before those that entries
    /// were moved to; where others follow them these are left out, but where none do the old ones would be the log again.
    fn forget_entries(
        &self,
        to: &mut LogBatch,
        region: u64,
        changes: &RegionBatch,
    ) -> raft_engine::Result<()> {
        to.add_command(region, Command::Clean);
        for key in Key::ALL.iter().filter(|key| !changes.put.contains_key(key)) {
            if let Some(value) = self.engine.get(region, key_bytes(*key)) {
                to.put(region, key_bytes(*key).to_vec(), value)?;
            }
        }
        Ok(())
    }

    /// What recovery cut off.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// Writes what `fill` says. When there is no room, the reserve gives some; when that is used up too, it waits. The
    /// engine takes back what it wrote of a batch for which there was no room, so nothing is unknown, unlike after a
    /// failed sync.
    fn write(
        &self,
        fill: impl Fn(&mut LogBatch) -> raft_engine::Result<()>,
        sync: bool,
    ) -> Result<(), LogError> {
        let failed = |e: raft_engine::Error| LogError::Write(e.to_string());
        let _one = self.writing.lock();
        loop {
            let mut batch = LogBatch::default();
            fill(&mut batch).map_err(failed)?;
            match self.engine.write(&mut batch, sync) {
                Ok(_) => break,
                Err(error) if is_full(&error) => self.make_room()?,
                Err(error) => return Err(failed(error)),
            }
        }
        if self.has_no_room() {
            self.look_for_room();
        }
        Ok(())
    }

    fn has_no_room(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    fn make_room(&self) -> Result<(), LogError> {
        if !self.full.swap(true, Ordering::SeqCst) {
            tracing::error!(dir = %self.dir.display(), "the disk of the log is full; writes are refused until there is space");
        }
        if Defence::FullDiskHasAReserve.holds() && self.reserve.give_up() {
            return Ok(());
        }
        if self.stopping.load(Ordering::SeqCst) && Defence::StopDoesNotWaitForRoom.holds() {
            return Err(LogError::Full);
        }
        std::thread::sleep(FULL_RETRY);
        Ok(())
    }

    /// The disk is full as long as the reserve is not whole.
    fn look_for_room(&self) {
        if self.reserve.refill() && self.full.swap(false, Ordering::SeqCst) {
            tracing::info!("the disk of the log has space again");
        }
    }

    /// Lets the engine begin a new file, so that everything in those before it can be removed.
    fn rotate(&self) -> Result<(), LogError> {
        self.have_room();
        self.files.begin_new_file();
        self.write(|to| to.put(SYNC_GROUP, b"sync".to_vec(), vec![1]), true)
    }

    /// Cleaning should not fail half way: what the engine forgets by that would come back at the next start.
    fn have_room(&self) {
        if room(&self.dir).is_ok_and(|room| room < CLEANING_ROOM) {
            self.reserve.give_up();
        }
    }

    fn clean(&self) -> Result<Vec<u64>, LogError> {
        self.have_room();
        // The engine removes what was replaced, be it by something that is not on disk yet.
        if Defence::CleaningSyncsFirst.holds() {
            self.sync()?;
        }
        if !Defence::TrimmedFilesAreRemoved.holds() {
            return Ok(vec![]);
        }
        loop {
            match self.engine.purge_expired_files() {
                Ok(behind) => return Ok(behind),
                Err(error) if is_full(&error) && self.reserve.give_up() => {}
                Err(error) => return Err(LogError::Write(error.to_string())),
            }
        }
    }

    fn fill(&self, to: &mut LogBatch, region: u64, changes: &RegionBatch) -> raft_engine::Result<()> {
        if changes.delete {
            to.add_command(region, Command::Clean);
            return Ok(());
        }
        match changes.trim_through {
            Some(through) if self.ends_by(region, through) && Defence::WholeTrimForgets.holds() => {
                self.forget_entries(to, region, changes)?;
            }
            Some(through) => to.add_command(region, Command::Compact { index: through + 1 }),
            None => {}
        }
        to.add_entries::<RaftEntries>(region, &changes.entries)?;
        for (key, value) in &changes.put {
            to.put(region, key_bytes(*key).to_vec(), value.to_vec())?;
        }
        Ok(())
    }
}

fn key_bytes(key: Key) -> &'static [u8] {
    match key {
        Key::Group => b"group",
        Key::HardState => b"hard-state",
        Key::Checkpoint => b"checkpoint",
    }
}

/// Whether losing the changes would lose more than the newest rows.
pub(super) fn must_sync(changes: &RegionBatch) -> bool {
    changes.delete
        || changes.trim_through.is_some()
        || changes.entries.is_empty()
        || changes.put.keys().any(|key| *key != Key::HardState)
}

/// Bytes that the disk of a directory has for us.
pub fn room(dir: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn no_room(dir: &Path) -> LogError {
    LogError::Read(format!(
        "the disk of {} is full, and the space that was kept for this is used up; make space on the volume",
        dir.display()
    ))
}

fn is_full(error: &raft_engine::Error) -> bool {
    matches!(error, raft_engine::Error::Io(error) if files::is_full(error.kind()))
}

/// A file that is shorter than what is said in it, or says what cannot be, is damaged.
fn ends_too_early(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput)
}

/// Damage that a person has to decide about.
fn refused(damage: &Damage, dir: &Path) -> LogError {
    LogError::Corruption(format!(
        "{damage}. Rows that were acknowledged are there and behind it, so nothing was cut. Put {} back from a copy of \
         the volume. Without one, set datanode.log_damage for one start: to \"discard\" if its regions have replicas on \
         other datanodes, which make new ones here; or to \"cut\" if they do not, to lose what the {} bytes from there \
         on say and is in no file yet",
        dir.display(),
        damage.bytes
    ))
}

/// What the engine cannot read, with the place, which it does not say itself.
fn damaged(dir: &Path, error: &raft_engine::Error) -> String {
    let place = damage::anywhere(dir)
        .ok()
        .and_then(|found| found.into_iter().next());
    let place = place.map_or(String::new(), |damage| format!("; {damage}"));
    let dir = dir.display();
    format!(
        "{dir}: {error}{place}. Put {dir} back from a copy of the volume; without one, what is only in this log is \
         lost; with datanode.log_damage = \"discard\" this node begins anew, and what has replicas elsewhere gets new \
         ones here"
    )
}

/// Cuts a file where the engine would not, since it does not look at entries.
fn cut(damage: &Damage) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(&damage.file)?;
    file.set_len(damage.offset)?;
    file.sync_all()
}

impl LogStore for EngineLog {
    fn append(&self, batch: Batch) -> Result<(), LogError> {
        let now = self.sync == LogSync::Always || batch.regions.values().any(must_sync);
        let now = now && Defence::WhatIsAnsweredIsOnDisk.holds();
        let fill = |to: &mut LogBatch| {
            let mut regions = batch.regions.iter();
            regions.try_for_each(|(region, changes)| self.fill(to, region.as_u64(), changes))
        };
        self.write(fill, now)?;
        if batch
            .regions
            .values()
            .any(|r| r.delete || r.trim_through.is_some())
        {
            self.trimmed.store(true, Ordering::SeqCst);
        }
        // After the write: a sync that began during it may have missed it.
        self.dirty.fetch_or(!now, Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self) -> Result<(), LogError> {
        if self.dirty.swap(false, Ordering::SeqCst) {
            // The engine does nothing for a batch without content, not even sync.
            self.write(|to| to.put(SYNC_GROUP, b"sync".to_vec(), vec![1]), true)?;
        }
        Ok(())
    }

    fn full(&self) -> Option<Full> {
        match self.has_no_room() {
            true => Some(Full::Disk),
            false if self.limit == 0 || !Defence::LogHasALimit.holds() => None,
            false => (self.size() > self.limit).then_some(Full::Limit),
        }
    }

    fn size(&self) -> u64 {
        self.engine.get_used_size() as u64
    }

    fn regions(&self) -> Result<Vec<RegionId>, LogError> {
        let has_group = |id: &u64| self.engine.get(*id, key_bytes(Key::Group)).is_some();
        let mut ids: Vec<u64> = self.engine.raft_groups().into_iter().filter(has_group).collect();
        ids.sort_unstable();
        Ok(ids.into_iter().map(RegionId::from_u64).collect())
    }

    fn bounds(&self, region: RegionId) -> Option<(u64, u64)> {
        let id = region.as_u64();
        Some((self.engine.first_index(id)?, self.engine.last_index(id)?))
    }

    fn entries(&self, region: RegionId, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        self.engine
            .fetch_entries_to::<RaftEntries>(region.as_u64(), low, high, Some(max), &mut entries)
            .map_err(|e| LogError::Read(format!("region {region}: {}", damaged(&self.dir, &e))))?;
        Ok(entries)
    }

    fn get(&self, region: RegionId, key: Key) -> Result<Option<Bytes>, LogError> {
        Ok(self.engine.get(region.as_u64(), key_bytes(key)).map(Bytes::from))
    }

    fn stop_waiting(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn reclaim(&self) -> Result<Vec<RegionId>, LogError> {
        let full = self.full();
        let trimmed =
            full.is_some() && Defence::FullLogIsCleaned.holds() && self.trimmed.swap(false, Ordering::SeqCst);
        if trimmed {
            // The file that is written to cannot be removed, and may be all there is.
            self.rotate()?;
        }
        let files = damage::appended_files(&self.dir).map_err(|e| LogError::Read(e.to_string()))?;
        let mut behind = Vec::new();
        // At the limit only what is trimmed gives room. The engine would move what is left to other files, all of it in the
        // end, and have no more room by that.
        let is_due = files * self.file_size > self.purge_threshold && full != Some(Full::Limit);
        if trimmed || is_due {
            behind = self.clean()?;
        }
        if full == Some(Full::Disk) {
            self.look_for_room();
        }
        Ok(behind.into_iter().map(RegionId::from_u64).collect())
    }
}
