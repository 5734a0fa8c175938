//! Opening files, and their bytes: from the caches, or from object storage, and checked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use greptime_object_store::{Bucket, store_error};
use greptime_types::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::time::Instant;

use super::ahead::{Ahead, Room};
use super::footer::{Footer, Tail};
use super::layout::Segment;
use super::{ReadMetrics, key_of};
use crate::cache::{Caches, RangeKey};
use crate::defences::Defence;
use crate::manifest::FileMeta;

/// The end of a file that is read first; usually it has all indexes.
const TAIL_BYTES: u64 = 64 << 10;
/// Parts that lie closer together are read with one request.
const GAP_BYTES: u64 = 128 << 10;
/// Parts that are looked for in the caches side by side: one that is on disk keeps the others from nothing.
const LOOKS_AT_ONCE: usize = 16;

/// Where files are read from; cheap to clone.
#[derive(Clone, Debug)]
pub struct FileSource {
    bucket: Bucket,
    caches: Caches,
    room: Room,
}

/// An open file; cheap to clone.
#[derive(Clone, Debug)]
pub struct SstFile {
    pub(super) footer: Arc<Footer>,
    pub(super) name: Arc<str>,
    key: Path,
    source: FileSource,
    pub(super) ahead: Option<Arc<Ahead>>,
}

impl FileSource {
    pub fn new(bucket: Bucket, caches: Caches) -> Self {
        let room = Room::default();
        Self { bucket, caches, room }
    }

    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Opens a file: its footer and page index, usually from memory.
    ///
    /// Errors: `NotFound` if the file is gone; `Corruption` if its footer is not what was written.
    pub async fn open(&self, file: &FileMeta, metrics: &ReadMetrics) -> Result<SstFile> {
        ReadMetrics::add(&metrics.files, 1);
        let name: Arc<str> = file.name.as_str().into();
        let key = key_of(&self.bucket, file.home, &file.name);
        let footer = match self.caches.footers.get(&name) {
            Some(known) => Arc::clone(known.value()),
            None => {
                let footer = Arc::new(self.load_footer(&name, &key, file.bytes, metrics).await?);
                self.caches.footers.insert(Arc::clone(&name), Arc::clone(&footer));
                footer
            }
        };
        let source = self.clone();
        Ok(SstFile {
            footer,
            name,
            key,
            source,
            ahead: None,
        })
    }

    /// The footer from a cached tail, or from the bucket: a damaged one is read once more.
    async fn load_footer(
        &self,
        name: &Arc<str>,
        key: &Path,
        bytes: u64,
        metrics: &ReadMetrics,
    ) -> Result<Footer> {
        let cached = RangeKey::tail(name);
        let mut tail = match self.caches.ranges.get(&cached).await {
            Some((bytes, tier)) => {
                metrics.found(tier, bytes.len());
                bytes
            }
            None => {
                self.fetch_tail(key, bytes, TAIL_BYTES.min(bytes), metrics)
                    .await?
            }
        };
        let mut damaged_before = false;
        loop {
            let length = tail.len() as u64;
            let error = match Footer::from_tail(&tail, bytes) {
                Ok(Tail::Whole(footer)) => {
                    self.caches.ranges.insert(cached, tail);
                    return Ok(*footer);
                }
                Ok(Tail::Needs(more)) if more as u64 > length && more as u64 <= bytes => {
                    tail = self.fetch_tail(key, bytes, more as u64, metrics).await?;
                    continue;
                }
                Ok(Tail::Needs(_)) => Error::corruption("its footer does not fit into it"),
                Err(error) => error,
            };
            if error.kind != ErrorKind::Corruption
                || damaged_before
                || !Defence::DamagedPartIsReadAgain.holds()
            {
                return Err(error.context(key));
            }
            tracing::warn!(file = %key, %error, "a damaged footer is read again");
            self.caches.ranges.damaged(&cached);
            damaged_before = true;
            tail = self
                .fetch_tail(key, bytes, length.max(TAIL_BYTES.min(bytes)), metrics)
                .await?;
        }
    }

