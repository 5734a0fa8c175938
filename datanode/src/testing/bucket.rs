//! A bucket in memory that goes away, and whose requests fail in all the ways of a network.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use greptime_log::testing::Power;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutFault {
    /// It answers an error and did not happen.
    Refused,
    /// It answers an error and did happen.
    AnswerLost,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Put,
    PutPart,
    Complete,
    Get,
    Delete,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503; it did not happen.
    Unavailable,
    /// No answer within the client's time; it did not happen.
    TimedOut,
    /// It did happen, and the answer is an error.
    AnswerLost,
    /// It takes so long.
    Slow(Duration),
    /// One bit of what is read is another.
    FlippedBit,
}

#[derive(Debug)]
struct Planned {
    request: Request,
    /// Of keys that contain the text.
    containing: String,
    fault: Fault,
    /// So many are let through first.
    before: usize,
    left: usize,
}

impl Planned {
    /// Whether a request meets the fault.
    fn meets(&mut self, request: Request, location: &Path) -> bool {
        let is_meant =
            self.request == request && self.left > 0 && location.as_ref().contains(&self.containing);
        if is_meant && self.before > 0 {
            self.before -= 1;
            return false;
        }
        if is_meant {
            self.left -= 1;
        }
        is_meant
    }
}

#[derive(Debug, Default)]
struct Faults {
    away: bool,
    planned: Vec<Planned>,
    /// Puts to keys that contain the text wait; so many more of them.
    held: Option<(String, usize)>,
    /// Puts that wait.
    holding: usize,
    /// How often waiting puts were let go.
    releases: u64,
    /// After so many more changes the bucket is away, in the middle of the last one or before it.
    changes_left: Option<(u64, PutFault)>,
    /// Of the machine that asks; without it no request is made. Which of the two happens to the change with which it goes.
    power: Option<(Arc<Power>, PutFault)>,
    /// What listings show since they lag.
    listing: Option<Vec<ObjectMeta>>,
    /// Uploads in parts that were begun and neither completed nor given up.
    open_uploads: usize,
    requests: u64,
    /// Gets under way, and the most that were at once.
    reading: usize,
    most_reading: usize,
}

/// A get under way.
struct Reading<'a>(&'a Mutex<Faults>);

impl<'a> Reading<'a> {
    fn begin(faults: &'a Mutex<Faults>) -> Self {
        let mut counts = faults.lock();
        counts.reading += 1;
        counts.most_reading = counts.most_reading.max(counts.reading);
        drop(counts);
        Self(faults)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.lock().reading -= 1;
    }
}

#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: Arc<InMemory>,
    faults: Arc<Mutex<Faults>>,
}

fn broken() -> Error {
    failure("connection refused")
}

fn failure(what: &'static str) -> Error {
    Error::Generic {
        store: "faulty",
        source: what.into(),
    }
}

impl FaultyStore {
    /// Whether the bucket is away. When it is back, no change is planned to be its last.
    pub fn set_away(&self, away: bool) {
        let mut faults = self.faults.lock();
        faults.away = away;
        if !away {
            faults.changes_left = None;
        }
    }

    pub fn fail_puts(&self, containing: &str, fault: PutFault, times: usize) {
        let fault = match fault {
            PutFault::Refused => Fault::Unavailable,
            PutFault::AnswerLost => Fault::AnswerLost,
        };
        self.faults.lock().planned.retain(|p| p.request != Request::Put);
        self.plan(Request::Put, containing, fault, times);
    }

    /// The next `times` such requests to keys that contain the text meet the fault.
    pub fn plan(&self, request: Request, containing: &str, fault: Fault, times: usize) {
        self.plan_after(0, request, containing, fault, times);
    }

    /// As [`Self::plan`], once `before` such requests are through.
    pub fn plan_after(&self, before: usize, request: Request, containing: &str, fault: Fault, times: usize) {
        self.faults.lock().planned.push(Planned {
            request,
            containing: containing.into(),
            fault,
            before,
            left: times,
        });
    }

    /// Nothing is planned any more.
    pub fn forget_faults(&self) {
        self.faults.lock().planned.clear();
    }

