//! What every store does while nothing goes wrong.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use greptime_object_store::{
    Bucket, ClusterMarker, PutOutcome, StoreMetrics, check_claimed, claim, put_if_absent, read_marker,
};
use greptime_types::ErrorKind;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutResult};

use crate::scene::{Case, Scene, cases};

/// More than a batch of deletions has on Azure, and more than a page of listings on our Google.
const MANY: usize = 300;
const MIB: usize = 1 << 20;

pub fn all() -> Vec<Case> {
    cases![
        what_was_put_is_read_and_replaced,
        what_is_not_there_is_not_found,
        an_object_is_created_once,
        one_of_many_writers_creates_an_object,
        writers_that_race_make_one_chain,
        ranges_are_read,
        ranges_that_lie_close_are_read_together,
        an_upload_is_there_as_a_whole_once_it_is_completed,
        an_upload_that_is_given_up_leaves_nothing,
        a_listing_has_what_is_below_its_prefix,
        a_listing_has_all_of_many,
        objects_know_when_they_were_written,
        many_are_deleted_at_once,
        deleting_passes_over_what_is_not_there,
        a_root_is_destroyed_without_its_neighbours,
        one_of_many_clusters_claims_a_root,
    ]
}

/// Bytes that say where they are.
pub fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

pub async fn create(bucket: &Bucket, key: &Path, bytes: &'static str) -> object_store::Result<PutResult> {
    let options = PutOptions {
        mode: PutMode::Create,
        ..Default::default()
    };
    bucket.store.put_opts(key, bytes.into(), options).await
}

pub async fn read(bucket: &Bucket, key: &Path) -> Bytes {
    let found = bucket.store.get(key).await;
    let found = found.unwrap_or_else(|e| panic!("{key}: {e}"));
    found.bytes().await.unwrap_or_else(|e| panic!("{key}: {e}"))
}

async fn is_there(bucket: &Bucket, key: &Path) -> bool {
    match bucket.store.head(key).await {
        Ok(_) => true,
        Err(Error::NotFound { .. }) => false,
        Err(error) => panic!("{key}: {error}"),
    }
}

async fn put(bucket: &Bucket, key: &Path, bytes: impl Into<Bytes>) {
    let put = bucket.store.put(key, bytes.into().into()).await;
    put.unwrap_or_else(|e| panic!("{key}: {e}"));
}

/// So many objects with their numbers as names.
pub async fn fill(bucket: &Bucket, folder: &str, count: usize) -> Vec<Path> {
    let keys: Vec<Path> = (0..count)
        .map(|n| bucket.key(&format!("{folder}/{n:04}")))
        .collect();
    let puts = keys.iter().map(|key| put(bucket, key, "x"));
    futures::stream::iter(puts)
        .buffer_unordered(16)
        .collect::<()>()
        .await;
    keys
}

/// Keys below a folder, without the root.
pub async fn listed(bucket: &Bucket, folder: &str) -> Vec<String> {
    let found = bucket.store.list(Some(&bucket.key(folder)));
    let keys: Vec<String> = found
        .map_ok(|meta| relative(bucket, &meta.location))
        .try_collect()
        .await
        .unwrap_or_else(|e| panic!("{folder}: {e}"));
    sorted(keys)
}

fn relative(bucket: &Bucket, key: &Path) -> String {
    let rest = key.prefix_match(&bucket.root).expect("it is below the root");
    Path::from_iter(rest).to_string()
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

pub fn marker(id: &str) -> ClusterMarker {
    ClusterMarker {
        format: 1,
        cluster_id: id.into(),
        name: id.into(),
        created_ms: 0,
    }
}

async fn what_was_put_is_read_and_replaced(scene: Scene) {
    let bucket = scene.bucket();
    for name in [
        "plain",
        "a folder/of 100% ümläuts+plus&and=equals.parquet",
        "~tilde'quote(1)",
    ] {
        let key = bucket.key(name);
        for bytes in [pattern(10), Bytes::new(), pattern(3 * MIB)] {
            put(&bucket, &key, bytes.clone()).await;
            assert_eq!(
                bucket.store.head(&key).await.unwrap().size,
                bytes.len() as u64,
                "{name}"
            );
            assert!(
                read(&bucket, &key).await == bytes,
                "{name}, {} bytes",
                bytes.len()
            );
        }
    }
    assert_eq!(listed(&bucket, "").await.len(), 3);
}

async fn what_is_not_there_is_not_found(scene: Scene) {
    let bucket = scene.bucket();
    let (store, key) = (&bucket.store, bucket.key("nothing"));
    let outcomes = [
        store.get(&key).await.map(drop),
        store.head(&key).await.map(drop),
        store.get_range(&key, 0..10).await.map(drop),
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(Error::NotFound { .. })), "{outcome:?}");
    }
    assert!(listed(&bucket, "nothing").await.is_empty());
    assert_eq!(read_marker(&bucket).await.unwrap(), None);
    bucket.probe().await.unwrap();
}

