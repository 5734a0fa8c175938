//! Pieces of several batches as one batch.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayData, ArrayRef, AsArray, DictionaryArray, Int32Builder, MutableArrayData,
    RecordBatch, StringArray, StringBuilder, make_array,
};
use arrow::datatypes::{Int32Type, SchemaRef};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;

use super::Positions;
use super::source::{Loaded, Piece};
use crate::schema::tag_dictionary;

/// A batch ends when it has so many bytes, however few its rows are: rows may be long, and the texts of one batch
/// cannot have more than 2 GiB.
pub const BATCH_BYTES: usize = 4 << 20;

/// Rows that are on their way out, in order; each piece is of one series.
pub struct Output {
    schema: SchemaRef,
    positions: Positions,
    batch_rows: usize,
    pieces: VecDeque<Piece>,
    rows: usize,
    /// What the rows will take.
    row_bytes: usize,
}

impl Output {
    /// `batch_rows` is the most rows of a batch.
    pub fn new(schema: SchemaRef, positions: Positions, batch_rows: usize) -> Self {
        Self {
            schema,
            positions,
            batch_rows: batch_rows.max(1),
            pieces: VecDeque::new(),
            rows: 0,
            row_bytes: 0,
        }
    }

    /// Whether there are rows for a whole batch.
    pub fn is_full(&self) -> bool {
        self.rows >= self.batch_rows || self.row_bytes >= BATCH_BYTES
    }

    /// What the list of pieces takes; the batches that they are of count themselves.
    pub fn bytes(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>()
    }

    pub fn push(&mut self, piece: Piece) {
        self.rows += piece.rows();
        self.row_bytes += piece.bytes();
        self.pieces.push_back(piece);
    }

    /// The first rows, as many as a batch may have; `None` if there are none. While they are copied they are counted
    /// in `copied`.
    pub fn take(&mut self, copied: &MemoryReservation) -> Result<Option<RecordBatch>> {
        let pieces = self.first();
        if pieces.is_empty() {
            return Ok(None);
        }
        copied.try_resize(pieces.iter().map(Piece::bytes).sum())?;
        let batches = Batches::of(&pieces);
        let columns = (0..self.schema.fields().len()).map(|column| {
            let is_tag = self.positions.tags.contains(&column);
            match is_tag && *self.schema.field(column).data_type() == tag_dictionary() {
                true => tag_of_pieces(&pieces, column),
                false => batches.column(column),
            }
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }

    /// The pieces of the next batch: one row at least, however long it is.
    fn first(&mut self) -> Vec<Piece> {
        let (mut taken, mut rows, mut bytes) = (Vec::new(), self.batch_rows, BATCH_BYTES);
        while let Some(piece) = self.pieces.pop_front() {
            let size = piece.bytes();
            self.rows -= piece.rows();
            self.row_bytes -= size;
            if piece.rows() <= rows && size <= bytes {
                rows -= piece.rows();
                bytes -= size;
                taken.push(piece);
                continue;
            }
            let fit = piece.fitting(rows, bytes);
            let cut = piece.start + if taken.is_empty() { fit.max(1) } else { fit };
            if cut > piece.start {
                taken.push(piece.part(piece.start, cut));
            }
            if cut < piece.end {
                let rest = piece.part(cut, piece.end);
                self.rows += rest.rows();
                self.row_bytes += rest.bytes();
                self.pieces.push_front(rest);
            }
            break;
        }
        taken
    }
}

/// The batches that pieces are of, and which rows of which follow each other.
struct Batches<'a> {
    loaded: Vec<&'a Arc<Loaded>>,
    /// Batch, first row, end.
    ranges: Vec<(usize, usize, usize)>,
    rows: usize,
}

impl<'a> Batches<'a> {
    fn of(pieces: &'a [Piece]) -> Self {
        let mut loaded: Vec<&Arc<Loaded>> = Vec::new();
        let mut ranges: Vec<(usize, usize, usize)> = Vec::new();
        let mut rows = 0;
        for piece in pieces {
            rows += piece.end - piece.start;
            // Pieces come from few batches, the last ones mostly.
            let found = loaded.iter().rposition(|known| Arc::ptr_eq(known, &piece.loaded));
            let batch = found.unwrap_or_else(|| {
                loaded.push(&piece.loaded);
                loaded.len() - 1
            });
            match ranges.last_mut() {
                Some((same, _, end)) if *same == batch && *end == piece.start => *end = piece.end,
                _ => ranges.push((batch, piece.start, piece.end)),
            }
        }
        Self { loaded, ranges, rows }
    }

    fn column(&self, column: usize) -> Result<ArrayRef> {
        if let [(batch, start, end)] = self.ranges.as_slice() {
            return Ok(self.loaded[*batch]
                .batch
                .column(column)
                .slice(*start, end - start));
        }
        let data: Vec<ArrayData> = self
            .loaded
            .iter()
            .map(|l| l.batch.column(column).to_data())
            .collect();
        let mut gathered = MutableArrayData::new(data.iter().collect(), false, self.rows);
        for (batch, start, end) in &self.ranges {
            gathered.try_extend(*batch, *start, *end)?;
        }
        Ok(make_array(gathered.freeze()))
    }
}

/// A string tag: one value for each series, and keys that repeat it.
fn tag_of_pieces(pieces: &[Piece], column: usize) -> Result<ArrayRef> {
    let rows = pieces.iter().map(|p| p.end - p.start).sum();
    let mut keys = Int32Builder::with_capacity(rows);
    let mut values = StringBuilder::new();
    let mut last: Option<&str> = None;
    for piece in pieces {
        let length = piece.end - piece.start;
        match tag_at(piece, column)? {
            None => keys.append_nulls(length),
            Some(value) => {
                if last != Some(value) {
                    values.append_value(value);
                    last = Some(value);
                }
                let key = i32::try_from(values.len() - 1).map_err(|e| internal_datafusion_err!("{e}"))?;
                keys.append_value_n(key, length);
            }
        }
    }
    let array = DictionaryArray::<Int32Type>::try_new(keys.finish(), Arc::new(values.finish()))?;
    Ok(Arc::new(array))
}

fn tag_at(piece: &Piece, column: usize) -> Result<Option<&str>> {
    let array = piece.loaded.batch.column(column);
    let wrong = || internal_datafusion_err!("a tag that is not a dictionary of strings");
    let dictionary = array.as_dictionary_opt::<Int32Type>().ok_or_else(wrong)?;
    let values = dictionary
        .values()
        .as_any()
        .downcast_ref::<StringArray>()
        .ok_or_else(wrong)?;
    let key = dictionary.key(piece.start).filter(|key| values.is_valid(*key));
    Ok(key.map(|key| values.value(key)))
}
