//! A log on disk that is not what was written.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where the first batch of a file begins, and its length: a file of raft-engine begins with its name, its version and an
/// alignment, a batch with its length in seven bytes.
const FIRST: usize = 69;
const LENGTH: usize = 7;
/// The last byte of where the end of a batch lies. Without it nothing of the batch can be read.
const MEANT: usize = FIRST + 15;

/// Flips a bit in the first batch of the newest file that has others behind it, which are whole: rows that were acknowledged
/// are lost there. The process must not run.
pub fn flip_a_bit(log: &Path) -> Result<()> {
    for file in newest_first(log)? {
        let mut bytes = std::fs::read(&file)?;
        if has_two_batches(&bytes) {
            bytes[MEANT] ^= 1;
            return Ok(std::fs::write(&file, bytes)?);
        }
    }
    bail!("{}: no file has two batches", log.display())
}

fn newest_first(log: &Path) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(log)?.map(|file| Ok(file?.path()));
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "raftlog"));
    files.sort();
    files.reverse();
    Ok(files)
}

fn has_two_batches(file: &[u8]) -> bool {
    let Some(length) = file.get(FIRST..FIRST + LENGTH) else {
        return false;
    };
    let length = length
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    let second = FIRST + length;
    let follows = file.get(second..second + LENGTH);
    length > 0 && follows.is_some_and(|length| length.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_of_the_newest_file_is_another_one_if_something_follows() {
        let dir = tempfile::tempdir().unwrap();
        // A batch of 40 bytes, and what follows it.
        let file = |next: u8| [&[1; FIRST][..], &[0, 0, 0, 0, 0, 0, 40], &[7; 33], &[next; 20]].concat();
        for (name, next) in [("0001.raftlog", 9), ("0002.raftlog", 9), ("0003.rewrite", 9)] {
            std::fs::write(dir.path().join(name), file(next)).unwrap();
        }
        flip_a_bit(dir.path()).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("0001.raftlog"), file(9));
        let damaged = read("0002.raftlog");
        let differ = (0..damaged.len()).filter(|i| damaged[*i] != file(9)[*i]);
        assert_eq!(differ.collect::<Vec<_>>(), [MEANT]);
        // Nothing follows the first batch of the next one.
        std::fs::write(dir.path().join("0004.raftlog"), file(0)).unwrap();
        flip_a_bit(dir.path()).unwrap();
        assert_eq!(read("0002.raftlog"), file(9), "the bit is flipped back");
        std::fs::remove_file(dir.path().join("0002.raftlog")).unwrap();
        std::fs::remove_file(dir.path().join("0001.raftlog")).unwrap();
        assert!(flip_a_bit(dir.path()).is_err());
    }
}
