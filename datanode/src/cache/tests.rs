use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::*;

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
async fn a_disk_without_room_is_done_without_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = CacheMetrics::default();
    let caches = Caches::open(sizes(1 << 20, 1 << 60), dir.path(), metrics.clone()).await;
    assert!(!caches.ranges.has_disk());
    assert_eq!(metrics.disk_errors(), 1);
    caches.ranges.insert(key(1), part(1));
    assert_eq!(caches.ranges.get(&key(1)).await, Some((part(1), Tier::Memory)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_done_without() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let caches = Caches::open(sizes(1 << 20, DISK), file.path(), CacheMetrics::default()).await;
    assert!(!caches.ranges.has_disk());
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
