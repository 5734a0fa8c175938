//! The series of a memtable: which sets of tags there are, each with a number.
//!
//! A set is found by one hash over its values. Values are kept once for each column, as bytes that compare like the
//! values. Everything lies in blocks that are only ever added to, so that a reader takes what there is at a moment
//! without stopping the writer.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use greptime_rows::SeriesBatch;
use greptime_types::{Error, Result};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::sort::ASCENDING;

/// Series, and values of one column, in a block.
const BLOCK: usize = 4096;
/// What the tables of hashes take for each series or value.
const BYTES_PER_HASH: usize = 14;
/// NULL, where a key of a value is expected.
const NULL: i32 = -1;

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("series in memory: {error}"))
}

#[derive(Debug, Default)]
struct Blocks<T> {
    full: Vec<Arc<T>>,
    open: T,
}

impl<T: Clone + Default> Blocks<T> {
    fn get(&self, block: usize) -> &T {
        self.full.get(block).map_or(&self.open, Arc::as_ref)
    }

    fn close(&mut self) {
        self.full.push(Arc::new(std::mem::take(&mut self.open)));
    }

    fn view(&self) -> Vec<Arc<T>> {
        let open = Arc::new(self.open.clone());
        self.full.iter().cloned().chain([open]).collect()
    }
}

#[derive(Clone, Debug, Default)]
struct Values {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Values {
    fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }
}

/// For each tag, by its position, the keys of a block of series. Tags that came later may be missing: NULL.
#[derive(Clone, Debug, Default)]
struct Keys(Vec<Vec<i32>>);

impl Keys {
    fn get(&self, tag: usize, at: usize) -> i32 {
        self.0
            .get(tag)
            .and_then(|keys| keys.get(at))
            .copied()
            .unwrap_or(NULL)
    }
}

#[derive(Debug)]
struct Tag {
    id: u32,
    data_type: DataType,
    values: Blocks<Values>,
    count: usize,
    by_hash: HashTable<i32>,
}

impl Tag {
    fn value(&self, key: i32) -> &[u8] {
        self.values.get(key as usize / BLOCK).get(key as usize % BLOCK)
    }

    /// The key of a value that may be new.
    fn intern(&mut self, value: &[u8], hasher: &DefaultHashBuilder) -> i32 {
        let hash = hasher.hash_one(value);
        if let Some(key) = self.by_hash.find(hash, |key| self.value(*key) == value) {
            return *key;
        }
        let key = self.count as i32;
        let open = &mut self.values.open;
        open.bytes.extend_from_slice(value);
        open.ends.push(open.bytes.len());
        if open.ends.len() == BLOCK {
            self.values.close();
        }
        self.count += 1;
        let values = &self.values;
        let rehash =
            |key: &i32| hasher.hash_one(values.get(*key as usize / BLOCK).get(*key as usize % BLOCK));
        self.by_hash.insert_unique(hash, key, rehash);
        key
    }
}

/// Numbers sets of tags.
#[derive(Debug, Default)]
pub struct SeriesDictionary {
    tags: Vec<Tag>,
    keys: Blocks<Keys>,
    hashes: Vec<u64>,
    by_hash: HashTable<u32>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

/// Values of a tag in a write, as bytes.
enum TagValues {
    Text(StringArray),
    /// Any other type: bytes that compare like its values.
    Other(ArrayRef, Rows),
}

impl TagValues {
    fn of(array: &ArrayRef) -> Result<Self> {
        if let Some(text) = array.as_string_opt::<i32>() {
            return Ok(Self::Text(text.clone()));
        }
        let rows = converter(array.data_type())?
            .convert_columns(&[Arc::clone(array)])
            .map_err(arrow_error)?;
        Ok(Self::Other(Arc::clone(array), rows))
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        match self {
            Self::Text(array) => array.is_valid(at).then(|| array.value(at).as_bytes()),
            Self::Other(array, rows) => array.is_valid(at).then(|| rows.row(at).data()),
        }
    }
}

fn converter(data_type: &DataType) -> Result<RowConverter> {
    RowConverter::new(vec![SortField::new_with_options(data_type.clone(), ASCENDING)]).map_err(arrow_error)
}

impl SeriesDictionary {
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of each series of `batch`; `tags` are the ids of the table's tags.
    pub fn number(&mut self, batch: &SeriesBatch, tags: &[u32]) -> Result<Vec<u32>> {
        let mut sources: Vec<(usize, TagValues)> = Vec::with_capacity(tags.len());
        for column in batch.columns().filter(|c| c.of_series && tags.contains(&c.id)) {
            let tag = self.tag(column.id, column.array.data_type())?;
            sources.push((tag, TagValues::of(column.array)?));
        }
        // Hashes must not depend on the order of columns in a write.
        sources.sort_by_key(|(tag, _)| *tag);
        (0..batch.series().num_rows())
            .map(|at| self.number_one(&sources, at))
            .collect()
    }

