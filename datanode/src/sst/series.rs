//! Where series begin: files are sorted by tags first, so each is a run of rows.
//!
//! A file lists them in its footer, row group by row group, where they are few. Then whoever wants some series knows their
//! rows before a page is read, and of the tags only one row for each series.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::or;
use arrow::error::ArrowError;

use super::checksum::{decode_numbers, encode_numbers};

/// Key of the footer's metadata: for each row group the number of its series and the row at which each begins; no series
/// if they are too many to be listed.
pub const SERIES_KEY: &str = "greptime.series";
/// They are listed where one has so many rows on average, so that the list is a small part of the file.
const ROWS_OF_ONE: usize = 256;

/// The series of a row group: runs of rows with the same tags. Within a run rows are sorted by time. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Where each run begins, and at the end the number of rows.
    starts: Arc<[u32]>,
}

impl Series {
    fn new(mut starts: Vec<u32>, rows: usize) -> Self {
        starts.push(rows as u32);
        let starts = starts.into();
        Self { starts }
    }

    /// The series of a row group whose tags these are; without tags all rows are one.
    pub(super) fn of(tags: &[impl AsRef<dyn Array>], rows: usize) -> Result<Self, ArrowError> {
        let starts = match rows {
            0 => vec![],
            _ => starts_of(tags)?,
        };
        Ok(Self::new(starts, rows))
    }

    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of all together.
    pub fn rows(&self) -> usize {
        self.starts[self.len()] as usize
    }

    /// The rows of each.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let bounds = self.starts.windows(2);
        bounds.map(|pair| pair[0] as usize..pair[1] as usize)
    }

    /// Where each begins, and at the end the number of rows.
    pub fn starts(&self) -> &Arc<[u32]> {
        &self.starts
    }

    /// Bytes of memory.
    pub fn memory_size(&self) -> usize {
        size_of_val(&*self.starts)
    }
}

/// The series of the batches of a row group, each of which has dictionaries of its own. `None` if there are no tags, or
/// too many series to be listed.
pub(super) fn listed(batches: &[RecordBatch], tags: &[usize]) -> Result<Option<Series>, ArrowError> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let (mut starts, mut at) = (Vec::new(), 0);
    let mut last: Option<RecordBatch> = None;
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let tags = batch.project(tags)?;
        let goes_on = match &last {
            Some(last) => !differ(last, &tags.slice(0, 1))?,
            None => false,
        };
        let found = starts_of(tags.columns())?;
        starts.extend(found.iter().skip(usize::from(goes_on)).map(|start| at + start));
        if starts.len() * ROWS_OF_ONE > rows {
            return Ok(None);
        }
        at += batch.num_rows() as u32;
        last = Some(tags.slice(tags.num_rows() - 1, 1));
    }
    Ok((!tags.is_empty() && rows > 0).then(|| Series::new(starts, rows)))
}

