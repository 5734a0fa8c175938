//! Rows in memory: committed, and not yet known to be in files.
//!
//! Rows stay in the buffers in which they came ([`chunk`]) until somebody wants them in order; then they are sorted
//! once ([`order`]), and stay so, and a reader finds its own among them ([`pick`]). Tags are numbers ([`dictionary`]): the dictionary lives as long as the memtable, so
//! a series without rows in memory costs nothing. Windows of time are kept apart, since files must be.

mod chunk;
mod dictionary;
mod order;
mod pick;
mod sort;
mod view;
mod window;

pub use chunk::{Buffers, Chunk};
pub use order::Versions;
pub use pick::{Selection, SeriesFilter};
pub use sort::{ASCENDING, DESCENDING, KeyColumns};
pub use view::{MemtableView, SortedRows};

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use greptime_rows::SeriesBatch;
use greptime_types::{Result, Semantic, TableSchema};
use parking_lot::Mutex;

use crate::region::RowOp;
use crate::schema::{absent, engine_field};
use chunk::{WriteKey, times_of};
use dictionary::{Ranks, SeriesDictionary};
use window::{Window, first_width, wide_enough};

/// So many small chunks are joined into one: a row is copied a handful of times, and few chunks are left.
const JOINED: usize = 32;
/// Chunks of so many rows are not joined any more.
const LARGE: usize = 1024;

/// Ids of the columns that say which row is which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyIds {
    /// In the order of the primary key.
    pub tags: Vec<u32>,
    pub time: u32,
}

impl KeyIds {
    pub fn of(schema: &TableSchema) -> Self {
        let tag = |name: &String| {
            schema
                .column(name)
                .filter(|c| c.semantic == Semantic::Tag)
                .map(|c| c.id)
        };
        Self {
            tags: schema.primary_key.iter().filter_map(tag).collect(),
            time: schema.time_index().id,
        }
    }
}

/// The rows of one window, in the order of their sequences but for what was sorted.
#[derive(Debug, Default)]
struct Partition {
    chunks: Mutex<Vec<Arc<Chunk>>>,
}

/// What a memtable shares with its readers.
#[derive(Debug, Default)]
struct Shared {
    series: Mutex<SeriesDictionary>,
    ranks: Mutex<Option<Arc<Ranks>>>,
}

/// The rows of a region. Only the region's log adds to it; readers take a [`MemtableView`].
#[derive(Debug, Default)]
pub struct Memtable {
    shared: Arc<Shared>,
    partitions: BTreeMap<i64, Arc<Partition>>,
    /// Of a window, in the unit of the time index; 0 until the first row.
    width: i64,
}

impl Memtable {
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(|p| p.chunks.lock().is_empty())
    }

    /// Of the rows, of their series, and of what readers have made of them.
    pub fn bytes(&self) -> usize {
        if self.partitions.is_empty() {
            return 0;
        }
        let rows: usize = self.partitions.values().map(|p| p.bytes()).sum();
        rows + self.shared.series.lock().bytes()
    }

    pub fn rows(&self) -> usize {
        let rows = |p: &Arc<Partition>| p.chunks.lock().iter().map(|c| c.rows()).sum::<usize>();
        self.partitions.values().map(rows).sum()
    }

    pub fn chunks(&self) -> usize {
        self.partitions.values().map(|p| p.chunks.lock().len()).sum()
    }

    pub fn max_sequence(&self) -> Option<u64> {
        let newest = |p: &Arc<Partition>| p.chunks.lock().iter().map(|c| c.max_sequence).max();
        self.partitions.values().filter_map(newest).max()
    }

    /// Adds the rows of one entry; `buffers` is what they take.
    pub fn insert(
        &mut self,
        rows: &SeriesBatch,
        schema: &TableSchema,
        (sequence, op): (u64, RowOp),
        buffers: Buffers,
    ) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let key = KeyIds::of(schema);
        let absent = absent_values(schema)?;
        let write = WriteKey {
            tags: &key.tags,
            time: key.time,
            absent: &absent,
            sequence,
            op: op.code(),
        };
        let series = self.shared.series.lock().number(rows, write.tags)?;
        let times = rows
            .column(write.time)
            .map(|c| times_of(c.array))
            .transpose()?
            .unwrap_or_default();
        if self.width == 0 {
            self.width = first_width(schema.time_unit());
        }
        let known = self.partitions.keys().copied();
        self.widen(wide_enough(self.width, known, &times));
        let windows = window::split(&times, self.width);
        if let [(window, _)] = windows.as_slice() {
            let chunk = Chunk::from_write(rows, &series, &write, buffers)?;
            return self.partition(*window).push(chunk);
        }
        for (window, mask) in windows {
            let part = rows.filter(&mask)?;
            let series = self.shared.series.lock().number(&part, write.tags)?;
            let share = |bytes: usize| bytes * part.num_rows() / rows.num_rows();
            let share = Buffers {
                rows: share(buffers.rows),
                series: share(buffers.series),
            };
            let chunk = Chunk::from_write(&part, &series, &write, share)?;
            self.partition(window).push(chunk)?;
        }
        Ok(())
    }

    fn partition(&mut self, window: Window) -> &Partition {
        self.partitions.entry(window).or_default()
    }

    /// Makes windows as wide as `width`, which is a multiple of what they are.
    fn widen(&mut self, width: i64) {
        if width == self.width {
            return;
        }
        for (window, partition) in std::mem::take(&mut self.partitions) {
            let start = window.saturating_mul(self.width);
            let chunks = std::mem::take(&mut *partition.chunks.lock());
            let wider = self.partitions.entry(start.div_euclid(width)).or_default();
            let mut all = wider.chunks.lock();
            all.extend(chunks);
            all.sort_by_key(|c| c.min_sequence);
        }
        self.width = width;
    }

    /// Drops rows with a sequence up to `through`: they are in files.
    pub fn forget_through(&mut self, through: u64) -> Result<()> {
        for partition in self.partitions.values() {
            partition.forget_through(through)?;
        }
        self.partitions.retain(|_, p| !p.chunks.lock().is_empty());
        if self.partitions.is_empty() {
            *self = Self::default();
        }
        Ok(())
    }

    /// What a reader sees from now on, whatever is added later.
    pub fn view(&self) -> MemtableView {
        let partitions = self.partitions.values();
        let partitions = partitions.map(|p| (Arc::clone(p), p.chunks.lock().clone()));
        MemtableView::new(Arc::clone(&self.shared), partitions.collect())
    }
}

