use object_store::ObjectStoreExt;

use super::*;
use crate::sst::key_of;

#[tokio::test]
async fn the_size_of_a_file_is_known_without_asking_the_bucket() {
    let written = Written::new(metrics_rows(4, 50)).await;
    let key = key_of(written.source.bucket(), written.meta.home, &written.meta.name);
    assert_eq!(written.store.head(&key).await.unwrap().size, written.meta.bytes);
    assert_eq!((written.meta.rows, written.meta.min_sequence), (200, 9));
}
