//! A store that counts what is asked of it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use greptime_telemetry::Metrics;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::Bucket;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    pub operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Direction {
    /// `read` or `write`.
    pub direction: &'static str,
}

/// What was asked of the object store. Retries inside of the store's client count as one request.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    requests: Family<Operation, Counter>,
    errors: Family<Operation, Counter>,
    bytes: Family<Direction, Counter>,
    refused_bytes: Counter,
}

impl StoreMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        metrics.register(
            "greptime_object_store_requests",
            "Requests to the object store",
            all.requests.clone(),
        );
        metrics.register(
            "greptime_object_store_errors",
            "Requests to the object store that failed; an object that is not there is no failure",
            all.errors.clone(),
        );
        metrics.register(
            "greptime_object_store_bytes",
            "Bytes that requests to the object store carried",
            all.bytes.clone(),
        );
        metrics.register(
            "greptime_object_store_refused_bytes",
            "Bytes written of objects that were refused, since there was one of their name",
            all.refused_bytes.clone(),
        );
        all
    }

    /// Requests of one operation so far.
    pub fn requests(&self, operation: &'static str) -> u64 {
        self.requests.get_or_create(&Operation { operation }).get()
    }

    /// Failed requests of one operation so far.
    pub fn errors(&self, operation: &'static str) -> u64 {
        self.errors.get_or_create(&Operation { operation }).get()
    }

    /// Bytes so far; the direction is `read` or `write`.
    pub fn bytes(&self, direction: &'static str) -> u64 {
        self.bytes.get_or_create(&Direction { direction }).get()
    }

    /// Bytes so far of objects that were put and refused, since there was one of their name; `bytes` has them too.
    pub fn refused_bytes(&self) -> u64 {
        self.refused_bytes.get()
    }

    fn count<T>(&self, operation: &'static str, outcome: &Result<T>) {
        self.requests.get_or_create(&Operation { operation }).inc();
        use object_store::Error::{AlreadyExists, NotFound, NotModified, Precondition};
        let answered = |e: &object_store::Error| {
            matches!(
                e,
                NotFound { .. } | AlreadyExists { .. } | Precondition { .. } | NotModified { .. }
            )
        };
        if outcome.as_ref().is_err_and(|e| !answered(e)) {
            self.errors.get_or_create(&Operation { operation }).inc();
        }
    }

    fn carried(&self, direction: &'static str, bytes: u64) {
        self.bytes.get_or_create(&Direction { direction }).inc_by(bytes);
    }
}

impl Bucket {
    /// The same bucket, whose requests are counted.
    #[must_use]
    pub fn counted(self, metrics: StoreMetrics) -> Self {
        let inner = self.store;
        Self {
            store: Arc::new(Counted { inner, metrics }),
            root: self.root,
        }
    }
}

#[derive(Debug)]
struct Counted {
    inner: Arc<dyn ObjectStore>,
    metrics: StoreMetrics,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let put = self.inner.put_opts(location, payload, opts).await;
        self.metrics.count("put", &put);
        self.metrics.carried("write", bytes);
        if matches!(put, Err(object_store::Error::AlreadyExists { .. })) {
            self.metrics.refused_bytes.inc_by(bytes);
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let started = self.inner.put_multipart_opts(location, opts).await;
        self.metrics.count("create_multipart", &started);
        let metrics = self.metrics.clone();
        started.map(|inner| Box::new(CountedUpload { inner, metrics }) as Box<dyn MultipartUpload>)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { "head" } else { "get" };
        let is_head = options.head;
        let got = self.inner.get_opts(location, options).await;
        self.metrics.count(operation, &got);
        let mut got = got?;
        if !is_head {
            got.payload = counted_payload(got.payload, &got.range, self.metrics.clone());
        }
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let metrics = self.metrics.clone();
        let deleted = self.inner.delete_stream(locations);
        deleted
            .inspect(move |outcome| metrics.count("delete", outcome))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.metrics.count::<()>("list", &Ok(()));
        let metrics = self.metrics.clone();
        let failed = move |outcome: &Result<ObjectMeta>| {
            if outcome.is_err() {
                metrics.count("list", outcome);
            }
        };
        self.inner.list(prefix).inspect(failed).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.inner.list_with_delimiter(prefix).await;
        self.metrics.count("list", &listed);
        listed
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.inner.copy_opts(from, to, options).await;
        self.metrics.count("copy", &copied);
        copied
    }
}

