//! How large rows of a batch are.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Int32Type;

/// What rows of a batch take in a batch of their own: exact in texts, of which one may be longer than all others.
#[derive(Debug, Default)]
pub struct RowSizes {
    /// Of each row, in all columns of which a row has about as much as any other.
    fixed: usize,
    /// Where texts and bytes begin.
    offsets: Vec<OffsetBuffer<i32>>,
    /// Columns of tags: the rows of a piece share their values.
    tags: Vec<DictionaryArray<Int32Type>>,
}

impl RowSizes {
    pub fn of(batch: &RecordBatch) -> Self {
        let mut sizes = Self::default();
        for column in batch.columns() {
            sizes.add(column);
        }
        sizes
    }

    fn add(&mut self, column: &ArrayRef) {
        if let Some(texts) = column.as_string_opt::<i32>() {
            self.fixed += size_of::<i32>();
            self.offsets.push(texts.offsets().clone());
        } else if let Some(bytes) = column.as_binary_opt::<i32>() {
            self.fixed += size_of::<i32>();
            self.offsets.push(bytes.offsets().clone());
        } else if let Some(tag) = column.as_dictionary_opt::<Int32Type>() {
            self.fixed += size_of::<i32>();
            self.tags.push(tag.clone());
        } else {
            let all = column.to_data().get_slice_memory_size().unwrap_or(0);
            self.fixed += all.div_ceil(column.len().max(1));
        }
    }

    /// Of rows of one series.
    pub fn bytes(&self, rows: Range<usize>) -> usize {
        let texts = self
            .offsets
            .iter()
            .map(|o| (o[rows.end] - o[rows.start]) as usize);
        let tags = self.tags.iter().map(|tag| length_at(tag, rows.start));
        self.fixed * rows.len() + texts.chain(tags).sum::<usize>()
    }

    /// How many of the first rows of one series take no more than `bytes`.
    pub fn fitting(&self, rows: Range<usize>, bytes: usize) -> usize {
        if rows.is_empty() || self.bytes(rows.clone()) <= bytes {
            return rows.len();
        }
        let (mut fit, mut beyond) = (0, rows.len());
        while fit + 1 < beyond {
            let middle = fit.midpoint(beyond);
            match self.bytes(rows.start..rows.start + middle) <= bytes {
                true => fit = middle,
                false => beyond = middle,
            }
        }
        fit
    }
}

/// Bytes of the value of a row.
fn length_at(tag: &DictionaryArray<Int32Type>, row: usize) -> usize {
    let values = tag.values().as_string_opt::<i32>();
    let length = tag
        .key(row)
        .zip(values)
        .map(|(key, values)| values.value_length(key));
    length.unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn a_long_text_counts_where_it_is() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let long = "x".repeat(1000);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", long.as_str(), "b", "c"]));
        let host = "h".repeat(50);
        let hosts: ArrayRef = Arc::new(
            vec![host.as_str(); 4]
                .into_iter()
                .collect::<DictionaryArray<Int32Type>>(),
        );
        let batch = RecordBatch::try_from_iter([("n", numbers), ("text", texts), ("host", hosts)]).unwrap();
        let sizes = RowSizes::of(&batch.slice(1, 3));
        // A number, the place of a text, the key of a tag; and the tag once.
        assert_eq!(sizes.bytes(0..1), 16 + 1000 + 50);
        assert_eq!(sizes.bytes(1..3), 2 * 16 + 2 + 50);
        assert_eq!(sizes.fitting(0..3, 1065), 0);
        assert_eq!(sizes.fitting(0..3, 1066), 1);
        assert_eq!(sizes.fitting(0..3, 1 << 20), 3);
        assert_eq!(sizes.fitting(1..3, 70), 1);
    }
}
