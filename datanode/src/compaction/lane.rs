//! The way to the bucket of compactions: counted, slowed down to a rate, and travelled by the threads of requests,
//! so that connections to the bucket, which all share, are never driven by the slow threads that merge.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use greptime_clock::SharedClock;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::defences::Defence;

/// What may be moved at once before anybody waits.
const BURST: Duration = Duration::from_millis(250);

/// Bytes for each second, for all compactions together.
#[derive(Debug)]
pub struct Throttle {
    /// 0: no limit.
    bytes_per_second: u64,
    /// When everything that was let through would be done at this rate.
    done: Mutex<Duration>,
}

impl Throttle {
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            done: Mutex::new(Duration::ZERO),
        }
    }

    /// How long to wait, at `now`, before `bytes` are moved.
    pub fn wait(&self, now: Duration, bytes: u64) -> Duration {
        if self.bytes_per_second == 0 || !Defence::MergesKeepTheirRate.holds() {
            return Duration::ZERO;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut done = self.done.lock();
        let wait = done.saturating_sub(now + BURST);
        *done = (*done).max(now) + takes;
        wait
    }
}

/// What moved.
#[derive(Clone, Debug, Default)]
pub struct LaneCounters {
    pub bytes_read: Counter,
    pub bytes_written: Counter,
}

/// See the module.
#[derive(Clone)]
pub struct Lane {
    store: Arc<dyn ObjectStore>,
    requests: Handle,
    throttle: Arc<Throttle>,
    clock: SharedClock,
    counters: LaneCounters,
}

impl Lane {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        requests: Handle,
        throttle: Throttle,
        clock: SharedClock,
        counters: LaneCounters,
    ) -> Self {
        Self {
            store,
            requests,
            throttle: Arc::new(throttle),
            clock,
            counters,
        }
    }

    async fn slow_down(&self, bytes: u64) {
        let wait = self.throttle.wait(self.clock.now(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    async fn elsewhere<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        on(&self.requests, work).await
    }
}

/// Dropping the caller stops the work.
async fn on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn_on(work, runtime);
    match tasks.join_next().await {
        Some(ended) => ended.unwrap_or_else(|e| Err(failed(e.into()))),
        None => Err(failed("a request has no end".into())),
    }
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic {
        store: "compaction",
        source,
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({})", self.store)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for compactions", self.store)
    }
}

#[async_trait]
impl ObjectStore for Lane {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        self.slow_down(bytes).await;
        self.counters.bytes_written.inc_by(bytes);
        let (store, location) = (Arc::clone(&self.store), location.clone());
        self.elsewhere(async move { store.put_opts(&location, payload, opts).await })
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (store, location) = (Arc::clone(&self.store), location.clone());
        let begun = self.elsewhere(async move { store.put_multipart_opts(&location, opts).await });
        Ok(Box::new(Upload {
            inner: Arc::new(tokio::sync::Mutex::new(begun.await?)),
            lane: self.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, location, head) = (Arc::clone(&self.store), location.clone(), options.head);
        let got = self.elsewhere(async move { store.get_opts(&location, options).await });
        let got = got.await?;
        if !head {
            let bytes = got.range.end - got.range.start;
            self.counters.bytes_read.inc_by(bytes);
            self.slow_down(bytes).await;
        }
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Upload {
    /// Shared with the thread of requests that has it in its hands: one at a time.
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    lane: Lane,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let lane = self.lane.clone();
        let bytes = data.content_length() as u64;
        // Nobody has it before the last part was asked for, unless that was given up a moment ago.
        let part = match self.inner.try_lock() {
            Ok(mut inner) => inner.put_part(data),
            Err(busy) => return Box::pin(async move { Err(failed(busy.into())) }),
        };
        Box::pin(async move {
            lane.slow_down(bytes).await;
            lane.counters.bytes_written.inc_by(bytes);
            on(&lane.requests, part).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let inner = Arc::clone(&self.inner);
        self.lane
            .elsewhere(async move { inner.lock().await.complete().await })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.lane
            .elsewhere(async move { inner.lock().await.abort().await })
            .await
    }
}

#[cfg(test)]
mod tests;