/// Whether two rows have different tags.
fn differ(a: &RecordBatch, b: &RecordBatch) -> Result<bool, ArrowError> {
    for (a, b) in a.columns().iter().zip(b.columns()) {
        if distinct(a, b)?.value(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Rows where any column differs from the row before; the first row is one of them.
fn starts_of(columns: &[impl AsRef<dyn Array>]) -> Result<Vec<u32>, ArrowError> {
    let rows = columns.first().map_or(0, |column| column.as_ref().len());
    let mut differs: Option<BooleanArray> = None;
    for column in columns {
        let column = column.as_ref();
        // The keys of a dictionary: its values are distinct, and comparing texts is slower.
        let keys = column.as_any_dictionary_opt().map(|d| d.keys().slice(0, rows));
        let column = keys.unwrap_or_else(|| column.slice(0, rows));
        let changed = distinct(&column.slice(1, rows - 1), &column.slice(0, rows - 1))?;
        differs = Some(match differs {
            Some(others) => or(&others, &changed)?,
            None => changed,
        });
    }
    let changes = differs
        .iter()
        .flat_map(|d| d.values().set_indices().collect::<Vec<_>>());
    Ok(std::iter::once(0).chain(changes.map(|i| i as u32 + 1)).collect())
}

/// The list of a file's row groups as a text; `None` if nothing is listed.
pub(super) fn encode(row_groups: &[Option<Series>]) -> Option<String> {
    row_groups.iter().any(Option::is_some).then(|| {
        let mut numbers = Vec::new();
        for series in row_groups {
            let starts = series.as_ref().map_or(&[][..], |s| &s.starts[..s.len()]);
            numbers.push(starts.len() as u32);
            numbers.extend_from_slice(starts);
        }
        encode_numbers(&numbers)
    })
}

/// The list of row groups that have so many rows; `None` if it is no such list.
pub(super) fn decode(text: &str, rows: impl Iterator<Item = usize>) -> Option<Vec<Option<Series>>> {
    let numbers = decode_numbers(text)?;
    let mut rest = numbers.as_slice();
    let mut row_groups = Vec::new();
    for rows in rows {
        let (&count, after) = rest.split_first()?;
        let (starts, after) = after.split_at_checked(count as usize)?;
        rest = after;
        let is_right = starts.first().is_none_or(|first| *first == 0)
            && starts.is_sorted_by(|a, b| a < b)
            && starts.last().is_none_or(|last| (*last as usize) < rows);
        let series = || Series::new(starts.to_vec(), rows);
        row_groups.push(match is_right {
            true => (count > 0).then(series),
            false => return None,
        });
    }
    rest.is_empty().then_some(row_groups)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, DictionaryArray, Int64Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    /// Rows with these two tags, the first a text in a dictionary of its own.
    fn batch(rows: &[(Option<&str>, i64)]) -> RecordBatch {
        let texts: DictionaryArray<Int32Type> = rows.iter().map(|(text, _)| *text).collect();
        let numbers = Int64Array::from_iter_values(rows.iter().map(|(_, number)| *number));
        let columns: [(_, ArrayRef); 2] = [("host", Arc::new(texts)), ("core", Arc::new(numbers))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
    }

    #[test]
    fn a_series_goes_on_over_batches_whose_dictionaries_differ() {
        let rows = |host, core, count| vec![(host, core); count];
        let batches = [
            batch(&[rows(Some("a"), 1, 300), rows(Some("b"), 1, 200)].concat()),
            batch(&rows(Some("b"), 1, 100)),
            batch(&[]),
            batch(&[rows(Some("b"), 2, 300), rows(None, 2, 300)].concat()),
            batch(&[rows(None, 2, 10), rows(None, 3, 290)].concat()),
        ];
        let series = listed(&batches, &[0, 1]).unwrap().unwrap();
        let ranges: Vec<_> = series.ranges().collect();
        assert_eq!(ranges, [0..300, 300..600, 600..900, 900..1210, 1210..1500]);
        assert_eq!((series.len(), series.rows()), (5, 1500));
        assert_eq!(listed(&batches, &[]).unwrap(), None);
        // Too short to be listed.
        assert_eq!(listed(&batches[4..], &[0, 1]).unwrap(), None);
    }

    #[test]
    fn a_list_comes_back_from_its_text_and_another_text_is_none() {
        let lists = [
            Some(Series::new(vec![0, 300], 700)),
            None,
            Some(Series::new(vec![0], 5)),
        ];
        let rows = [700, 9, 5];
        let text = encode(&lists).unwrap();
        assert_eq!(decode(&text, rows.into_iter()).unwrap(), lists);
        assert_eq!(encode(&[None, None]), None);
        for rows in [&[700, 9][..], &[700, 9, 5, 5], &[300, 9, 5]] {
            assert_eq!(decode(&text, rows.iter().copied()), None, "{rows:?}");
        }
        for numbers in [&[2, 0, 0][..], &[1, 1], &[3, 0, 1], &[2, 5, 1]] {
            assert_eq!(
                decode(&encode_numbers(numbers), [700].into_iter()),
                None,
                "{numbers:?}"
            );
        }
        assert_eq!(decode("no list", [700].into_iter()), None);
    }
}
