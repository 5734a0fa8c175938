//! Tells a torn end of the log from damage inside it.
//!
//! With one voter and a sync before each acknowledgement, at most one batch is under way when the power goes. A batch
//! that is complete therefore proves that everything before it was acknowledged. The log engine does not ask: its
//! recovery cuts the last file at the first batch that it cannot read, and does not look at entries in the middle.
//!
//! The reader here knows the boundaries of batches and their checksums and nothing else. Its source is raft-engine 0.4:
//! the header of a file is in `src/file_pipe_log/format.rs`, a batch in `src/log_batch.rs`:
//!
//! ```text
//! file   magic (53 bytes) | version u64 | alignment u64 (from version 2 on) | batches
//! batch  length << 8 | compression u64 | offset of the footer u64 | entries, crc32 | footer, crc32 ^ signature
//! ```
//!
//! Integers are big endian, checksums little endian; the signature is the number of the file, from version 2 on.
//! Without entries there is no checksum of theirs. Compressed entries begin with their length when unpacked.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const HEADER: usize = 16;
const CHECKSUM: usize = 4;
/// Entries of this size are compressed; the default of the engine, which nobody changes here.
const COMPRESSED_FROM: usize = 8 << 10;
/// The digits of the number in a file's name.
const NUMBER: usize = 16;

/// The first place at which a log file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub offset: u64,
    pub what: &'static str,
    /// Where a complete batch follows: the damage is no torn end.
    pub proof: Option<u64>,
    /// From the damage to the end of what was written.
    pub bytes: u64,
    /// The engine reads on behind it, and fails when it needs the entries.
    pub only_entries: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, what, .. } = self;
        write!(f, "{} at byte {offset}: {what}", self.file.display())?;
        match self.proof {
            Some(proof) => write!(
                f,
                ", and what was written after it is complete again at byte {proof}"
            ),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Append,
    Rewrite,
}

/// A file of the log, by its name.
#[derive(Clone, Debug)]
struct Named {
    path: PathBuf,
    queue: Queue,
    number: u64,
}

/// The files of a log in the order of their numbers; none if there is no directory.
fn files(dir: &Path) -> io::Result<Vec<Named>> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut files = Vec::new();
    for file in listed {
        let path = file?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let queue = match path.extension().and_then(|e| e.to_str()) {
            Some("raftlog") => Queue::Append,
            Some("rewrite") => Queue::Rewrite,
            _ => continue,
        };
        if let Some(Ok(number)) = name.get(..NUMBER).map(str::parse) {
            files.push(Named { path, queue, number });
        }
    }
    files.sort_by_key(|f| f.number);
    Ok(files)
}

/// What is damaged at the end of the log, where recovery would cut. The order is that of the files.
pub fn at_the_end(dir: &Path) -> io::Result<Vec<Damage>> {
    let files = files(dir)?;
    let last = |queue| files.iter().rev().find(move |f| f.queue == queue);
    let mut found = Vec::new();
    for file in [Queue::Rewrite, Queue::Append].into_iter().filter_map(last) {
        found.extend(inspect(file)?);
    }
    Ok(found)
}

/// What is damaged anywhere; for a message, since it reads the whole log.
pub fn anywhere(dir: &Path) -> io::Result<Vec<Damage>> {
    let mut found = Vec::new();
    for file in files(dir)? {
        found.extend(inspect(&file)?);
    }
    Ok(found)
}

/// How many files entries are in.
pub fn appended_files(dir: &Path) -> io::Result<u64> {
    let files = files(dir)?;
    Ok(files.iter().filter(|f| f.queue == Queue::Append).count() as u64)
}

/// Removes a last file that has no batch if there is one before it. The engine leaves it when there was no room for
/// the header of a new file, and goes on in the file before it: as the last one, that one may be torn.
pub fn remove_empty_end(dir: &Path) -> io::Result<()> {
    for queue in [Queue::Append, Queue::Rewrite] {
        let mut of_queue: Vec<Named> = files(dir)?.into_iter().filter(|f| f.queue == queue).collect();
        while let Some(last) = of_queue.pop().filter(|_| !of_queue.is_empty()) {
            let bytes = fs::read(&last.path)?;
            if bytes.iter().any(|b| *b != 0) {
                break;
            }
            fs::remove_file(&last.path)?;
            fs::File::open(dir)?.sync_all()?;
        }
    }
    Ok(())
}

