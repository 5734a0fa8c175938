//! The bucket: opening it, put-if-absent with an honest outcome, and the marker that says whose it is.

mod config;
mod counted;
mod marker;
mod place;
mod put;
mod synced;

pub use config::{ObjectStoreConfig, StoreKind};
pub use counted::StoreMetrics;
pub use marker::{ClusterMarker, MARKER_KEY, check_claimed, claim, read_marker};
pub use put::{PutOutcome, put_if_absent};

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use greptime_types::{Error, ErrorKind, Result};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

/// An object store and the prefix below which everything of this cluster lies.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub store: Arc<dyn ObjectStore>,
    pub root: Path,
}

impl Bucket {
    /// The key of `relative` below the root.
    pub fn key(&self, relative: &str) -> Path {
        Path::from_iter(self.root.parts().chain(Path::from(relative).parts()))
    }

    /// Deletes everything below the root, the marker last, so that an interrupted run can be repeated; returns how
    /// many objects were deleted. Whoever calls it has read the marker and knows whose the root is.
    pub async fn destroy(&self) -> Result<usize> {
        let marker = self.key(MARKER_KEY);
        let failed = |error: object_store::Error| store_error("deleting the bucket's prefix", &error);
        let kept = marker.clone();
        let others = self
            .store
            .list(Some(&self.root))
            .map_ok(|meta| meta.location)
            .try_filter(move |location| std::future::ready(*location != kept))
            .boxed();
        let deleted = self
            .store
            .delete_stream(others)
            .try_fold(0, async |n, _| Ok(n + 1))
            .await
            .map_err(failed)?;
        match self.store.delete(&marker).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(deleted + 1),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether the store answers: one cheap request.
    pub async fn probe(&self) -> Result<()> {
        match self.store.head(&self.key(MARKER_KEY)).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error("reading cluster.json", &error)),
        }
    }
}

/// An object store's error as ours.
pub fn store_error(doing: &str, error: &object_store::Error) -> Error {
    let kind = match error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ErrorKind::PermissionDenied
        }
        object_store::Error::InvalidPath { .. } | object_store::Error::NotSupported { .. } => {
            ErrorKind::InvalidArgument
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{doing}: {error}"))
}