async fn an_object_is_created_once(scene: Scene) {
    let bucket = scene.bucket();
    let key = bucket.key("manifest/1");
    create(&bucket, &key, "one").await.unwrap();
    for bytes in ["two", "one"] {
        let again = create(&bucket, &key, bytes).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    }
    assert_eq!(read(&bucket, &key).await, "one");
    bucket.store.delete(&key).await.unwrap();
    create(&bucket, &key, "three").await.unwrap();
    assert_eq!(read(&bucket, &key).await, "three");
}

async fn one_of_many_writers_creates_an_object(scene: Scene) {
    let bucket = scene.bucket();
    for round in 0..10 {
        let key = bucket.key(&format!("manifest/{round}"));
        let writers = (0..8).map(|writer| {
            let (bucket, key) = (bucket.clone(), key.clone());
            let bytes = Bytes::from(format!("of writer {writer}, {}", "x".repeat(writer * 1000)));
            tokio::spawn(async move {
                let outcome = put_if_absent(bucket.store.as_ref(), &key, bytes.clone()).await;
                (bytes, outcome.unwrap())
            })
        });
        let outcomes: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let there = read(&bucket, &key).await;
        for (bytes, outcome) in outcomes {
            match outcome {
                PutOutcome::Created => assert!(bytes == there, "round {round}: a second winner"),
                PutOutcome::Exists(found) => {
                    assert!(found == there && bytes != there, "round {round}: a false loser");
                }
            }
        }
    }
}

/// As writers of a manifest do: each puts the version behind the last one that it knows, until it is its own.
async fn writers_that_race_make_one_chain(scene: Scene) {
    const WRITERS: usize = 3;
    const OWN: usize = 5;
    let bucket = scene.bucket();
    let writers = (0..WRITERS).map(|writer| {
        let bucket = bucket.clone();
        tokio::spawn(async move {
            let (mut version, mut own) = (0, Vec::new());
            while own.len() < OWN {
                version += 1;
                let key = bucket.key(&format!("manifest/{version:020}"));
                let bytes = Bytes::from(format!("{writer}: {}", own.len()));
                match put_if_absent(bucket.store.as_ref(), &key, bytes).await.unwrap() {
                    PutOutcome::Created => own.push(version),
                    PutOutcome::Exists(_) => {}
                }
            }
            own
        })
    });
    let versions: Vec<usize> = join_all(writers)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    let chain: BTreeSet<usize> = versions.iter().copied().collect();
    assert_eq!(
        chain.len(),
        versions.len(),
        "two have the same version: {versions:?}"
    );
    assert_eq!(chain, (1..=WRITERS * OWN).collect(), "a version is left out");
    assert_eq!(listed(&bucket, "manifest").await.len(), chain.len());
}

async fn ranges_are_read(scene: Scene) {
    let bucket = scene.bucket();
    let (key, bytes) = (bucket.key("file"), pattern(10_000));
    put(&bucket, &key, bytes.clone()).await;
    for range in [0..1, 0..10_000, 17..18, 5_000..9_999, 9_999..10_000] {
        let read = bucket.store.get_range(&key, range.clone()).await.unwrap();
        assert!(read == of(&bytes, &range), "{range:?}");
    }
    let beyond = bucket.store.get_range(&key, 10_000..10_001).await;
    assert!(beyond.is_err(), "{beyond:?}");
}

