//! A file that appears under its name only when all of it is on disk.
//!
//! Were it named first and synced afterwards, a power cut could leave an empty or torn file under the name: a version
//! of a manifest that nobody can read, and that put-if-absent never replaces.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::PutPayload;

use crate::defences::Defence;

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It stays, and the new one is an error of kind `AlreadyExists`.
    IfAbsent,
    Over,
}

/// The system calls that matter, so that a test can cut the power between any two.
pub(crate) trait Disk {
    /// What was opened, to be synced.
    type Open;

    /// A new file, whose bytes need not be on disk.
    fn create(&self, file: &Path, payload: &PutPayload) -> io::Result<()>;
    /// A file or a directory.
    fn open(&self, path: &Path) -> io::Result<Self::Open>;
    fn sync(&self, open: &Self::Open) -> io::Result<()>;
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, file: &Path) -> io::Result<()>;
}

/// Why something is not there for good.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: io::Error,
    /// Names that somebody may find, or that others rely on, were synced in vain: nobody knows what is on disk, and trying
    /// again does not tell.
    pub is_lost: bool,
}

impl Failure {
    fn lost(error: io::Error) -> Self {
        Self { error, is_lost: true }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            is_lost: false,
        }
    }
}

/// Puts the file in its place, below `top`; it is there for good then. All in one, so that a caller that waits no longer
/// leaves no name behind that nobody syncs. One that is there already is there for good, too: whoever has put it may not
/// have synced it yet, and it may be the same.
pub(crate) fn place(
    disk: &impl Disk,
    file: &Path,
    top: &Path,
    payload: &PutPayload,
    how: Place,
) -> Result<(), Failure> {
    let staged = stage(disk, file, payload)?;
    let ready = if Defence::BytesAreSyncedFirst.holds() {
        disk.open(&staged).and_then(|open| disk.sync(&open))
    } else {
        Ok(())
    };
    // Opened before there is a name: what cannot be opened cannot be synced.
    let placed = ready.and_then(|()| dirs(disk, file, top)).and_then(|dirs| {
        match how {
            Place::IfAbsent => disk.link(&staged, file)?,
            Place::Over => disk.rename(&staged, file)?,
        }
        Ok(dirs)
    });
    // After a rename there is nothing left to remove.
    if how == Place::IfAbsent || placed.is_err() {
        let _ = disk.remove(&staged);
    }
    match placed {
        Ok(dirs) => sync_all(disk, &dirs),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if Defence::FoundNamesAreSynced.holds() {
                sync_found(disk, file, top)?;
            }
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Every directory from that of the file up to `top`, the store's own, since any of them may be new.
fn dirs<D: Disk>(disk: &D, file: &Path, top: &Path) -> io::Result<Vec<D::Open>> {
    let dirs = file.ancestors().skip(1).take_while(|dir| dir.starts_with(top));
    dirs.map(|dir| disk.open(dir)).collect()
}

fn sync_all<D: Disk>(disk: &D, dirs: &[D::Open]) -> Result<(), Failure> {
    if !Defence::NamesAreSynced.holds() {
        return Ok(());
    }
    dirs.iter()
        .try_for_each(|dir| disk.sync(dir))
        .map_err(Failure::lost)
}

/// Whoever is told that the file is there takes that for good.
fn sync_found(disk: &impl Disk, file: &Path, top: &Path) -> Result<(), Failure> {
    let opened = disk
        .open(file)
        .and_then(|open| Ok((open, dirs(disk, file, top)?)));
    let (file, dirs) = opened.map_err(|error| Failure {
        is_lost: error.kind() != io::ErrorKind::NotFound,
        error,
    })?;
    disk.sync(&file).map_err(Failure::lost)?;
    sync_all(disk, &dirs)
}

/// Syncs a file that has its name already, and its directories. Nobody refers to it before that.
pub(crate) fn sync_with_dirs(disk: &impl Disk, file: &Path, top: &Path) -> Result<(), Failure> {
    let (open, dirs) = (disk.open(file)?, dirs(disk, file, top)?);
    disk.sync(&open)?;
    sync_all(disk, &dirs)
}

/// A file beside `file`, under a name that listings leave out. One that a power cut left behind may have the name.
fn stage(disk: &impl Disk, file: &Path, payload: &PutPayload) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = file.as_os_str().to_owned();
        name.push(format!("#{}{number:012}", std::process::id()));
        let staged = PathBuf::from(name);
        match disk.create(&staged, payload) {
            Ok(()) => return Ok(staged),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let _ = disk.remove(&staged);
                return Err(error);
            }
        }
    }
}

/// The machine's file system.
pub(crate) struct Files;

impl Disk for Files {
    type Open = std::fs::File;