    async fn fetch_tail(&self, key: &Path, bytes: u64, length: u64, metrics: &ReadMetrics) -> Result<Bytes> {
        self.fetch(key, bytes - length..bytes, metrics).await
    }

    async fn fetch(&self, key: &Path, range: Range<u64>, metrics: &ReadMetrics) -> Result<Bytes> {
        let length = range.end - range.start;
        let started = Instant::now();
        let read = self.bucket.store.get_range(key, range).await;
        ReadMetrics::add(&metrics.store_nanos, started.elapsed().as_nanos() as usize);
        let bytes = read.map_err(|e| store_error(&format!("reading {key}"), &e))?;
        if bytes.len() as u64 != length {
            return Err(Error::corruption(format!("{key} ended before its end")));
        }
        ReadMetrics::add(&metrics.store_requests, 1);
        ReadMetrics::add(&metrics.bytes_from_store, bytes.len());
        Ok(bytes)
    }
}

/// Bytes of the segments that cover what was asked for.
struct Loaded {
    /// By position in the layout.
    segments: Vec<(usize, Bytes)>,
}

impl SstFile {
    pub(super) fn caches(&self) -> &Caches {
        &self.source.caches
    }

    /// The bytes of `ranges`, checked. Parts that are not cached are fetched in few requests, and kept if `keep`.
    pub(super) async fn bytes_of(
        &self,
        ranges: &[Range<u64>],
        keep: bool,
        metrics: &ReadMetrics,
    ) -> Result<Vec<Bytes>> {
        let mut wanted: Vec<usize> = ranges
            .iter()
            .flat_map(|r| self.footer.layout.covering(r))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let segments = self.segments_of(wanted, keep, metrics).await?;
        let loaded = Loaded { segments };
        ranges.iter().map(|range| self.cut(&loaded, range)).collect()
    }

    /// The segments `wanted`, which are ascending, each with its position.
    pub(super) async fn segments_of(
        &self,
        wanted: Vec<usize>,
        keep: bool,
        metrics: &ReadMetrics,
    ) -> Result<Vec<(usize, Bytes)>> {
        let mut segments = Vec::with_capacity(wanted.len());
        let mut missing = Vec::new();
        let look = |position| async move { (position, self.cached(position, metrics).await) };
        let mut looks = stream::iter(wanted).map(look).buffered(LOOKS_AT_ONCE);
        while let Some((position, found)) = looks.next().await {
            match found {
                Some(bytes) => segments.push((position, bytes)),
                None => missing.push(position),
            }
        }
        segments.extend(self.fetch_segments(&missing, keep, metrics).await?);
        segments.sort_unstable_by_key(|(position, _)| *position);
        Ok(segments)
    }

    /// Whether a segment can be had without waiting.
    pub(super) fn is_in_memory(&self, position: usize) -> bool {
        let segment = &self.footer.layout.segments()[position];
        let key = RangeKey::new(&self.name, segment.range.start);
        self.caches().ranges.is_in_memory(&key)
    }

    /// A segment that was fetched before its turn, or is cached; a damaged copy is dropped.
    async fn cached(&self, position: usize, metrics: &ReadMetrics) -> Option<Bytes> {
        if let Some(bytes) = self.ahead.as_ref().and_then(|ahead| ahead.get(position)) {
            return Some(bytes.clone());
        }
        let segment = &self.footer.layout.segments()[position];
        let key = RangeKey::new(&self.name, segment.range.start);
        let (bytes, tier) = self.caches().ranges.get(&key).await?;
        if self.footer.layout.is_intact(segment, &bytes) || !Defence::DamagedCopyIsDropped.holds() {
            metrics.found(tier, bytes.len());
            return Some(bytes);
        }
        tracing::warn!(file = %self.key, offset = segment.range.start, "a damaged part was dropped from the cache");
        self.caches().ranges.damaged(&key);
        None
    }

    /// The ranges in which segments are fetched.
    pub(super) fn requests(&self, missing: &[usize]) -> Vec<Range<u64>> {
        let all = self.footer.layout.segments();
        coalesce(missing.iter().map(|&position| &all[position].range))
    }