    fn number_one(&mut self, sources: &[(usize, TagValues)], at: usize) -> Result<u32> {
        let mut hasher = self.hasher.build_hasher();
        for (tag, values) in sources {
            if let Some(value) = values.get(at) {
                hasher.write_usize(*tag);
                hasher.write_usize(value.len());
                hasher.write(value);
            }
        }
        let hash = hasher.finish();
        let found = self.by_hash.find(hash, |series| {
            self.hashes[*series as usize] == hash && self.is(*series, sources, at)
        });
        if let Some(series) = found {
            return Ok(*series);
        }
        let series = u32::try_from(self.len())
            .ok()
            .filter(|series| *series < u32::MAX)
            .ok_or_else(|| Error::exhausted("too many series in memory"))?;
        self.add(sources, at);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.by_hash.insert_unique(hash, series, |s| hashes[*s as usize]);
        Ok(series)
    }

    /// Whether a series has just these tags.
    fn is(&self, series: u32, sources: &[(usize, TagValues)], at: usize) -> bool {
        let keys = self.keys.get(series as usize / BLOCK);
        let slot = series as usize % BLOCK;
        let mut next = sources.iter().peekable();
        self.tags.iter().enumerate().all(|(position, tag)| {
            let value = next
                .next_if(|(tag, _)| *tag == position)
                .and_then(|(_, v)| v.get(at));
            match (keys.get(position, slot), value) {
                (NULL, None) => true,
                (NULL, Some(_)) | (_, None) => false,
                (key, Some(value)) => tag.value(key) == value,
            }
        })
    }

    fn add(&mut self, sources: &[(usize, TagValues)], at: usize) {
        let before: usize = self.tags.iter().map(|t| t.count).sum();
        let slot = self.len() % BLOCK;
        for (position, values) in sources {
            let Some(value) = values.get(at) else { continue };
            let tag = &mut self.tags[*position];
            let count = tag.count;
            let key = tag.intern(value, &self.hasher);
            if tag.count > count {
                self.bytes += value.len();
            }
            let columns = &mut self.keys.open.0;
            columns.resize(columns.len().max(position + 1), Vec::new());
            columns[*position].resize(slot, NULL);
            columns[*position].push(key);
        }
        if slot + 1 == BLOCK {
            self.keys.close();
        }
        let values = self.tags.iter().map(|t| t.count).sum::<usize>() - before;
        self.bytes += 4 * self.tags.len() + BYTES_PER_HASH + 8 + values * (BYTES_PER_HASH + 8);
    }

    fn tag(&mut self, id: u32, data_type: &DataType) -> Result<usize> {
        if let Some(position) = self.tags.iter().position(|t| t.id == id) {
            if &self.tags[position].data_type != data_type {
                return Err(Error::internal(format!("tag {id} came with two types")));
            }
            return Ok(position);
        }
        self.tags.push(Tag {
            id,
            data_type: data_type.clone(),
            values: Blocks::default(),
            count: 0,
            by_hash: HashTable::new(),
        });
        Ok(self.tags.len() - 1)
    }

    /// What there is now.
    pub fn view(&self) -> SeriesView {
        let tag = |t: &Tag| TagView {
            id: t.id,
            data_type: t.data_type.clone(),
            values: t.values.view(),
        };
        SeriesView {
            count: self.len(),
            tags: self.tags.iter().map(tag).collect(),
            keys: self.keys.view(),
        }
    }
}

#[derive(Clone, Debug)]
struct TagView {
    id: u32,
    data_type: DataType,
    values: Vec<Arc<Values>>,
}

impl TagView {
    fn value(&self, key: i32) -> &[u8] {
        self.values[key as usize / BLOCK].get(key as usize % BLOCK)
    }
}

/// The series of a moment.
#[derive(Clone, Debug)]
pub struct SeriesView {
    count: usize,
    tags: Vec<TagView>,
    keys: Vec<Arc<Keys>>,
}

impl SeriesView {
    pub fn len(&self) -> usize {
        self.count
    }

    fn key(&self, tag: usize, series: u32) -> i32 {
        self.keys[series as usize / BLOCK].get(tag, series as usize % BLOCK)
    }

    fn value(&self, tag: usize, series: u32) -> Option<&[u8]> {
        match self.key(tag, series) {
            NULL => None,
            key => Some(self.tags[tag].value(key)),
        }
    }

