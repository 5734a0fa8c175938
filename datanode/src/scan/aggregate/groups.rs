//! Which group a row belongs to, decided once for a stretch of rows.

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::Fields;
use arrow::row::{Row, RowConverter, Rows, SortField};
use datafusion::common::{exec_err, internal_datafusion_err};
use datafusion::error::Result;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::scan::block::{Block, Stretch};
use crate::scan::filter::Buckets;

/// One expression of GROUP BY.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupKey {
    /// A tag, by name.
    Tag(String),
    /// An interval of the time index.
    Bucket(Buckets),
}

/// All groups that were seen, numbered as they came.
pub struct Groups {
    keys: Vec<GroupKey>,
    buckets: Option<Buckets>,
    /// If a tag is grouped by.
    tags: Option<TagValues>,
    /// Groups by the number of their tags' values and the beginning of their interval; empty if there are no intervals,
    /// since groups are numbered as their tags are then.
    known: HashMap<(u32, i64), usize>,
    groups: Vec<(u32, i64)>,
}

impl Groups {
    /// `fields` begin with those of the keys, as plans see them.
    pub fn new(keys: &[GroupKey], fields: &Fields) -> Result<Self> {
        let by_tag = keys.iter().zip(fields).filter(|(key, _)| key.tag().is_some());
        let sorts: Vec<SortField> = by_tag
            .map(|(_, field)| SortField::new(field.data_type().clone()))
            .collect();
        let tags = match sorts.is_empty() {
            true => None,
            false => Some(TagValues::new(Arc::new(RowConverter::new(sorts)?))),
        };
        Ok(Self::of(keys.to_vec(), tags))
    }

    fn of(keys: Vec<GroupKey>, tags: Option<TagValues>) -> Self {
        let buckets = keys.iter().find_map(|key| match key {
            GroupKey::Bucket(buckets) => Some(*buckets),
            GroupKey::Tag(_) => None,
        });
        Self {
            keys,
            buckets,
            tags,
            known: HashMap::new(),
            groups: Vec::new(),
        }
    }

