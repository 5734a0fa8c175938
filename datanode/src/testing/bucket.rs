//! A bucket in memory that goes away, and whose puts fail in all the ways of a network.

use std::fmt;

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
}

#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: InMemory,
    faults: Mutex<Faults>,
}

fn broken() -> Error {
    Error::Generic {
        store: "faulty",
        source: "connection refused".into(),
    }
}

impl FaultyStore {
    pub fn set_away(&self, away: bool) {
        self.faults.lock().away = away;
    }

    pub fn fail_puts(&self, containing: &str, fault: PutFault, times: usize) {
        self.faults.lock().puts = Some((containing.into(), fault, times));
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

    fn check(&self) -> Result<()> {
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
        match self.put_fault(location) {
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
        match self.check() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
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
