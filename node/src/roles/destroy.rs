//! `greptime-node destroy`: what `deletionPolicy: Delete` runs when a cluster is deleted.

use anyhow::Context;
use greptime_metasrv::store::{EtcdStore, Store};

use crate::settings::Settings;

/// First the objects, then the keys: as long as keys exist, a repeated run knows that it is not done.
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
    let deleted = bucket.destroy().await.context("object store")?;
    tracing::info!(objects = deleted, root = %bucket.root, "the bucket's prefix is deleted");
    let store = EtcdStore::new(settings.store.etcd.clone())?;
    store.destroy().await.context("etcd")?;
    tracing::info!(
        prefix = settings.store.etcd.prefix,
        "the keys in etcd are deleted"
    );
    Ok(())
}
