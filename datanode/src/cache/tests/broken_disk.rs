//! A disk that is full, cannot be written or read, or is gone: the cache goes on without it, and with it again.

use std::fmt;
use std::fs::File;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::cache::watched::Pauses;
use crate::testing::SmallDisk;

/// What this crate says in warnings, on one thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{field}: {value:?}; ");
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        *of.level() <= Level::WARN && of.target().starts_with("greptime_datanode")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A cache whose disk is tried again soon, and whose memory holds some fifty parts.
struct Watched {
    cache: RangeCache,
    metrics: CacheMetrics,
    warnings: Warnings,
    _default: tracing::subscriber::DefaultGuard,
}

impl Watched {
    async fn open(dir: &Path) -> Self {
        let (metrics, warnings) = (CacheMetrics::default(), Warnings::default());
        let _default = tracing::subscriber::set_default(warnings.clone());
        let pause = Duration::from_millis(20);
        let pauses = Pauses {
            first: pause,
            last: pause,
        };
        let disk = Disk::open_with(pauses, dir, 1 << 20, DISK, metrics.clone()).await;
        Self {
            cache: RangeCache::with_disk(disk.unwrap(), metrics.clone()),
            metrics,
            warnings,
            _default,
        }
    }

    async fn insert(&self, parts: std::ops::Range<u64>) {
        for n in parts {
            self.cache.insert(key(n), numbered(n));
            if n % 100 == 99 {
                // The disk takes a part at a time, and drops what comes faster.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// How many of the parts are found on disk; those that are found are right.
    async fn on_disk(&self, parts: std::ops::Range<u64>) -> usize {
        let mut found = 0;
        for n in parts {
            if let Some((bytes, tier)) = self.cache.get(&key(n)).await {
                assert!(bytes == numbered(n), "part {n} is another");
                found += usize::from(tier == Tier::Disk);
            }
        }
        found
    }

    async fn wait_until_on_disk(&self, parts: std::ops::Range<u64>) {
        self.wait_until("parts come from the disk", async || {
            self.on_disk(parts.clone()).await > 50
        })
        .await;
    }

    async fn wait_until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        for _ in 0..1000 {
            if condition().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}; {:?}", self.warnings.0.lock());
    }

    /// The disk is given up, which was said once and counted.
    async fn wait_until_given_up(&self, times: usize) {
        self.wait_until("the disk is given up", async || !self.cache.has_disk())
            .await;
        // It is tried again meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let warnings = self.warnings.0.lock().clone();
        assert_eq!(warnings.len(), times, "{warnings:?}");
        assert!(
            warnings[times - 1].contains("goes on without its disk"),
            "{warnings:?}"
        );
        assert!(self.metrics.disk_errors() > 0);
    }

    async fn wait_until_used_again(&self, parts: std::ops::Range<u64>) {
        self.wait_until("the disk is used again", async || self.cache.has_disk())
            .await;
        let errors = self.metrics.disk_errors();
        self.insert(parts.clone()).await;
        self.wait_until_on_disk(parts).await;
        assert_eq!(self.metrics.disk_errors(), errors);
    }
}

#[tokio::test]
async fn a_full_disk_is_done_without_and_used_again_when_it_has_space() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 160) else {
        return;
    };
    let cache = Watched::open(dir.path()).await;
    cache.insert(0..200).await;
    cache.wait_until_on_disk(0..200).await;
    for outage in 1..=2 {
        disk.fill();
        // What is written over takes no space; what is new does.
        for round in 0.. {
            assert!(round < 100, "a full disk takes everything");
            let first = 1000 * outage + 10 * round;
            cache.insert(first..first + 10).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if cache.metrics.disk_errors() > 0 && !cache.cache.has_disk() {
                break;
            }
        }
        cache.wait_until_given_up(outage as usize).await;
        // Memory goes on.
        cache.insert(5000..5010).await;
        assert_eq!(
            cache.cache.get(&key(5009)).await,
            Some((numbered(5009), Tier::Memory))
        );
        disk.empty();
        cache
            .wait_until_used_again(10_000 * outage..10_000 * outage + 200)
            .await;
        // What was there before is not lost.
        cache.wait_until_on_disk(0..200).await;
    }
}

#[tokio::test]
async fn a_full_disk_does_not_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 160) else {
        return;
    };
    for _ in 0..3 {
        let cache = Watched::open(dir.path()).await;
        disk.fill();
        for n in 0..1000 {
            cache.cache.insert(key(n), numbered(n));
        }
        let closed = tokio::time::timeout(Duration::from_secs(10), cache.cache.close());
        closed.await.expect("the stop waits for the disk");
        disk.empty();
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_given_up_after_some_errors_and_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Watched::open(dir.path()).await;
    cache.insert(0..200).await;
    cache.wait_until_on_disk(0..200).await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = File::options().write(true).open(file.unwrap().path());
        file.unwrap().set_len(0).unwrap();
    }
    // Every read is a miss, and none is an error.
    assert_eq!(cache.on_disk(0..200).await, 0);
    cache
        .wait_until("the disk was given up", async || {
            !cache.warnings.0.lock().is_empty()
        })
        .await;
    assert_eq!(cache.warnings.0.lock().len(), 1);
    assert_eq!(cache.metrics.disk_errors(), 16);
    cache.wait_until_used_again(1000..1200).await;
}

#[tokio::test]
async fn a_disk_that_is_read_only_at_the_start_is_used_when_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 160) else {
        return;
    };
    disk.set_read_only(true);
    let cache = Watched::open(dir.path()).await;
    cache.wait_until_given_up(1).await;
    cache.insert(0..10).await;
    assert_eq!(cache.cache.get(&key(3)).await, Some((numbered(3), Tier::Memory)));
    disk.set_read_only(false);
    cache.wait_until_used_again(0..200).await;
    assert_eq!(cache.warnings.0.lock().len(), 1);
    cache.cache.close().await;
}

#[tokio::test]
async fn a_directory_that_is_removed_under_the_cache_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = Watched::open(&path).await;
    cache.insert(0..200).await;
    std::fs::remove_dir_all(&path).unwrap();
    cache.insert(200..400).await;
    // The files are there as long as they are open.
    cache.wait_until_on_disk(0..400).await;
    cache.cache.close().await;
    assert_eq!(cache.metrics.disk_errors(), 0);
    drop(cache);
    let cache = Watched::open(&path).await;
    assert_eq!(cache.on_disk(0..400).await, 0);
    cache.insert(0..200).await;
    cache.wait_until_on_disk(0..200).await;
    assert!(cache.warnings.0.lock().is_empty());
}
