//! Parts of a file that are fetched before their turn.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::Fields;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use greptime_types::Result;

use super::{Access, ReadMetrics, SstFile};

/// What is fetched ahead by all queries of a node takes so many bytes at most, which are in no other budget. What there is no
/// room for waits for its turn.
const ROOM: u64 = 32 << 20;

/// Bytes that are in use of [`ROOM`].
#[derive(Clone, Debug, Default)]
pub struct Room(Arc<AtomicU64>);

/// A part of it, until this is dropped.
#[derive(Debug)]
struct Taken {
    of: Room,
    bytes: u64,
}

impl Room {
    fn take(&self, bytes: u64) -> Option<Taken> {
        let fits = |used: u64| Some(used + bytes).filter(|used| *used <= ROOM);
        let order = Ordering::Relaxed;
        self.0.fetch_update(order, order, fits).ok()?;
        let of = self.clone();
        Some(Taken { of, bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Segments that were fetched before their turn.
#[derive(Debug)]
pub(super) struct Ahead {
    /// With their position in the layout, ascending.
    segments: Vec<(usize, Bytes)>,
    _room: Taken,
}

impl Ahead {
    pub fn get(&self, position: usize) -> Option<&Bytes> {
        let at = self
            .segments
            .binary_search_by_key(&position, |(position, _)| *position);
        at.ok().map(|at| &self.segments[at].1)
    }
}

impl SstFile {
    /// Begins to fetch what is not near of columns of a row group; the file that comes of it has that at hand. `None` if
    /// nothing is missing, or there is no room. Dropping the task ends it.
    pub fn fetch_ahead(
        &self,
        access: &Access,
        fields: &Fields,
        metrics: &Arc<ReadMetrics>,
    ) -> Option<SpawnedTask<Result<Self>>> {
        let missing = self.missing(access, fields);
        let bytes: u64 = self.requests(&missing).iter().map(|r| r.end - r.start).sum();
        let room = (bytes > 0).then(|| self.room().take(bytes)).flatten()?;
        let (mut file, metrics) = (self.clone(), Arc::clone(metrics));
        Some(SpawnedTask::spawn(async move {
            let segments = file.segments_of(missing, true, &metrics).await?;
            file.ahead = Some(Arc::new(Ahead {
                segments,
                _room: room,
            }));
            Ok(file)
        }))
    }

    /// The segments that neither are in memory nor were decoded before, of pages that may have wanted rows.
    fn missing(&self, access: &Access, fields: &Fields) -> Vec<usize> {
        let columns = fields.iter().filter_map(|f| self.footer.find(f));
        let mut missing: Vec<usize> = columns
            .filter(|&column| !self.is_decoded(access.row_group, column))
            .flat_map(|column| self.pages(access, column))
            .filter(|pages| !pages.is_empty())
            .flat_map(|pages| self.footer.layout.covering(&pages))
            .filter(|&position| !self.is_in_memory(position))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Where the pages of a column lie that may have wanted rows.
    fn pages(&self, access: &Access, column: usize) -> Vec<Range<u64>> {
        let metadata = self.footer.metadata();
        let (start, length) = metadata.row_group(access.row_group).column(column).byte_range();
        let index = metadata.offset_index();
        let index = index.and_then(|index| index.get(access.row_group)?.get(column));
        let (Some(selection), Some(index)) = (&access.selection, index) else {
            return std::iter::once(start..start + length).collect();
        };
        let all = &index.page_locations;
        let mut pages = selection.scan_ranges(all);
        // A dictionary lies before the first page.
        pages.extend(all.first().map(|first| start..first.offset as u64));
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_ahead_has_its_room_until_it_is_dropped() {
        let room = Room::default();
        let (first, second) = (room.take(ROOM - 5).unwrap(), room.take(5).unwrap());
        assert!(room.take(1).is_none());
        drop(first);
        let third = room.take(ROOM - 5).unwrap();
        assert!(room.take(1).is_none());
        drop((second, third));
        assert!(room.take(ROOM).is_some());
    }
}