fn of(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    bytes.slice(range.start as usize..range.end as usize)
}

async fn ranges_that_lie_close_are_read_together(scene: Scene) {
    let metrics = StoreMetrics::default();
    let bucket = scene.bucket().counted(metrics.clone());
    let (key, bytes) = (bucket.key("file"), pattern(3 * MIB));
    put(&bucket, &key, bytes.clone()).await;
    // Not in order, one twice, one within another; the last is too far away for one request.
    let ranges = [
        50..60,
        0..100,
        1000..2000,
        50..60,
        3 * MIB as u64 - 8..3 * MIB as u64,
    ];
    let read = bucket.store.get_ranges(&key, &ranges).await.unwrap();
    assert_eq!(read.len(), ranges.len());
    for (range, read) in ranges.iter().zip(read) {
        assert!(read == of(&bytes, range), "{range:?}");
    }
    assert_eq!(metrics.requests("get"), 2);
}

/// Parts as the engine makes them: all but the last one of the least size that stores take.
pub fn parts() -> [Bytes; 3] {
    [
        pattern(5 * MIB),
        pattern(5 * MIB).slice(1..).into_iter().chain([7]).collect(),
        pattern(1000),
    ]
}

async fn an_upload_is_there_as_a_whole_once_it_is_completed(scene: Scene) {
    let bucket = scene.bucket();
    let key = bucket.key("table/file.parquet");
    let mut upload = bucket.store.put_multipart(&key).await.unwrap();
    let sent: Vec<_> = parts()
        .map(|part| upload.put_part(part.into()))
        .into_iter()
        .collect();
    futures::future::try_join_all(sent).await.unwrap();
    assert!(!is_there(&bucket, &key).await, "it is there before its end");
    assert!(listed(&bucket, "table").await.is_empty());
    upload.complete().await.unwrap();
    let whole = Bytes::from(parts().concat());
    assert_eq!(bucket.store.head(&key).await.unwrap().size, whole.len() as u64);
    assert!(read(&bucket, &key).await == whole);
    let seam = 5 * MIB as u64 - 3..5 * MIB as u64 + 3;
    assert_eq!(
        bucket.store.get_range(&key, seam.clone()).await.unwrap(),
        of(&whole, &seam)
    );
    assert_eq!(listed(&bucket, "table").await, ["table/file.parquet"]);
}

