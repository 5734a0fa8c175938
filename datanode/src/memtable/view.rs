//! A memtable as a reader sees it: the rows of a moment, in order.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use greptime_types::{Result, TableInfo};

use super::chunk::Chunk;
use super::dictionary::{Ranks, SeriesView};
use super::order::{Ordered, Versions, sorted};
use super::pick::Selection;
use super::{KeyColumns, KeyIds, Partition, Shared};

/// A run of so many rows is not sorted into another one any more.
const LARGE_RUN: usize = 1 << 20;

/// Rows of a moment. Sorting is done once, by the first reader, and serves later ones too.
#[derive(Clone, Debug)]
pub struct MemtableView {
    shared: Arc<Shared>,
    partitions: Vec<(Arc<Partition>, Vec<Arc<Chunk>>)>,
}

impl MemtableView {
    pub(super) fn new(shared: Arc<Shared>, partitions: Vec<(Arc<Partition>, Vec<Arc<Chunk>>)>) -> Self {
        Self { shared, partitions }
    }

    fn chunks(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        self.partitions.iter().flat_map(|(_, chunks)| chunks)
    }

    /// Whether there are rows above `after`.
    pub fn has_rows(&self, after: u64) -> bool {
        self.chunks().any(|c| c.max_sequence > after)
    }

    /// Whether any write has the column.
    pub fn has_column(&self, id: u32) -> bool {
        self.chunks().any(|c| c.fields.contains_key(&id))
    }

    /// Whether a row above `after` is a delete.
    pub fn has_deletes(&self, after: u64) -> bool {
        self.chunks().any(|c| c.max_sequence > after && c.has_deletes())
    }

    /// Times between which all rows above `after` lie; `None` if there is none.
    pub fn span(&self, after: u64) -> Option<(i64, i64)> {
        let chunks = self.chunks().filter(|c| c.max_sequence > after);
        let spans = chunks.filter_map(|c| c.times_span());
        spans.reduce(|(a, b), (min, max)| (a.min(min), b.max(max)))
    }

    /// The rows above `after` that are selected, as few sorted batches, each with its lowest and highest time. They
    /// have the columns of `schema`, which are found by the ids in their metadata. Rows of one identity and one write
    /// are one row, unless the table appends.
    pub fn runs(
        &self,
        after: u64,
        schema: &SchemaRef,
        table: &TableInfo,
        selection: &Selection<'_>,
    ) -> Result<Vec<(RecordBatch, (i64, i64))>> {
        let key = KeyIds::of(&table.schema);
        let read = |c: &Arc<Chunk>| c.max_sequence > after && selection.overlaps(c);
        let windows = self
            .partitions
            .iter()
            .filter(|(_, chunks)| chunks.iter().any(read));
        let windows: Vec<_> = windows.collect();
        if windows.is_empty() {
            return Ok(vec![]);
        }
        let series = self.shared.series.lock().view();
        let wanted = selection.wanted(&series)?;
        let ranks = self.ranks(&series, &key.tags);
        let mut batches = Vec::new();
        for (partition, chunks) in windows {
            let runs = self.sort(partition, chunks, &ranks, table)?;
            for run in runs.into_iter().filter(read) {
                let run = above(run, after, &key.tags)?;
                let ranges = selection.ranges(&run, wanted.as_ref(), &ranks);
                let run = match ranges.iter().map(Range::len).sum::<usize>() {
                    rows if rows == run.rows() => run,
                    _ => Arc::new(run.picked(&ranges, schema)?),
                };
                if let Some(span) = run.times_span() {
                    batches.push((run.batch(&series, schema, key.time)?, span));
                }
            }
        }
        Ok(batches)
    }

