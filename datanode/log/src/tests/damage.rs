//! Logs that are damaged, and logs that are only torn.

use std::path::{Path, PathBuf};

use super::*;

/// A log with some entries, closed; and what it has.
fn written(dir: &Path) -> Vec<String> {
    let store: Arc<dyn LogStore> = Arc::new(engine(dir));
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    for token in 0..12 {
        core.step(propose(0, token, "a row that was acknowledged"));
        settle(&mut core).unwrap();
    }
    drop((core, store));
    data_of(&engine(dir)).unwrap()
}

fn data_of(log: &EngineLog) -> Result<Vec<String>, LogError> {
    let Some((first, last)) = log.bounds(region(0)) else {
        return Ok(Vec::new());
    };
    let entries = log.entries(region(0), first, last + 1, u64::MAX)?;
    Ok(entries
        .iter()
        .map(|e| String::from_utf8_lossy(&e.data).into_owned())
        .collect())
}

/// The last file of a log, and its bytes.
fn last_file(dir: &Path) -> (PathBuf, Vec<u8>) {
    let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    let file = files
        .filter(|f| f.extension().is_some_and(|e| e == "raftlog"))
        .max()
        .unwrap();
    let bytes = std::fs::read(&file).unwrap();
    (file, bytes)
}

/// Another log with these bytes in its last file.
fn copy_with(dir: &Path, file: &Path, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let copy = tempfile::tempdir().unwrap();
    for other in std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()) {
        std::fs::copy(&other, copy.path().join(other.file_name().unwrap())).unwrap();
    }
    let file = copy.path().join(file.file_name().unwrap());
    std::fs::write(&file, bytes).unwrap();
    (copy, file)
}

fn options(dir: &Path, sync: LogSync, damage: LogDamage) -> EngineOptions {
    EngineOptions {
        dir: dir.to_owned(),
        sync,
        damage,
        file_size: 1 << 20,
        reserve: 0,
        purge_threshold: 2 << 20,
        limit: 0,
    }
}

fn open_with(options: &EngineOptions) -> Result<EngineLog, LogError> {
    patiently(|| EngineLog::open(options, Counter::default()))
}

fn try_open(dir: &Path) -> Result<EngineLog, LogError> {
    open_with(&options(dir, LogSync::Always, LogDamage::Refuse))
}

/// Where the batches of a file end; the first is the header.
fn ends(bytes: &[u8]) -> Vec<usize> {
    const HEADER: usize = 53 + 16;
    let mut ends = vec![HEADER];
    while let Some(eight) = bytes
        .get(ends[ends.len() - 1]..)
        .and_then(|b| b.first_chunk::<8>())
    {
        match (u64::from_be_bytes(*eight) >> 8) as usize {
            0 => break,
            length => ends.push(ends[ends.len() - 1] + length),
        }
    }
    ends
}

#[test]
fn a_flipped_bit_in_the_log_is_refused_by_name_or_in_the_last_write_alone() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let (file, bytes) = last_file(dir.path());
    let ends = ends(&bytes);
    let last = ends[ends.len() - 2];
    let (mut refused, mut cut) = (0, 0);
    for at in (0..bytes.len()).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let (dir, file) = copy_with(dir.path(), &file, &damaged);
        match try_open(dir.path()) {
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(&file.display().to_string()), "byte {at}: {error}");
                assert!(error.contains("datanode.log_damage"), "byte {at}: {error}");
                assert_eq!(
                    std::fs::read(&file).unwrap(),
                    damaged,
                    "byte {at} was cut all the same"
                );
                refused += 1;
            }
            Ok(log) if log.cuts().is_empty() => assert_eq!(data_of(&log).unwrap(), whole, "byte {at}"),
            Ok(log) => {
                assert!(at >= last, "byte {at} is before {last}: {:?}", log.cuts());
                assert_eq!(log.cuts()[0].offset, last as u64);
                assert!(!log.cuts()[0].acknowledged, "nobody can know");
                assert_eq!(data_of(&log).unwrap(), whole[..whole.len() - 1]);
                cut += 1;
            }
        }
    }
    assert!(
        refused > last / 6 && cut > 5,
        "{refused} {cut} of {}",
        bytes.len()
    );
}

