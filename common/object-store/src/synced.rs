//! Local files as an object store that has synced what it acknowledged.
//!
//! The library's local store renames without `fsync`; the log is trimmed once rows are in files, so a power cut
//! would lose them. Here a put returns after the file and its directory are on disk, and the file has its name only
//! once its bytes are there.

use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use greptime_types::{Error, Result};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};

use crate::defences::Defence;
use crate::place::{Failure, Files, Place, place, sync_with_dirs};

type StoreResult<T> = object_store::Result<T>;

#[derive(Debug)]
pub(crate) struct SyncedLocal {
    inner: LocalFileSystem,
    dir: PathBuf,
    trust: Trust,
}

impl SyncedLocal {
    pub(crate) fn new(dir: &FsPath) -> Result<Self> {
        let invalid =
            |e: &dyn fmt::Display| Error::invalid(format!("object_store.dir {}: {e}", dir.display()));
        let dir = dir.canonicalize().map_err(|e| invalid(&e))?;
        let inner = LocalFileSystem::new_with_prefix(&dir).map_err(|e| invalid(&e))?;
        let trust = Trust::default();
        Ok(Self { inner, dir, trust })
    }

    async fn place(&self, file: PathBuf, payload: PutPayload, how: Place) -> StoreResult<()> {
        let (path, top, trust) = (file.clone(), self.dir.clone(), self.trust.clone());
        let placed = blocking(move || {
            let placed = place(&Files, &path, &top, &payload, how);
            placed.map_err(|failure| trust.failed(&path, failure))
        });
        placed.await?.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
                path: file.display().to_string(),
                source: error.into(),
            },
            _ => failed(error),
        })?;
        // Another put may have met a failure in a directory of this one.
        self.trust.check()
    }
}

/// Whether a sync has failed after which nobody knows what is on disk. Trying again does not tell: what could not be
/// written counts as written then. From that on nothing is answered, so that nobody builds on it. A new process believes
/// the kernel again, so the disk should be mounted anew before.
#[derive(Clone, Debug, Default)]
struct Trust(Arc<OnceLock<String>>);

impl Trust {
    fn check(&self) -> StoreResult<()> {
        match self.0.get() {
            Some(why) if Defence::FailedSyncEndsTheStore.holds() => Err(failed(why.clone())),
            _ => Ok(()),
        }
    }

    /// Known before anybody else can ask, though nobody may wait for the answer.
    fn failed(&self, file: &FsPath, failure: Failure) -> std::io::Error {
        if failure.is_lost {
            let (file, error) = (file.display(), &failure.error);
            let why = format!(
                "{file} could not be synced ({error}), so nobody knows what is on this disk: look at it, mount it anew, and \
                 start the process again"
            );
            tracing::error!("{why}");
            self.0.get_or_init(|| why);
        }
        failure.error
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic {
        store: "local",
        source: source.into(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// For a file that has its name already; nobody refers to it before the answer.
async fn sync_up(file: PathBuf, top: PathBuf, trust: Trust) -> StoreResult<()> {
    let lost = trust.clone();
    let synced = blocking(move || {
        let synced = sync_with_dirs(&Files, &file, &top);
        synced.map_err(|failure| lost.failed(&file, failure))
    });
    synced.await?.map_err(failed)?;
    trust.check()
}

impl fmt::Display for SyncedLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "files in {}", self.dir.display())
    }
}

#[async_trait]
impl ObjectStore for SyncedLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> StoreResult<PutResult> {
        self.trust.check()?;
        let how = match opts.mode {
            PutMode::Create => Place::IfAbsent,
            PutMode::Overwrite => Place::Over,
            // The library says that it does not do this.
            PutMode::Update(_) => return self.inner.put_opts(location, payload, opts).await,
        };
        self.place(self.inner.path_to_filesystem(location)?, payload, how)
            .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.trust.check()?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let file = self.inner.path_to_filesystem(location)?;
        Ok(Box::new(SyncedUpload {
            inner,
            file,
            top: self.dir.clone(),
            trust: self.trust.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.trust.check()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        match self.trust.check() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        match self.trust.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.trust.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.trust.check()?;
        self.inner.copy_opts(from, to, options).await?;
        let file = self.inner.path_to_filesystem(to)?;
        sync_up(file, self.dir.clone(), self.trust.clone()).await
    }
}

#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    file: PathBuf,
    top: PathBuf,
    trust: Trust,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        self.trust.check()?;
        let put = self.inner.complete().await?;
        sync_up(self.file.clone(), self.top.clone(), self.trust.clone()).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = SyncedLocal::new(dir.path()).unwrap();
        let (key, other) = (Path::from("a/1"), Path::from("a/2"));
        store.put(&key, "here".into()).await.unwrap();
        let failure = Failure {
            error: std::io::Error::other("no medium"),
            is_lost: true,
        };
        store.trust.failed(&dir.path().join("a/2"), failure);
        let first = |error: Option<StoreResult<()>>| error.unwrap().unwrap_err();
        let listed = store.list(None).map(|found| found.map(drop)).boxed().next().await;
        let deleted = store
            .delete_stream(stream::iter([Ok(key.clone())]).boxed())
            .map(|gone| gone.map(drop))
            .boxed()
            .next()
            .await;
        for error in [
            store.get(&key).await.unwrap_err(),
            store.put(&other, "there".into()).await.unwrap_err(),
            store.put_multipart(&other).await.unwrap_err(),
            store.copy(&key, &other).await.unwrap_err(),
            store.list_with_delimiter(None).await.unwrap_err(),
            first(listed),
            first(deleted),
        ] {
            let told = error.to_string();
            assert!(told.contains("a/2 could not be synced (no medium)"), "{told}");
        }
        assert_eq!(std::fs::read(dir.path().join("a/1")).unwrap(), b"here");
    }
}