    /// Sorts what is not sorted yet, together with sorted runs that are not much larger, so that there are few and
    /// a row is copied seldom.
    fn sort(
        &self,
        partition: &Partition,
        chunks: &[Arc<Chunk>],
        ranks: &Ranks,
        table: &TableInfo,
    ) -> Result<Vec<Arc<Chunk>>> {
        let key = KeyIds::of(&table.schema);
        let ready = |c: &Arc<Chunk>| c.sorted_by.as_ref() == Some(&key.tags);
        let mut start = chunks.iter().position(|c| !ready(c)).unwrap_or(chunks.len());
        let mut rows: usize = chunks[start..].iter().map(|c| c.rows()).sum();
        if rows == 0 {
            return Ok(chunks.to_vec());
        }
        while start > 0 && chunks[start - 1].rows() <= 2 * rows && chunks[start - 1].rows() < LARGE_RUN {
            start -= 1;
            rows += chunks[start].rows();
        }
        let mut runs = chunks[..start].to_vec();
        for group in groups(&chunks[start..]) {
            let ordered = sorted(group.to_vec(), ranks, &key.tags, 0, versions(table));
            let run = Arc::new(ordered.copy(0..ordered.len(), true)?);
            partition.replace(group, &run);
            runs.push(run);
        }
        Ok(runs)
    }

    fn ranks(&self, series: &SeriesView, primary_key: &[u32]) -> Arc<Ranks> {
        let mut known = self.shared.ranks.lock();
        match known.as_ref() {
            Some(ranks) if ranks.is_for(primary_key, series.len()) => Arc::clone(ranks),
            older => {
                let ranks = Arc::new(series.ranks(primary_key, older.map(Arc::as_ref)));
                *known = Some(Arc::clone(&ranks));
                ranks
            }
        }
    }

    /// The rows above `after`, window by window, each in order; `versions` of each identity. Nothing is copied
    /// before [`SortedRows::batches`].
    pub fn sorted_windows(&self, after: u64, table: &TableInfo, versions: Versions) -> Vec<SortedRows> {
        let key = KeyIds::of(&table.schema);
        let series = Arc::new(self.shared.series.lock().view());
        let ranks = self.ranks(&series, &key.tags);
        let mut windows = Vec::new();
        for (_, chunks) in &self.partitions {
            let chunks: Vec<_> = chunks
                .iter()
                .filter(|c| c.max_sequence > after)
                .cloned()
                .collect();
            let ordered = sorted(chunks, &ranks, &key.tags, after, versions);
            if ordered.len() > 0 {
                windows.push(SortedRows {
                    ordered,
                    series: Arc::clone(&series),
                    time: key.time,
                });
            }
        }
        windows
    }
}

/// Which rows a sorted run keeps.
fn versions(table: &TableInfo) -> Versions {
    if !KeyColumns::of(table).newest_row_wins() {
        Versions::All
    } else {
        Versions::OfEachWrite
    }
}

/// Neighbours that together have no more rows than a run should.
fn groups(chunks: &[Arc<Chunk>]) -> Vec<&[Arc<Chunk>]> {
    let (mut groups, mut start, mut rows) = (Vec::new(), 0, 0);
    for (end, chunk) in chunks.iter().enumerate() {
        if rows > 0 && rows + chunk.rows() > LARGE_RUN {
            groups.push(&chunks[start..end]);
            (start, rows) = (end, 0);
        }
        rows += chunk.rows();
    }
    groups.push(&chunks[start..]);
    groups
}

/// The rows of a sorted run that are above `after`.
fn above(run: Arc<Chunk>, after: u64, primary_key: &[u32]) -> Result<Arc<Chunk>> {
    if run.min_sequence > after {
        return Ok(run);
    }
    let rest = super::order::in_sequence(vec![run], |c, row| c.sequences.get(row) > after);
    rest.copy(0..rest.len(), true).map(|mut chunk| {
        chunk.sorted_by = Some(primary_key.to_vec());
        Arc::new(chunk)
    })
}

/// Sorted rows of one window of time.
#[derive(Debug)]
pub struct SortedRows {
    ordered: Ordered,
    series: Arc<SeriesView>,
    time: u32,
}

impl SortedRows {
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether any of the rows' writes has the column.
    pub fn has_column(&self, id: u32) -> bool {
        self.ordered.field_ids().contains(&id)
    }

    /// All rows, `size` at a time, with the columns of `schema` (see [`MemtableView::runs`]).
    pub fn batches(self, size: usize, schema: SchemaRef) -> impl Iterator<Item = Result<RecordBatch>> {
        let rows = self.len();
        (0..rows)
            .step_by(size.max(1))
            .map(move |start| self.batch(start..rows.min(start + size), &schema))
    }

    fn batch(&self, rows: Range<usize>, schema: &SchemaRef) -> Result<RecordBatch> {
        self.ordered
            .copy(rows, false)?
            .batch(&self.series, schema, self.time)
    }
}