    fn create(&self, file: &Path, payload: &PutPayload) -> io::Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut out = std::fs::File::create_new(file)?;
        payload
            .iter()
            .try_for_each(|part| io::Write::write_all(&mut out, part))
    }

    fn open(&self, path: &Path) -> io::Result<Self::Open> {
        std::fs::File::open(path)
    }

    fn sync(&self, open: &Self::Open) -> io::Result<()> {
        open.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        std::fs::remove_file(file)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::{BTreeMap, BTreeSet};
    use std::rc::Rc;

    use super::*;

    /// Contents of a file, and how much of it a power cut leaves.
    #[derive(Debug, Default)]
    struct Inode {
        bytes: Vec<u8>,
        synced: Cell<bool>,
    }

    /// Bytes survive a power cut only after a sync. So do names if `names_wait`, and otherwise at once: the worst that
    /// a journal of names does.
    #[derive(Default)]
    struct Cutting {
        names_wait: bool,
        names: RefCell<BTreeMap<PathBuf, Rc<Inode>>>,
        /// Directories with nothing new since their last sync.
        synced_dirs: RefCell<BTreeSet<PathBuf>>,
        calls_left: Cell<u32>,
    }

    impl Cutting {
        fn call(&self) -> io::Result<()> {
            match self.calls_left.get().checked_sub(1) {
                Some(left) => {
                    self.calls_left.set(left);
                    Ok(())
                }
                None => Err(io::Error::other("the power is off")),
            }
        }

        fn after_the_cut(&self, file: &Path, top: &Path) -> Option<Vec<u8>> {
            let (names, synced) = (self.names.borrow(), self.synced_dirs.borrow());
            let inode = names.get(file)?;
            let mut dirs = file.ancestors().skip(1).take_while(|dir| dir.starts_with(top));
            if self.names_wait && !dirs.all(|dir| synced.contains(dir)) {
                return None;
            }
            Some(if inode.synced.get() {
                inode.bytes.clone()
            } else {
                Vec::new()
            })
        }

        fn inode(&self, file: &Path) -> io::Result<Rc<Inode>> {
            let names = self.names.borrow();
            names
                .get(file)
                .cloned()
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn name(&self, file: &Path, inode: Rc<Inode>) {
            self.names.borrow_mut().insert(file.to_owned(), inode);
            // Its directories may be new, too.
            self.synced_dirs.borrow_mut().clear();
        }
    }

    impl Disk for Cutting {
        type Open = PathBuf;

        fn create(&self, file: &Path, payload: &PutPayload) -> io::Result<()> {
            self.call()?;
            let bytes = payload.iter().flatten().copied().collect();
            let synced = Cell::new(false);
            self.name(file, Rc::new(Inode { bytes, synced }));
            Ok(())
        }

        fn open(&self, path: &Path) -> io::Result<PathBuf> {
            Ok(path.to_owned())
        }

        fn sync(&self, open: &PathBuf) -> io::Result<()> {
            self.call()?;
            match self.inode(open) {
                Ok(inode) => inode.synced.set(true),
                Err(_) => drop(self.synced_dirs.borrow_mut().insert(open.clone())),
            }
            Ok(())
        }

        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.call()?;
            if self.names.borrow().contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.name(to, self.inode(from)?);
            Ok(())
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.call()?;
            let inode = self.inode(from)?;
            self.names.borrow_mut().remove(from);
            self.name(to, inode);
            Ok(())
        }

        fn remove(&self, file: &Path) -> io::Result<()> {
            self.call()?;
            self.names.borrow_mut().remove(file);
            Ok(())
        }
    }

    #[test]
    fn wherever_the_power_goes_a_file_is_there_as_a_whole_or_not_at_all() {
        let (file, top) = (Path::new("store/manifest/1"), Path::new("store"));
        let payload = PutPayload::from_static(b"whole");
        for (how, names_wait) in [
            (Place::IfAbsent, false),
            (Place::IfAbsent, true),
            (Place::Over, false),
            (Place::Over, true),
        ] {
            let mut answers = Vec::new();
            for calls in 0..9 {
                let disk = Cutting {
                    names_wait,
                    ..Cutting::default()
                };
                disk.calls_left.set(calls);
                let placed = place(&disk, file, top, &payload, how);
                let found = disk.after_the_cut(file, top);
                assert!(
                    found.is_none() || found.as_deref() == Some(b"whole"),
                    "{how:?}, {calls} calls: {found:?}"
                );
                assert!(
                    placed.is_err() || found.is_some(),
                    "{how:?}, {calls} calls: told too early"
                );
                answers.push(placed.is_ok());
            }
            assert!(!answers[0] && answers[8], "{how:?}: {answers:?}");
        }
    }

    /// An attempt before may have given it its name, and not have synced it.
    #[test]
    fn what_is_there_already_is_there_for_good() {
        let (file, top) = (Path::new("store/manifest/1"), Path::new("store"));
        let payload = PutPayload::from_static(b"whole");
        let disk = Cutting {
            names_wait: true,
            ..Cutting::default()
        };
        // Up to the link.
        disk.calls_left.set(3);
        let failure = place(&disk, file, top, &payload, Place::IfAbsent).unwrap_err();
        assert!(failure.is_lost);
        assert_eq!(disk.after_the_cut(file, top), None);
        disk.calls_left.set(100);
        let failure = place(&disk, file, top, &payload, Place::IfAbsent).unwrap_err();
        assert_eq!(failure.error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.after_the_cut(file, top).as_deref(), Some(&b"whole"[..]));
    }

    #[test]
    fn what_is_gone_is_no_disk_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let failed = sync_with_dirs(&Files, &dir.path().join("gone"), dir.path()).unwrap_err();
        assert!(!failed.is_lost, "{failed:?}");
    }

    #[test]
    fn what_is_there_stays_or_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/er/1");
        let put = |text: &'static str, how| {
            let payload = PutPayload::from_static(text.as_bytes());
            place(&Files, &file, dir.path(), &payload, how).map_err(|e| e.error.kind())
        };
        assert_eq!(put("one", Place::IfAbsent), Ok(()));
        assert_eq!(put("two", Place::IfAbsent), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        assert_eq!(put("three", Place::Over), Ok(()));
        assert_eq!(std::fs::read(&file).unwrap(), b"three");
        assert_eq!(
            std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "nothing else is left"
        );
    }
}
