//! Which group a row belongs to, decided once for a stretch of rows.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::exec_err;
use datafusion::error::Result;
use hashbrown::HashMap;

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

/// All groups that were seen.
pub struct Groups {
    tags: Vec<String>,
    buckets: Option<Buckets>,
    converter: Option<RowConverter>,
    /// Distinct values of the tags.
    tag_groups: HashMap<OwnedRow, u32>,
    tag_rows: Vec<OwnedRow>,
    /// (tag group, beginning of the interval).
    known: HashMap<(u32, i64), usize>,
    groups: Vec<(u32, i64)>,
    bytes: usize,
}

/// What an entry of a hash table takes beside its content.
const ENTRY_BYTES: usize = 64;

impl Groups {
    /// `types` are those of the tags in `keys`, as plans see them.
    pub fn new(keys: &[GroupKey], types: Vec<DataType>) -> Result<Self> {
        let tags = keys.iter().filter_map(|key| match key {
            GroupKey::Tag(name) => Some(name.clone()),
            GroupKey::Bucket(_) => None,
        });
        let buckets = keys.iter().find_map(|key| match key {
            GroupKey::Bucket(buckets) => Some(*buckets),
            GroupKey::Tag(_) => None,
        });
        let converter = match types.is_empty() {
            true => None,
            false => Some(RowConverter::new(
                types.into_iter().map(SortField::new).collect(),
            )?),
        };
        Ok(Self {
            tags: tags.collect(),
            buckets,
            converter,
            tag_groups: HashMap::new(),
            tag_rows: Vec::new(),
            known: HashMap::new(),
            groups: Vec::new(),
            bytes: 0,
        })
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The groups of the stretches' rows, one after the other.
    pub fn assign(&mut self, block: &Block, stretches: &[Stretch]) -> Result<Vec<usize>> {
        let tag_groups = self.tag_groups_of(block, stretches)?;
        let rows = stretches.iter().map(|s| s.rows.len()).sum();
        let mut groups = Vec::with_capacity(rows);
        for (number, stretch) in stretches.iter().enumerate() {
            let tags = tag_groups.as_ref().map_or(0, |groups| groups[number]);
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
        *self.known.entry((tags, start)).or_insert_with(|| {
            self.groups.push((tags, start));
            self.bytes += ENTRY_BYTES;
            self.groups.len() - 1
        })
    }

    /// For each stretch the number of its tags' values; `None` if no tag is grouped by.
    fn tag_groups_of(&mut self, block: &Block, stretches: &[Stretch]) -> Result<Option<Vec<u32>>> {
        let Some(converter) = &self.converter else {
            return Ok(None);
        };
        let columns = self.tags.iter().map(|tag| block.tag_of(tag, stretches));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let rows = converter.convert_columns(&columns)?;
        let mut numbers = Vec::with_capacity(stretches.len());
        let mut last: Option<(usize, u32)> = None;
        for (i, row) in rows.iter().enumerate() {
            // Neighbours are often of one group.
            let number = match last {
                Some((before, number)) if rows.row(before) == row => number,
                _ => {
                    let owned = row.owned();
                    match self.tag_groups.get(&owned) {
                        Some(number) => *number,
                        None => {
                            let number = self.tag_rows.len() as u32;
                            self.bytes += 2 * (row.data().len() + ENTRY_BYTES);
                            self.tag_rows.push(owned.clone());
                            self.tag_groups.insert(owned, number);
                            number
                        }
                    }
                }
            };
            last = Some((i, number));
            numbers.push(number);
        }
        Ok(Some(numbers))
    }

    /// The values of all groups: of the tags, and the beginnings of the intervals. Afterwards there is no group.
    pub fn take(&mut self) -> Result<(Vec<ArrayRef>, Vec<i64>)> {
        let groups = std::mem::take(&mut self.groups);
        let tags = match &self.converter {
            None => vec![],
            Some(converter) => {
                let rows = groups.iter().map(|(tags, _)| self.tag_rows[*tags as usize].row());
                converter.convert_rows(rows)?
            }
        };
        self.known.clear();
        self.tag_groups.clear();
        self.tag_rows.clear();
        self.bytes = 0;
        Ok((tags, groups.into_iter().map(|(_, start)| start).collect()))
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