fn inspect(file: &Named) -> io::Result<Option<Damage>> {
    let bytes = fs::read(&file.path)?;
    let written = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    Ok(first_damage(&bytes, file.number).map(|place| Damage {
        file: file.path.clone(),
        offset: place.offset as u64,
        what: place.what,
        proof: place.proof.map(|at| at as u64),
        bytes: written.saturating_sub(place.offset) as u64,
        only_entries: place.only_entries,
    }))
}

/// See [`Damage`].
#[derive(Debug, PartialEq, Eq)]
struct Place {
    offset: usize,
    what: &'static str,
    proof: Option<usize>,
    only_entries: bool,
}

fn first_damage(bytes: &[u8], number: u64) -> Option<Place> {
    let (mut at, signed) = match header(bytes) {
        Ok(header) => header,
        Err(what) => {
            let proof = next_complete(bytes, 0, Some(number as u32));
            return bytes.iter().any(|b| *b != 0).then_some(Place {
                offset: 0,
                what,
                proof,
                only_entries: false,
            });
        }
    };
    let signature = signed.then_some(number as u32);
    let mut entries: Option<Place> = None;
    while at < bytes.len() {
        match batch(bytes, at, signature) {
            Batch::Complete(length) => {
                if let Some(place) = entries.as_mut().filter(|e| e.proof.is_none()) {
                    place.proof = Some(at);
                }
                at += length;
            }
            Batch::EntriesDamaged(length) => {
                entries.get_or_insert(Place {
                    offset: at,
                    what: "the entries of a write are not as their checksum says",
                    proof: None,
                    only_entries: true,
                });
                at += length;
            }
            // Space is allocated ahead, as zeros.
            Batch::Broken(_) if bytes[at..].iter().all(|b| *b == 0) => break,
            Batch::Broken(what) => {
                let proof = next_complete(bytes, at + 1, signature);
                // Where the engine would cut counts more than what it does not look at.
                let earlier = entries.filter(|_| proof.is_none());
                return Some(earlier.unwrap_or(Place {
                    offset: at,
                    what,
                    proof,
                    only_entries: false,
                }));
            }
        }
    }
    entries
}

/// Where the batches begin, and whether they are signed.
fn header(bytes: &[u8]) -> Result<(usize, bool), &'static str> {
    const WRONG: &str = "this is no header of a log file";
    if !bytes.starts_with(MAGIC) {
        return Err(WRONG);
    }
    match number(bytes, MAGIC.len()) {
        Some(1) => Ok((MAGIC.len() + 8, false)),
        Some(2) if bytes.len() >= MAGIC.len() + 16 => Ok((MAGIC.len() + 16, true)),
        _ => Err(WRONG),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..at + 8)?;
    Some(u64::from_be_bytes(eight.try_into().ok()?))
}

