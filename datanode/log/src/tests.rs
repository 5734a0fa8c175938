use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use greptime_types::RegionId;
use prometheus_client::metrics::counter::Counter;

use super::*;

mod damage;
mod full;
mod net;
mod power;
mod quorum;
mod simulated;
mod turns;

/// A group of one voter has nothing to say.
struct Nobody;

impl Network for Nobody {
    fn send(&mut self, message: Outgoing) {
        panic!("{message:?}");
    }

    fn flush(&mut self) {}
}

fn region(number: u32) -> RegionId {
    RegionId::new(9, number)
}

fn initialise(number: u32) -> Input {
    let raft_id = u64::from(number) + 1;
    Input::Initialise(Initialise {
        region: region(number),
        raft_id,
        voters: vec![raft_id],
        members: vec![],
        checkpoint: Bytes::from_static(b"empty"),
    })
}

fn propose(number: u32, token: u64, data: &'static str) -> Input {
    Input::Propose {
        region: region(number),
        token,
        data: Bytes::from_static(data.as_bytes()),
    }
}

fn open(store: &Arc<dyn LogStore>, flushed: &[(u32, u64)]) -> LogCore {
    let flushed: BTreeMap<RegionId, u64> = flushed.iter().map(|(n, at)| (region(*n), *at)).collect();
    let (core, failed) = LogCore::open(Arc::clone(store), LogOptions::default(), &flushed);
    assert!(failed.is_empty(), "{failed:?}");
    core
}

/// Turns until nothing is left to do; applies what is committed.
fn settle(core: &mut LogCore) -> Result<Vec<(RegionId, CommittedEntry)>, LogError> {
    let mut applied = Vec::new();
    while core.has_work() {
        let output = core.turn(&mut Nobody)?;
        for committed in output.committed {
            let last = committed.entries.last().unwrap().index;
            applied.extend(committed.entries.into_iter().map(|e| (committed.region, e)));
            core.applied(committed.region, last);
        }
        applied.extend(output.refused.into_iter().map(|(token, error)| {
            let data = Bytes::from(error.to_string());
            (
                RegionId::from_u64(0),
                CommittedEntry {
                    index: 0,
                    term: 0,
                    data,
                    token: Some(token),
                },
            )
        }));
    }
    Ok(applied)
}

fn texts(entries: &[(RegionId, CommittedEntry)]) -> Vec<String> {
    entries
        .iter()
        .map(|(_, e)| String::from_utf8(e.data.to_vec()).unwrap())
        .collect()
}

fn memory() -> (MemoryLog, Arc<dyn LogStore>) {
    let log = MemoryLog::default();
    (log.clone(), Arc::new(log))
}

#[test]
fn a_group_of_one_elects_itself_and_commits_what_is_proposed() {
    let (_, store) = memory();
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    let first = settle(&mut core).unwrap();
    assert_eq!(texts(&first), [""], "a term begins with an empty entry");
    core.step(propose(0, 5, "x"));
    let next = settle(&mut core).unwrap();
    assert_eq!(texts(&next), ["x"]);
    assert_eq!(next[0].1.token, Some(5));
    assert_eq!(next[0].1.index, first[0].1.index + 1);
}

#[test]
fn a_turn_of_many_regions_is_one_sync() {
    let (log, store) = memory();
    let mut core = open(&store, &[]);
    for number in 0..50 {
        core.step(initialise(number));
    }
    settle(&mut core).unwrap();
    let before = log.syncs();
    for number in 0..50 {
        core.step(propose(number, 1, "x"));
        core.step(propose(number, 2, "y"));
    }
    assert_eq!(settle(&mut core).unwrap().len(), 100);
    assert_eq!(log.syncs() - before, 1);
}

