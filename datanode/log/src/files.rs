//! The log's files, watched: syncs are counted, and what recovery cuts off a torn tail is noted.

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

use super::damage::Damage;
use super::disk::Disk;
use crate::defences::Defence;

type Inner = <DefaultFileSystem as FileSystem>::Handle;

/// Bytes that recovery cut off the end of a log file, because a write was not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u64,
    /// Acknowledged rows were among them: it was damage, and a person agreed to lose them.
    pub acknowledged: bool,
}

impl From<&Damage> for Cut {
    fn from(damage: &Damage) -> Self {
        Self {
            file: damage.file.clone(),
            offset: damage.offset,
            bytes: damage.bytes,
            acknowledged: false,
        }
    }
}

#[derive(Default)]
struct Watch {
    fsyncs: Counter,
    recovering: AtomicBool,
    cuts: Mutex<Vec<Cut>>,
    /// The next write of entries goes to a new file.
    new_file: AtomicBool,
    disk: Arc<Disk>,
}

/// Whether there is no room, or none that we may have.
pub fn is_full(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The plain file system, watched.
pub struct LogFiles {
    watch: Arc<Watch>,
}

pub struct WatchedWriter {
    inner: <DefaultFileSystem as FileSystem>::Writer,
    file: Arc<WatchedFile>,
    /// Whether it is a file of entries, not of what the engine moved out of old ones.
    appends: bool,
    /// Where the next write goes; at 0 it is the header of a new file.
    at: u64,
}

pub struct WatchedFile {
    inner: Arc<Inner>,
    path: PathBuf,
    watch: Arc<Watch>,
}

impl LogFiles {
    /// Until [`Self::recovered`], truncation is what recovery does to torn tails.
    pub fn new(fsyncs: Counter, disk: Arc<Disk>) -> Self {
        let watch = Watch {
            fsyncs,
            recovering: AtomicBool::new(true),
            cuts: Mutex::default(),
            new_file: AtomicBool::new(false),
            disk,
        };
        Self {
            watch: Arc::new(watch),
        }
    }

    pub fn recovered(&self) -> Vec<Cut> {
        self.watch.recovering.store(false, Ordering::SeqCst);
        std::mem::take(&mut self.watch.cuts.lock())
    }

    /// Lets writes fail until there is a new file: the engine begins one when a write says `nospace`, and has no other
    /// way to ask for one.
    pub fn begin_new_file(&self) {
        self.watch.new_file.store(true, Ordering::SeqCst);
    }

    fn watched(&self, inner: Inner, path: &Path) -> WatchedFile {
        WatchedFile {
            inner: Arc::new(inner),
            path: path.to_owned(),
            watch: Arc::clone(&self.watch),
        }
    }
}

impl WatchedFile {
    /// Space is allocated ahead and filled with zeros: cutting those loses nothing.
    fn note_cut(&self, offset: usize) -> Result<()> {
        let size = self.inner.file_size()?;
        let mut reader = DefaultFileSystem.new_reader(Arc::clone(&self.inner))?;
        reader.seek(SeekFrom::Start(offset as u64))?;
        let mut tail = Vec::new();
        reader
            .take(size.saturating_sub(offset) as u64)
            .read_to_end(&mut tail)?;
        let bytes = tail
            .iter()
            .rposition(|b| *b != 0)
            .map_or(0, |last| last as u64 + 1);
        if bytes > 0 {
            self.watch.cuts.lock().push(Cut {
                file: self.path.clone(),
                offset: offset as u64,
                bytes,
                acknowledged: false,
            });
        }
        Ok(())
    }
}

impl Handle for WatchedFile {
    fn truncate(&self, offset: usize) -> Result<()> {
        if self.watch.recovering.load(Ordering::SeqCst) {
            self.note_cut(offset)?;
        }
        self.inner.truncate(offset)?;
        self.watch.disk.resized(&self.path, offset as u64);
        Ok(())
    }

    fn file_size(&self) -> Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()?;
        self.watch.disk.synced(&self.path);
        self.watch.fsyncs.inc();
        Ok(())
    }
}

impl Write for WatchedWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let watch = &self.file.watch;
        if self.appends && self.at > 0 && watch.new_file.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::StorageFull,
                "nospace: a new file is asked for",
            ));
        }
        let room = watch.disk.take(bytes.len() as u64);
        let written = match room.and_then(|()| self.inner.write(bytes)) {
            // Without the text at which the engine would begin a new file at each attempt: it would leave empty ones,
            // and call what failed something that may be tried again at once.
            Err(error) if is_full(error.kind()) && Defence::FullDiskBeginsNoFile.holds() => {
                return Err(error.kind().into());
            }
            written => written?,
        };
        if self.appends && self.at == 0 {
            watch.new_file.store(false, Ordering::SeqCst);
        }
        watch.disk.written(&self.file.path, self.at, &bytes[..written]);
        if !self.appends && Defence::MovedEntriesAreSynced.holds() {
            self.file.sync()?;
        }
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

impl Seek for WatchedWriter {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }
}

impl WriteExt for WatchedWriter {
    /// Leaves off there.
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.inner.truncate(offset)?;
        self.file.watch.disk.resized(&self.file.path, offset as u64);
        self.at = offset as u64;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.inner.allocate(offset, size)?;
        let disk = &self.file.watch.disk;
        disk.resized(&self.file.path, (offset + size) as u64);
        Ok(())
    }
}

impl FileSystem for LogFiles {
    type Handle = WatchedFile;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = WatchedWriter;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<WatchedFile> {
        let inner = DefaultFileSystem.create(path.as_ref())?;
        // A new file is only found again after a crash if its directory is on disk.
        if let Some(dir) = path.as_ref().parent() {
            std::fs::File::open(dir)?.sync_all()?;
        }
        self.watch.disk.created(path.as_ref());
        Ok(self.watched(inner, path.as_ref()))
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> Result<WatchedFile> {
        Ok(self.watched(DefaultFileSystem.open(path.as_ref(), perm)?, path.as_ref()))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        let size = path.as_ref().metadata().map_or(0, |m| m.len());
        DefaultFileSystem.delete(path.as_ref())?;
        self.watch.disk.deleted(path.as_ref());
        self.watch.disk.give(size);
        Ok(())
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, file: Arc<WatchedFile>) -> Result<Self::Reader> {
        DefaultFileSystem.new_reader(Arc::clone(&file.inner))
    }

    fn new_writer(&self, file: Arc<WatchedFile>) -> Result<Self::Writer> {
        Ok(WatchedWriter {
            inner: DefaultFileSystem.new_writer(Arc::clone(&file.inner))?,
            appends: file.path.extension().is_some_and(|e| e == "raftlog"),
            at: 0,
            file,
        })
    }
}
