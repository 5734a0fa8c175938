//! Pieces of several batches as one batch.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayData, ArrayRef, AsArray, DictionaryArray, Int32Builder, MutableArrayData,
    RecordBatch, StringArray, StringBuilder, make_array,
};
use arrow::datatypes::{Int32Type, SchemaRef};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;

use super::Positions;
use super::source::{Loaded, Piece};
use crate::schema::tag_dictionary;

/// Rows that are on their way out, in order; each piece is of one series.
pub struct Output {
    schema: SchemaRef,
    positions: Positions,
    pieces: Vec<Piece>,
    rows: usize,
}

impl Output {
    pub fn new(schema: SchemaRef, positions: Positions) -> Self {
        Self {
            schema,
            positions,
            pieces: Vec::new(),
            rows: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What the list of pieces takes; the batches that they are of are counted with their sources.
    pub fn bytes(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>()
    }

    pub fn push(&mut self, piece: Piece) {
        self.rows += piece.end - piece.start;
        self.pieces.push(piece);
    }

    /// The first rows, at most `limit`; `None` if there are none.
    pub fn take(&mut self, limit: usize) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let pieces = self.first(limit);
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

    fn first(&mut self, limit: usize) -> Vec<Piece> {
        let (mut taken, mut rows) = (Vec::new(), 0);
        let mut rest = std::mem::take(&mut self.pieces).into_iter();
        for piece in rest.by_ref() {
            let length = piece.end - piece.start;
            if rows + length > limit {
                let cut = piece.start + (limit - rows);
                if cut > piece.start {
                    taken.push(piece.part(piece.start, cut));
                }
                rows = limit;
                self.pieces.push(piece.part(cut, piece.end));
                break;
            }
            rows += length;
            taken.push(piece);
        }
        self.pieces.extend(rest);
        self.rows -= rows;
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
