//! What becomes of requests on a network.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use greptime_object_store::{
    Bucket, Limits, PutOutcome, StoreKind, check_claimed, claim, put_if_absent, store_error,
};
use greptime_types::ErrorKind;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use crate::calm::{create, fill, listed, marker, parts, pattern, read};
use crate::proxy::{Fault, Proxy};
use crate::scene::{Case, Scene, cases};

/// Of clients that are answered too late; the others have those of the engine.
const IMPATIENT: Limits = Limits {
    connect: Duration::from_secs(2),
    request: Duration::from_secs(2),
    retry: Duration::from_secs(5),
};
const TOO_LATE: Duration = Duration::from_secs(3);

pub fn all() -> Vec<Case> {
    cases![
        a_server_that_is_busy_is_asked_again,
        a_server_that_stays_busy_is_unavailable,
        a_server_that_is_away_is_unavailable,
        a_connection_that_breaks_is_made_again,
        a_slow_answer_is_asked_for_again,
        a_read_that_breaks_off_goes_on,
        an_own_put_is_own_though_its_answer_is_lost,
        anothers_put_is_not_own_though_the_answer_is_lost,
        an_outcome_that_cannot_be_read_is_unknown_until_it_can,
        a_put_that_arrives_late_spares_what_came_first,
        a_put_that_arrives_late_is_met_by_the_next,
        an_upload_is_whole_though_the_last_answer_is_lost,
        a_root_is_claimed_though_answers_are_lost,
        a_root_is_destroyed_though_answers_are_lost,
        a_root_that_is_half_destroyed_keeps_its_marker,
        a_bucket_that_is_not_there_is_named,
        wrong_keys_are_refused,
    ]
}

/// Each way to lose the answer to a request that was executed.
fn losses() -> [Fault; 3] {
    [Fault::AnswerLost, Fault::Reset, Fault::BusyAfterwards]
}

async fn put_one(bucket: &Bucket, key: &Path, bytes: &'static str) -> PutOutcome {
    let put = put_if_absent(bucket.store.as_ref(), key, Bytes::from(bytes)).await;
    put.unwrap_or_else(|e| panic!("{key}: {e}"))
}

fn assert_created(outcome: &PutOutcome, what: &str) {
    assert!(matches!(outcome, PutOutcome::Created), "{what}: {outcome:?}");
}

async fn delete_all(bucket: &Bucket, keys: Vec<Path>) -> object_store::Result<Vec<Path>> {
    let keys = futures::stream::iter(keys).map(Ok).boxed();
    bucket.store.delete_stream(keys).try_collect().await
}

async fn a_server_that_is_busy_is_asked_again(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    let (store, key) = (&bucket.store, bucket.key("file"));
    let busy_once = || proxy.next(Fault::Busy);
    busy_once();
    store.put(&key, "x".into()).await.unwrap();
    busy_once();
    store.get(&key).await.unwrap();
    busy_once();
    store.head(&key).await.unwrap();
    busy_once();
    store.get_range(&key, 0..1).await.unwrap();
    busy_once();
    assert_eq!(listed(&bucket, "").await, ["file"]);
    busy_once();
    create(&bucket, &bucket.key("manifest"), "1").await.unwrap();
    busy_once();
    let mut upload = store.put_multipart(&key).await.unwrap();
    busy_once();
    upload.put_part("y".into()).await.unwrap();
    busy_once();
    upload.complete().await.unwrap();
    busy_once();
    assert_eq!(read(&bucket, &key).await, "y");
    busy_once();
    delete_all(&bucket, vec![key]).await.unwrap();
    assert_eq!(proxy.planned(), 0, "some were not needed");
}

