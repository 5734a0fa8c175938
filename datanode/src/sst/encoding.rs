//! How a column of a row group is encoded: what was smallest when samples were encoded in all sensible ways.

use arrow::datatypes::DataType;
use parquet::basic::Encoding;

/// One way to write a column. Each is followed by compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Distinct values once, then positions among them, in runs.
    Dictionary,
    /// The values themselves, in an encoding for them.
    Plain(Encoding),
}

/// A way to write a column and the bytes that it took for the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub choice: Choice,
    pub bytes: usize,
}

/// Dictionaries are decoded fastest and keep tags as they are, so a tag has one unless another way takes less
/// than this part of its bytes.
const TAG_GAIN: (usize, usize) = (1, 2);

/// Ways to write a column, the preferred one first: of two that are equally small it is taken.
///
/// Only encodings that the common readers know for the type are among them.
pub fn candidates(data_type: &DataType) -> &'static [Choice] {
    const DICTIONARY: Choice = Choice::Dictionary;
    const PLAIN: Choice = Choice::Plain(Encoding::PLAIN);
    const DELTA: Choice = Choice::Plain(Encoding::DELTA_BINARY_PACKED);
    const SPLIT: Choice = Choice::Plain(Encoding::BYTE_STREAM_SPLIT);
    const RUNS: Choice = Choice::Plain(Encoding::RLE);
    const LENGTHS: Choice = Choice::Plain(Encoding::DELTA_LENGTH_BYTE_ARRAY);
    const PREFIXES: Choice = Choice::Plain(Encoding::DELTA_BYTE_ARRAY);
    match data_type {
        DataType::Boolean => &[PLAIN, RUNS],
        DataType::Float16 | DataType::Float32 | DataType::Float64 => &[DICTIONARY, SPLIT, PLAIN],
        DataType::Utf8 | DataType::Binary | DataType::Dictionary(..) => {
            &[DICTIONARY, LENGTHS, PREFIXES, PLAIN]
        }
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Date32
        | DataType::Timestamp(..) => &[DICTIONARY, DELTA, PLAIN],
        _ => &[DICTIONARY, PLAIN],
    }
}

/// The way that took the fewest bytes; `None` without trials.
pub fn choose(data_type: &DataType, trials: &[Trial]) -> Option<Choice> {
    let smallest = trials.iter().min_by_key(|t| t.bytes)?;
    let dictionary = trials.iter().find(|t| t.choice == Choice::Dictionary);
    if let (DataType::Dictionary(..), Some(dictionary)) = (data_type, dictionary) {
        let (part, whole) = TAG_GAIN;
        if smallest.bytes * whole > dictionary.bytes * part {
            return Some(Choice::Dictionary);
        }
    }
    Some(smallest.choice)
}

/// Parts of `rows` rows that are tried: neighbouring rows, since encodings live from what neighbours have in
/// common, from all over the row group.
pub fn samples(rows: usize, parts: usize, part_rows: usize) -> Vec<(usize, usize)> {
    if rows <= parts * part_rows || parts == 0 {
        return vec![(0, rows)];
    }
    let room = rows - part_rows;
    let start = |i: usize| if parts == 1 { 0 } else { room * i / (parts - 1) };
    (0..parts).map(|i| (start(i), part_rows)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::tag_dictionary;

    fn trial(choice: Choice, bytes: usize) -> Trial {
        Trial { choice, bytes }
    }

    #[test]
    fn the_smallest_wins_and_a_tie_goes_to_the_first() {
        let delta = Choice::Plain(Encoding::DELTA_BINARY_PACKED);
        let plain = Choice::Plain(Encoding::PLAIN);
        let trials = [trial(Choice::Dictionary, 10), trial(delta, 9), trial(plain, 9)];
        assert_eq!(choose(&DataType::Int64, &trials), Some(delta));
        assert_eq!(choose(&DataType::Int64, &[]), None);
    }

    #[test]
    fn a_tag_keeps_its_dictionary_unless_another_way_takes_less_than_half() {
        let prefixes = Choice::Plain(Encoding::DELTA_BYTE_ARRAY);
        let trials = |bytes| [trial(Choice::Dictionary, 100), trial(prefixes, bytes)];
        assert_eq!(choose(&tag_dictionary(), &trials(51)), Some(Choice::Dictionary));
        assert_eq!(choose(&tag_dictionary(), &trials(50)), Some(prefixes));
        assert_eq!(choose(&DataType::Utf8, &trials(51)), Some(prefixes));
    }

    proptest! {
        #[test]
        fn samples_lie_in_the_rows_and_do_not_overlap(rows in 0..300_000usize, parts in 1..9usize, part in 1..5000usize) {
            let samples = samples(rows, parts, part);
            let mut end = 0;
            for (start, length) in samples {
                prop_assert!(start >= end && start + length <= rows);
                end = start + length;
            }
        }
    }
}
