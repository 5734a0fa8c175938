use std::sync::Arc;

use greptime_object_store::Bucket;
use greptime_types::{ErrorKind, RegionId};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::*;
use crate::testing::{FaultyStore, PutFault, table};

const HOME: RegionId = RegionId::new(1024, 0);

fn store() -> (Arc<FaultyStore>, ManifestStore) {
    let faulty = Arc::new(FaultyStore::default());
    let bucket = Bucket {
        store: Arc::clone(&faulty) as _,
        root: Path::from("root"),
    };
    (faulty, ManifestStore::new(bucket, HOME))
}

fn file(name: &str) -> FileMeta {
    FileMeta {
        name: name.into(),
        home: HOME,
        rows: 1,
        bytes: 1,
        min_sequence: 1,
        max_sequence: 1,
        min_time: 0,
        max_time: 0,
        schema_version: 1,
        deletes: 0,
        level: 0,
    }
}

fn edit(view: &View, id: &str) -> Edit {
    let mut edit = view.edit(2, id.into(), table(1024, false), Default::default());
    edit.add.push(file(id));
    edit.flushed_seq = edit.version * 10;
    edit
}

async fn chain(manifest: &ManifestStore, length: u64) -> View {
    let mut view = View::default();
    for version in 1..=length {
        let mut next = edit(&view, &format!("file-{version}"));
        if version == 40 {
            next.remove.push("file-7".into());
        }
        match manifest.commit(&view, &next).await.unwrap() {
            Commit::Adopted(adopted) => view = adopted,
            Commit::Lost(other) => panic!("lost to {other:?}"),
        }
    }
    view
}

#[tokio::test]
async fn any_length_of_the_chain_is_found_from_any_hint() {
    let (_, manifest) = store();
    for length in [0, 1, 2, 31, 32, 33, 34, 70] {
        let (_, fresh) = store();
        let written = chain(&fresh, length).await;
        for hint in [0, 1, length / 2, length.saturating_sub(1), length] {
            if hint <= length {
                assert_eq!(
                    fresh.load(hint).await.unwrap(),
                    written,
                    "length {length}, hint {hint}"
                );
            }
        }
    }
    assert_eq!(manifest.load(0).await.unwrap(), View::default());
}

#[tokio::test]
async fn a_removed_file_stays_removed() {
    let (_, manifest) = store();
    chain(&manifest, 70).await;
    let view = manifest.load(0).await.unwrap();
    assert_eq!(view.files.len(), 69);
    assert!(!view.files.contains_key("file-7"));
    assert_eq!(view.flushed_seq, 700);
}

#[tokio::test]
async fn of_two_writers_one_is_adopted_and_the_other_learns_it() {
    let (_, manifest) = store();
    let view = chain(&manifest, 3).await;
    let (one, two) = (edit(&view, "one"), edit(&view, "two"));
    let (first, second) = tokio::join!(manifest.commit(&view, &one), manifest.commit(&view, &two));
    let outcomes = [first.unwrap(), second.unwrap()];
    assert!(
        matches!(&outcomes[0], Commit::Adopted(v) if v.files.contains_key("one")),
        "{outcomes:?}"
    );
    assert!(
        matches!(&outcomes[1], Commit::Lost(v) if v.files.contains_key("one")),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn an_edit_whose_answer_was_lost_is_adopted_and_put_once() {
    for fault in [PutFault::AnswerLost, PutFault::Refused] {
        let (faulty, manifest) = store();
        let view = chain(&manifest, 1).await;
        faulty.fail_puts("manifest", fault, 1);
        let outcome = manifest.commit(&view, &edit(&view, "mine")).await.unwrap();
        assert!(matches!(outcome, Commit::Adopted(v) if v.version == 2));
        assert_eq!(manifest.load(0).await.unwrap().version, 2);
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_and_names_both_versions() {
    let (faulty, manifest) = store();
    let mut newer = edit(&View::default(), "newer");
    newer.format = 99;
    faulty
        .put(&manifest.key(1), newer.encode().unwrap().into())
        .await
        .unwrap();
    let error = manifest.load(0).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("99"), "{error}");
}

#[tokio::test]
async fn every_flipped_bit_of_an_edit_is_found_and_the_version_is_named() {
    let (faulty, manifest) = store();
    chain(&manifest, 2).await;
    let key = manifest.key(2);
    let bytes = faulty.get(&key).await.unwrap().bytes().await.unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = Edit::decode(&flipped, key.as_ref()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corruption, "bit {bit}");
        assert!(error.message.contains(key.as_ref()), "{error}");
    }
    for length in 0..bytes.len() {
        let error = Edit::decode(&bytes[..length], key.as_ref()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corruption, "{length} bytes of it");
    }
    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 4;
    faulty.put(&key, flipped.into()).await.unwrap();
    let error = manifest.load(0).await.unwrap_err();
    assert!(
        error.message.contains(key.as_ref()) && error.message.contains("damaged"),
        "{error}"
    );
}

#[tokio::test]
async fn an_edit_from_before_checksums_is_read() {
    let (_, manifest) = store();
    let edit = edit(&View::default(), "old");
    let json = serde_json::to_vec(&edit).unwrap();
    assert_eq!(Edit::decode(&json, manifest.key(1).as_ref()).unwrap(), edit);
}

#[tokio::test]
async fn a_removed_file_is_remembered_until_an_edit_says_that_it_is_deleted() {
    let (_, manifest) = store();
    let mut view = chain(&manifest, 63).await;
    assert_eq!(view.removed.keys().collect::<Vec<_>>(), ["file-7"]);
    for version in 64..=66 {
        let mut next = edit(&view, &format!("file-{version}"));
        if version == 66 {
            next.deleted.push("file-7".into());
        }
        let Commit::Adopted(adopted) = manifest.commit(&view, &next).await.unwrap() else {
            panic!("nobody else writes");
        };
        view = adopted;
        assert_eq!(manifest.load(0).await.unwrap(), view);
        assert_eq!(
            view.removed.contains_key("file-7"),
            version < 66,
            "version {version}"
        );
    }
}

#[tokio::test]
async fn the_newest_of_ten_thousand_versions_is_found_with_few_requests() {
    let (faulty, manifest) = store();
    // The chain is long; only what a load looks at has to be real.
    let mut view = View::default();
    for version in 1..=10_000 {
        let next = edit(&view, &format!("file-{version}"));
        view = View {
            files: Default::default(),
            ..view.apply(&next).unwrap()
        };
        faulty
            .put(&manifest.key(version), next.encode().unwrap().into())
            .await
            .unwrap();
    }
    for (hint, most) in [(0, 80), (9_990, 48), (10_000, 40)] {
        let before = faulty.requests();
        assert_eq!(manifest.load(hint).await.unwrap().version, 10_000);
        let requests = faulty.requests() - before;
        assert!(requests <= most, "{requests} requests from version {hint}");
    }
}
