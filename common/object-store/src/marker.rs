//! `{root}/cluster.json`: whose data lies here.

use bytes::Bytes;
use greptime_types::{ClusterId, Error, Result, format};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use serde::{Deserialize, Serialize};

use crate::defences::Defence;
use crate::{Bucket, PutOutcome, put_if_absent, store_error};

pub const MARKER_KEY: &str = "cluster.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMarker {
    pub format: u32,
    pub cluster_id: ClusterId,
    /// Name of the cluster when it was made; for people.
    pub name: String,
    pub created_ms: i64,
}

/// The marker of the bucket's root, if there is one.
///
/// Errors: `Corruption` if what lies there is no marker; `Unavailable` if the store cannot be reached.
pub async fn read_marker(bucket: &Bucket) -> Result<Option<ClusterMarker>> {
    let key = bucket.key(MARKER_KEY);
    let away = |error: object_store::Error| store_error("reading cluster.json", &error);
    match bucket.store.get(&key).await {
        Ok(found) => parse(&key, &found.bytes().await.map_err(away)?).map(Some),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(away(error)),
    }
}

fn parse(key: &Path, bytes: &[u8]) -> Result<ClusterMarker> {
    let marker: ClusterMarker = serde_json::from_slice(bytes)
        .map_err(|e| Error::corruption(format!("{key} is not the marker of a cluster: {e}")))?;
    format::check("cluster.json", marker.format)?;
    Ok(marker)
}

fn encode(marker: &ClusterMarker) -> Bytes {
    Bytes::from(serde_json::to_vec_pretty(marker).expect("a marker is always JSON"))
}

/// Claims the bucket's root for `mine`, or checks that it is ours already.
///
/// Errors: `Conflict` with the foreign id if the root belongs to another cluster; `InvalidArgument` if the store replaces
/// what it was told to create; `Unavailable` if it cannot be reached.
pub async fn claim(bucket: &Bucket, mine: &ClusterMarker) -> Result<()> {
    let marker = match read_marker(bucket).await? {
        Some(marker) => marker,
        None => {
            let key = bucket.key(MARKER_KEY);
            match put_if_absent(bucket.store.as_ref(), &key, encode(mine)).await? {
                PutOutcome::Created => mine.clone(),
                PutOutcome::Exists(found) => parse(&key, &found)?,
            }
        }
    };
    compare(bucket, &marker, mine)?;
    check_put_if_absent(bucket, &marker).await
}

/// A server that does not know the header of a put-if-absent ignores it: of two writers of one version of a manifest both
/// would be told that it is theirs. `marker` is there, so that creating it must fail; the bytes are its own, so that
/// nothing is lost if it does not.
async fn check_put_if_absent(bucket: &Bucket, marker: &ClusterMarker) -> Result<()> {
    let key = bucket.key(MARKER_KEY);
    let create = PutOptions {
        mode: PutMode::Create,
        ..Default::default()
    };
    match bucket.store.put_opts(&key, encode(marker).into(), create).await {
        Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(store_error("creating cluster.json a second time", &error)),
        Ok(_) => Err(Error::invalid(format!(
            "the store created {key} though it is there: it does not know put-if-absent (If-None-Match: *, of Google \
             x-goog-if-generation-match: 0), without which two writers would replace each other's manifests; use a \
             server, or a version of it, that does"
        ))),
    }
}

/// Checks a root that was claimed before: the marker must be there still, and be ours.
///
/// Errors: `Conflict` if it has gone or is another's, which means that the bucket was emptied or exchanged.
pub async fn check_claimed(bucket: &Bucket, mine: &ClusterMarker) -> Result<()> {
    match read_marker(bucket).await? {
        Some(marker) => compare(bucket, &marker, mine),
        None if !Defence::LostMarkIsNotPutAgain.holds() => claim(bucket, mine).await,
        None => Err(Error::conflict(format!(
            "cluster.json has gone from the bucket's root `{}`, which carried the mark of cluster {} (`{}`): the \
             bucket was emptied or exchanged; give this cluster its bucket back",
            bucket.root, mine.cluster_id, mine.name
        ))),
    }
}

fn compare(bucket: &Bucket, marker: &ClusterMarker, mine: &ClusterMarker) -> Result<()> {
    if marker.cluster_id == mine.cluster_id || !Defence::OthersBucketIsRefused.holds() {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "the bucket's root `{}` belongs to cluster {} (`{}`), this is cluster {} (`{}`); choose another root, \
         or start with the store of that cluster",
        bucket.root, marker.cluster_id, marker.name, mine.cluster_id, mine.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectStoreConfig;

    fn bucket() -> Bucket {
        let config = ObjectStoreConfig {
            kind: crate::StoreKind::Memory,
            ..Default::default()
        };
        config.open().unwrap()
    }

    fn marker(id: &str) -> ClusterMarker {
        ClusterMarker {
            format: 1,
            cluster_id: id.into(),
            name: id.into(),
            created_ms: 0,
        }
    }

    #[tokio::test]
    async fn a_bucket_of_another_cluster_is_refused_by_name() {
        let bucket = bucket();
        claim(&bucket, &marker("one")).await.unwrap();
        claim(&bucket, &marker("one")).await.unwrap();
        let error = claim(&bucket, &marker("two")).await.unwrap_err();
        assert!(error.message.contains("belongs to cluster one"), "{error}");
    }

    #[tokio::test]
    async fn a_claimed_bucket_that_lost_its_marker_is_not_claimed_again() {
        let bucket = bucket();
        claim(&bucket, &marker("one")).await.unwrap();
        check_claimed(&bucket, &marker("one")).await.unwrap();
        let error = check_claimed(&bucket, &marker("two")).await.unwrap_err();
        assert!(error.message.contains("belongs to cluster one"), "{error}");
        bucket.destroy().await.unwrap();
        let error = check_claimed(&bucket, &marker("one")).await.unwrap_err();
        assert!(error.message.contains("emptied or exchanged"), "{error}");
        assert_eq!(read_marker(&bucket).await.unwrap(), None);
    }
}
