//! Which bytes of a file belong together: what is fetched, checked and cached as one.

use std::ops::Range;

use greptime_types::{Error, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::offset_index::PageLocation;

use super::checksum::{checksum, pages_of};
use crate::defences::Defence;

/// Pages of a column are fetched together up to so many bytes: a request costs as much as reading this.
const SEGMENT_BYTES: u64 = 512 << 10;

/// Neighbouring pages of one column, or a bloom filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub range: Range<u64>,
    pub row_group: usize,
    pub column: usize,
    /// Positions in [`Layout::pages`].
    pages: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    bytes: u64,
    /// `None` in files that were written without.
    checksum: Option<u32>,
}

/// All segments of a file, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    segments: Vec<Segment>,
    pages: Vec<Page>,
}

impl Layout {
    /// Errors: `Corruption` if there are not as many checksums as pages.
    pub fn new(metadata: &ParquetMetaData, checksums: Option<&[u32]>) -> Result<Self> {
        let mut layout = Self::default();
        for (row_group, group) in metadata.row_groups().iter().enumerate() {
            let index = metadata.offset_index().and_then(|i| i.get(row_group));
            let locations = |column: usize| {
                index
                    .and_then(|i| i.get(column))
                    .map(|i| i.page_locations.as_slice())
            };
            layout.add_row_group(row_group, group, |column| locations(column).unwrap_or_default());
        }
        if let Some(checksums) = checksums {
            if checksums.len() != layout.pages.len() {
                return Err(Error::corruption(format!(
                    "it has {} pages and {} checksums of pages",
                    layout.pages.len(),
                    checksums.len()
                )));
            }
            for (page, checksum) in layout.pages.iter_mut().zip(checksums) {
                page.checksum = Some(*checksum);
            }
        }
        layout.segments.sort_by_key(|s| s.range.start);
        Ok(layout)
    }

    /// Pages of all columns, then bloom filters; in the order in which checksums are listed.
    pub fn add_row_group<'a>(
        &mut self,
        position: usize,
        group: &RowGroupMetaData,
        locations: impl Fn(usize) -> &'a [PageLocation],
    ) {
        for (column, chunk) in group.columns().iter().enumerate() {
            let pages = pages_of(chunk, locations(column));
            self.add(position, column, chunk.byte_range().0, &pages);
        }
        for (column, chunk) in group.columns().iter().enumerate() {
            if let (Some(offset), Some(length)) = (chunk.bloom_filter_offset(), chunk.bloom_filter_length()) {
                self.add(position, column, offset as u64, &[length as u64]);
            }
        }
    }

    /// Computes the checksums of the segments from `first` on; `bytes` are the file's from `start` on.
    pub fn set_checksums(&mut self, first: usize, bytes: &[u8], start: u64) {
        for segment in &self.segments[first..] {
            let mut at = (segment.range.start - start) as usize;
            for page in &mut self.pages[segment.pages.clone()] {
                let end = at + page.bytes as usize;
                page.checksum = Some(checksum(&bytes[at..end]));
                at = end;
            }
        }
    }

    pub fn checksums(&self) -> Vec<u32> {
        self.pages.iter().filter_map(|p| p.checksum).collect()
    }

    fn add(&mut self, row_group: usize, column: usize, offset: u64, pages: &[u64]) {
        let mut start = offset;
        let mut first = self.pages.len();
        let mut end = offset;
        for &bytes in pages {
            if end > start && end + bytes - start > SEGMENT_BYTES {
                self.push(row_group, column, start..end, first);
                (start, first) = (end, self.pages.len());
            }
            self.pages.push(Page {
                bytes,
                checksum: None,
            });
            end += bytes;
        }
        if end > start {
            self.push(row_group, column, start..end, first);
        }
    }

    fn push(&mut self, row_group: usize, column: usize, range: Range<u64>, first: usize) {
        self.segments.push(Segment {
            range,
            row_group,
            column,
            pages: first..self.pages.len(),
        });
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Positions of the segments that have bytes of `range`.
    pub fn covering(&self, range: &Range<u64>) -> Range<usize> {
        let start = self.segments.partition_point(|s| s.range.end <= range.start);
        let end = self.segments.partition_point(|s| s.range.start < range.end);
        start..end.max(start)
    }

    /// Whether `bytes` are what was written as this segment.
    pub fn is_intact(&self, segment: &Segment, bytes: &[u8]) -> bool {
        if bytes.len() as u64 != segment.range.end - segment.range.start {
            return false;
        }
        let mut rest = bytes;
        self.pages[segment.pages.clone()].iter().all(|page| {
            let (head, tail) = rest.split_at(page.bytes as usize);
            rest = tail;
            let is_same = |wanted| wanted == checksum(head) || !Defence::PartsHaveChecksums.holds();
            page.checksum.is_none_or(is_same)
        })
    }

    /// Bytes of memory.
    pub fn memory_size(&self) -> usize {
        size_of_val(self.segments.as_slice()) + size_of_val(self.pages.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_grouped_and_found_by_any_of_their_bytes() {
        let mut layout = Layout::default();
        layout.add(0, 0, 4, &[100, SEGMENT_BYTES - 50, 10]);
        layout.add(0, 1, SEGMENT_BYTES + 64, &[7]);
        let ranges: Vec<_> = layout.segments().iter().map(|s| s.range.clone()).collect();
        let second = SEGMENT_BYTES + 64;
        assert_eq!(ranges, [4..104, 104..second, second..second + 7]);
        assert_eq!(layout.covering(&(0..5)), 0..1);
        assert_eq!(layout.covering(&(103..105)), 0..2);
        assert_eq!(layout.covering(&(second + 6..second + 9)), 2..3);
        assert!(layout.covering(&(second + 7..second + 9)).is_empty());
    }

    #[test]
    fn a_flipped_bit_and_a_short_segment_are_found() {
        let mut layout = Layout::default();
        layout.add(0, 0, 0, &[3, 2]);
        let bytes = *b"abcde";
        layout.pages[0].checksum = Some(checksum(&bytes[..3]));
        layout.pages[1].checksum = Some(checksum(&bytes[3..]));
        let segment = &layout.segments()[0];
        assert!(layout.is_intact(segment, &bytes));
        assert!(!layout.is_intact(segment, &bytes[..4]));
        assert!(!layout.is_intact(segment, b"abcdE"));
    }
}