    /// No groups yet, of which those here can be told.
    pub fn sibling(&self) -> Self {
        let tags = self.tags.as_ref();
        let tags = tags.map(|tags| TagValues::new(Arc::clone(&tags.converter)));
        Self::of(self.keys.clone(), tags)
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// What the groups take in memory.
    pub fn bytes(&self) -> usize {
        match self.groups.len() {
            0 => 0,
            _ => {
                self.tags.as_ref().map_or(0, TagValues::bytes)
                    + self.known.allocation_size()
                    + self.groups.capacity() * size_of::<(u32, i64)>()
            }
        }
    }

    /// The groups of the stretches' rows, one after the other.
    pub fn assign(&mut self, block: &Block, stretches: &[Stretch]) -> Result<Vec<usize>> {
        let names = self.keys.iter().filter_map(GroupKey::tag);
        let tags = match &mut self.tags {
            None => None,
            Some(values) => {
                let columns = names.map(|tag| block.tag_of(tag, stretches));
                Some(values.numbers_of(&columns.collect::<Result<Vec<_>>>()?)?)
            }
        };
        let rows = stretches.iter().map(|s| s.rows.len()).sum();
        let mut groups = Vec::with_capacity(rows);
        for (number, stretch) in stretches.iter().enumerate() {
            let tags = tags.as_ref().map_or(0, |numbers| numbers[number]);
            self.assign_stretch(tags, &block.times()[stretch.rows.clone()], &mut groups)?;
        }
        Ok(groups)
    }

    fn assign_stretch(&mut self, tags: u32, times: &[i64], groups: &mut Vec<usize>) -> Result<()> {
        let Some(buckets) = self.buckets else {
            let group = self.group(tags, 0);
            groups.resize(groups.len() + times.len(), group);
            return Ok(());
        };
        let mut at = 0;
        while at < times.len() {
            let Some(start) = buckets.start_of(times[at]) else {
                return exec_err!(
                    "the interval of time {} begins before the first time there is",
                    times[at]
                );
            };
            let end = start.checked_add(buckets.length);
            let length = match end {
                None => times.len() - at,
                // Most intervals have few rows.
                Some(end) => gallop(&times[at..], end),
            };
            let group = self.group(tags, start);
            groups.resize(groups.len() + length, group);
            at += length;
        }
        Ok(())
    }

    fn group(&mut self, tags: u32, start: i64) -> usize {
        let next = self.groups.len();
        let group = match self.buckets {
            None => tags as usize,
            Some(_) => *self.known.entry((tags, start)).or_insert(next),
        };
        if group == next {
            self.groups.push((tags, start));
        }
        group
    }

    /// Takes over the groups of a sibling. What is returned are their numbers here.
    pub fn adopt(&mut self, sibling: &Self) -> Vec<usize> {
        let numbers = match (&mut self.tags, &sibling.tags) {
            (Some(own), Some(others)) => others.rows.iter().map(|row| own.number_of(row)).collect(),
            _ => vec![0],
        };
        let groups = sibling.groups.iter();
        groups
            .map(|(tags, start)| self.group(numbers[*tags as usize], *start))
            .collect()
    }

    /// The values of some groups by which rows are grouped; `fields` begin with those of the keys.
    pub fn columns(&self, groups: Range<usize>, fields: &Fields) -> Result<Vec<ArrayRef>> {
        let groups = &self.groups[groups];
        let tags = match &self.tags {
            None => vec![],
            Some(tags) => tags.columns(groups.iter().map(|(tags, _)| *tags))?,
        };
        let mut tags = tags.into_iter();
        let mut columns = Vec::with_capacity(fields.len());
        for (key, field) in self.keys.iter().zip(fields) {
            columns.push(match key {
                GroupKey::Tag(_) => tags
                    .next()
                    .ok_or_else(|| internal_datafusion_err!("a tag without values"))?,
                GroupKey::Bucket(_) => {
                    let starts = Int64Array::from_iter_values(groups.iter().map(|(_, start)| *start));
                    cast(&starts, field.data_type())?
                }
            });
        }
        Ok(columns)
    }
}

impl GroupKey {
    fn tag(&self) -> Option<&str> {
        match self {
            Self::Tag(name) => Some(name),
            Self::Bucket(_) => None,
        }
    }
}

/// Distinct values of the tags that are grouped by, numbered as they came.
struct TagValues {
    /// Of all siblings: only its own rows can be compared.
    converter: Arc<RowConverter>,
    /// By number.
    rows: Rows,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TagValues {
    fn new(converter: Arc<RowConverter>) -> Self {
        Self {
            rows: converter.empty_rows(0, 0),
            converter,
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    fn bytes(&self) -> usize {
        self.rows.size() + self.numbers.allocation_size()
    }

    /// A number for each row of the columns.
    fn numbers_of(&mut self, columns: &[ArrayRef]) -> Result<Vec<u32>> {
        let rows = self.converter.convert_columns(columns)?;
        let mut numbers = Vec::with_capacity(rows.num_rows());
        let mut last: Option<(Row<'_>, u32)> = None;
        for row in &rows {
            // Neighbours are often of one group.
            let number = match last {
                Some((before, number)) if before == row => number,
                _ => self.number_of(row),
            };
            last = Some((row, number));
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn number_of(&mut self, row: Row<'_>) -> u32 {
        let Self {
            rows,
            numbers,
            hasher,
            ..
        } = self;
        let known = |number: &u32| rows.row(*number as usize);
        let hash = |row: Row<'_>| hasher.hash_one(row);
        match numbers.entry(hash(row), |n| known(n) == row, |n| hash(known(n))) {
            Entry::Occupied(number) => *number.get(),
            Entry::Vacant(place) => {
                let number = rows.num_rows() as u32;
                place.insert(number);
                rows.push(row);
                number
            }
        }
    }

    fn columns(&self, numbers: impl Iterator<Item = u32>) -> Result<Vec<ArrayRef>> {
        let rows = numbers.map(|number| self.rows.row(number as usize));
        Ok(self.converter.convert_rows(rows)?)
    }
}

/// How many of the ascending times lie before `end`; the first one does.
fn gallop(times: &[i64], end: i64) -> usize {
    let mut reach = 1;
    while reach < times.len() && times[reach] < end {
        reach *= 2;
    }
    let from = reach / 2;
    let to = reach.min(times.len());
    from + times[from..to].partition_point(|t| *t < end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn galloping_finds_what_counting_finds(mut times in prop::collection::vec(0..40_i64, 1..60), end in 1..45_i64) {
            times.sort_unstable();
            times[0] = 0;
            let expected = times.iter().filter(|t| **t < end).count();
            prop_assert_eq!(gallop(&times, end), expected);
        }
    }
}
