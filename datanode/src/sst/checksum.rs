//! Checksums of everything in a file.
//!
//! The Parquet library writes no page checksums, and Parquet's own would not cover the headers of pages. So the
//! footer carries, under a key of its own, a checksum of every page (header and data) and of every bloom filter,
//! and one of the tail: the indexes and the footer itself, computed with its own digits as zeros. Other readers
//! take no notice of them.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use greptime_types::{Error, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use xxhash_rust::xxh64::xxh64;

/// Key of the footer's metadata: checksums of pages and filters in the order of [`pages_of`], then filters, row
/// group by row group.
pub const PAGES_KEY: &str = "greptime.page_checksums";
/// Key of the footer's metadata: where the tail begins and its checksum, 16 hexadecimal digits each.
pub const TAIL_KEY: &str = "greptime.tail_checksum";

const DIGITS: usize = 16;

/// The checksum of a page or filter.
pub fn checksum(bytes: &[u8]) -> u32 {
    // The lower half is as good as any.
    xxh64(bytes, 0) as u32
}

/// Numbers as a text.
pub fn encode_numbers(numbers: &[u32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|c| c.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// `None` if the text is damaged.
pub fn decode_numbers(text: &str) -> Option<Vec<u32>> {
    let bytes = STANDARD.decode(text).ok()?;
    let chunks = bytes.chunks_exact(4);
    if !chunks.remainder().is_empty() {
        return None;
    }
    Some(
        chunks
            .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .collect(),
    )
}

/// Lengths of the pages of a column, in the order of the file: the dictionary, if any, comes first. Without an
/// index of its pages a column is taken as one.
pub fn pages_of(column: &ColumnChunkMetaData, locations: &[PageLocation]) -> Vec<u64> {
    let (_, length) = column.byte_range();
    let data: Vec<u64> = locations.iter().map(|l| l.compressed_page_size as u64).collect();
    let dictionary = length.saturating_sub(data.iter().sum());
    let first = (dictionary > 0).then_some(dictionary);
    first.into_iter().chain(data).collect()
}

/// What [`TAIL_KEY`] has before the tail is known.
pub fn tail_placeholder(start: u64) -> String {
    format!("{start:016x}{:016x}", 0)
}

/// Fills in the checksum of a tail that was written with [`tail_placeholder`].
pub fn seal_tail(tail: &mut [u8]) -> Result<()> {
    let digits = tail_digits(tail)
        .ok_or_else(|| Error::internal("a file's footer was written without the place of its checksum"))?;
    let sum = format!("{:016x}", xxh64(tail, 0));
    tail[digits].copy_from_slice(sum.as_bytes());
    Ok(())
}

/// What a footer says of the tail: where it begins, and its checksum. `None` if it says nothing.
pub fn tail_claim(footer: &[u8]) -> Option<(u64, u64)> {
    let digits = tail_digits(footer)?;
    let hex = |range: Range<usize>| {
        let text = std::str::from_utf8(&footer[range]).ok()?;
        let value = u64::from_str_radix(text, 16).ok()?;
        // A flipped bit may make a small letter a large one.
        (format!("{value:016x}") == text).then_some(value)
    };
    Some((hex(digits.start - DIGITS..digits.start)?, hex(digits)?))
}

/// The checksum that a tail should have.
pub fn tail_checksum(tail: &[u8]) -> Option<u64> {
    let digits = tail_digits(tail)?;
    let mut blank = tail.to_vec();
    blank[digits].fill(b'0');
    Some(xxh64(&blank, 0))
}

/// Where the digits of the checksum are: after the key, the header of a string field, and the start of the tail.
fn tail_digits(bytes: &[u8]) -> Option<Range<usize>> {
    let mut marker = TAIL_KEY.as_bytes().to_vec();
    // Thrift's compact protocol: the next field is binary, and has so many bytes.
    marker.extend([0x18, 2 * DIGITS as u8]);
    let at = bytes.windows(marker.len()).rposition(|w| w == marker)?;
    let start = at + marker.len() + DIGITS;
    (start + DIGITS <= bytes.len()).then_some(start..start + DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_their_text() {
        let sums = [0, 1, u32::MAX, 77];
        assert_eq!(decode_numbers(&encode_numbers(&sums)).unwrap(), sums);
        assert_eq!(decode_numbers("AAA="), None);
    }

    #[test]
    fn a_sealed_tail_shows_any_flipped_bit() {
        let mut tail = b"indexes".to_vec();
        tail.extend(TAIL_KEY.as_bytes());
        tail.extend([0x18, 32]);
        tail.extend(tail_placeholder(4711).as_bytes());
        tail.extend(b"PAR1");
        seal_tail(&mut tail).unwrap();
        let (start, sum) = tail_claim(&tail).unwrap();
        assert_eq!((start, Some(sum)), (4711, tail_checksum(&tail)));
        for bit in 0..tail.len() * 8 {
            let mut damaged = tail.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = tail_claim(&damaged);
            let unharmed =
                found.is_some_and(|(start, sum)| start == 4711 && tail_checksum(&damaged) == Some(sum));
            assert!(!unharmed, "bit {bit}");
        }
    }
}
