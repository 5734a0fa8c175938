//! Disks that fill up, with what is kept for that time and without it.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use greptime_types::{RequestId, Result};

use super::super::disk::Disk as Below;
use super::*;

const MIB: u64 = 1 << 20;
/// Nothing here waits for so long.
const PATIENCE: Duration = Duration::from_secs(5);

fn options(dir: &Path, reserve: u64) -> EngineOptions {
    EngineOptions {
        dir: dir.to_owned(),
        sync: LogSync::Always,
        damage: LogDamage::Refuse,
        file_size: 64 * MIB,
        reserve,
        purge_threshold: 512 * MIB,
        limit: 0,
    }
}

struct Disk {
    dir: tempfile::TempDir,
    room: Arc<Below>,
    reserve: u64,
}

impl Disk {
    fn with_reserve(reserve: u64) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            room: Arc::default(),
            reserve,
        }
    }

    fn open(&self) -> Arc<dyn LogStore> {
        let options = options(self.dir.path(), self.reserve);
        let open = || EngineLog::open_in(&options, Counter::default(), Arc::clone(&self.room));
        Arc::new(patiently(open).unwrap())
    }

    /// With a region that has `entries`.
    fn written(&self, entries: u64, bytes: usize) -> (Arc<dyn LogStore>, LogCore) {
        let store = self.open();
        let mut core = open(&store, &[]);
        core.step(initialise(0));
        settle(&mut core).unwrap();
        for token in 0..entries {
            core.step(Input::Propose {
                region: region(0),
                token,
                data: noise(token, bytes),
            });
            settle(&mut core).unwrap();
        }
        (store, core)
    }

    fn files(&self) -> usize {
        let names = std::fs::read_dir(self.dir.path()).unwrap();
        let is_log = |n: &std::fs::DirEntry| n.path().extension().is_some_and(|e| e == "raftlog");
        names.filter(|n| is_log(n.as_ref().unwrap())).count()
    }
}

/// What would wait for room fails instead.
fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("{what} waits"))
}

/// Fills the disk and lets the log notice it.
fn fill(disk: &Disk, mut core: LogCore) -> LogCore {
    disk.room.set(Some(0));
    core.step(propose(0, 100, "under way"));
    soon("a write that was taken", move || {
        assert_eq!(texts(&settle(&mut core).unwrap()), ["under way"]);
        core
    })
}

fn trim(core: &mut LogCore, through: u64) -> Vec<RegionId> {
    core.step(Input::Trim {
        region: region(0),
        through,
        checkpoint: Bytes::from_static(b"in files"),
    });
    let trimmed = core.turn(&mut Nobody).unwrap().trimmed;
    trimmed.into_iter().map(|t| t.region).collect()
}

#[test]
fn what_is_under_way_when_the_disk_fills_up_is_written_from_the_reserve() {
    let disk = Disk::with_reserve(4 * MIB);
    let (store, core) = disk.written(2, 100);
    assert!(!store.is_full());
    let core = fill(&disk, core);
    assert!(store.is_full());
    store.reclaim().unwrap();
    assert!(store.is_full(), "there is still no room");
    disk.room.set(None);
    store.reclaim().unwrap();
    assert!(!store.is_full(), "the reserve is whole again");
    drop((store, core));
    let store = disk.open();
    let replayed = settle(&mut open(&store, &[(0, 1)])).unwrap();
    assert!(replayed.iter().any(|(_, e)| e.data == "under way"));
}

#[test]
fn a_full_disk_has_room_for_elections_and_trims() {
    let disk = Disk::with_reserve(4 * MIB);
    drop(disk.written(2, 100));
    disk.room.set(Some(0));
    for starts in 0..5 {
        let store = disk.open();
        assert_eq!(
            store.is_full(),
            starts > 0,
            "whether some of the reserve is missing"
        );
        let mut core = open(&store, &[(0, 1)]);
        soon("an election", move || settle(&mut core).map(drop)).unwrap();
        assert!(store.is_full());
    }
    let store = disk.open();
    assert!(store.is_full());
    let mut core = open(&store, &[(0, 1)]);
    let trimmed = soon("a trim", move || {
        let last = settle(&mut core).unwrap().pop().unwrap().1.index;
        trim(&mut core, last)
    });
    assert_eq!(trimmed.len(), 1);
}

#[test]
fn a_full_log_refuses_rows_and_takes_trims() {
    let disk = Disk::with_reserve(4 * MIB);
    let (store, core) = disk.written(2, 100);
    let last = store.bounds(region(0)).unwrap().1;
    let mut core = fill(&disk, core);
    core.step(propose(0, 1, "one more"));
    let refused = settle(&mut core).unwrap();
    assert!(texts(&refused)[0].contains("is full"), "{refused:?}");
    assert_eq!(trim(&mut core, last), [region(0)]);
    disk.room.set(None);
    store.reclaim().unwrap();
    core.step(propose(0, 1, "one more"));
    assert_eq!(texts(&settle(&mut core).unwrap()), ["one more"]);
}

