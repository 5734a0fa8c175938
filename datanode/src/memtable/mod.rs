//! Rows in memory: committed, and not yet known to be in files.

mod chunk;
mod sort;

pub use chunk::Chunk;
pub use sort::{ASCENDING, DESCENDING, KeyColumns, align, sort_batch};

use std::sync::Arc;

use arrow::array::RecordBatch;
use greptime_types::{Result, TableSchema};

use crate::region::RowOp;

/// Chunks of similar size are joined up to this many rows: a scan then merges few runs, and a row is copied a
/// handful of times.
const CHUNK_ROWS: usize = 64 * 1024;
const CHUNK_BYTES: usize = 8 << 20;

/// The rows of a region in the order of their sequence, as chunks.
#[derive(Clone, Debug, Default)]
pub struct Memtable {
    chunks: Vec<Arc<Chunk>>,
    bytes: usize,
    rows: usize,
}

impl Memtable {
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What a reader sees from now on, whatever is added later.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Adds the rows of one entry; `bytes` is what they occupied in the log.
    pub fn insert(&mut self, rows: RecordBatch, sequence: u64, op: RowOp, bytes: usize) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.push(Chunk::from_entry(&rows, sequence, op, bytes)?);
        while let [.., before, last] = self.chunks.as_slice() {
            let joined = before.rows() + last.rows();
            let fits = joined <= CHUNK_ROWS && before.bytes() + last.bytes() <= CHUNK_BYTES;
            if !fits || before.rows() > 2 * last.rows() {
                break;
            }
            let chunk = Chunk::join(before, last)?;
            for _ in 0..2 {
                self.pop();
            }
            self.push(chunk);
        }
        Ok(())
    }

    /// Drops rows with a sequence up to `through`: they are in files.
    pub fn forget_through(&mut self, through: u64) -> Result<()> {
        let chunks = std::mem::take(self).chunks;
        for chunk in chunks {
            if chunk.min_sequence() > through {
                self.push_shared(chunk);
            } else if chunk.max_sequence() > through {
                self.push(chunk.after(through)?);
            }
        }
        Ok(())
    }

    /// The rows under a schema in which columns have other names or types, or are gone.
    pub fn under(&self, schema: &TableSchema) -> Result<Self> {
        let mut next = Self::default();
        for chunk in &self.chunks {
            next.push(chunk.under(schema)?);
        }
        Ok(next)
    }

    pub fn max_sequence(&self) -> Option<u64> {
        self.chunks.iter().map(|c| c.max_sequence()).max()
    }

    fn push(&mut self, chunk: Chunk) {
        self.push_shared(Arc::new(chunk));
    }

    fn push_shared(&mut self, chunk: Arc<Chunk>) {
        self.bytes += chunk.bytes();
        self.rows += chunk.rows();
        self.chunks.push(chunk);
    }

    fn pop(&mut self) {
        if let Some(chunk) = self.chunks.pop() {
            self.bytes -= chunk.bytes();
            self.rows -= chunk.rows();
        }
    }
}

#[cfg(test)]
mod tests;
