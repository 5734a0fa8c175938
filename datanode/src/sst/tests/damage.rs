//! Bits that flip: found, named, and never fewer rows.

use bytes::Bytes;
use datafusion::logical_expr::{col, lit};
use greptime_types::ErrorKind;
use object_store::ObjectStoreExt;

use super::reading::compiled;
use super::*;
use crate::cache::RangeKey;
use crate::sst::key_of;

async fn object(written: &Written) -> (Path, Vec<u8>) {
    let key = key_of(written.source.bucket(), written.meta.home, &written.meta.name);
    let bytes = written.store.get(&key).await.unwrap().bytes().await.unwrap();
    (key, bytes.to_vec())
}

async fn read_everything(source: &FileSource, meta: &FileMeta) -> Result<RecordBatch> {
    let file = source.open(meta, &ReadMetrics::default()).await?;
    read_all(&file, ReadRequest::new(schema_of(&metrics_table()))).await
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_file_is_corruption_or_harmless() {
    let written = Written::new(metrics_rows(4, 50)).await;
    let (key, bytes) = object(&written).await;
    let mut found = 0;
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        written.store.put(&key, damaged.into()).await.unwrap();
        match read_everything(&written.cold(), &written.meta).await {
            Ok(rows) => assert_eq!(rows, written.rows, "byte {at}"),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Corruption, "byte {at}: {error}");
                assert!(error.message.contains("3-a"), "byte {at}: {error}");
                found += 1;
            }
        }
    }
    // Only the magic number at the start means nothing.
    assert!(found >= bytes.len() / 7 - 1, "{found} of {}", bytes.len() / 7);
}

#[tokio::test]
async fn damage_is_named_by_file_row_group_and_column() {
    let written = Written::new(metrics_rows(60, 5000)).await;
    let (key, mut bytes) = object(&written).await;
    let file = written.open().await.unwrap();
    let column = file
        .footer
        .columns
        .iter()
        .position(|c| c.field.name() == "count")
        .unwrap();
    let (start, length) = file.footer.metadata().row_group(2).column(column).byte_range();
    bytes[(start + length / 2) as usize] ^= 1;
    written.store.put(&key, bytes.into()).await.unwrap();
    let error = read_everything(&written.cold(), &written.meta).await.unwrap_err();
    for part in ["3-a.parquet", "row group 2", "column `count`"] {
        assert!(error.message.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_copy_in_the_cache_is_fetched_again() {
    let written = Written::new(metrics_rows(4, 5000)).await;
    let source = written.cold();
    assert_eq!(
        read_everything(&source, &written.meta).await.unwrap(),
        written.rows
    );
    let file = source.open(&written.meta, &ReadMetrics::default()).await.unwrap();
    // Decoded columns would hide what happens to bytes.
    let caches = Caches {
        decoded: in_memory().decoded,
        ..source.caches().clone()
    };
    for segment in file.footer.layout.segments() {
        let length = (segment.range.end - segment.range.start) as usize;
        let key = RangeKey::new(&file.name, segment.range.start);
        caches.ranges.insert(key, Bytes::from(vec![0xAA; length]));
    }
    caches
        .ranges
        .insert(RangeKey::tail(&file.name), Bytes::from_static(b"nonsense PAR1"));
    caches.footers.remove(&file.name);
    let source = FileSource::new(written.source.bucket().clone(), caches);
    assert_eq!(
        read_everything(&source, &written.meta).await.unwrap(),
        written.rows
    );
}

#[tokio::test]
async fn a_damaged_bloom_filter_is_corruption_and_hides_no_row() {
    let written = Written::new(metrics_rows(1000, 20)).await;
    let (key, mut bytes) = object(&written).await;
    let file = written.open().await.unwrap();
    let chunks = file
        .footer
        .metadata()
        .row_groups()
        .iter()
        .flat_map(|g| g.columns());
    let places = chunks.filter_map(|c| Some((c.bloom_filter_offset()?, c.bloom_filter_length()?)));
    let mut filters = 0;
    for (offset, length) in places {
        // Behind the header: no value seems to be there.
        bytes[offset as usize + 32..offset as usize + length as usize].fill(0);
        filters += 1;
    }
    assert!(filters > 0);
    written.store.put(&key, bytes.into()).await.unwrap();
    let schema = columns(&["rack", "ts"]);
    let predicate = compiled(&col("rack").eq(lit("rack-07919")), &schema);
    let file = written
        .cold()
        .open(&written.meta, &ReadMetrics::default())
        .await
        .unwrap();
    let request = ReadRequest::new(schema).with_predicate(Some(predicate));
    let error = read_all(&file, request).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corruption, "{error}");
}
