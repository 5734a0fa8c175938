use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use bytes::Bytes;

use super::*;

mod broken_disk;

const DISK: u64 = 64 << 20;

fn sizes(memory: u64, disk: u64) -> CacheSizes {
    CacheSizes {
        memory,
        disk,
        decoded: 1 << 20,
    }
}

fn key(n: u64) -> RangeKey {
    RangeKey::new(&"3-a".into(), n * 4096)
}

fn part(n: u64) -> Bytes {
    Bytes::from(vec![n as u8; 20_000])
}

#[tokio::test]
async fn parts_survive_a_restart_and_come_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let caches = Caches::open(sizes(1 << 20, DISK), dir.path(), CacheMetrics::default()).await;
    assert!(caches.ranges.has_disk());
    for n in 0..20 {
        caches.ranges.insert(key(n), part(n));
    }
    assert_eq!(caches.ranges.get(&key(3)).await, Some((part(3), Tier::Memory)));
    caches.close().await;
    drop(caches);
    let caches = Caches::open(sizes(1 << 20, DISK), dir.path(), CacheMetrics::default()).await;
    for n in 0..20 {
        assert_eq!(
            caches.ranges.get(&key(n)).await,
            Some((part(n), Tier::Disk)),
            "{n}"
        );
        assert_eq!(
            caches.ranges.get(&key(n)).await,
            Some((part(n), Tier::Memory)),
            "{n}"
        );
    }
    assert_eq!(caches.ranges.get(&key(99)).await, None);
    caches.close().await;
}

/// The directory of the cache, in the process that is killed.
const KILLED: &str = "GREPTIME_TEST_KILLED_CACHE";

/// No other part has any of its bytes at the same place.
fn numbered(n: u64) -> Bytes {
    Bytes::from(n.to_le_bytes().repeat(2500))
}

/// Keeps parts, and says how many, until the process is killed.
async fn keep_until_killed(dir: &Path) {
    let caches = Caches::open(sizes(1 << 20, DISK), dir, CacheMetrics::default()).await;
    for n in 0.. {
        caches.ranges.insert(key(n), numbered(n));
        if n % 100 == 99 {
            println!("kept {}", n + 1);
            // The disk takes a part at a time, and drops what comes faster.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Runs this test in another process, which is killed once it has kept so many parts.
fn kill_after(parts: u64, dir: &Path) {
    let test = "cache::tests::what_a_killed_process_kept_is_right_or_a_miss";
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(KILLED, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let kept = |line: std::io::Result<String>| line.ok()?.strip_prefix("kept ")?.parse::<u64>().ok();
    let enough = lines.filter_map(kept).any(|n| n >= parts);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(enough, "the process ended by itself");
}

#[tokio::test]
async fn what_a_killed_process_kept_is_right_or_a_miss() {
    if let Some(dir) = std::env::var_os(KILLED) {
        keep_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    // The last one goes round the disk, over what the others left.
    for parts in [100, 700, 1500, 4000] {
        kill_after(parts, dir.path());
        let metrics = CacheMetrics::default();
        let caches = Caches::open(sizes(1 << 20, DISK), dir.path(), metrics.clone()).await;
        assert!(caches.ranges.has_disk(), "after {parts} parts");
        let mut found = 0;
        for n in 0..parts + 1000 {
            if let Some((bytes, _)) = caches.ranges.get(&key(n)).await {
                assert!(bytes == numbered(n), "part {n} of {parts} is another");
                found += 1;
            }
        }
        assert!(parts < 1000 || found > 100, "{found} of {parts} parts are found");
        assert_eq!(metrics.disk_errors(), 0);
        // And it goes on to be used.
        caches.ranges.insert(key(1 << 40), part(7));
        assert_eq!(caches.ranges.get(&key(1 << 40)).await.unwrap().0, part(7));
        caches.close().await;
    }
}

#[tokio::test]
async fn bits_that_flip_on_the_disk_are_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let caches = Caches::open(sizes(1 << 20, DISK), dir.path(), CacheMetrics::default()).await;
    caches.ranges.insert(key(5), part(5));
    caches.close().await;
    drop(caches);
    let mut flipped = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // Somewhere inside of the part.
        if let Some(at) = bytes.windows(64).position(|w| w.iter().all(|b| *b == 5)) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[4], at as u64 + 32).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    let caches = Caches::open(sizes(1 << 20, DISK), dir.path(), CacheMetrics::default()).await;
    assert_eq!(caches.ranges.get(&key(5)).await, None);
    caches.close().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_done_without_and_counted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let metrics = CacheMetrics::default();
    let caches = Caches::open(sizes(1 << 20, DISK), file.path(), metrics.clone()).await;
    assert!(!caches.ranges.has_disk());
    assert_eq!(metrics.disk_errors(), 1);
    caches.ranges.insert(key(1), part(1));
    assert_eq!(caches.ranges.get(&key(1)).await, Some((part(1), Tier::Memory)));
}

#[tokio::test]
async fn the_space_of_the_cache_is_taken_at_the_start() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let caches = Caches::open(sizes(1 << 20, DISK), dir.path(), CacheMetrics::default()).await;
    let files = std::fs::read_dir(dir.path()).unwrap();
    let taken: u64 = files.map(|f| f.unwrap().metadata().unwrap().blocks() * 512).sum();
    assert!(taken >= DISK, "{taken}");
    caches.close().await;
}

#[tokio::test]
async fn what_is_kept_in_memory_stays_within_the_budget() {
    let caches = Caches::in_memory(sizes(400_000, 0), CacheMetrics::default());
    for n in 0..100 {
        caches.ranges.insert(key(n), part(n));
    }
    let mut kept = 0;
    for n in 0..100 {
        kept += usize::from(caches.ranges.get(&key(n)).await.is_some());
    }
    assert!((1..=15).contains(&kept), "{kept}");
}