/// All of it is in the file that is written to, far below the size of a file and the purge threshold.
#[test]
fn what_is_trimmed_makes_room_on_a_full_disk() {
    let disk = Disk::with_reserve(4 * MIB);
    let (store, core) = disk.written(6, 1 << 20);
    let mut core = fill(&disk, core);
    let last = store.bounds(region(0)).unwrap().1;
    trim(&mut core, last);
    assert_eq!(disk.files(), 1);
    store.reclaim().unwrap();
    assert!(!store.is_full(), "it was full of what is trimmed");
    assert_eq!(disk.files(), 1);
    core.step(propose(0, 1, "one more"));
    assert_eq!(texts(&settle(&mut core).unwrap()), ["one more"]);
    drop((core, store));
    let store = disk.open();
    let replayed = settle(&mut open(&store, &[(0, last)])).unwrap();
    assert_eq!(texts(&replayed)[0], "one more");
}

#[test]
fn a_log_at_its_limit_takes_no_rows_until_something_is_trimmed() {
    const LIMIT: u64 = 8 * MIB;
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        file_size: MIB,
        purge_threshold: 2 * MIB,
        limit: LIMIT,
        ..options(dir.path(), 0)
    };
    let store: Arc<dyn LogStore> = Arc::new(EngineLog::open(&options, Counter::default()).unwrap());
    let mut core = open(&store, &[]);
    core.step(initialise(0));
    settle(&mut core).unwrap();
    let data = |token| Input::Propose {
        region: region(0),
        token,
        data: noise(token, 200_000),
    };
    let refused = (0..100).find_map(|token| {
        core.step(data(token));
        settle(&mut core).unwrap();
        store.full()
    });
    assert_eq!(refused, Some(Full::Limit));
    assert!(store.size() <= LIMIT + MIB, "{} bytes", store.size());
    let last = store.bounds(region(0)).unwrap().1;
    core.step(data(100));
    let refused = core.turn(&mut Nobody).unwrap().refused.remove(0).1;
    assert!(
        refused.is_retryable() && refused.message.contains("datanode.log_limit"),
        "{refused}"
    );
    assert_eq!(store.bounds(region(0)).unwrap().1, last, "it was not written");
    // What the log was opened with may have been trimmed.
    store.reclaim().unwrap();
    let size = store.size();
    for _ in 0..30 {
        store.reclaim().unwrap();
    }
    assert_eq!(store.size(), size, "nothing is moved to other files in vain");
    assert_eq!(trim(&mut core, last), [region(0)]);
    store.reclaim().unwrap();
    assert_eq!(store.full(), None);
    core.step(propose(0, 101, "goes on"));
    assert_eq!(texts(&settle(&mut core).unwrap()), ["goes on"]);
}

#[test]
fn a_full_disk_without_a_reserve_is_waited_for_and_begins_no_files() {
    let disk = Disk::with_reserve(0);
    let (store, mut core) = disk.written(1, 100);
    disk.room.set(Some(1000));
    core.step(Input::Propose {
        region: region(0),
        token: 1,
        data: noise(1, 4000),
    });
    let writing = std::thread::spawn(move || settle(&mut core).map(|written| written.len()));
    while !store.is_full() && !writing.is_finished() {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(!writing.is_finished());
    disk.room.set(None);
    assert_eq!(writing.join().unwrap().unwrap(), 1);
    assert!(!store.is_full());
    assert_eq!(disk.files(), 1);
    drop(store);
    let store = disk.open();
    let replayed = settle(&mut open(&store, &[(0, 1)])).unwrap();
    assert_eq!(replayed[2].1.data, noise(1, 4000));
}

pub(super) struct Ignore;

impl Apply for Ignore {
    fn apply(&self, _: RegionId, entry: &CommittedEntry) -> Result<Applied> {
        Ok(Applied {
            index: entry.index,
            term: entry.term,
            duplicate: false,
        })
    }

    fn refused(&self, _: RegionId, _: RequestId) {}

    fn status(&self, _: RegionId, _: GroupStatus) {}

    fn members(&self, _: RegionId, _: Membership) {}

    fn restored(&self, _: RegionId, _: Bytes) {}

    fn trimmed(&self, _: RegionId, _: Bytes) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_up_what_waits_for_room_and_says_that_it_was_not_done() {
    let disk = Disk::with_reserve(0);
    let (store, core) = disk.written(2, 100);
    let last = store.bounds(region(0)).unwrap().1;
    let log = start(core, Arc::new(Ignore), Arc::new(NoPeers), 8, 1 << 20).unwrap();
    disk.room.set(Some(0));
    let waiting = log.propose(Proposal {
        region: region(0),
        data: Bytes::from_static(b"waits"),
        request: None,
        held: None,
    });
    let waiting = tokio::spawn(waiting.unwrap());
    while !store.is_full() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!waiting.is_finished());
    store.stop_waiting();
    tokio::time::timeout(PATIENCE, log.stop())
        .await
        .expect("the stop waits");
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        error.is_retryable() && error.message.contains("was not done"),
        "{error}"
    );
    assert_eq!(log.failure(), None, "nothing has failed");
    drop((log, store));
    disk.room.set(None);
    assert_eq!(disk.open().bounds(region(0)).unwrap().1, last, "it was not done");
}
