//! The bucket: opening it, put-if-absent with an honest outcome, and the marker that says whose it is.

mod config;
mod counted;
mod defences;
mod marker;
mod place;
mod put;
mod synced;

pub use config::{Limits, ObjectStoreConfig, StoreKind};
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
    ///
    /// One that is not there when it is to be deleted counts too: an earlier try deleted it, whose answer was lost.
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
        let mut outcomes = self.store.delete_stream(others);
        let mut deleted = 0;
        while let Some(outcome) = outcomes.next().await {
            gone(outcome).map_err(failed)?;
            deleted += 1;
        }
        gone(self.store.delete(&marker).await).map_err(failed)?;
        Ok(deleted + 1)
    }

    /// Whether the store answers: one cheap request.
    pub async fn probe(&self) -> Result<()> {
        match self.store.head(&self.key(MARKER_KEY)).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error("reading cluster.json", &error)),
        }
    }
}

/// What was to be deleted is not there any more.
fn gone<T>(deleted: object_store::Result<T>) -> object_store::Result<()> {
    match deleted {
        Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
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
    Error::new(kind, without_signature(&format!("{doing}: {error}")))
}

/// The library names the URL of a batch of deletions, and in it the signature that opens an Azure container.
fn without_signature(message: &str) -> String {
    let (mut told, mut rest) = (String::new(), message);
    while let Some((before, after)) = rest.split_once("sig=") {
        let end = after.find(['&', ' ']).unwrap_or(after.len());
        told.extend([before, "sig=…"]);
        rest = &after[end..];
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_left_out_of_a_message() {
        let told = without_signature("POST http://host/c?comp=batch&sig=a%2Fb%3D&sv=1 failed; sig=");
        assert_eq!(told, "POST http://host/c?comp=batch&sig=…&sv=1 failed; sig=…");
        assert_eq!(without_signature("nothing to hide"), "nothing to hide");
    }
}