async fn an_upload_that_is_given_up_leaves_nothing(scene: Scene) {
    let bucket = scene.bucket();
    let key = bucket.key("table/file.parquet");
    let mut upload = bucket.store.put_multipart(&key).await.unwrap();
    upload.put_part(pattern(5 * MIB).into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(!is_there(&bucket, &key).await);
    assert!(listed(&bucket, "").await.is_empty());
    // Another one under the same name does not meet what is left of it.
    let mut upload = bucket.store.put_multipart(&key).await.unwrap();
    upload.put_part(Bytes::from("all").into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(read(&bucket, &key).await, "all");
}

async fn a_listing_has_what_is_below_its_prefix(scene: Scene) {
    let bucket = scene.bucket().counted(StoreMetrics::default());
    for name in ["a/1", "a/2", "a/b/3", "a/b/4", "a.txt", "ab/5", "a-/6", "b"] {
        put(&bucket, &bucket.key(name), "x").await;
    }
    assert_eq!(listed(&bucket, "a").await, ["a/1", "a/2", "a/b/3", "a/b/4"]);
    assert_eq!(listed(&bucket, "a/b").await, ["a/b/3", "a/b/4"]);
    assert!(listed(&bucket, "c").await.is_empty());
    let folder = bucket.key("a");
    let level = bucket.store.list_with_delimiter(Some(&folder)).await.unwrap();
    let objects = level.objects.iter().map(|meta| relative(&bucket, &meta.location));
    assert_eq!(sorted(objects.collect()), ["a/1", "a/2"]);
    let folders = level.common_prefixes.iter().map(|key| relative(&bucket, key));
    assert_eq!(sorted(folders.collect()), ["a/b"]);
    let behind = bucket.store.list_with_offset(Some(&folder), &bucket.key("a/2"));
    let behind: Vec<_> = behind
        .map_ok(|meta| relative(&bucket, &meta.location))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(sorted(behind), ["a/b/3", "a/b/4"]);
}

async fn a_listing_has_all_of_many(scene: Scene) {
    let bucket = scene.bucket();
    let keys = fill(&bucket, "sst", MANY).await;
    let names: Vec<String> = keys.iter().map(|key| relative(&bucket, key)).collect();
    assert_eq!(listed(&bucket, "sst").await, names);
}

/// What nothing names is deleted only when it is old.
async fn objects_know_when_they_were_written(scene: Scene) {
    let bucket = scene.bucket();
    put(&bucket, &bucket.key("sst/1"), "x").await;
    let found: Vec<_> = bucket.store.list(Some(&bucket.root)).try_collect().await.unwrap();
    let age = Utc::now() - found[0].last_modified;
    assert!(age.abs() < TimeDelta::minutes(2), "{age}");
}

async fn many_are_deleted_at_once(scene: Scene) {
    let bucket = scene.bucket();
    fill(&bucket, "table/1", MANY).await;
    fill(&bucket, "table/10", 2).await;
    // As a dropped table goes: while it is listed.
    let found = bucket
        .store
        .list(Some(&bucket.key("table/1")))
        .map_ok(|meta| meta.location)
        .boxed();
    let deleted: Vec<Path> = bucket.store.delete_stream(found).try_collect().await.unwrap();
    assert_eq!(deleted.len(), MANY);
    assert_eq!(listed(&bucket, "table").await, ["table/10/0000", "table/10/0001"]);
}

async fn deleting_passes_over_what_is_not_there(scene: Scene) {
    let bucket = scene.bucket();
    let mut keys = fill(&bucket, "sst", 3).await;
    keys.insert(1, bucket.key("sst/gone"));
    let keys = futures::stream::iter(keys).map(Ok).boxed();
    let outcomes: Vec<_> = bucket.store.delete_stream(keys).collect().await;
    assert_eq!(outcomes.len(), 4);
    for outcome in outcomes {
        // S3 does not say whether an object was there.
        assert!(
            matches!(outcome, Ok(_) | Err(Error::NotFound { .. })),
            "{outcome:?}"
        );
    }
    assert!(listed(&bucket, "sst").await.is_empty());
}

async fn a_root_is_destroyed_without_its_neighbours(scene: Scene) {
    let bucket = scene.bucket();
    let at = |folder: &str| Bucket {
        store: bucket.store.clone(),
        root: bucket.key(folder),
    };
    let (doomed, neighbour) = (at("cluster"), at("cluster-2"));
    for bucket in [&doomed, &neighbour] {
        claim(bucket, &marker("one")).await.unwrap();
        fill(bucket, "sst", 3).await;
    }
    assert_eq!(doomed.destroy().await.unwrap(), 4);
    assert!(listed(&doomed, "").await.is_empty());
    assert_eq!(listed(&neighbour, "").await.len(), 4);
    check_claimed(&neighbour, &marker("one")).await.unwrap();
    let error = check_claimed(&doomed, &marker("one")).await.unwrap_err();
    assert!(error.message.contains("emptied or exchanged"), "{error}");
    // An interrupted run is repeated, also after its last step.
    doomed.destroy().await.unwrap();
}

async fn one_of_many_clusters_claims_a_root(scene: Scene) {
    let bucket = scene.bucket();
    let clusters: Vec<_> = (0..8).map(|n| marker(&format!("cluster-{n}"))).collect();
    let claims = join_all(clusters.iter().map(|mine| claim(&bucket, mine))).await;
    let owner = read_marker(&bucket).await.unwrap().expect("somebody was first");
    for (mine, claimed) in clusters.iter().zip(claims) {
        match claimed {
            Ok(()) => assert_eq!(*mine, owner),
            Err(error) => {
                assert_ne!(*mine, owner);
                assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
            }
        }
        let later = claim(&bucket, mine).await;
        assert_eq!(later.is_ok(), *mine == owner, "{later:?}");
    }
}
