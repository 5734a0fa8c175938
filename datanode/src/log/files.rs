//! The log's files, watched: syncs are counted, and what recovery cuts off a torn tail is noted.

use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

use super::damage::Damage;

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
    /// What tests say of the disk.
    #[cfg(test)]
    full: AtomicBool,
}

impl Watch {
    /// Whether there is room is for the file system to say, but for tests.
    #[cfg(not(test))]
    fn check_space(&self) -> Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn check_space(&self) -> Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

/// The plain file system, watched.
pub struct LogFiles {
    watch: Arc<Watch>,
}

pub struct WatchedWriter {
    inner: <DefaultFileSystem as FileSystem>::Writer,
    watch: Arc<Watch>,
}

pub struct WatchedFile {
    inner: Arc<Inner>,
    path: PathBuf,
    watch: Arc<Watch>,
}

impl LogFiles {
    /// Until [`Self::recovered`], truncation is what recovery does to torn tails.
    pub fn new(fsyncs: Counter) -> Self {
        let watch = Watch {
            fsyncs,
            recovering: AtomicBool::new(true),
            cuts: Mutex::default(),
            #[cfg(test)]
            full: AtomicBool::new(false),
        };
        Self {
            watch: Arc::new(watch),
        }
    }

    pub fn recovered(&self) -> Vec<Cut> {
        self.watch.recovering.store(false, Ordering::SeqCst);
        std::mem::take(&mut self.watch.cuts.lock())
    }

    #[cfg(test)]
    pub fn set_full(&self, full: bool) {
        self.watch.full.store(full, Ordering::SeqCst);
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
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()?;
        self.watch.fsyncs.inc();
        Ok(())
    }
}

impl Write for WatchedWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.watch.check_space()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

impl Seek for WatchedWriter {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.inner.seek(to)
    }
}

impl WriteExt for WatchedWriter {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.inner.allocate(offset, size)
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
        Ok(self.watched(inner, path.as_ref()))
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> Result<WatchedFile> {
        Ok(self.watched(DefaultFileSystem.open(path.as_ref(), perm)?, path.as_ref()))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
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
            watch: Arc::clone(&self.watch),
        })
    }
}
