//! Space on the log's disk that is kept for the time when there is no other.
//!
//! Files that hold nothing: when the disk is full, some of them are removed, so that what is under way can be written,
//! and after it what makes room: the trims of regions that were flushed, and the log engine's cleaning. While any of
//! them is missing, the disk counts as full, and no more rows are taken. They are made again when there is room.

use std::fs::{self, File};
use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

use super::disk::Disk;

/// Little is given up at a time: an election needs a few hundred bytes, and a disk may be full for many starts.
const PIECE: u64 = 1 << 20;

pub struct Reserve {
    dir: PathBuf,
    pieces: usize,
    disk: Arc<Disk>,
    /// One at a time: what one thread gives up another must not take back.
    lock: Mutex<()>,
}

impl Reserve {
    /// As much as was made before; [`Self::refill`] makes the rest.
    pub fn new(dir: PathBuf, bytes: u64, disk: Arc<Disk>) -> Self {
        Self {
            dir,
            pieces: bytes.div_ceil(PIECE) as usize,
            disk,
            lock: Mutex::default(),
        }
    }

    /// Makes room of one piece; `false` if none is left.
    pub fn give_up(&self) -> bool {
        let _one = self.lock.lock();
        let piece = (0..self.pieces).map(|n| self.piece(n)).find(|p| p.exists());
        let given = piece.is_some_and(|piece| fs::remove_file(piece).is_ok());
        if given {
            self.disk.give(PIECE);
        }
        given
    }

    /// Makes what is missing, as far as there is room for it and for one piece more: what fits only just would be
    /// given up again at the next write. Whether all of it is there.
    pub fn refill(&self) -> bool {
        let _one = self.lock.lock();
        let missing = (0..self.pieces).map(|n| self.piece(n)).filter(|p| !p.exists());
        let missing: Vec<PathBuf> = missing.collect();
        if self.pieces == 0 {
            return self.disk.take(1).map(|()| self.disk.give(1)).is_ok();
        }
        if missing.is_empty() {
            return true;
        }
        let spare = self.dir.join("spare");
        let made = fs::create_dir_all(&self.dir)
            .and_then(|()| self.make(&spare))
            .and_then(|()| missing.iter().rev().try_for_each(|piece| self.make(piece)));
        if fs::remove_file(spare).is_ok() {
            self.disk.give(PIECE);
        }
        made.is_ok()
    }

    /// All of a piece or nothing.
    fn make(&self, piece: &Path) -> Result<()> {
        self.disk.take(PIECE)?;
        let made = File::create(piece).and_then(|file| fill(&file));
        if made.is_err() {
            let _ = fs::remove_file(piece);
            self.disk.give(PIECE);
        }
        made
    }

    fn piece(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number:04}"))
    }
}

fn fill(mut file: &File) -> Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, PIECE) {
        // Not every file system can.
        Err(rustix::io::Errno::OPNOTSUPP) => file.write_all(&vec![0xa5; PIECE as usize]),
        allocated => Ok(allocated?),
    }
}