async fn a_server_that_stays_busy_is_unavailable(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    proxy.set_busy(true);
    let (store, key) = (&bucket.store, bucket.key("file"));
    let (got, put, listed, deleted, probed, marker) = futures::join!(
        store.get(&key),
        store.put(&key, "x".into()),
        store.list(Some(&bucket.root)).try_collect::<Vec<_>>(),
        delete_all(&bucket, vec![key.clone()]),
        bucket.probe(),
        greptime_object_store::read_marker(&bucket),
    );
    let errors = [
        got.unwrap_err(),
        put.unwrap_err(),
        listed.unwrap_err(),
        deleted.unwrap_err(),
    ];
    for error in errors.map(|error| store_error("asking", &error)) {
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    }
    assert_eq!(probed.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(marker.unwrap_err().kind, ErrorKind::Unavailable);
    proxy.set_busy(false);
    bucket.probe().await.unwrap();
}

async fn a_server_that_is_away_is_unavailable(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    bucket.probe().await.unwrap();
    drop(proxy);
    let error = bucket.probe().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
}

async fn a_connection_that_breaks_is_made_again(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    let key = bucket.key("file");
    for fault in losses() {
        proxy.next(fault);
        bucket.store.put(&key, "x".into()).await.unwrap();
    }
    for fault in losses() {
        proxy.next(fault);
        assert_eq!(read(&bucket, &key).await, "x");
    }
    for fault in losses() {
        proxy.next(fault);
        assert_eq!(listed(&bucket, "").await, ["file"]);
    }
    assert_eq!(proxy.planned(), 0);
}

async fn a_slow_answer_is_asked_for_again(scene: Scene) {
    let (proxy, bucket) = scene.impatient(&IMPATIENT).await;
    let key = bucket.key("file");
    proxy.next(Fault::AnswerAfter(TOO_LATE));
    bucket.store.put(&key, "x".into()).await.unwrap();
    proxy.next(Fault::AnswerAfter(TOO_LATE));
    assert_eq!(read(&bucket, &key).await, "x");
    assert!(proxy.seen("PUT") > 1 && proxy.seen("GET") > 1);
    assert_eq!(proxy.planned(), 0);
}

async fn a_read_that_breaks_off_goes_on(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    let (key, bytes) = (bucket.key("file"), pattern(1 << 20));
    bucket.store.put(&key, bytes.clone().into()).await.unwrap();
    proxy.next(Fault::AnswerCut);
    assert!(read(&bucket, &key).await == bytes);
    proxy.next(Fault::AnswerCut);
    let part = bucket.store.get_range(&key, 1000..500_000).await.unwrap();
    assert!(part == bytes.slice(1000..500_000));
    assert_eq!(proxy.seen("GET"), 4);
}

async fn an_own_put_is_own_though_its_answer_is_lost(scene: Scene) {
    let (proxy, bucket) = scene.impatient(&IMPATIENT).await;
    for fault in losses().into_iter().chain([Fault::AnswerAfter(TOO_LATE)]) {
        let what = format!("{fault:?}");
        let key = bucket.key(&what);
        proxy.next_of("PUT", fault);
        assert_created(&put_one(&bucket, &key, "own").await, &what);
        assert_eq!(read(&bucket, &key).await, "own", "{what}");
    }
    assert_eq!(proxy.planned(), 0);
}

async fn anothers_put_is_not_own_though_the_answer_is_lost(scene: Scene) {
    let (proxy, bucket) = scene.impatient(&IMPATIENT).await;
    for fault in losses()
        .into_iter()
        .chain([Fault::Busy, Fault::AnswerAfter(TOO_LATE)])
    {
        let what = format!("{fault:?}");
        let key = bucket.key(&what);
        create(&scene.bucket(), &key, "another's").await.unwrap();
        proxy.next_of("PUT", fault);
        let outcome = put_one(&bucket, &key, "own").await;
        assert!(
            matches!(&outcome, PutOutcome::Exists(found) if found == "another's"),
            "{what}: {outcome:?}"
        );
        assert_eq!(read(&bucket, &key).await, "another's", "{what}");
    }
    assert_eq!(proxy.planned(), 0);
}

async fn an_outcome_that_cannot_be_read_is_unknown_until_it_can(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    let key = bucket.key("manifest");
    // The put is done, and from then on nobody is answered.
    proxy.next_of("PUT", Fault::BusyAfterwards);
    proxy.set_busy(true);
    let unknown = put_if_absent(bucket.store.as_ref(), &key, Bytes::from("own")).await;
    let error = unknown.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    proxy.set_busy(false);
    assert_created(&put_one(&bucket, &key, "own").await, "the same again");
}

async fn a_put_that_arrives_late_spares_what_came_first(scene: Scene) {
    let (proxy, bucket) = scene.impatient(&IMPATIENT).await;
    let key = bucket.key("manifest");
    let late = given_up(&proxy, &bucket, &key, "late").await;
    assert_created(
        &put_one(&scene.bucket(), &key, "first").await,
        "nothing is there yet",
    );
    let status = late.arrives().await;
    assert!([409, 412].contains(&status), "{status}");
    assert_eq!(read(&bucket, &key).await, "first");
}

async fn a_put_that_arrives_late_is_met_by_the_next(scene: Scene) {
    let (proxy, bucket) = scene.impatient(&IMPATIENT).await;
    let (own, anothers) = (bucket.key("own"), bucket.key("another's"));
    for key in [&own, &anothers] {
        let late = given_up(&proxy, &bucket, key, "late").await;
        let status = late.arrives().await;
        assert!([200, 201].contains(&status), "{status}");
    }
    assert_created(&put_one(&bucket, &own, "late").await, "the same again");
    let outcome = put_one(&scene.bucket(), &anothers, "next").await;
    assert!(
        matches!(&outcome, PutOutcome::Exists(found) if found == "late"),
        "{outcome:?}"
    );
}

/// A put that nobody waits for any more, and that has not arrived.
async fn given_up(proxy: &Proxy, bucket: &Bucket, key: &Path, bytes: &'static str) -> crate::proxy::Held {
    let held = proxy.hold_next("PUT");
    let error = put_if_absent(bucket.store.as_ref(), key, Bytes::from(bytes))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("may still arrive"), "{error}");
    held
}

