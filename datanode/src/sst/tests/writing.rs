use std::time::Duration;

use greptime_types::ErrorKind;
use object_store::ObjectStoreExt;

use super::*;
use crate::scan::stream_of;
use crate::sst::key_of;
use crate::testing::{Fault, FaultyStore, Request};

#[tokio::test]
async fn the_size_of_a_file_is_known_without_asking_the_bucket() {
    let written = Written::new(metrics_rows(4, 50)).await;
    let key = key_of(written.source.bucket(), written.meta.home, &written.meta.name);
    assert_eq!(written.store.head(&key).await.unwrap().size, written.meta.bytes);
    assert_eq!((written.meta.rows, written.meta.min_sequence), (200, 9));
}

#[tokio::test]
async fn long_rows_make_short_row_groups() {
    let rows = metrics_rows(2, 200);
    let text = "x".repeat(400_000);
    let mut columns = rows.columns().to_vec();
    columns[5] = Arc::new(StringArray::from(vec![text.as_str(); 400]));
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let written = Written::new(rows).await;
    let file = written.open().await.unwrap();
    let groups = file
        .row_groups(&ReadRequest::new(columns_of_all()))
        .await
        .unwrap();
    // 160 MB of text in row groups of about 32 MB.
    assert!((5..=8).contains(&groups.len()), "{groups:?}");
    assert_eq!(groups.iter().map(|g| g.rows).sum::<usize>(), 400);
    assert_eq!(
        read_all(&file, ReadRequest::new(columns_of_all())).await.unwrap(),
        written.rows
    );
}

fn columns_of_all() -> SchemaRef {
    schema_of(&metrics_table())
}

#[tokio::test]
async fn a_file_that_was_just_written_is_read_from_the_cache() {
    let written = Written::new(metrics_rows(1, 1)).await;
    let table = metrics_table();
    let source = written.cold();
    let file = FileWriter {
        bucket: source.bucket(),
        region: RegionId::new(7, 0),
        epoch: 3,
        name: "3-b".into(),
        table: &table,
        key: &KeyColumns::of(&table),
        level: 0,
    };
    let rows = metrics_rows(60, 5000);
    let meta = source
        .write_file(file, stream_of(rows.clone(), 8192))
        .await
        .unwrap()
        .unwrap();
    let request = ReadRequest::new(columns_of_all());
    let file = source.open(&meta, &request.metrics).await.unwrap();
    assert_eq!(read_all(&file, request.clone()).await.unwrap(), rows);
    assert_eq!(request.metrics.counts().store_requests, 0);
}

/// Numbers that do not repeat, so that a file of some megabytes is written in parts.
fn noise(rows: usize) -> RecordBatch {
    let batch = metrics_rows(1, rows);
    let mut state = 7_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)) as i64
    };
    let mut columns = batch.columns().to_vec();
    columns[4] = Arc::new((0..rows).map(|_| Some(next())).collect::<Int64Array>());
    columns[3] = Arc::new((0..rows).map(|_| Some(next() as f64)).collect::<Float64Array>());
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

async fn write_noise(store: &Arc<FaultyStore>, rows: &RecordBatch) -> Result<Option<FileMeta>> {
    let bucket = Bucket {
        store: store.clone(),
        root: Path::from("root"),
    };
    let table = metrics_table();
    let file = FileWriter {
        bucket: &bucket,
        region: RegionId::new(7, 0),
        epoch: 3,
        name: "3-c".into(),
        table: &table,
        key: &KeyColumns::of(&table),
        level: 0,
    };
    write_file(file, stream_of(rows.clone(), 8192)).await
}

async fn no_upload_is_left(store: &FaultyStore) {
    for _ in 0..400 {
        if store.open_uploads() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("parts of {} uploads are left", store.open_uploads());
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts_and_a_failed_upload_leaves_nothing() {
    let rows = noise(700_000);
    let store = Arc::new(FaultyStore::default());
    for (request, fault) in [
        (Request::PutPart, Fault::Unavailable),
        (Request::PutPart, Fault::TimedOut),
        (Request::Complete, Fault::Unavailable),
    ] {
        store.plan(request, "3-c", fault, 1);
        let error = write_noise(&store, &rows).await.unwrap_err();
        assert_eq!(
            (error.kind, store.faults_left()),
            (ErrorKind::Unavailable, 0),
            "{error}"
        );
        no_upload_is_left(&store).await;
        assert!(store.keys().await.is_empty());
    }
    let meta = write_noise(&store, &rows).await.unwrap().unwrap();
    assert!(meta.bytes > 8 << 20, "{}", meta.bytes);
    no_upload_is_left(&store).await;
    let source = FileSource::new(
        Bucket {
            store,
            root: Path::from("root"),
        },
        in_memory(),
    );
    let file = source.open(&meta, &ReadMetrics::default()).await.unwrap();
    assert_eq!(
        read_all(&file, ReadRequest::new(columns_of_all())).await.unwrap(),
        rows
    );
}

#[tokio::test]
async fn an_upload_whose_writer_is_dropped_leaves_nothing() {
    let rows = noise(700_000);
    let store = Arc::new(FaultyStore::default());
    store.plan(Request::PutPart, "3-c", Fault::Slow(Duration::from_secs(600)), 8);
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { write_noise(&store, &rows).await.map(|_| ()) }
    });
    while store.open_uploads() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writing.abort();
    no_upload_is_left(&store).await;
    assert!(store.keys().await.is_empty());
}

#[tokio::test]
async fn bits_that_flip_on_the_way_are_read_again() {
    let store = Arc::new(FaultyStore::default());
    let rows = metrics_rows(4, 5000);
    let meta = write_noise(&store, &rows).await.unwrap().unwrap();
    let bucket = Bucket {
        store: store.clone(),
        root: Path::from("root"),
    };
    // The first request is for the footer, the second for the columns.
    for first in [0, 1] {
        let source = FileSource::new(bucket.clone(), in_memory());
        let metrics = ReadMetrics::default();
        if first == 0 {
            store.plan(Request::Get, "3-c", Fault::FlippedBit, 1);
        }
        let file = source.open(&meta, &metrics).await.unwrap();
        if first == 1 {
            store.plan(Request::Get, "3-c", Fault::FlippedBit, 1);
        }
        assert_eq!(
            read_all(&file, ReadRequest::new(columns_of_all())).await.unwrap(),
            rows
        );
        assert_eq!(store.faults_left(), 0);
    }
}
