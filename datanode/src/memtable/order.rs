//! Puts rows of several chunks into the order of a region: by series, time, newest first.
//!
//! Series have ranks, so that tags are compared once for each series and not for each row. Rows are then counted into
//! the places of their series, in which they mostly lie in the order of time already.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::DataType;
use greptime_types::Result;

use super::chunk::{Chunk, Each, FieldValues, Parts, arrow_error};
use super::dictionary::Ranks;
use crate::defences::Defence;
use crate::schema::recast;

/// Which rows a reader wants of those with one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// All of them, in a table that appends.
    All,
    /// One of each write: in a write the later row wins.
    OfEachWrite,
    /// The newest one, put or delete.
    Newest,
}

/// A row: which chunk, and where in it.
type At = (u32, u32);

/// A field of several chunks.
#[derive(Debug)]
struct FieldKind {
    /// The newest one that any chunk has.
    data_type: DataType,
    /// See [`FieldValues::absent`].
    absent: Option<ArrayRef>,
}

/// Rows of chunks in order. They are copied only when they are asked for.
#[derive(Debug)]
pub struct Ordered {
    chunks: Vec<Arc<Chunk>>,
    rows: Vec<At>,
    primary_key: Vec<u32>,
    fields: BTreeMap<u32, FieldKind>,
}

/// The chunk's rows one after the other, as they came.
pub fn in_sequence(chunks: Vec<Arc<Chunk>>, keep: impl Fn(&Chunk, usize) -> bool) -> Ordered {
    let rows = all_rows(&chunks, keep);
    Ordered::new(chunks, rows, vec![])
}

fn all_rows(chunks: &[Arc<Chunk>], keep: impl Fn(&Chunk, usize) -> bool) -> Vec<At> {
    let mut rows = Vec::with_capacity(chunks.iter().map(|c| c.rows()).sum());
    for (number, chunk) in chunks.iter().enumerate() {
        let kept = (0..chunk.rows()).filter(|row| keep(chunk, *row));
        rows.extend(kept.map(|row| (number as u32, row as u32)));
    }
    rows
}

/// The rows above sequence `after`, sorted. `chunks` are in the order of their sequences.
pub fn sorted(
    chunks: Vec<Arc<Chunk>>,
    ranks: &Ranks,
    primary_key: &[u32],
    after: u64,
    versions: Versions,
) -> Ordered {
    let rows = all_rows(&chunks, |chunk, row| {
        chunk.min_sequence > after || chunk.sequences.get(row) > after
    });
    let rank = |at: &At| ranks.of(chunks[at.0 as usize].series[at.1 as usize]);
    // In a write the later row wins, so it comes first, as do the newer ones. In what was sorted before it does already.
    let within = |at: &At| {
        let (chunk, row) = (&chunks[at.0 as usize], at.1 as usize);
        let place = match chunk.sorted_by {
            Some(_) if Defence::SortedRowsKeepTheirOrder.holds() => i64::from(at.1),
            None if !Defence::LaterRowOfAWriteIsFirst.holds() => i64::from(at.1),
            _ => -i64::from(at.1),
        };
        (chunk.times[row], Reverse(chunk.sequences.get(row)), place)
    };
    let mut rows = if ranks.len() > 4 * rows.len() + 1024 {
        let mut rows = rows;
        rows.sort_unstable_by_key(|at| (rank(at), within(at)));
        rows
    } else {
        let mut rows = by_rank(&rows, ranks.len(), rank);
        for series in rows.chunk_by_mut(|a, b| rank(a) == rank(b)) {
            if !series.is_sorted_by_key(within) {
                series.sort_unstable_by_key(within);
            }
        }
        rows
    };
    let same = |a: &At, b: &At| {
        let ((left, i), (right, j)) = (
            (&chunks[a.0 as usize], a.1 as usize),
            (&chunks[b.0 as usize], b.1 as usize),
        );
        left.series[i] == right.series[j]
            && left.times[i] == right.times[j]
            && (versions == Versions::Newest || left.sequences.get(i) == right.sequences.get(j))
    };
    if versions != Versions::All {
        rows.dedup_by(|later, first| same(later, first));
    }
    Ordered::new(chunks, rows, primary_key.to_vec())
}

/// Counts rows into the places of their ranks; rows of one rank stay in order.
fn by_rank(rows: &[At], ranks: usize, rank: impl Fn(&At) -> u32) -> Vec<At> {
    let mut place = vec![0_u32; ranks + 1];
    for at in rows {
        place[rank(at) as usize + 1] += 1;
    }
    for i in 0..ranks {
        place[i + 1] += place[i];
    }
    let mut sorted = vec![(0, 0); rows.len()];
    for at in rows {
        let next = &mut place[rank(at) as usize];
        sorted[*next as usize] = *at;
        *next += 1;
    }
    sorted
}