#[test]
fn a_torn_last_write_of_any_length_is_cut_whatever_lies_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let (file, bytes) = last_file(dir.path());
    let ends = ends(&bytes);
    let (last, end) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    for torn in (last + 1..end).step_by(3) {
        for behind in [vec![], vec![0; 4096], vec![0xa5; 300]] {
            let torn = [&bytes[..torn], &behind].concat();
            let (dir, file) = copy_with(dir.path(), &file, &torn);
            let log = try_open(dir.path()).unwrap();
            assert_eq!(data_of(&log).unwrap(), whole[..whole.len() - 1]);
            // The first bytes of a length are zeros, as what is allocated ahead.
            if torn[last..].iter().any(|b| *b != 0) {
                assert_eq!((&log.cuts()[0].file, log.cuts()[0].offset), (&file, last as u64));
            }
            drop(log);
            // It goes on, and is not torn any more.
            let store: Arc<dyn LogStore> = Arc::new(try_open(dir.path()).unwrap());
            let mut core = open(&store, &[(0, 1)]);
            settle(&mut core).unwrap();
            core.step(propose(0, 99, "afterwards"));
            assert_eq!(texts(&settle(&mut core).unwrap()), ["afterwards"]);
            drop((core, store));
            let log = try_open(dir.path()).unwrap();
            assert!(log.cuts().is_empty());
            assert_eq!(data_of(&log).unwrap().last().unwrap(), "afterwards");
        }
    }
}

/// With damage in the fifth write: in its entries, and in what the engine reads at once.
fn with_damage_inside(dir: &Path, in_entries: bool) -> (tempfile::TempDir, PathBuf, usize) {
    let (file, mut bytes) = last_file(dir);
    let ends = ends(&bytes);
    let (begin, end) = (ends[4], ends[5]);
    bytes[if in_entries { begin + 20 } else { end - 6 }] ^= 1;
    let (copy, file) = copy_with(dir, &file, &bytes);
    (copy, file, begin)
}

/// The engine would open such a log, and fail when it replays it.
#[test]
fn damage_in_its_entries_alone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let (dir, file, begin) = with_damage_inside(dir.path(), true);
    let error = try_open(dir.path()).err().expect("it opens").to_string();
    assert!(
        error.contains(&format!("{} at byte {begin}", file.display())),
        "{error}"
    );
}

#[test]
fn damage_inside_is_cut_when_a_person_agrees_and_the_bytes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let length = last_file(dir.path()).1.len();
    for in_entries in [false, true] {
        let (dir, file, begin) = with_damage_inside(dir.path(), in_entries);
        let error = try_open(dir.path()).err().unwrap().to_string();
        assert!(
            error.contains(&format!("{} at byte {begin}", file.display())),
            "{error}"
        );
        let agreed = options(dir.path(), LogSync::Always, LogDamage::Cut);
        let log = open_with(&agreed).unwrap();
        let lost = Cut {
            file,
            offset: begin as u64,
            bytes: (length - begin) as u64,
            acknowledged: true,
        };
        assert_eq!(log.cuts(), [lost]);
        let left = data_of(&log).unwrap();
        assert!(!left.is_empty() && left.len() < whole.len() && whole.starts_with(&left));
        drop(log);
        assert!(try_open(dir.path()).unwrap().cuts().is_empty());
    }
}

#[test]
fn a_hole_among_writes_that_were_not_synced_one_by_one_is_cut_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    for in_entries in [false, true] {
        let (dir, _, begin) = with_damage_inside(dir.path(), in_entries);
        let interval = options(dir.path(), LogSync::Interval, LogDamage::Refuse);
        let log = open_with(&interval).unwrap();
        assert_eq!(log.cuts().len(), 1);
        assert_eq!(
            (log.cuts()[0].offset, log.cuts()[0].acknowledged),
            (begin as u64, false)
        );
        assert!(whole.starts_with(&data_of(&log).unwrap()));
    }
}

