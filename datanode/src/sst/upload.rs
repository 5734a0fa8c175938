//! Bytes of one object on their way to the bucket: in one request if they are few, in parts otherwise.
//!
//! An upload that was not finished leaves nothing: its parts are given up when it fails or is dropped.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use greptime_object_store::store_error;
use greptime_types::Result;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::defences::Defence;

/// Of one part; stores ask for 5 MiB at least, and for parts of equal size.
const PART_BYTES: usize = 8 << 20;
/// Parts under way.
const PARTS: usize = 2;

pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    key: Path,
    buffer: BytesMut,
    /// Once there was more than one part.
    parts: Option<Box<dyn MultipartUpload>>,
    sending: JoinSet<object_store::Result<()>>,
    bytes: u64,
}

impl Upload {
    pub fn new(store: Arc<dyn ObjectStore>, key: Path) -> Self {
        Self {
            store,
            key,
            buffer: BytesMut::new(),
            parts: None,
            sending: JoinSet::new(),
            bytes: 0,
        }
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more bytes; waits while too many are under way.
    pub async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() > PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.send(part).await?;
        }
        Ok(())
    }

    /// The object is there when this returns without an error; otherwise it may be.
    pub async fn finish(mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        if self.parts.is_none() {
            let put = self.store.put(&self.key, rest.into()).await;
            put.map_err(|e| self.failed(&e))?;
            return Ok(());
        }
        self.send(rest).await?;
        while !self.sending.is_empty() {
            self.one_sent().await?;
        }
        if let Some(parts) = &mut self.parts {
            let completed = parts.complete().await;
            completed.map_err(|e| self.failed(&e))?;
            // Nothing is left to give up.
            self.parts = None;
        }
        Ok(())
    }

    async fn send(&mut self, part: Bytes) -> Result<()> {
        if self.parts.is_none() {
            let started = self.store.put_multipart(&self.key).await;
            self.parts = Some(started.map_err(|e| self.failed(&e))?);
        }
        while self.sending.len() >= PARTS {
            self.one_sent().await?;
        }
        if let Some(parts) = &mut self.parts {
            self.sending.spawn(parts.put_part(PutPayload::from(part)));
        }
        Ok(())
    }

    async fn one_sent(&mut self) -> Result<()> {
        match self.sending.join_next().await {
            Some(Ok(sent)) => sent.map_err(|e| self.failed(&e)),
            Some(Err(panicked)) => Err(greptime_types::Error::internal(panicked.to_string())),
            None => Ok(()),
        }
    }

    fn failed(&self, error: &object_store::Error) -> greptime_types::Error {
        store_error(&format!("writing {}", self.key), error)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let parts = self.parts.take();
        let Some(mut parts) = parts.filter(|_| Defence::AbandonedUploadIsGivenUp.holds()) else {
            return;
        };
        let mut sending = std::mem::take(&mut self.sending);
        let key = self.key.clone();
        // Without a runtime the process is ending; the bucket's own rule for old parts takes them.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            sending.shutdown().await;
            if let Err(error) = parts.abort().await {
                tracing::warn!(file = %key, %error, "the parts of an abandoned upload could not be removed");
            }
        });
    }
}
