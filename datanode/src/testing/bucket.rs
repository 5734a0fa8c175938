//! A bucket in memory that goes away, and whose puts fail in all the ways of a network.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutFault {
    /// It answers an error and did not happen.
    Refused,
    /// It answers an error and did happen.
    AnswerLost,
}

#[derive(Debug, Default)]
struct Faults {
    away: bool,
    /// Puts to keys that contain the text; this many of them.
    puts: Option<(String, PutFault, usize)>,
    /// Puts to keys that contain the text wait; so many more of them.
    held: Option<(String, usize)>,
    /// Puts that wait.
    holding: usize,
    /// How often waiting puts were let go.
    releases: u64,
    /// So many deletes answer an error and do nothing.
    deletes: usize,
    /// After so many more changes the bucket is away, in the middle of the last one or before it.
    changes_left: Option<(u64, PutFault)>,
    /// What listings show since they lag.
    listing: Option<Vec<ObjectMeta>>,
}

#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: InMemory,
    faults: Mutex<Faults>,
    requests: AtomicU64,
}

fn broken() -> Error {
    Error::Generic {
        store: "faulty",
        source: "connection refused".into(),
    }
}

impl FaultyStore {
    pub fn set_away(&self, away: bool) {
        let mut faults = self.faults.lock();
        faults.away = away;
        faults.changes_left = None;
    }

    pub fn fail_puts(&self, containing: &str, fault: PutFault, times: usize) {
        self.faults.lock().puts = Some((containing.into(), fault, times));
    }

    /// The next puts to keys that contain the text, `times` of them, wait until `release_puts`.
    pub fn hold_puts(&self, containing: &str, times: usize) {
        self.faults.lock().held = Some((containing.into(), times));
    }

    pub fn release_puts(&self) {
        let mut faults = self.faults.lock();
        faults.held = None;
        faults.releases += 1;
    }

    /// Puts that wait now, or waited when their callers gave up.
    pub fn holding(&self) -> usize {
        self.faults.lock().holding
    }

    pub fn fail_deletes(&self, times: usize) {
        self.faults.lock().deletes = times;
    }

    /// The bucket goes away at the `nth` change from now (1 is the next): after it happened, or before.
    pub fn away_at_change(&self, nth: u64, fault: PutFault) {
        self.faults.lock().changes_left = Some((nth, fault));
    }

    /// From now on listings show what was there now, or the truth again.
    pub async fn set_listing_lags(&self, lags: bool) {
        let now: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        self.faults.lock().listing = lags.then_some(now);
    }

    async fn wait_while_held(&self, location: &Path) {
        let releases = {
            let mut faults = self.faults.lock();
            match faults.held.as_mut() {
                Some((text, left)) if *left > 0 && location.as_ref().contains(text.as_str()) => *left -= 1,
                _ => return,
            }
            faults.holding += 1;
            faults.releases
        };
        while self.faults.lock().releases == releases {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        self.faults.lock().holding -= 1;
    }

    /// The fault of a change, if this is the one with which the bucket goes away.
    fn last_change(&self) -> Option<PutFault> {
        let mut faults = self.faults.lock();
        let (left, fault) = faults.changes_left.as_mut()?;
        *left = left.saturating_sub(1);
        let last = (*left == 0).then_some(*fault);
        if last.is_some() {
            faults.changes_left = None;
            faults.away = true;
        }
        last
    }

    /// Puts of the current fault that were not asked for yet.
    pub fn faults_left(&self) -> usize {
        self.faults.lock().puts.as_ref().map_or(0, |p| p.2)
    }

    pub async fn keys(&self) -> Vec<String> {
        self.inner
            .list(None)
            .map_ok(|m| m.location.to_string())
            .try_collect()
            .await
            .unwrap()
    }

    /// Requests so far, of all kinds.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    fn check(&self) -> Result<()> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.faults.lock().away {
            Err(broken())
        } else {
            Ok(())
        }
    }

    fn put_fault(&self, location: &Path) -> Option<PutFault> {
        let mut faults = self.faults.lock();
        let (text, fault, left) = faults.puts.as_mut()?;
        if *left == 0 || !location.as_ref().contains(text.as_str()) {
            return None;
        }
        *left -= 1;
        Some(*fault)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty bucket")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check()?;
        self.wait_while_held(location).await;
        self.check()?;
        match self.put_fault(location).or_else(|| self.last_change()) {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(PutFault::Refused) => Err(broken()),
            Some(PutFault::AnswerLost) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(broken())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check()?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let refused = {
            let mut faults = self.faults.lock();
            let refused = faults.deletes > 0;
            faults.deletes = faults.deletes.saturating_sub(1);
            refused
        };
        match self.check() {
            Ok(()) if !refused && self.last_change() != Some(PutFault::Refused) => {
                self.inner.delete_stream(locations)
            }
            _ => futures::stream::iter([Err(broken())]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Some(listing) = self.faults.lock().listing.clone() {
            let prefix = prefix.cloned().unwrap_or_default();
            let below = listing
                .into_iter()
                .filter(move |m| m.location.prefix_matches(&prefix));
            return futures::stream::iter(below.map(Ok)).boxed();
        }
        match self.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check()?;
        self.inner.copy_opts(from, to, options).await
    }
}
