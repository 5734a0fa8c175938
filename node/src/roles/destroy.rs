//! `greptime-node destroy`: what `deletionPolicy: Delete` runs when a cluster is deleted.

use anyhow::Context;
use greptime_metasrv::catalog::read_root;
use greptime_metasrv::store::{EtcdStore, Store};
use greptime_object_store::{Bucket, read_marker};

use crate::settings::Settings;

pub async fn run(settings: Settings) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.object_store.root.trim_matches('/').is_empty(),
        "object_store.root is empty: refusing to delete a whole bucket"
    );
    anyhow::ensure!(
        !settings.store.etcd.prefix.trim_matches('/').is_empty(),
        "store.etcd.prefix is empty: refusing to delete all of etcd"
    );
    let bucket = settings.object_store.open()?;
    destroy(&EtcdStore::new(settings.store.etcd.clone())?, &bucket).await
}

/// First the objects, then the keys: as long as keys exist, a repeated run knows that it is not done, and whose
/// the objects are. Objects that do not carry the marker of the cluster of these keys are left alone.
async fn destroy(store: &dyn Store, bucket: &Bucket) -> anyhow::Result<()> {
    let root = read_root(store).await.context("etcd")?;
    let marker = read_marker(bucket).await.context("object store")?;
    match (root.map(|(root, _)| root.cluster_id), marker) {
        (Some(mine), Some(marker)) if marker.cluster_id == mine => {
            let deleted = bucket.destroy().await.context("object store")?;
            tracing::info!(objects = deleted, root = %bucket.root, "the bucket's prefix is deleted");
        }
        (mine, Some(marker)) => tracing::warn!(
            root = %bucket.root,
            belongs_to = marker.cluster_id,
            this = mine.as_deref().unwrap_or("unknown"),
            "the bucket's prefix is left alone: it belongs to another cluster"
        ),
        (_, None) => {
            tracing::info!(root = %bucket.root, "the bucket's prefix carries no marker: nothing there is ours")
        }
    }
    store.destroy().await.context("etcd")?;
    tracing::info!("the keys in etcd are deleted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use greptime_metasrv::catalog::{Birth, Catalog};
    use greptime_metasrv::store::MemoryStore;
    use greptime_object_store::{ClusterMarker, ObjectStoreConfig, StoreKind, claim};

    use super::*;

    async fn led(cluster: &str) -> MemoryStore {
        let store = MemoryStore::default();
        let birth = Birth {
            cluster_id: cluster.into(),
            name: cluster.into(),
            now_ms: 0,
        };
        Catalog::take_over(&store, birth).await.unwrap();
        store
    }

    async fn claimed(cluster: &str) -> Bucket {
        let config = ObjectStoreConfig {
            kind: StoreKind::Memory,
            ..ObjectStoreConfig::default()
        };
        let bucket = config.open().unwrap();
        let marker = ClusterMarker {
            format: 1,
            cluster_id: cluster.into(),
            name: cluster.into(),
            created_ms: 0,
        };
        claim(&bucket, &marker).await.unwrap();
        bucket
    }

    #[tokio::test]
    async fn what_is_ours_goes_and_a_second_run_changes_nothing() {
        let (store, bucket) = (led("mine").await, claimed("mine").await);
        for _ in 0..2 {
            destroy(&store, &bucket).await.unwrap();
            assert_eq!(read_marker(&bucket).await.unwrap(), None);
            assert!(store.list("").await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn the_data_of_another_cluster_stays() {
        let (store, bucket) = (led("mine").await, claimed("other").await);
        destroy(&store, &bucket).await.unwrap();
        assert!(read_marker(&bucket).await.unwrap().is_some());
        assert!(store.list("").await.unwrap().is_empty());
        // Without keys nobody knows whose it is.
        destroy(&store, &bucket).await.unwrap();
        assert!(read_marker(&bucket).await.unwrap().is_some());
    }
}