#[test]
fn what_was_not_synced_is_not_committed_and_not_there_later() {
    for fault in [Fault::Lost, Fault::Torn, Fault::SyncFailedButKept] {
        let (log, store) = memory();
        let mut core = open(&store, &[]);
        core.step(initialise(0));
        settle(&mut core).unwrap();
        core.step(propose(0, 1, "kept"));
        settle(&mut core).unwrap();
        log.fail_at(1, fault);
        core.step(propose(0, 2, "lost"));
        assert!(matches!(settle(&mut core), Err(LogError::Write(_))));
        let reopened: Arc<dyn LogStore> = Arc::new(log.reopen());
        let mut core = open(&reopened, &[(0, 1)]);
        let replayed = texts(&settle(&mut core).unwrap());
        let expected: &[&str] = match fault {
            Fault::SyncFailedButKept => &["", "kept", "lost", ""],
            _ => &["", "kept", ""],
        };
        assert_eq!(replayed, expected, "{fault:?}");
    }
}

#[test]
fn a_trimmed_log_goes_on_from_its_position_even_if_it_is_empty() {
    let (log, store) = memory();
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    core.step(propose(0, 1, "x"));
    let last = settle(&mut core).unwrap().pop().unwrap().1.index;
    let checkpoint = Bytes::from_static(b"in files");
    core.step(Input::Trim {
        region: region(0),
        through: last,
        checkpoint: checkpoint.clone(),
    });
    settle(&mut core).unwrap();
    assert_eq!(log.bounds(region(0)), None);
    let reopened: Arc<dyn LogStore> = Arc::new(log.reopen());
    assert_eq!(
        reopened.get(region(0), Key::Checkpoint).unwrap(),
        Some(checkpoint)
    );
    let mut core = open(&reopened, &[(0, last)]);
    let entries = settle(&mut core).unwrap();
    assert_eq!(entries[0].1.index, last + 1);
    assert!(entries[0].1.term > 1);
}

#[test]
fn a_group_goes_on_while_its_beginning_is_trimmed() {
    let (log, store) = memory();
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    let mut flushed = 1;
    for token in 0..40 {
        core.step(propose(0, token, "x"));
        let last = settle(&mut core).unwrap().pop().unwrap().1.index;
        if token % 5 == 4 {
            flushed = last - 3;
            core.step(Input::Trim {
                region: region(0),
                through: flushed,
                checkpoint: Bytes::new(),
            });
            settle(&mut core).unwrap();
            assert_eq!(log.bounds(region(0)), Some((flushed + 1, last)));
        }
    }
    let reopened: Arc<dyn LogStore> = Arc::new(log.reopen());
    let mut core = open(&reopened, &[(0, flushed)]);
    assert_eq!(texts(&settle(&mut core).unwrap()), ["x", "x", "x", ""]);
}

#[test]
fn a_trim_beyond_what_is_applied_does_nothing() {
    let (log, store) = memory();
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    let before = log.bounds(region(0));
    core.step(Input::Trim {
        region: region(0),
        through: 1000,
        checkpoint: Bytes::new(),
    });
    settle(&mut core).unwrap();
    assert_eq!(log.bounds(region(0)), before);
}

#[test]
fn an_unknown_region_refuses_and_a_dropped_one_is_gone() {
    let (log, store) = memory();
    let mut core = open(&store, &[]);
    core.step(propose(3, 8, "x"));
    assert!(texts(&settle(&mut core).unwrap())[0].contains("not on this node"));
    core.step(initialise(0));
    settle(&mut core).unwrap();
    core.step(propose(0, 1, "x"));
    core.step(Input::Drop { region: region(0) });
    assert!(texts(&settle(&mut core).unwrap())[0].contains("was dropped"));
    assert!(log.regions().unwrap().is_empty());
    assert_eq!(log.bounds(region(0)), None);
}

#[test]
fn a_long_log_is_replayed_in_bounded_pieces() {
    let (log, store) = memory();
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    let payload = Bytes::from(vec![7; 1 << 20]);
    for token in 0..30 {
        core.step(Input::Propose {
            region: region(0),
            token,
            data: payload.clone(),
        });
        settle(&mut core).unwrap();
    }
    let reopened: Arc<dyn LogStore> = Arc::new(log.reopen());
    let mut core = open(&reopened, &[(0, 1)]);
    let (mut entries, mut most) = (0, 0);
    while core.has_work() {
        for committed in core.turn(&mut Nobody).unwrap().committed {
            most = most.max(committed.entries.len());
            entries += committed.entries.len();
            core.applied(committed.region, committed.entries.last().unwrap().index);
        }
    }
    assert_eq!(entries, 32);
    // A turn gives out what was committed before it, and what it commits itself.
    assert!(most <= 10, "{most} MiB were taken at once");
}