    pub(super) fn room(&self) -> &Room {
        &self.source.room
    }

    async fn fetch_segments(
        &self,
        missing: &[usize],
        keep: bool,
        metrics: &ReadMetrics,
    ) -> Result<Vec<(usize, Bytes)>> {
        let all = self.footer.layout.segments();
        let runs = self.requests(missing);
        let fetches = runs
            .iter()
            .map(|run| self.source.fetch(&self.key, run.clone(), metrics));
        let parts = futures::future::try_join_all(fetches).await?;
        let mut segments = Vec::with_capacity(missing.len());
        for &position in missing {
            let segment = &all[position];
            let run = runs.partition_point(|r| r.end < segment.range.end);
            let bytes = slice(&parts[run], runs[run].start, &segment.range);
            let bytes = self.intact(segment, bytes, metrics).await?;
            if keep {
                let key = RangeKey::new(&self.name, segment.range.start);
                // A copy of its own: a slice would keep the whole run in memory.
                self.caches().ranges.insert(key, Bytes::copy_from_slice(&bytes));
            }
            segments.push((position, bytes));
        }
        Ok(segments)
    }

    /// The segment as it was written: if it came damaged, it is fetched once more.
    async fn intact(&self, segment: &Segment, bytes: Bytes, metrics: &ReadMetrics) -> Result<Bytes> {
        if self.footer.layout.is_intact(segment, &bytes) {
            return Ok(bytes);
        }
        tracing::warn!(file = %self.key, offset = segment.range.start, "a damaged part is read again");
        let again = self
            .source
            .fetch(&self.key, segment.range.clone(), metrics)
            .await?;
        if self.footer.layout.is_intact(segment, &again) && Defence::DamagedPartIsReadAgain.holds() {
            return Ok(again);
        }
        let column = self.footer.columns[segment.column].field.name();
        Err(Error::corruption(format!(
            "{}, row group {}, column `{column}`, bytes {} to {}: their checksum is wrong; restore the object \
             from a copy",
            self.key, segment.row_group, segment.range.start, segment.range.end
        )))
    }

    fn cut(&self, loaded: &Loaded, range: &Range<u64>) -> Result<Bytes> {
        let all = self.footer.layout.segments();
        let covering = self.footer.layout.covering(range);
        let first = loaded
            .segments
            .partition_point(|(position, _)| *position < covering.start);
        let parts = &loaded.segments[first..first + covering.len()];
        let start_of = |position: usize| all[position].range.start;
        if let [(position, bytes)] = parts
            && all[*position].range.end >= range.end
            && start_of(*position) <= range.start
        {
            return Ok(slice(bytes, start_of(*position), range));
        }
        let mut joined = Vec::with_capacity((range.end - range.start) as usize);
        for (position, bytes) in parts {
            let part = &all[*position].range;
            let (start, end) = (part.start.max(range.start), part.end.min(range.end));
            if start == range.start + joined.len() as u64 {
                joined.extend_from_slice(&slice(bytes, part.start, &(start..end)));
            }
        }
        if joined.len() as u64 != range.end - range.start {
            let (start, end) = (range.start, range.end);
            return Err(Error::internal(format!(
                "{}: bytes {start} to {end} belong to no column",
                self.key
            )));
        }
        Ok(joined.into())
    }
}

fn slice(bytes: &Bytes, start: u64, range: &Range<u64>) -> Bytes {
    bytes.slice((range.start - start) as usize..(range.end - start) as usize)
}

/// Requests for sorted ranges.
fn coalesce<'a>(ranges: impl Iterator<Item = &'a Range<u64>>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if range.start <= last.end + GAP_BYTES => last.end = last.end.max(range.end),
            _ => runs.push(range.clone()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_become_one_request() {
        let far = 100 + GAP_BYTES + 1;
        let ranges = [0..10, 20..100, far..far + 5];
        assert_eq!(coalesce(ranges.iter()), [0..100, far..far + 5]);
    }
}