enum Batch {
    /// Of this length.
    Complete(usize),
    EntriesDamaged(usize),
    Broken(&'static str),
}

fn batch(bytes: &[u8], at: usize, signature: Option<u32>) -> Batch {
    let Some((footer, compressed, length)) = batch_header(bytes, at) else {
        return Batch::Broken("the head of a write cannot be read");
    };
    let batch = &bytes[at..at + length];
    if !is_intact(&batch[footer..], signature) {
        return Batch::Broken("a write is not as its checksum says");
    }
    let entries = &batch[HEADER..footer];
    match entries.is_empty() || (is_intact(entries, None) && may_be_entries(entries, compressed)) {
        true => Batch::Complete(length),
        false => Batch::EntriesDamaged(length),
    }
}

/// Offset of the footer, whether entries are compressed, and length, if all of the batch may be there.
fn batch_header(bytes: &[u8], at: usize) -> Option<(usize, bool, usize)> {
    let (word, footer) = (number(bytes, at)?, number(bytes, at + 8)?);
    let (length, compression) = (usize::try_from(word >> 8).ok()?, word & 0xff);
    let footer = usize::try_from(footer).ok()?;
    let fits = footer >= HEADER && footer < length && length <= bytes.len() - at;
    (fits && compression <= 1).then_some((footer, compression == 1, length))
}

fn is_intact(block: &[u8], signature: Option<u32>) -> bool {
    match block.split_last_chunk::<CHECKSUM>() {
        Some((content, checksum)) if !content.is_empty() => {
            crc32fast::hash(content) ^ signature.unwrap_or(0) == u32::from_le_bytes(*checksum)
        }
        _ => false,
    }
}

/// Whether the compression, which no checksum covers, can be what the header says.
fn may_be_entries(block: &[u8], compressed: bool) -> bool {
    let content = block.len() - CHECKSUM;
    if !compressed {
        return content < COMPRESSED_FROM;
    }
    let (Some(unpacked), Some(packed)) = (block.first_chunk::<4>(), content.checked_sub(4)) else {
        return false;
    };
    // LZ4 makes nothing more than 255 times smaller.
    (COMPRESSED_FROM..=packed * 255).contains(&(u32::from_le_bytes(*unpacked) as usize))
}

fn next_complete(bytes: &[u8], from: usize, signature: Option<u32>) -> Option<usize> {
    let last = bytes.len().checked_sub(HEADER + CHECKSUM)?;
    (from..=last).find(|at| matches!(batch(bytes, *at, signature), Batch::Complete(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: Option<u32> = Some(7);

    fn file(batches: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(2u64.to_be_bytes());
        bytes.extend(0u64.to_be_bytes());
        bytes.extend(batches.concat());
        bytes
    }

    fn sealed(content: &[u8], signature: u32) -> Vec<u8> {
        let checksum = crc32fast::hash(content) ^ signature;
        [content, checksum.to_le_bytes().as_slice()].concat()
    }

    fn written(entries: &[u8], signature: u32) -> Vec<u8> {
        let entries = match entries {
            [] => Vec::new(),
            entries => sealed(entries, 0),
        };
        let footer = sealed(b"what is in it", signature);
        let length = (HEADER + entries.len() + footer.len()) as u64;
        let mut bytes = (length << 8).to_be_bytes().to_vec();
        bytes.extend(((HEADER + entries.len()) as u64).to_be_bytes());
        bytes.extend(entries);
        bytes.extend(footer);
        bytes
    }

    #[test]
    fn a_torn_end_has_nothing_complete_behind_it_whatever_is_there() {
        let (first, second) = (written(b"one", 7), written(b"two", 7));
        let kept = file(std::slice::from_ref(&first)).len();
        for torn in 1..second.len() {
            // Nothing, zeros, garbage, and a batch of the file that was here before.
            for behind in [vec![], vec![0; 64], vec![0xa5; 64], written(b"old", 6)] {
                let bytes = file(&[first.clone(), second[..torn].to_vec(), behind]);
                if let Some(place) = first_damage(&bytes, 7) {
                    assert_eq!((place.offset, place.proof), (kept, None), "{torn}");
                }
            }
        }
        assert_eq!(first_damage(&file(&[first, second, vec![0; 100]]), 7), None);
    }

    #[test]
    fn damage_before_a_complete_batch_is_found_at_every_bit() {
        let batches = [b"one", b"two", b"six"].map(|entries| written(entries, 7));
        let whole = file(&batches);
        let last = whole.len() - batches[2].len();
        for bit in 0..last * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let alignment = MAGIC.len() + 8..MAGIC.len() + 16;
            match first_damage(&bytes, 7) {
                Some(place) => assert!(
                    place.proof.is_some() && place.offset <= bit / 8,
                    "{bit}: {place:?}"
                ),
                // Nobody reads it.
                None => assert!(alignment.contains(&(bit / 8)), "{bit}"),
            }
        }
        assert!(matches!(batch(&whole, last, SEVEN), Batch::Complete(_)));
    }
}
