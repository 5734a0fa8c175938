//! That bytes pass at the rate, whoever asks for them, and that threads that merge never drive a request.

use std::ops::Range;

use bytes::Bytes;
use greptime_clock::SystemClock;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, WriteMultipart};
use tokio::time::Instant;

use super::*;
use crate::compaction::Workers;

#[test]
fn bytes_pass_at_the_rate_after_a_burst() {
    let throttle = Throttle::new(1000);
    let at = |ms| Duration::from_millis(ms);
    assert_eq!(throttle.wait(at(0), 500), at(0));
    assert_eq!(
        throttle.wait(at(0), 1000),
        at(250),
        "half a second is taken, a quarter is a burst"
    );
    assert_eq!(throttle.wait(at(0), 1), at(1250));
    assert_eq!(
        throttle.wait(at(5000), 1),
        at(0),
        "nobody waits for what was not used"
    );
    assert_eq!(Throttle::new(0).wait(at(0), u64::MAX), at(0));
}

/// A store that notes when a request reaches it, how large it is, and on which thread.
#[derive(Debug, Default)]
struct Noted {
    inner: InMemory,
    moved: Mutex<Vec<(Instant, u64)>>,
    threads: Arc<Mutex<Vec<(&'static str, String)>>>,
}

fn note(threads: &Mutex<Vec<(&'static str, String)>>, request: &'static str) {
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    threads.lock().push((request, thread));
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that notes")
    }
}

#[async_trait]
impl ObjectStore for Noted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        note(&self.threads, "put");
        let bytes = payload.content_length() as u64;
        self.moved.lock().push((Instant::now(), bytes));
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        note(&self.threads, "begin");
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let threads = Arc::clone(&self.threads);
        Ok(Box::new(NotedUpload { inner, threads }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        note(&self.threads, "get");
        let got = self.inner.get_opts(location, options).await?;
        let bytes = got.range.end - got.range.start;
        self.moved.lock().push((Instant::now(), bytes));
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct NotedUpload {
    inner: Box<dyn MultipartUpload>,
    threads: Arc<Mutex<Vec<(&'static str, String)>>>,
}

#[async_trait]
impl MultipartUpload for NotedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, threads) = (self.inner.put_part(data), Arc::clone(&self.threads));
        Box::pin(async move {
            note(&threads, "part");
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        note(&self.threads, "complete");
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        note(&self.threads, "abort");
        self.inner.abort().await
    }
}

const RATE: u64 = 16 << 20;
const OBJECT: u64 = 4 << 20;
/// Merges at the same time.
const MERGES: usize = 4;

/// A merge as the lane sees it: parts of some object are read, and objects of the same size written.
async fn merge(lane: Lane, number: usize, part: u64) {
    for start in (0..OBJECT).step_by(part as usize) {
        let range: Range<u64> = start..(start + part).min(OBJECT);
        let read = lane.get_range(&Path::from("in"), range).await.unwrap();
        let out = Path::from(format!("out-{number}-{start}"));
        lane.put(&out, read.into()).await.unwrap();
    }
}

/// The most bytes that moved within a second.
fn most_in_a_second(moved: &[(Instant, u64)]) -> u64 {
    let within = |start: Instant| {
        let end = start + Duration::from_secs(1);
        let inside = moved.iter().filter(move |(at, _)| (start..end).contains(at));
        inside.map(|(_, bytes)| bytes).sum::<u64>()
    };
    moved.iter().map(|(at, _)| within(*at)).max().unwrap_or(0)
}

#[tokio::test]
async fn merges_together_move_no_more_bytes_in_a_second_than_the_rate() {
    // Pages, column chunks, and half a second's worth at once.
    for part in [16 << 10, 300 << 10, 2 << 20] {
        let store = Arc::new(Noted::default());
        let object = Bytes::from(vec![1; OBJECT as usize]);
        store.put(&Path::from("in"), object.into()).await.unwrap();
        store.moved.lock().clear();
        let counters = LaneCounters::default();
        let started = Instant::now();
        let lane = Lane::new(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            Handle::current(),
            Throttle::new(RATE),
            SystemClock::shared(),
            counters.clone(),
        );
        let merges = (0..MERGES).map(|number| merge(lane.clone(), number, part));
        futures::future::join_all(merges).await;
        let all = 2 * OBJECT * MERGES as u64;
        assert_eq!(counters.bytes_read.get() + counters.bytes_written.get(), all);
        let moved = store.moved.lock().clone();
        assert_eq!(moved.iter().map(|(_, bytes)| bytes).sum::<u64>(), all);
        // A request is not cut: each merge has one, which counts when it is let through.
        let (burst, requests) = (RATE / 4, part * MERGES as u64);
        let most = most_in_a_second(&moved);
        // Those who were let through may all be late by as much as the machine is busy.
        assert!(most <= RATE + 2 * burst + requests, "{most} bytes in a second");
        // Over all of it that does not matter.
        let (took, right) = (started.elapsed().as_secs_f64(), all as f64 / RATE as f64);
        let spread = (burst + requests) as f64 / RATE as f64;
        assert!(took >= right - spread, "{took} s for {right} s of bytes");
        assert!(took <= right + spread + 2.0, "{took} s for {right} s of bytes");
    }
}

#[tokio::test]
async fn a_merge_that_is_given_up_while_it_waits_lets_the_others_pass() {
    let (store, counters) = (Arc::new(Noted::default()), LaneCounters::default());
    let lane = Lane::new(
        store,
        Handle::current(),
        Throttle::new(RATE),
        SystemClock::shared(),
        counters,
    );
    let out = Path::from("out");
    let put = |bytes: u64| lane.put_opts(&out, vec![0; bytes as usize].into(), PutOptions::default());
    put(RATE).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(10), put(RATE));
    waiting.await.unwrap_err();
    let started = Instant::now();
    put(1).await.unwrap();
    // What it had taken passes with the time, and nothing else does.
    let took = started.elapsed().as_secs_f64();
    assert!((1.5..=4.0).contains(&took), "{took}");
}

#[test]
fn threads_that_merge_drive_no_request() {
    let requests = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("requests")
        .build()
        .unwrap();
    let workers = Workers::start(1).unwrap();
    let store = Arc::new(Noted::default());
    let lane = Lane::new(
        Arc::clone(&store) as Arc<dyn ObjectStore>,
        requests.handle().clone(),
        Throttle::new(0),
        SystemClock::shared(),
        LaneCounters::default(),
    );
    let merge = workers.handle().spawn(async move {
        let (small, large, given_up) = (Path::from("small"), Path::from("large"), Path::from("given up"));
        lane.put(&small, "1".into()).await.unwrap();
        lane.get(&small).await.unwrap().bytes().await.unwrap();
        let upload = lane.put_multipart(&large).await.unwrap();
        let mut write = WriteMultipart::new_with_chunk_size(upload, 10);
        write.write(&[1; 25]);
        write.finish().await.unwrap();
        let mut upload = lane.put_multipart(&given_up).await.unwrap();
        upload.put_part("1".into()).await.unwrap();
        upload.abort().await.unwrap();
    });
    requests.block_on(merge).unwrap();
    let threads = store.threads.lock();
    let done: Vec<_> = threads.iter().map(|(request, _)| *request).collect();
    let all = [
        "put", "get", "begin", "part", "part", "part", "complete", "begin", "part", "abort",
    ];
    assert_eq!(done, all);
    assert!(
        threads.iter().all(|(_, thread)| thread == "requests"),
        "{threads:?}"
    );
}