/// A child of another test may hold the lock of the log before for a moment: it has everything that is open here until
/// it runs its own program.
fn patiently(open: impl Fn() -> Result<EngineLog, LogError>) -> Result<EngineLog, LogError> {
    loop {
        match open() {
            Err(LogError::Read(error)) if error.contains("Failed to lock") => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn engine(dir: &std::path::Path) -> EngineLog {
    let options = EngineOptions {
        dir: dir.to_owned(),
        sync: LogSync::Always,
        damage: LogDamage::Refuse,
        file_size: 1 << 20,
        reserve: 0,
        purge_threshold: 2 << 20,
        limit: 0,
    };
    patiently(|| EngineLog::open(&options, Counter::default())).unwrap()
}

#[test]
fn the_engine_keeps_entries_keys_and_trims_across_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let last = {
        let store: Arc<dyn LogStore> = Arc::new(engine(dir.path()));
        let mut core = open(&store, &[]);
        core.step(initialise(0));
        core.step(initialise(1));
        settle(&mut core).unwrap();
        core.step(propose(0, 1, "x"));
        core.step(propose(1, 2, "y"));
        let last = settle(&mut core).unwrap().pop().unwrap().1.index;
        let checkpoint = Bytes::from_static(b"in files");
        core.step(Input::Trim {
            region: region(0),
            through: last,
            checkpoint,
        });
        settle(&mut core).unwrap();
        last
    };
    let log = engine(dir.path());
    assert!(log.cuts().is_empty(), "{:?}", log.cuts());
    assert_eq!(log.regions().unwrap(), [region(0), region(1)]);
    assert_eq!(log.bounds(region(0)), None);
    assert_eq!(log.get(region(0), Key::Checkpoint).unwrap().unwrap(), "in files");
    let store: Arc<dyn LogStore> = Arc::new(log);
    let mut core = open(&store, &[(0, last), (1, 1)]);
    let replayed = settle(&mut core).unwrap();
    let of = |n| {
        texts(
            &replayed
                .iter()
                .filter(|(r, _)| *r == region(n))
                .cloned()
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(of(0), [""]);
    assert_eq!(of(1), ["", "y", ""]);
    core.step(Input::Drop { region: region(1) });
    settle(&mut core).unwrap();
    drop((core, store));
    assert_eq!(engine(dir.path()).regions().unwrap(), [region(0)]);
}

#[test]
fn a_torn_tail_is_cut_and_its_place_is_known() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store: Arc<dyn LogStore> = Arc::new(engine(dir.path()));
        let mut core = open(&store, &[]);
        core.step(initialise(0));
        settle(&mut core).unwrap();
        core.step(propose(0, 1, "kept"));
        settle(&mut core).unwrap();
        core.step(propose(0, 2, "torn"));
        settle(&mut core).unwrap();
    }
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "raftlog"));
    files.sort();
    let file = files.last().unwrap();
    let length = std::fs::metadata(file).unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(length - 3)
        .unwrap();
    let log = engine(dir.path());
    assert_eq!(log.cuts().len(), 1, "{:?}", log.cuts());
    assert_eq!(&log.cuts()[0].file, file);
    assert!(log.cuts()[0].bytes > 0);
    let store: Arc<dyn LogStore> = Arc::new(log);
    let mut core = open(&store, &[(0, 1)]);
    assert_eq!(texts(&settle(&mut core).unwrap()), ["", "kept", ""]);
}