    pub fn has_tag(&self, id: u32) -> bool {
        self.tags.iter().any(|t| t.id == id)
    }

    /// The position of each tag in the order of the primary key; one that no series has makes no difference.
    fn positions(&self, primary_key: &[u32]) -> Vec<usize> {
        let position = |id: &u32| self.tags.iter().position(|t| t.id == *id);
        primary_key.iter().filter_map(position).collect()
    }

    fn compare(&self, positions: &[usize], a: u32, b: u32) -> Ordering {
        for tag in positions {
            let (left, right) = (self.key(*tag, a), self.key(*tag, b));
            if left != right {
                return self.value(*tag, a).cmp(&self.value(*tag, b));
            }
        }
        Ordering::Equal
    }

    /// The first bytes of the first tag: mostly they decide.
    fn prefix(&self, positions: &[usize], series: u32) -> u64 {
        let value = positions
            .first()
            .and_then(|tag| self.value(*tag, series))
            .unwrap_or_default();
        let mut prefix = [0; 8];
        let length = value.len().min(8);
        prefix[..length].copy_from_slice(&value[..length]);
        u64::from_be_bytes(prefix)
    }

    /// The order of all series by the tags of `primary_key`; `known` is that of the first of them.
    pub fn ranks(&self, primary_key: &[u32], known: Option<&Ranks>) -> Ranks {
        let positions = self.positions(primary_key);
        let known = known
            .filter(|k| k.primary_key == primary_key)
            .map_or(&[][..], |k| &k.order);
        let new = known.len() as u32..self.count as u32;
        let mut added: Vec<(u64, u32)> = new.map(|s| (self.prefix(&positions, s), s)).collect();
        added.sort_unstable_by(|(a, left), (b, right)| {
            a.cmp(b)
                .then_with(|| self.compare(&positions, *left, *right))
                .then(left.cmp(right))
        });
        let mut order = Vec::with_capacity(self.count);
        let mut old = known.iter().copied().peekable();
        for (_, series) in added {
            while let Some(earlier) = old.next_if(|o| self.compare(&positions, *o, series).is_lt()) {
                order.push(earlier);
            }
            order.push(series);
        }
        order.extend(old);
        let mut rank = vec![0; order.len()];
        for (at, series) in order.iter().enumerate() {
            rank[*series as usize] = at as u32;
        }
        Ranks {
            primary_key: primary_key.to_vec(),
            order,
            rank,
        }
    }

    /// A tag of rows, given the series of each row, in which equal series lie side by side.
    pub fn column(&self, id: u32, series: &[u32]) -> Result<Option<ArrayRef>> {
        let Some(tag) = self.tags.iter().position(|t| t.id == id) else {
            return Ok(None);
        };
        let (mut own, mut values) = (hashbrown::HashMap::new(), Vec::new());
        let mut keys: Vec<Option<i32>> = Vec::with_capacity(series.len());
        for same in series.chunk_by(|a, b| a == b) {
            let key = match self.key(tag, same[0]) {
                NULL => None,
                key => Some(*own.entry(key).or_insert_with(|| {
                    values.push(key);
                    values.len() as i32 - 1
                })),
            };
            keys.resize(keys.len() + same.len(), key);
        }
        let view = &self.tags[tag];
        let values = values.into_iter().map(|key| view.value(key));
        let keys = Int32Array::from(keys);
        match &view.data_type {
            DataType::Utf8 => {
                let texts: std::result::Result<StringArray, _> =
                    values.map(|v| std::str::from_utf8(v).map(Some)).collect();
                let texts = texts.map_err(|e| Error::internal(format!("a tag in memory: {e}")))?;
                let array =
                    arrow::array::DictionaryArray::try_new(keys, Arc::new(texts)).map_err(arrow_error)?;
                Ok(Some(Arc::new(array)))
            }
            other => {
                let converter = converter(other)?;
                let parser = converter.parser();
                let rows = values.map(|v| parser.parse(v));
                let arrays = converter.convert_rows(rows).map_err(arrow_error)?;
                arrow::compute::take(&arrays[0], &keys, None)
                    .map(Some)
                    .map_err(arrow_error)
            }
        }
    }
}

/// Where each series stands in the order of the primary key.
#[derive(Debug)]
pub struct Ranks {
    primary_key: Vec<u32>,
    order: Vec<u32>,
    rank: Vec<u32>,
}

impl Ranks {
    pub fn len(&self) -> usize {
        self.rank.len()
    }

    pub fn is_for(&self, primary_key: &[u32], count: usize) -> bool {
        self.primary_key == primary_key && self.len() >= count
    }

    pub fn of(&self, series: u32) -> u32 {
        self.rank[series as usize]
    }
}