impl Ordered {
    fn new(chunks: Vec<Arc<Chunk>>, rows: Vec<At>, primary_key: Vec<u32>) -> Self {
        let mut fields = BTreeMap::new();
        for chunk in &chunks {
            for (id, field) in &chunk.fields {
                let kind = FieldKind {
                    data_type: field.array.data_type().clone(),
                    absent: field.absent.clone(),
                };
                fields.insert(*id, kind);
            }
        }
        Self {
            chunks,
            rows,
            primary_key,
            fields,
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Ids of the fields that any of the chunks has.
    pub fn field_ids(&self) -> BTreeSet<u32> {
        self.fields.keys().copied().collect()
    }

    /// Copies some of the rows into a chunk of their own. `sorted` says that they are.
    pub fn copy(&self, rows: std::ops::Range<usize>, sorted: bool) -> Result<Chunk> {
        let rows = &self.rows[rows];
        let of = |at: &At| (&self.chunks[at.0 as usize], at.1 as usize);
        let sequences: Vec<u64> = rows.iter().map(|at| of(at).0.sequences.get(of(at).1)).collect();
        let (min, max) = (sequences.iter().min(), sequences.iter().max());
        let (min_sequence, max_sequence) = (min.copied().unwrap_or(0), max.copied().unwrap_or(0));
        let ops: Vec<u8> = rows.iter().map(|at| of(at).0.ops.get(of(at).1)).collect();
        let times: Vec<i64> = rows.iter().map(|at| of(at).0.times[of(at).1]).collect();
        let mut fields = BTreeMap::new();
        let mut bytes = rows.len() * 17;
        for (id, kind) in &self.fields {
            let array = self.field(*id, kind, rows)?;
            bytes += array.get_buffer_memory_size();
            let of_series = false;
            let field = FieldValues {
                array,
                absent: kind.absent.clone(),
                of_series,
            };
            fields.insert(*id, field);
        }
        Ok(Chunk::new(Parts {
            series: rows.iter().map(|at| of(at).0.series[of(at).1]).collect(),
            times: times.into(),
            sequences: Each::Row(sequences.into()),
            ops: Each::Row(ops.into()),
            keys: vec![],
            fields,
            sorted_by: sorted.then(|| self.primary_key.clone()),
            bytes,
            min_sequence,
            max_sequence,
        }))
    }

    fn field(&self, id: u32, kind: &FieldKind, rows: &[At]) -> Result<ArrayRef> {
        let data_type = &kind.data_type;
        if let [chunk] = self.chunks.as_slice() {
            let array = chunk
                .field(id)?
                .unwrap_or_else(|| new_null_array(data_type, chunk.rows()));
            let rows = UInt32Array::from_iter_values(rows.iter().map(|at| at.1));
            return take(&array, &rows, None).map_err(arrow_error);
        }
        let mut arrays: Vec<(ArrayRef, Source<'_>)> = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            arrays.push(match chunk.fields.get(&id) {
                None => (kind.absent()?, Source::First),
                Some(field) => {
                    let array = if field.array.data_type() == data_type {
                        Arc::clone(&field.array)
                    } else {
                        recast(&field.array, data_type).map_err(arrow_error)?
                    };
                    let source = if field.of_series {
                        Source::Key(&chunk.keys)
                    } else {
                        Source::Row
                    };
                    (array, source)
                }
            });
        }
        let position = |at: &At| {
            let row = match arrays[at.0 as usize].1 {
                Source::First => 0,
                Source::Row => at.1 as usize,
                Source::Key(keys) => keys[at.1 as usize] as usize,
            };
            (at.0 as usize, row)
        };
        let positions: Vec<(usize, usize)> = rows.iter().map(position).collect();
        let arrays: Vec<&dyn Array> = arrays.iter().map(|(array, _)| array.as_ref()).collect();
        interleave(&arrays, &positions).map_err(arrow_error)
    }
}

impl FieldKind {
    /// One row.
    fn absent(&self) -> Result<ArrayRef> {
        match &self.absent {
            None => Ok(new_null_array(&self.data_type, 1)),
            Some(value) => recast(value, &self.data_type).map_err(arrow_error),
        }
    }
}

/// Where in an array the value of a row lies.
#[derive(Clone, Copy)]
enum Source<'a> {
    First,
    Row,
    Key(&'a [u32]),
}
