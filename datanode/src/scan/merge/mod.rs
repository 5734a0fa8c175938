//! Sorted runs into one sorted stream.
//!
//! Rows are merged a series at a time: what comes from runs that do not overlap in time is put behind each other as it
//! is, and rows are compared one by one only where two runs have rows of one series in the same stretch of time.

mod output;
mod sizes;
mod source;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use greptime_types::MergeMode;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};

use super::dedup::{Deletes, dedup};
use crate::defences::Defence;
use crate::memtable::KeyColumns;
use crate::region::RowOp;
use output::Output;
pub use source::mark_changes;
use source::{Piece, Source};

/// What becomes of rows with equal tags and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// All of them are given out, newest first.
    Keep,
    /// The newest one is given out; if it is a delete, as [`Deletes`] says.
    Newest(Deletes),
}

/// Where the columns are that say which row is which, in the schema of the rows that are merged.
#[derive(Clone, Debug)]
pub(super) struct Positions {
    pub tags: Vec<usize>,
    pub time: usize,
    pub sequence: usize,
    pub op: usize,
}

impl Positions {
    fn of(schema: &SchemaRef, key: &KeyColumns) -> Result<Self> {
        let mut columns = key.columns.iter().map(|(name, _)| schema.index_of(name));
        let time = columns
            .next_back()
            .ok_or_else(|| internal_datafusion_err!("a region without key columns"))??;
        Ok(Self {
            tags: columns.collect::<Result<_, _>>()?,
            time,
            sequence: schema.index_of(SEQUENCE_COLUMN)?,
            op: schema.index_of(OP_COLUMN)?,
        })
    }
}

/// One sorted stream of sorted streams, all of `schema`. What it holds is counted in the query's memory pool.
pub fn merge(
    streams: Vec<SendableRecordBatchStream>,
    schema: &SchemaRef,
    key: &KeyColumns,
    duplicates: Duplicates,
    ctx: &TaskContext,
) -> Result<SendableRecordBatchStream> {
    let positions = Positions::of(schema, key)?;
    let held = MemoryConsumer::new("region merge").register(ctx.memory_pool());
    let sources = streams
        .into_iter()
        .map(|rows| Source::new(rows, &positions, schema, held.new_empty()))
        .collect::<Result<_>>()?;
    let merging = Merging {
        sources,
        output: Output::new(Arc::clone(schema), positions, ctx.session_config().batch_size()),
        duplicates,
        held,
    };
    let rows = futures::stream::try_unfold(merging, |mut merging| async move {
        Ok(merging.next().await?.map(|batch| (batch, merging)))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows)))
}

/// One sorted stream of runs of a region: all rows of a table that appends, else one row of each identity.
pub fn newest(
    runs: Vec<SendableRecordBatchStream>,
    schema: &SchemaRef,
    key: &KeyColumns,
    deletes: Deletes,
    ctx: &TaskContext,
) -> Result<SendableRecordBatchStream> {
    let duplicates = match key.newest_row_wins() {
        true => Duplicates::Newest(deletes),
        false => Duplicates::Keep,
    };
    let rows = merge(runs, schema, key, duplicates, ctx)?;
    Ok(match key.merge_mode {
        MergeMode::LastRow => rows,
        MergeMode::LastNonNull => dedup(rows, key.clone(), deletes),
    })
}

/// Time, sequence with the newest first, number of the piece, position in its batch.
type Place = (i64, std::cmp::Reverse<u64>, usize, usize);

struct Merging {
    sources: Vec<Source>,
    output: Output,
    duplicates: Duplicates,
    /// For the list of pieces.
    held: MemoryReservation,
}

