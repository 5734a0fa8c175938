//! Local files as an object store that has synced what it acknowledged.
//!
//! The library's local store renames without `fsync`; the log is trimmed once rows are in files, so a power cut
//! would lose them. Here a put returns after the file and its directory are on disk, and the file has its name only
//! once its bytes are there.

use std::fmt;
use std::path::{Path as FsPath, PathBuf};

use async_trait::async_trait;
use futures::stream::BoxStream;
use greptime_types::{Error, Result};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};

use crate::place::{Files, Place, place};

type StoreResult<T> = object_store::Result<T>;

#[derive(Debug)]
pub(crate) struct SyncedLocal {
    inner: LocalFileSystem,
    dir: PathBuf,
}

impl SyncedLocal {
    pub(crate) fn new(dir: &FsPath) -> Result<Self> {
        let invalid =
            |e: &dyn fmt::Display| Error::invalid(format!("object_store.dir {}: {e}", dir.display()));
        let dir = dir.canonicalize().map_err(|e| invalid(&e))?;
        let inner = LocalFileSystem::new_with_prefix(&dir).map_err(|e| invalid(&e))?;
        Ok(Self { inner, dir })
    }

    async fn sync(&self, location: &Path) -> StoreResult<()> {
        sync_up(self.inner.path_to_filesystem(location)?, self.dir.clone()).await
    }
}

async fn place_and_sync(file: PathBuf, top: PathBuf, payload: PutPayload, how: Place) -> StoreResult<()> {
    let name = file.display().to_string();
    let target = file.clone();
    let placed = tokio::task::spawn_blocking(move || place(&Files, &target, &payload, how))
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)));
    placed.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
            path: name,
            source: error.into(),
        },
        _ => object_store::Error::Generic {
            store: "local",
            source: error.into(),
        },
    })?;
    sync_up(file, top).await
}

/// Syncs a file and every directory from it up to the store's own, since any of them may be new.
async fn sync_up(file: PathBuf, top: PathBuf) -> StoreResult<()> {
    let synced = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        std::fs::File::open(&file)?.sync_all()?;
        let mut dir = file.parent();
        while let Some(path) = dir.filter(|path| path.starts_with(&top)) {
            std::fs::File::open(path)?.sync_all()?;
            dir = path.parent();
        }
        Ok(())
    });
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
        store: "local",
        source,
    };
    synced
        .await
        .map_err(|e| failed(e.into()))?
        .map_err(|e| failed(e.into()))
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
        let how = match opts.mode {
            PutMode::Create => Place::IfAbsent,
            PutMode::Overwrite => Place::Over,
            // The library says that it does not do this.
            PutMode::Update(_) => return self.inner.put_opts(location, payload, opts).await,
        };
        let file = self.inner.path_to_filesystem(location)?;
        place_and_sync(file, self.dir.clone(), payload, how).await?;
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
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let file = self.inner.path_to_filesystem(location)?;
        Ok(Box::new(SyncedUpload {
            inner,
            file,
            top: self.dir.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }
}

#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    file: PathBuf,
    top: PathBuf,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let put = self.inner.complete().await?;
        sync_up(self.file.clone(), self.top.clone()).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}
