//! What tests know and say of the disk below the log: how much room there is, and in which order what was done to its
//! files. In a release nothing.

use std::io::Result;
use std::path::Path;

/// One change of the files of a directory.
#[cfg(debug_assertions)]
#[derive(Clone, Debug)]
pub enum Op {
    /// The directory is on disk after it.
    Create(std::path::PathBuf),
    Write {
        file: std::path::PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    /// The file ends there, or has zeros up to there.
    Resize {
        file: std::path::PathBuf,
        length: u64,
    },
    Sync(std::path::PathBuf),
    Delete(std::path::PathBuf),
}

/// Whether there is room is for the file system to say, but for tests.
#[derive(Default)]
pub struct Disk {
    #[cfg(debug_assertions)]
    room: parking_lot::Mutex<Option<u64>>,
    /// Everything that was done, if a test wants to know.
    #[cfg(debug_assertions)]
    journal: parking_lot::Mutex<Option<Vec<Op>>>,
    /// Changes are noted as long as it is there.
    #[cfg(debug_assertions)]
    power: Option<std::sync::Arc<super::testing::Power>>,
}

#[cfg(not(debug_assertions))]
impl Disk {
    pub fn take(&self, _: u64) -> Result<()> {
        Ok(())
    }

    pub fn give(&self, _: u64) {}

    pub fn created(&self, _: &Path) {}

    pub fn written(&self, _: &Path, _: u64, _: &[u8]) {}

    pub fn resized(&self, _: &Path, _: u64) {}

    pub fn synced(&self, _: &Path) {}

    pub fn deleted(&self, _: &Path) {}
}

#[cfg(debug_assertions)]
impl Disk {
    /// One whose changes are noted.
    pub fn noted() -> Self {
        Self {
            journal: parking_lot::Mutex::new(Some(Vec::new())),
            ..Self::default()
        }
    }

    /// The same of a machine that has power for some time.
    pub fn powered(power: std::sync::Arc<super::testing::Power>) -> Self {
        Self {
            power: Some(power),
            ..Self::noted()
        }
    }

    /// `None`: as the file system says.
    #[cfg(test)]
    pub fn set(&self, room: Option<u64>) {
        *self.room.lock() = room;
    }

    /// As the engine's own file system says it.
    pub fn take(&self, bytes: u64) -> Result<()> {
        match self.room.lock().as_mut() {
            None => Ok(()),
            Some(room) if *room >= bytes => {
                *room -= bytes;
                Ok(())
            }
            Some(_) => Err(std::io::Error::new(std::io::ErrorKind::StorageFull, "nospace")),
        }
    }

    pub fn give(&self, bytes: u64) {
        if let Some(room) = self.room.lock().as_mut() {
            *room += bytes;
        }
    }

    pub fn created(&self, file: &Path) {
        self.note(|| Op::Create(file.to_owned()));
    }

    pub fn written(&self, file: &Path, at: u64, bytes: &[u8]) {
        self.note(|| Op::Write {
            file: file.to_owned(),
            at,
            bytes: bytes.to_owned(),
        });
    }

    pub fn resized(&self, file: &Path, length: u64) {
        self.note(|| Op::Resize {
            file: file.to_owned(),
            length,
        });
    }

    pub fn synced(&self, file: &Path) {
        self.note(|| Op::Sync(file.to_owned()));
    }

    pub fn deleted(&self, file: &Path) {
        self.note(|| Op::Delete(file.to_owned()));
    }

    /// How much was done.
    pub fn done(&self) -> usize {
        self.journal.lock().as_ref().map_or(0, Vec::len)
    }

    /// The first `done` of it.
    pub fn ops(&self, done: usize) -> Vec<Op> {
        self.journal
            .lock()
            .as_ref()
            .map_or(Vec::new(), |ops| ops[..done].to_vec())
    }

    fn note(&self, op: impl FnOnce() -> Op) {
        let mut journal = self.journal.lock();
        if let Some(journal) = journal.as_mut()
            && self.power.as_ref().is_none_or(|power| power.takes())
        {
            journal.push(op());
        }
    }
}