#[test]
fn what_a_killed_process_leaves_is_complete_and_its_allocated_zeros_are_no_cut() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fsyncs = Counter::default();
    let options = EngineOptions {
        dir: dir.path().to_owned(),
        sync: LogSync::Always,
        damage: LogDamage::Refuse,
        file_size: 1 << 20,
        reserve: 0,
        purge_threshold: 2 << 20,
        limit: 0,
    };
    let store: Arc<dyn LogStore> = Arc::new(EngineLog::open(&options, fsyncs.clone()).unwrap());
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    for token in 0..20 {
        let before = fsyncs.get();
        core.step(propose(0, token, "x"));
        assert_eq!(settle(&mut core).unwrap().len(), 1);
        assert_eq!(fsyncs.get(), before + 1, "committed without a sync of the file");
    }
    // The files as they are while the engine still runs.
    for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let log = engine(copy.path());
    assert!(log.cuts().is_empty(), "{:?}", log.cuts());
    assert_eq!(log.bounds(region(0)), store.bounds(region(0)));
}

#[test]
fn syncing_by_interval_covers_entries_only_and_is_done_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let fsyncs = Counter::default();
    let options = EngineOptions {
        dir: dir.path().to_owned(),
        sync: LogSync::Interval,
        damage: LogDamage::Refuse,
        file_size: 1 << 20,
        reserve: 0,
        purge_threshold: 2 << 20,
        limit: 0,
    };
    let store: Arc<dyn LogStore> = Arc::new(EngineLog::open(&options, fsyncs.clone()).unwrap());
    let mut core = open(&store, &[]);
    let before = fsyncs.get();
    core.step(initialise(0));
    settle(&mut core).unwrap();
    assert!(fsyncs.get() > before, "a region that was made is on disk");
    let before = fsyncs.get();
    for token in 0..20 {
        core.step(propose(0, token, "x"));
        assert_eq!(settle(&mut core).unwrap().len(), 1);
    }
    assert_eq!(fsyncs.get(), before, "entries wait");
    store.sync().unwrap();
    assert_eq!(fsyncs.get(), before + 1);
    store.sync().unwrap();
    assert_eq!(fsyncs.get(), before + 1, "there is nothing to sync");
    let last = store.bounds(region(0)).unwrap().1;
    core.step(Input::Trim {
        region: region(0),
        through: last,
        checkpoint: Bytes::new(),
    });
    settle(&mut core).unwrap();
    assert!(fsyncs.get() > before + 1, "a trim is on disk");
}

/// As many seeds as `GREPTIME_TEST_SEEDS` says; `GREPTIME_TEST_SEED=17` runs one alone.
fn each_seed(usual: u64, test: impl Fn(u64)) {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse().expect("a number"));
    if let Some(seed) = number("GREPTIME_TEST_SEED") {
        return test(seed);
    }
    for seed in 0..number("GREPTIME_TEST_SEEDS").unwrap_or(usual) {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
        assert!(failed.is_ok(), "GREPTIME_TEST_SEED={seed} repeats it");
    }
}

/// Choices below a number, the same for every run of a seed.
fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    move |sides: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    }
}

/// Not compressible, so that files fill up.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut x = seed + 1;
    let mut next = || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 33) as u8
    };
    (0..bytes).map(|_| next()).collect::<Vec<u8>>().into()
}

#[test]
fn old_files_of_the_engine_are_removed_once_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn LogStore> = Arc::new(engine(dir.path()));
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    let mut last = 0;
    for token in 0..64u64 {
        core.step(Input::Propose {
            region: region(0),
            token,
            data: noise(token, 128 << 10),
        });
        last = settle(&mut core).unwrap().pop().unwrap().1.index;
    }
    let size = |dir: &std::path::Path| -> u64 {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum()
    };
    assert!(size(dir.path()) > 8 << 20);
    core.step(Input::Trim {
        region: region(0),
        through: last,
        checkpoint: Bytes::new(),
    });
    settle(&mut core).unwrap();
    store.reclaim().unwrap();
    let names = |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().count();
    assert!(
        size(dir.path()) < 8 << 20,
        "{} bytes in {} files",
        size(dir.path()),
        names(dir.path())
    );
    drop((core, store));
    let store: Arc<dyn LogStore> = Arc::new(engine(dir.path()));
    let mut core = open(&store, &[(0, last)]);
    assert_eq!(settle(&mut core).unwrap()[0].1.index, last + 1);
}