impl Merging {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while !self.output.is_full() {
            self.fill().await?;
            let Some(series) = self.first_series() else { break };
            self.take_series(series).await?;
            self.held.try_resize(self.output.bytes())?;
        }
        self.output.take(&self.held.new_empty())
    }

    /// Every source shows its next row, or is at its end and gone.
    async fn fill(&mut self) -> Result<()> {
        for source in &mut self.sources {
            if source.is_drained() {
                source.load().await?;
            }
        }
        self.sources.retain(|source| !source.is_drained());
        Ok(())
    }

    /// The source that has the lowest series; all of that series are taken next.
    fn first_series(&self) -> Option<usize> {
        let sources = self.sources.iter().enumerate();
        let first = sources.min_by(|(_, a), (_, b)| a.series().cmp(&b.series()));
        first.map(|(index, _)| index)
    }

    /// Moves as many rows of the lowest series to the output as are known to be complete: a run that may go on in a
    /// batch that is not loaded yet says nothing about later times than its own last one.
    async fn take_series(&mut self, first: usize) -> Result<()> {
        let series = self.sources[first].series().map(<[u8]>::to_vec);
        let having: Vec<usize> = (0..self.sources.len())
            .filter(|i| self.sources[*i].series() == series.as_deref())
            .collect();
        let mut whole = having.len() == 1;
        loop {
            let open = having.iter().filter_map(|i| self.sources[*i].open_until());
            let Some(horizon) = open.min() else {
                let pieces = self.pieces(&having, None);
                return self.emit(pieces, whole);
            };
            let pieces = self.pieces(&having, Some(horizon));
            if !pieces.is_empty() {
                return self.emit(pieces, whole);
            }
            // All that is loaded of some run lies at one point of time.
            whole = false;
            for i in &having {
                if self.sources[*i].open_until() == Some(horizon) {
                    self.sources[*i].load().await?;
                }
            }
        }
    }

    /// Takes the first series' rows before `horizon` from the sources.
    fn pieces(&mut self, having: &[usize], horizon: Option<i64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for i in having {
            self.sources[*i].take(horizon, &mut pieces);
        }
        pieces
    }

    fn emit(&mut self, mut pieces: Vec<Piece>, one_source: bool) -> Result<()> {
        if self.duplicates == Duplicates::Keep && one_source {
            pieces.into_iter().for_each(|piece| self.output.push(piece));
            return Ok(());
        }
        pieces.sort_by_key(Piece::first_time);
        let apart = pieces
            .windows(2)
            .all(|two| two[0].last_time() < two[1].first_time());
        if apart && pieces.iter().all(Piece::is_strictly_increasing) {
            for piece in pieces {
                self.push_unique(piece);
            }
            return Ok(());
        }
        self.emit_row_by_row(&pieces)
    }

    /// Rows of one series that overlap in time.
    fn emit_row_by_row(&mut self, pieces: &[Piece]) -> Result<()> {
        let all = pieces.iter().map(Piece::rows).sum();
        let listed = self.held.new_empty();
        // Sorting them takes as much again, at most.
        listed.try_grow(2 * all * size_of::<Place>())?;
        let mut rows: Vec<Place> = Vec::with_capacity(all);
        for (number, piece) in pieces.iter().enumerate() {
            let row = |at: usize| (piece.time(at), std::cmp::Reverse(piece.sequence(at)), number, at);
            rows.extend((piece.start..piece.end).map(row));
        }
        // Stable: rows that one entry wrote twice stay in the order in which their run has them.
        if Defence::NewestSequenceWins.holds() {
            rows.sort_by_key(|(time, sequence, ..)| (*time, *sequence));
        } else {
            rows.sort_by_key(|(time, ..)| *time);
        }
        if self.duplicates != Duplicates::Keep {
            rows.dedup_by_key(|(time, ..)| *time);
        }
        let mut at = 0;
        while at < rows.len() {
            let (_, _, number, start) = rows[at];
            let follows = |n: usize| {
                rows.get(at + n)
                    .is_some_and(|r| r.2 == number && r.3 == start + n)
            };
            let length = (1..).take_while(|n| follows(*n)).count() + 1;
            self.push_unique(pieces[number].part(start, start + length));
            at += length;
        }
        Ok(())
    }

    /// Rows of which there is one for each identity, or all of them are wanted.
    fn push_unique(&mut self, piece: Piece) {
        if self.duplicates != Duplicates::Newest(Deletes::Drop) || !piece.has_deletes() {
            self.output.push(piece);
            return;
        }
        let is_put = |at: usize| piece.op(at) == RowOp::Put.code();
        let mut start = piece.start;
        while start < piece.end {
            let end = (start..piece.end).find(|at| !is_put(*at)).unwrap_or(piece.end);
            if end > start {
                self.output.push(piece.part(start, end));
            }
            start = (end..piece.end).find(|at| is_put(*at)).unwrap_or(piece.end);
        }
    }
}

/// A batch in memory as a stream of smaller ones.
pub fn stream_of(batch: RecordBatch, batch_size: usize) -> SendableRecordBatchStream {
    let schema = batch.schema();
    let rows = batch.num_rows();
    let slices = (0..rows)
        .step_by(batch_size.max(1))
        .map(move |start| Ok(batch.slice(start, batch_size.min(rows - start))));
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter(slices),
    ))
}

#[cfg(test)]
mod tests;