/// Counts bytes as they arrive. A file is read later by whoever has it, so its range is what counts.
fn counted_payload(
    payload: GetResultPayload,
    range: &std::ops::Range<u64>,
    metrics: StoreMetrics,
) -> GetResultPayload {
    match payload {
        GetResultPayload::Stream(stream) => {
            let arrived = move |part: &Result<bytes::Bytes>| match part {
                Ok(bytes) => metrics.carried("read", bytes.len() as u64),
                Err(_) => {
                    metrics
                        .errors
                        .get_or_create(&Operation { operation: "get" })
                        .inc();
                }
            };
            GetResultPayload::Stream(stream.inspect(arrived).boxed())
        }
        file => {
            metrics.carried("read", range.end - range.start);
            file
        }
    }
}

#[derive(Debug)]
struct CountedUpload {
    inner: Box<dyn MultipartUpload>,
    metrics: StoreMetrics,
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let bytes = data.content_length() as u64;
        let part = self.inner.put_part(data);
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let put = part.await;
            metrics.count("put_part", &put);
            metrics.carried("write", bytes);
            put
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.inner.complete().await;
        self.metrics.count("complete_multipart", &completed);
        completed
    }

    async fn abort(&mut self) -> Result<()> {
        let aborted = self.inner.abort().await;
        self.metrics.count("abort_multipart", &aborted);
        aborted
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;
    use crate::{Bucket, ObjectStoreConfig, StoreKind};

    fn in_memory() -> (Bucket, StoreMetrics) {
        let metrics = StoreMetrics::default();
        let config = ObjectStoreConfig {
            kind: StoreKind::Memory,
            ..Default::default()
        };
        (config.open().unwrap().counted(metrics.clone()), metrics)
    }

    #[tokio::test]
    async fn requests_bytes_and_errors_are_counted_by_operation() {
        let (bucket, metrics) = in_memory();
        let key = bucket.key("a");
        bucket.store.put(&key, vec![0; 1000].into()).await.unwrap();
        bucket.store.get_range(&key, 0..10).await.unwrap();
        bucket.store.head(&key).await.unwrap();
        bucket.store.get(&bucket.key("b")).await.unwrap_err();
        let mut upload = bucket.store.put_multipart(&key).await.unwrap();
        upload.put_part(vec![0; 500].into()).await.unwrap();
        upload.complete().await.unwrap();
        bucket.store.delete(&key).await.unwrap();
        let counts = [
            "put",
            "get",
            "head",
            "create_multipart",
            "put_part",
            "complete_multipart",
            "delete",
        ];
        assert_eq!(counts.map(|o| metrics.requests(o)), [1, 2, 1, 1, 1, 1, 1]);
        assert_eq!((metrics.bytes("write"), metrics.bytes("read")), (1500, 10));
        // That an object is not there is an answer.
        assert_eq!(metrics.errors("get"), 0);
    }

    #[tokio::test]
    async fn bytes_of_an_object_that_is_there_already_are_counted_as_refused() {
        let (bucket, metrics) = in_memory();
        let key = bucket.key("a");
        for (mode, is_put, written, refused) in [
            (PutMode::Create, true, 100, 0),
            (PutMode::Create, false, 200, 100),
            (PutMode::Overwrite, true, 300, 100),
        ] {
            let put = bucket.store.put_opts(&key, vec![0; 100].into(), mode.into());
            assert_eq!(put.await.is_ok(), is_put);
            let counted = (metrics.bytes("write"), metrics.refused_bytes());
            assert_eq!(counted, (written, refused));
        }
        assert_eq!(metrics.errors("put"), 0, "it is an answer");
    }
}