/// What rows show that do not have a column, where it is not NULL; by column id.
fn absent_values(schema: &TableSchema) -> Result<BTreeMap<u32, ArrayRef>> {
    let columns = schema.columns.iter().filter(|c| c.absent.is_some());
    let values = columns.map(|c| Ok((c.id, absent(&engine_field(c), 1).map_err(chunk::arrow_error)?)));
    values.collect()
}

impl Partition {
    fn bytes(&self) -> usize {
        self.chunks.lock().iter().map(|c| c.bytes()).sum()
    }

    fn push(&self, chunk: Chunk) -> Result<()> {
        let mut chunks = self.chunks.lock();
        chunks.push(Arc::new(chunk));
        while let Some(joined) = join_last(&chunks)? {
            let rest = chunks.len() - JOINED;
            chunks.truncate(rest);
            chunks.push(Arc::new(joined));
        }
        Ok(())
    }

    fn forget_through(&self, through: u64) -> Result<()> {
        let mut chunks = self.chunks.lock();
        let mut kept = Vec::with_capacity(chunks.len());
        for chunk in chunks.drain(..) {
            if chunk.min_sequence > through {
                kept.push(chunk);
            } else if chunk.max_sequence > through {
                let sorted_by = chunk.sorted_by.clone();
                let rest = order::in_sequence(vec![chunk], |c, row| c.sequences.get(row) > through);
                let mut rest = rest.copy(0..rest.len(), false)?;
                rest.sorted_by = sorted_by;
                kept.push(Arc::new(rest));
            }
        }
        *chunks = kept;
        Ok(())
    }

    /// Puts `run`, the rows of `of` in order, in their place, unless they are not what they were.
    fn replace(&self, of: &[Arc<Chunk>], run: &Arc<Chunk>) {
        let mut chunks = self.chunks.lock();
        let Some(first) = of.first() else { return };
        let Some(start) = chunks.iter().position(|c| Arc::ptr_eq(c, first)) else {
            return;
        };
        let there = chunks.get(start..start + of.len());
        if there.is_some_and(|there| there.iter().zip(of).all(|(a, b)| Arc::ptr_eq(a, b))) {
            chunks.splice(start..start + of.len(), [Arc::clone(run)]);
        }
    }
}

/// The last chunks as one, if there are enough of about the same small size.
fn join_last(chunks: &[Arc<Chunk>]) -> Result<Option<Chunk>> {
    let Some(start) = chunks.len().checked_sub(JOINED) else {
        return Ok(None);
    };
    let last = &chunks[start..];
    let size = |chunk: &Arc<Chunk>| chunk.rows().ilog(JOINED);
    let alike = |c: &Arc<Chunk>| c.sorted_by.is_none() && c.rows() < LARGE && size(c) == size(&last[0]);
    if !last.iter().all(alike) {
        return Ok(None);
    }
    let all = order::in_sequence(last.to_vec(), |_, _| true);
    all.copy(0..all.len(), false).map(Some)
}

#[cfg(test)]
mod tests;