/// The last request of an upload may be done though it fails: then the object is there, and it is whole.
async fn an_upload_is_whole_though_the_last_answer_is_lost(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    for fault in losses() {
        let what = format!("{fault:?}");
        let key = bucket.key(&what);
        let mut upload = bucket.store.put_multipart(&key).await.unwrap();
        for part in parts() {
            upload.put_part(part.into()).await.unwrap();
        }
        proxy.next(fault);
        if let Err(error) = upload.complete().await {
            assert!(!matches!(error, Error::AlreadyExists { .. }), "{what}: {error}");
        }
        assert!(read(&bucket, &key).await == parts().concat(), "{what}");
    }
}

async fn a_root_is_claimed_though_answers_are_lost(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    for fault in losses() {
        let what = format!("{fault:?}");
        let root = bucket.key(&what);
        let bucket = Bucket {
            store: bucket.store.clone(),
            root,
        };
        proxy.next_of("PUT", fault);
        claim(&bucket, &marker("one"))
            .await
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        check_claimed(&bucket, &marker("one")).await.unwrap();
        let error = claim(&bucket, &marker("two")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{what}: {error}");
    }
    assert_eq!(proxy.planned(), 0);
}

/// With which deletions are asked for.
fn deletion(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Gcs => "DELETE",
        _ => "POST",
    }
}

async fn a_root_is_destroyed_though_answers_are_lost(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    for fault in [Fault::AnswerLost, Fault::BusyAfterwards] {
        let what = format!("{fault:?}");
        claim(&bucket, &marker("one")).await.unwrap();
        fill(&bucket, "sst", 5).await;
        proxy.next_of(deletion(scene.kind()), fault);
        let destroyed = bucket.destroy().await;
        assert_eq!(destroyed.unwrap_or_else(|e| panic!("{what}: {e}")), 6, "{what}");
        assert!(listed(&bucket, "").await.is_empty());
    }
    assert_eq!(proxy.planned(), 0);
}

async fn a_root_that_is_half_destroyed_keeps_its_marker(scene: Scene) {
    let (proxy, bucket) = scene.behind_proxy().await;
    claim(&bucket, &marker("one")).await.unwrap();
    fill(&bucket, "sst", 5).await;
    // More often than five requests are made, at the same time and four times each.
    (0..20).for_each(|_| proxy.next_of(deletion(scene.kind()), Fault::Busy));
    let error = bucket.destroy().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    check_claimed(&bucket, &marker("one")).await.unwrap();
    scene.bucket().destroy().await.unwrap();
}

async fn a_bucket_that_is_not_there_is_named(scene: Scene) {
    let mut settings = scene.settings();
    settings.bucket = "elsewhere".into();
    let bucket = settings.open().unwrap();
    let error = claim(&bucket, &marker("one")).await.unwrap_err();
    let message = error.message.replace("ContainerNotFound", "NoSuchBucket");
    assert!(message.contains("NoSuchBucket"), "{error}");
}

async fn wrong_keys_are_refused(scene: Scene) {
    let mut settings = scene.settings();
    let other = crate::gcs::service_account("nobody@project.iam.gserviceaccount.com");
    match scene.kind() {
        StoreKind::S3 => settings.secret_access_key = Some("another secret".into()),
        StoreKind::Azure => settings.account_key = Some("YW5vdGhlciBrZXk=".into()),
        _ => settings.service_account_file = Some(other.path().to_owned()),
    }
    let error = claim(&settings.open().unwrap(), &marker("one"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied, "{error}");
}
