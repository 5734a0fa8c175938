//! A file that appears under its name only when all of it is on disk.
//!
//! Were it named first and synced afterwards, a power cut could leave an empty or torn file under the name: a version
//! of a manifest that nobody can read, and that put-if-absent never replaces.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::PutPayload;

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It stays, and the new one is an error of kind `AlreadyExists`.
    IfAbsent,
    Over,
}

/// The system calls that matter, so that a test can cut the power between any two.
pub(crate) trait Disk {
    /// A new file, whose bytes need not be on disk.
    fn create(&self, file: &Path, payload: &PutPayload) -> io::Result<()>;
    fn sync(&self, file: &Path) -> io::Result<()>;
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, file: &Path) -> io::Result<()>;
}

/// Puts the file in its place. Its directories are to be synced afterwards, before anybody is told.
pub(crate) fn place(disk: &impl Disk, file: &Path, payload: &PutPayload, how: Place) -> io::Result<()> {
    let staged = stage(disk, file, payload)?;
    let placed = disk.sync(&staged).and_then(|()| match how {
        Place::IfAbsent => disk.link(&staged, file),
        Place::Over => disk.rename(&staged, file),
    });
    // After a rename there is nothing left to remove.
    if how == Place::IfAbsent || placed.is_err() {
        let _ = disk.remove(&staged);
    }
    placed
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
    fn create(&self, file: &Path, payload: &PutPayload) -> io::Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut out = std::fs::File::create_new(file)?;
        payload
            .iter()
            .try_for_each(|part| io::Write::write_all(&mut out, part))
    }

    fn sync(&self, file: &Path) -> io::Result<()> {
        std::fs::File::open(file)?.sync_all()
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
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;

    /// Contents of a file, and how much of it a power cut leaves.
    #[derive(Debug, Default)]
    struct Inode {
        bytes: Vec<u8>,
        synced: Cell<bool>,
    }

    /// Names survive a power cut at once, bytes only after a sync: the worst that a journal of names does.
    #[derive(Default)]
    struct Cutting {
        names: RefCell<BTreeMap<PathBuf, Rc<Inode>>>,
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

        fn after_the_cut(&self, file: &Path) -> Option<Vec<u8>> {
            let names = self.names.borrow();
            let inode = names.get(file)?;
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
    }

    impl Disk for Cutting {
        fn create(&self, file: &Path, payload: &PutPayload) -> io::Result<()> {
            self.call()?;
            let bytes = payload.iter().flatten().copied().collect();
            let synced = Cell::new(false);
            let inode = Rc::new(Inode { bytes, synced });
            self.names.borrow_mut().insert(file.to_owned(), inode);
            Ok(())
        }

        fn sync(&self, file: &Path) -> io::Result<()> {
            self.call()?;
            self.inode(file)?.synced.set(true);
            Ok(())
        }

        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.call()?;
            if self.names.borrow().contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = self.inode(from)?;
            self.names.borrow_mut().insert(to.to_owned(), inode);
            Ok(())
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.call()?;
            let inode = self.inode(from)?;
            let mut names = self.names.borrow_mut();
            names.remove(from);
            names.insert(to.to_owned(), inode);
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
        let file = Path::new("manifest/1");
        let payload = |text: &'static str| PutPayload::from_static(text.as_bytes());
        for how in [Place::IfAbsent, Place::Over] {
            for calls in 0..6 {
                let disk = Cutting::default();
                disk.calls_left.set(calls);
                let placed = place(&disk, file, &payload("whole"), how);
                let found = disk.after_the_cut(file);
                assert!(
                    found.is_none() || found.as_deref() == Some(b"whole"),
                    "{how:?}, {calls} calls: {found:?}"
                );
                assert!(
                    placed.is_err() || found.is_some(),
                    "{how:?}, {calls} calls: told too early"
                );
            }
        }
    }

    #[test]
    fn what_is_there_stays_or_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/er/1");
        let put = |text: &'static str, how| {
            place(&Files, &file, &PutPayload::from_static(text.as_bytes()), how).map_err(|e| e.kind())
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