#[test]
fn damaged_entries_that_were_trimmed_hinder_nobody() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let last = {
        let store: Arc<dyn LogStore> = Arc::new(engine(dir.path()));
        let mut core = open(&store, &[(0, 1)]);
        let last = settle(&mut core).unwrap().pop().unwrap().1.index;
        core.step(Input::Trim {
            region: region(0),
            through: last,
            checkpoint: Bytes::new(),
        });
        settle(&mut core).unwrap();
        last
    };
    let (dir, _, _) = with_damage_inside(dir.path(), true);
    let store: Arc<dyn LogStore> = Arc::new(try_open(dir.path()).unwrap());
    let mut core = open(&store, &[(0, last)]);
    assert_eq!(settle(&mut core).unwrap()[0].1.index, last + 1);
}

/// Twelve entries of 128 KiB in files of 1 MiB.
fn of_several_files(dir: &Path) {
    let store: Arc<dyn LogStore> = Arc::new(engine(dir));
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    for token in 0..12 {
        core.step(Input::Propose {
            region: region(0),
            token,
            data: noise(token, 128 << 10),
        });
        settle(&mut core).unwrap();
    }
}

#[test]
fn damage_in_an_older_file_is_refused_by_name_whatever_was_agreed() {
    let dir = tempfile::tempdir().unwrap();
    of_several_files(dir.path());
    let first = dir.path().join("0000000000000001.raftlog");
    assert_ne!(last_file(dir.path()).0, first);
    let bytes = std::fs::read(&first).unwrap();
    let ends = ends(&bytes);
    for (at, of) in [(ends[3] - 6, ends[2]), (bytes.len() - 6, ends[ends.len() - 2])] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let (dir, file) = copy_with(dir.path(), &first, &damaged);
        for agreed in [LogDamage::Refuse, LogDamage::Cut] {
            let opened = open_with(&options(dir.path(), LogSync::Always, agreed));
            let error = opened.err().unwrap().to_string();
            assert!(
                error.contains(&format!("{} at byte {of}", file.display())),
                "{error}"
            );
            assert!(error.contains("from a copy of the volume"), "{error}");
        }
    }
    // In its entries it is found when they are needed.
    let mut damaged = bytes.clone();
    damaged[ends[2] + 1000] ^= 1;
    let (dir, file) = copy_with(dir.path(), &first, &damaged);
    let error = data_of(&try_open(dir.path()).unwrap()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("{} at byte {}", file.display(), ends[2])),
        "{error}"
    );
}

/// The engine leaves such a file when it has no room for its header, and goes on in the file before it.
#[test]
fn a_last_file_without_a_write_is_not_the_end_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let (file, bytes) = last_file(dir.path());
    for empty in [vec![], vec![0; 100]] {
        let (dir, _) = copy_with(dir.path(), &file, &bytes[..bytes.len() - 3]);
        std::fs::write(dir.path().join("0000000000000002.raftlog"), &empty).unwrap();
        let log = try_open(dir.path()).unwrap();
        assert_eq!(log.cuts().len(), 1);
        assert_eq!(data_of(&log).unwrap(), whole[..whole.len() - 1]);
    }
}

/// The engine looks at the entries of the last write alone.
#[test]
fn several_writes_are_torn_in_their_entries_alone() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let (file, mut bytes) = last_file(dir.path());
    let ends = ends(&bytes);
    let begins = &ends[ends.len() - 3..ends.len() - 1];
    begins.iter().for_each(|at| bytes[at + 20] ^= 1);
    let (copy, _) = copy_with(dir.path(), &file, &bytes);
    let log = open_with(&options(copy.path(), LogSync::Interval, LogDamage::Refuse)).unwrap();
    assert_eq!(data_of(&log).unwrap(), whole[..whole.len() - 2]);
    let cuts: Vec<(u64, bool)> = log.cuts().iter().map(|c| (c.offset, c.acknowledged)).collect();
    assert_eq!(cuts, [(begins[0] as u64, false)]);
    // Where each is synced, the second says that the first was acknowledged.
    let (copy, _) = copy_with(dir.path(), &file, &bytes);
    let error = try_open(copy.path()).err().unwrap().to_string();
    assert!(error.contains("datanode.log_damage"), "{error}");
}
