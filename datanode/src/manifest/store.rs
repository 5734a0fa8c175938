//! Reads the chain, and adds to it.

use std::time::Duration;

use futures::StreamExt;
use greptime_object_store::{Bucket, store_error};
use greptime_rules::{AfterPut, after_put, put_if_absent};
use greptime_types::{Error, RegionId, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::{Edit, View};

/// Between looks at a version whose put answered an error.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Edits that are read at the same time.
const READS: usize = 8;

/// What became of an edit.
#[derive(Clone, Debug, PartialEq)]
pub enum Commit {
    /// It is there; the view includes it.
    Adopted(View),
    /// Another edit has its version. The pending one is void: make a new one from this view.
    Lost(View),
}

/// The manifest of one region.
#[derive(Clone, Debug)]
pub struct ManifestStore {
    bucket: Bucket,
    region: RegionId,
}

impl ManifestStore {
    pub fn new(bucket: Bucket, region: RegionId) -> Self {
        Self { bucket, region }
    }

    pub fn key(&self, version: u64) -> Path {
        let RegionPath(prefix) = RegionPath::of(self.region);
        self.bucket.key(&format!("{prefix}/manifest/{version:020}"))
    }

    /// The edit at `version`; `None` if nothing was put there.
    pub async fn read(&self, version: u64) -> Result<Option<Edit>> {
        let key = self.key(version);
        let found = match self.bucket.store.get(&key).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(store_error(&format!("reading {key}"), &error)),
        };
        let bytes = found
            .bytes()
            .await
            .map_err(|e| store_error(&format!("reading {key}"), &e))?;
        let edit = Edit::decode(&bytes, key.as_ref())?;
        if edit.version != version {
            return Err(Error::corruption(format!(
                "{key} is the edit of version {}",
                edit.version
            )));
        }
        Ok(Some(edit))
    }

    /// The newest view. `known` is a version that exists, or 0.
    pub async fn load(&self, known: u64) -> Result<View> {
        let newest = self.newest(known).await?;
        if newest == 0 {
            return Ok(View::default());
        }
        let missing =
            |v: u64| Error::corruption(format!("{} is missing, though later ones exist", self.key(v)));
        let base = Edit::base_of(newest);
        let edit = self.read(base).await?.ok_or_else(|| missing(base))?;
        let mut view = View::before(&edit)?.apply(&edit)?;
        let mut edits = futures::stream::iter(base + 1..=newest)
            .map(|version| async move { (version, self.read(version).await) })
            .buffered(READS);
        while let Some((version, edit)) = edits.next().await {
            view = view.apply(&edit?.ok_or_else(|| missing(version))?)?;
        }
        self.advance(view).await
    }

    /// `view` with every edit that followed it.
    pub async fn advance(&self, mut view: View) -> Result<View> {
        while let Some(edit) = self.read(view.version + 1).await? {
            view = view.apply(&edit)?;
        }
        Ok(view)
    }

    /// A version that exists and was the newest at some moment of this call. Versions are never removed, so
    /// the first absent one ends the search: first in growing strides, then by halves.
    async fn newest(&self, known: u64) -> Result<u64> {
        let (mut there, mut stride) = (known, 1);
        let mut absent = loop {
            if !self.exists(there + stride).await? {
                break there + stride;
            }
            there += stride;
            stride *= 2;
        };
        while absent - there > 1 {
            let middle = there + (absent - there) / 2;
            if self.exists(middle).await? {
                there = middle;
            } else {
                absent = middle;
            }
        }
        Ok(there)
    }

    async fn exists(&self, version: u64) -> Result<bool> {
        let key = self.key(version);
        match self.bucket.store.head(&key).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(store_error(&format!("looking for {key}"), &error)),
        }
    }

    /// Puts an edit that was made from `view`, and returns when its outcome is known, however long the bucket
    /// is away. An error is not an outcome: it says that another's edit could not be understood.
    pub async fn commit(&self, view: &View, edit: &Edit) -> Result<Commit> {
        let (key, bytes) = (self.key(edit.version), edit.encode()?);
        let mut retry = FIRST_RETRY;
        loop {
            let options = PutOptions {
                mode: match put_if_absent() {
                    true => PutMode::Create,
                    false => PutMode::Overwrite,
                },
                ..Default::default()
            };
            let put = self
                .bucket
                .store
                .put_opts(&key, bytes.clone().into(), options)
                .await;
            let reason = match self.read(edit.version).await {
                Ok(found) => match after_put(view, edit, put.is_ok(), found.as_ref())? {
                    AfterPut::Adopt(next) => return Ok(Commit::Adopted(next)),
                    AfterPut::Renew(next) => return self.newest_after(next).await.map(Commit::Lost),
                    AfterPut::Again => put
                        .err()
                        .map_or("it is not there after a put".to_owned(), |e| e.to_string()),
                },
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error.message,
            };
            tracing::warn!(region = %self.region, version = edit.version, reason,
                "the outcome of a manifest edit is unknown; trying the same edit again");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// As [`Self::advance`], however long the bucket is away.
    async fn newest_after(&self, view: View) -> Result<View> {
        let mut retry = FIRST_RETRY;
        loop {
            match self.advance(view.clone()).await {
                Ok(newest) => return Ok(newest),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(region = %self.region, reason = error.message, "loading the manifest failed");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }
}

/// `{table id}/{region number}`, under which everything of a region lies.
pub struct RegionPath(pub String);

impl RegionPath {
    pub fn of(region: RegionId) -> Self {
        Self(format!("{}/{}", region.table(), region.number()))
    }
}