    /// Planned faults that no request has met yet.
    pub fn faults_left(&self) -> usize {
        self.faults.lock().planned.iter().map(|p| p.left).sum()
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
        self.plan(Request::Delete, "", Fault::Unavailable, times);
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

    /// From now on who asks is a machine with this power.
    pub fn set_power(&self, power: &Arc<Power>, last: PutFault) {
        self.faults.lock().power = Some((Arc::clone(power), last));
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
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.faults.lock().holding -= 1;
    }

    /// The fault of a change, if this is the one with which the bucket goes away.
    fn last_change(&self) -> Option<PutFault> {
        let mut faults = self.faults.lock();
        if let Some((power, fault)) = &faults.power
            && !power.takes()
        {
            return Some(*fault);
        }
        let (left, fault) = faults.changes_left.as_mut()?;
        *left = left.saturating_sub(1);
        let last = (*left == 0).then_some(*fault);
        if last.is_some() {
            faults.changes_left = None;
            faults.away = true;
        }
        last
    }

    /// Uploads in parts of which something is left.
    pub fn open_uploads(&self) -> usize {
        self.faults.lock().open_uploads
    }

    /// Requests so far, of any kind.
    pub fn requests(&self) -> u64 {
        self.faults.lock().requests
    }

    /// The most gets that were under way at once since this was asked last.
    pub fn most_reading(&self) -> usize {
        let mut faults = self.faults.lock();
        let reading = faults.reading;
        std::mem::replace(&mut faults.most_reading, reading)
    }

    /// Flips a bit of an object for good.
    pub async fn flip(&self, key: &Path, bit: usize) {
        let bytes = self.inner.get(key).await.unwrap().bytes().await.unwrap();
        let mut bytes = bytes.to_vec();
        let at = bit / 8 % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        self.inner.put(key, bytes.into()).await.unwrap();
    }

    pub async fn keys(&self) -> Vec<String> {
        self.inner
            .list(None)
            .map_ok(|m| m.location.to_string())
            .try_collect()
            .await
            .unwrap()
    }

    fn check(&self) -> Result<()> {
        let mut faults = self.faults.lock();
        faults.requests += 1;
        let is_off = faults.power.as_ref().is_some_and(|(power, _)| !power.is_on());
        if faults.away || is_off {
            Err(broken())
        } else {
            Ok(())
        }
    }
}

/// Lets a request happen as it was planned for it.
async fn with_faults<T>(
    faults: &Mutex<Faults>,
    request: Request,
    location: &Path,
    happen: impl Future<Output = Result<T>>,
) -> Result<(T, bool)> {
    let fault = {
        let mut faults = faults.lock();
        let mut planned = faults.planned.iter_mut();
        planned.find_map(|p| p.meets(request, location).then_some(p.fault))
    };
    match fault {
        None => Ok((happen.await?, false)),
        Some(Fault::Unavailable) => Err(broken()),
        Some(Fault::TimedOut) => Err(failure("operation timed out")),
        Some(Fault::AnswerLost) => {
            happen.await?;
            Err(broken())
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            Ok((happen.await?, false))
        }
        Some(Fault::FlippedBit) => Ok((happen.await?, true)),
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
        let last = self.last_change();
        if last == Some(PutFault::Refused) {
            return Err(broken());
        }
        let put = self.inner.put_opts(location, payload, opts);
        let (put, _) = with_faults(&self.faults, Request::Put, location, put).await?;
        match last {
            None => Ok(put),
            Some(_) => Err(broken()),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check()?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        self.faults.lock().open_uploads += 1;
        Ok(Box::new(FaultyUpload {
            inner,
            location: location.clone(),
            faults: Arc::clone(&self.faults),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check()?;
        let _reading = Reading::begin(&self.faults);
        let get = self.inner.get_opts(location, options);
        let (mut got, flipped) = with_faults(&self.faults, Request::Get, location, get).await?;
        if flipped {
            let flip = |bytes: bytes::Bytes| {
                let mut bytes = bytes.to_vec();
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 1;
                }
                bytes::Bytes::from(bytes)
            };
            got.payload = match got.payload {
                GetResultPayload::Stream(stream) => GetResultPayload::Stream(stream.map_ok(flip).boxed()),
                other => other,
            };
        }
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if let Err(error) = self.check() {
            return futures::stream::iter([Err(error)]).boxed();
        }
        if self.last_change() == Some(PutFault::Refused) {
            return futures::stream::iter([Err(broken())]).boxed();
        }
        let (faults, inner) = (Arc::clone(&self.faults), Arc::clone(&self.inner));
        let deleted = locations.then(move |location| {
            let (faults, inner) = (Arc::clone(&faults), Arc::clone(&inner));
            async move {
                let location = location?;
                let delete = inner.delete(&location);
                with_faults(&faults, Request::Delete, &location, delete).await?;
                Ok(location)
            }
        });
        deleted.boxed()
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

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    location: Path,
    faults: Arc<Mutex<Faults>>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.inner.put_part(data);
        let (faults, location) = (Arc::clone(&self.faults), self.location.clone());
        Box::pin(async move {
            with_faults(&faults, Request::PutPart, &location, part).await?;
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (faults, open) = (Arc::clone(&self.faults), Arc::clone(&self.faults));
        let inner = &mut self.inner;
        let complete = async move {
            let put = inner.complete().await?;
            open.lock().open_uploads -= 1;
            Ok(put)
        };
        let (put, _) = with_faults(&faults, Request::Complete, &self.location, complete).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await?;
        let mut faults = self.faults.lock();
        faults.open_uploads = faults.open_uploads.saturating_sub(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bucket_fails_as_it_is_told() {
        let store = FaultyStore::default();
        let (a, b) = (Path::from("a"), Path::from("b"));
        store.put(&a, vec![0; 8].into()).await.unwrap();
        store.set_listing_lags(true).await;
        store.put(&b, vec![0; 8].into()).await.unwrap();
        let listed = async || -> Vec<String> {
            let all = store.list(None).map_ok(|m| m.location.to_string());
            all.try_collect().await.unwrap()
        };
        assert_eq!(listed().await, ["a"]);
        store.set_listing_lags(false).await;
        assert_eq!(listed().await, ["a", "b"]);
        store.flip(&a, 3).await;
        assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap()[0], 8);
        store.plan(Request::Delete, "a", Fault::AnswerLost, 1);
        store.delete(&a).await.unwrap_err();
        assert_eq!(store.keys().await, ["b"]);
        store.plan_after(1, Request::Get, "b", Fault::TimedOut, 1);
        store.get(&b).await.unwrap();
        store.get(&b).await.unwrap_err();
        store.get(&b).await.unwrap();
        assert_eq!(store.faults_left(), 0);
        assert!(store.requests() > 0);
    }
}
