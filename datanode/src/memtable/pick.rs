//! The rows of sorted runs that a reader wants, found without looking at the others.

use std::ops::{Range, RangeInclusive};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{ArrowNativeType, FieldRef, SchemaRef};
use greptime_types::Result;

use super::chunk::{Chunk, Each, FieldValues, Parts, arrow_error, field_id, shown};
use super::dictionary::{Ranks, SeriesView};
use crate::schema::FIELD_ID;

/// Looking for a series takes about as long as passing by so many rows.
const ROWS_PER_SEARCH: usize = 32;

/// Rows that a reader wants.
pub struct Selection<'a> {
    /// In the unit of the time index.
    pub times: RangeInclusive<i64>,
    /// `None`: all series.
    pub series: Option<SeriesFilter<'a>>,
    /// Of each series in each run, only what has its latest time of `times`.
    pub latest: bool,
}

/// Says of each series, one row with its tags, whether it is wanted.
pub struct SeriesFilter<'a> {
    /// Of the rows that `holds` looks at.
    pub tags: SchemaRef,
    pub holds: &'a dyn Fn(&RecordBatch) -> Result<BooleanArray>,
}

impl Selection<'_> {
    pub const fn all() -> Self {
        Self {
            times: i64::MIN..=i64::MAX,
            series: None,
            latest: false,
        }
    }

    pub fn overlaps(&self, chunk: &Chunk) -> bool {
        chunk
            .times_span()
            .is_some_and(|(min, max)| *self.times.start() <= max && *self.times.end() >= min)
    }

    /// The numbers of the wanted series; `None`: all.
    pub fn wanted(&self, series: &SeriesView) -> Result<Option<Wanted>> {
        let Some(filter) = &self.series else {
            return Ok(None);
        };
        let numbers: Vec<u32> = (0..series.len() as u32).collect();
        let column =
            |field: &FieldRef| shown(series.column(field_id(field)?, &numbers)?, field, numbers.len());
        let columns = filter.tags.fields().iter().map(column);
        let tags = RecordBatch::try_new_with_options(
            SchemaRef::clone(&filter.tags),
            columns.collect::<Result<Vec<_>>>()?,
            &RecordBatchOptions::new().with_row_count(Some(numbers.len())),
        );
        let holds = (filter.holds)(&tags.map_err(arrow_error)?)?;
        let numbers = numbers.into_iter().filter(|s| holds.value(*s as usize));
        Ok(Some(Wanted {
            numbers: numbers.collect(),
            holds,
        }))
    }

    /// Where the wanted rows of a sorted run lie.
    pub fn ranges(&self, run: &Chunk, wanted: Option<&Wanted>, ranks: &Ranks) -> Vec<Range<usize>> {
        let inside = |(min, max)| self.times.contains(&min) && self.times.contains(&max);
        if wanted.is_none() && !self.latest && run.times_span().is_some_and(inside) {
            return std::iter::once(0..run.rows()).collect();
        }
        let mut found: Vec<Range<usize>> = Vec::new();
        // Of one series.
        let mut add = |rows: Range<usize>| {
            let times = &run.times[rows.clone()];
            let to = times.partition_point(|t| t <= self.times.end());
            let first = match times[..to].last() {
                Some(latest) if self.latest => self.times.start().max(latest),
                _ => self.times.start(),
            };
            let from = rows.start + times[..to].partition_point(|t| t < first);
            let to = rows.start + to;
            match found.last_mut() {
                _ if from >= to => {}
                Some(last) if last.end == from => last.end = to,
                _ => found.push(from..to),
            }
        };
        match wanted {
            Some(wanted) if wanted.numbers.len() * ROWS_PER_SEARCH < run.rows() => {
                let mut ranked: Vec<u32> = wanted.numbers.iter().map(|s| ranks.of(*s)).collect();
                ranked.sort_unstable();
                for rank in ranked {
                    let start = run.series.partition_point(|s| ranks.of(*s) < rank);
                    let own = &run.series[start..];
                    add(start..start + own.partition_point(|s| ranks.of(*s) == rank));
                }
            }
            _ => {
                let mut start = 0;
                for own in run.series.chunk_by(|a, b| a == b) {
                    let end = start + own.len();
                    if wanted.is_none_or(|w| w.holds.value(own[0] as usize)) {
                        add(start..end);
                    }
                    start = end;
                }
            }
        }
        found
    }
}

/// Series that are wanted.
pub struct Wanted {
    numbers: Vec<u32>,
    /// For each number.
    holds: BooleanArray,
}

impl Chunk {
    /// Some of the rows, in order, with those fields that `schema` has.
    pub(super) fn picked(&self, ranges: &[Range<usize>], schema: &SchemaRef) -> Result<Self> {
        let rows = match ranges {
            [range] => Rows::Range(range.clone()),
            _ => Rows::Each(ranges.iter().flat_map(|r| r.start as u32..r.end as u32).collect()),
        };
        let ids = schema
            .fields()
            .iter()
            .filter_map(|f| f.metadata().get(FIELD_ID)?.parse().ok());
        let mut fields = std::collections::BTreeMap::new();
        for id in ids {
            let (Some(values), Some(array)) = (self.fields.get(&id), self.field(id)?) else {
                continue;
            };
            let field = FieldValues {
                array: rows.of_array(&array)?,
                absent: values.absent.clone(),
                of_series: false,
            };
            fields.insert(id, field);
        }
        Ok(Self::new(Parts {
            series: rows.of(&self.series),
            times: rows.of_buffer(&self.times),
            sequences: rows.of_each(&self.sequences),
            ops: rows.of_each(&self.ops),
            keys: vec![],
            fields,
            sorted_by: self.sorted_by.clone(),
            bytes: 0,
            min_sequence: self.min_sequence,
            max_sequence: self.max_sequence,
        }))
    }
}

enum Rows {
    Range(Range<usize>),
    Each(UInt32Array),
}

impl Rows {
    fn of<T: Copy>(&self, values: &[T]) -> Vec<T> {
        match self {
            Self::Range(range) => values[range.clone()].to_vec(),
            Self::Each(rows) => rows.values().iter().map(|row| values[*row as usize]).collect(),
        }
    }

    fn of_buffer<T: ArrowNativeType>(&self, values: &ScalarBuffer<T>) -> ScalarBuffer<T> {
        match self {
            Self::Range(range) => values.slice(range.start, range.len()),
            Self::Each(_) => self.of(values).into(),
        }
    }

    fn of_each<T: ArrowNativeType>(&self, values: &Each<T>) -> Each<T> {
        match values {
            Each::All(value) => Each::All(*value),
            Each::Row(values) => Each::Row(self.of_buffer(values)),
        }
    }

    fn of_array(&self, array: &ArrayRef) -> Result<ArrayRef> {
        match self {
            Self::Range(range) => Ok(array.slice(range.start, range.len())),
            Self::Each(rows) => take(array, rows, None).map_err(arrow_error),
        }
    }
}
