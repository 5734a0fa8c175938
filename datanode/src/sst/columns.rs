//! Whole columns of a row group, decoded once and kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::take;
use arrow::datatypes::{Field, FieldRef, Fields};
use greptime_types::{Error, Result, Semantic};

use crate::schema::{absent, recast};

use super::decode::{decode_columns, undecodable};
use super::{ReadMetrics, SstFile};
use crate::cache::{ColumnKey, Decoded};

/// Marks the key of what is kept of a column's last rows.
const LAST_OF_SERIES: u32 = 1 << 30;

/// The series of a row group: runs of rows with the same tags. Within a run rows are sorted by time.
#[derive(Debug)]
pub struct Series {
    /// Where each run begins, and at the end the number of rows.
    pub starts: Vec<u32>,
    /// Columns of the file, by position, with one row per run.
    tags: Vec<(usize, ArrayRef)>,
}

impl Series {
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub fn memory_size(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(_, t)| t.get_array_memory_size()).sum();
        tags + size_of_val(self.starts.as_slice())
    }
}

impl SstFile {
    /// All rows of columns of a row group, in the types that are asked for; from memory if they were decoded
    /// before. A column that the file does not have is NULL.
    pub async fn columns(
        &self,
        row_group: usize,
        fields: &Fields,
        metrics: &ReadMetrics,
    ) -> Result<Vec<ArrayRef>> {
        let rows = self.rows_of(row_group)?;
        let found: Vec<Option<usize>> = fields.iter().map(|f| self.footer.find(f)).collect();
        let mut known: Vec<(usize, ArrayRef)> = Vec::new();
        let mut missing: Vec<usize> = Vec::new();
        for &column in found.iter().flatten() {
            match self.caches().decoded.get(&self.column_key(row_group, column)) {
                Some(Decoded::Column(array)) => {
                    ReadMetrics::add(&metrics.bytes_decoded_before, array.get_array_memory_size());
                    known.push((column, array));
                }
                _ => missing.push(column),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let batch = decode_columns(self, row_group, &missing, metrics).await?;
            for (&column, array) in missing.iter().zip(batch.columns()) {
                let key = self.column_key(row_group, column);
                self.caches()
                    .decoded
                    .insert(key, Decoded::Column(Arc::clone(array)));
                known.push((column, Arc::clone(array)));
            }
        }
        let column = |(field, found): (&FieldRef, &Option<usize>)| {
            let array = found.and_then(|c| known.iter().find(|(k, _)| *k == c));
            match array {
                Some((_, array)) => {
                    recast(array, field.data_type()).map_err(|e| undecodable(self, row_group, &e))
                }
                None => absent(field, rows).map_err(|e| undecodable(self, row_group, &e)),
            }
        };
        fields.iter().zip(&found).map(column).collect()
    }

    /// The last row of each of the series of a row group, in the types that are asked for; kept, since they are few.
    pub async fn last_of_series(
        &self,
        row_group: usize,
        fields: &Fields,
        metrics: &ReadMetrics,
    ) -> Result<Vec<ArrayRef>> {
        let series = self.series(row_group, metrics).await?;
        let mut known: Vec<Option<ArrayRef>> = Vec::with_capacity(fields.len());
        for field in fields {
            let kept = self
                .last_key(row_group, field)
                .and_then(|key| self.caches().decoded.get(&key));
            known.push(match kept {
                Some(Decoded::Column(array)) => {
                    ReadMetrics::add(&metrics.bytes_decoded_before, array.get_array_memory_size());
                    let array = recast(&array, field.data_type());
                    Some(array.map_err(|e| undecodable(self, row_group, &e))?)
                }
                _ => None,
            });
        }
        let missing: Fields = fields
            .iter()
            .zip(&known)
            .filter(|(_, k)| k.is_none())
            .map(|(f, _)| Arc::clone(f))
            .collect();
        let mut columns = self.columns(row_group, &missing, metrics).await?.into_iter();
        let last = UInt32Array::from_iter_values(series.starts.iter().skip(1).map(|end| end - 1));
        let mut found = Vec::with_capacity(fields.len());
        for (field, known) in fields.iter().zip(known) {
            let Some(column) = (match known {
                Some(array) => {
                    found.push(array);
                    continue;
                }
                None => columns.next(),
            }) else {
                return Err(Error::internal("a column of a row group was not read"));
            };
            let array = take(&column, &last, None).map_err(|e| undecodable(self, row_group, &e))?;
            if let Some(key) = self.last_key(row_group, field) {
                self.caches()
                    .decoded
                    .insert(key, Decoded::Column(Arc::clone(&array)));
            }
            found.push(array);
        }
        Ok(found)
    }

    fn last_key(&self, row_group: usize, field: &Field) -> Option<ColumnKey> {
        let column = self.footer.find(field)?;
        let mut key = self.column_key(row_group, column);
        key.column |= LAST_OF_SERIES;
        Some(key)
    }

    /// Where the series of a row group begin. Two neighbours may have the same tags.
    pub async fn series(&self, row_group: usize, metrics: &ReadMetrics) -> Result<Arc<Series>> {
        let key = self.column_key(row_group, usize::MAX);
        if let Some(Decoded::Series(series)) = self.caches().decoded.get(&key) {
            ReadMetrics::add(&metrics.bytes_decoded_before, series.memory_size());
            return Ok(series);
        }
        let rows = self.rows_of(row_group)?;
        let positions = self.tag_positions();
        let mut starts = vec![0];
        let mut tags = Vec::new();
        if rows > 0 && !positions.is_empty() {
            let batch = decode_columns(self, row_group, &positions, metrics).await?;
            let failed = |e: arrow::error::ArrowError| undecodable(self, row_group, &e);
            starts = starts_of(batch.columns()).map_err(failed)?;
            let first = UInt32Array::from(starts.clone());
            for (&position, column) in positions.iter().zip(batch.columns()) {
                tags.push((position, take(column, &first, None).map_err(failed)?));
            }
        }
        starts.push(rows as u32);
        if rows == 0 {
            starts.truncate(1);
        }
        let series = Arc::new(Series { starts, tags });
        self.caches()
            .decoded
            .insert(key, Decoded::Series(Arc::clone(&series)));
        Ok(series)
    }

    /// A tag of each run of `series`; NULL if the file does not have it.
    pub fn tag_of(&self, series: &Series, tag: &Field) -> Result<ArrayRef> {
        let position = self.footer.find(tag);
        match series.tags.iter().find(|(p, _)| Some(*p) == position) {
            Some((_, values)) => {
                recast(values, tag.data_type()).map_err(|e| Error::corruption(format!("{}: {e}", self.name)))
            }
            None => Ok(new_null_array(tag.data_type(), series.len())),
        }
    }

    /// Whether all columns that the file has are decoded already.
    pub fn are_cached(&self, row_group: usize, fields: &Fields) -> bool {
        let mut columns = fields.iter().filter_map(|f| self.footer.find(f));
        columns.all(|column| {
            self.caches()
                .decoded
                .contains(&self.column_key(row_group, column))
        })
    }

    /// Whether columns of which few rows are wanted are better decoded as a whole: those of before, and those that are
    /// asked for again. A page costs about as much to find, check and decode as a column does to decode.
    pub fn are_worth_decoding(&self, row_group: usize, fields: &Fields) -> bool {
        let decoded = &self.caches().decoded;
        let keys = fields.iter().filter_map(|f| self.footer.find(f));
        let keys = keys.map(|column| self.column_key(row_group, column));
        // Each is asked, so that it is remembered.
        let known = keys.filter(|key| !decoded.contains(key) && !decoded.is_asked_again(key));
        known.count() == 0 && self.are_cacheable(row_group, fields)
    }

    /// Whether the columns, decoded, are of a size that is worth keeping.
    pub(super) fn are_cacheable(&self, row_group: usize, fields: &Fields) -> bool {
        let largest = self.caches().decoded.largest();
        let group = self.footer.metadata().row_group(row_group);
        let size = |column: usize| {
            let chunk = group.column(column);
            let text = chunk.unencoded_byte_array_data_bytes().unwrap_or(0);
            chunk.uncompressed_size().max(text) as usize + 8 * group.num_rows() as usize
        };
        let mut columns = fields.iter().filter_map(|f| self.footer.find(f));
        columns.all(|column| size(column) <= largest)
    }

    fn rows_of(&self, row_group: usize) -> Result<usize> {
        let groups = self.footer.metadata().row_groups();
        let group = groups.get(row_group).ok_or_else(|| {
            Error::internal(format!("row group {row_group} of {} was asked for", groups.len()))
        })?;
        Ok(group.num_rows() as usize)
    }

    fn tag_positions(&self) -> Vec<usize> {
        let tags = self
            .footer
            .table
            .schema
            .columns
            .iter()
            .filter(|c| c.semantic == Semantic::Tag);
        let ids: Vec<u32> = tags.map(|c| c.id).collect();
        let is_tag = |id: Option<u32>| id.is_some_and(|id| ids.contains(&id));
        let columns = self.footer.columns.iter().enumerate();
        columns.filter(|(_, c)| is_tag(c.id)).map(|(i, _)| i).collect()
    }

    fn column_key(&self, row_group: usize, column: usize) -> ColumnKey {
        ColumnKey {
            file: Arc::clone(&self.name),
            row_group: row_group as u32,
            column: column as u32,
        }
    }
}

/// Rows where any column differs from the row before; the first row is one of them.
fn starts_of(columns: &[ArrayRef]) -> std::result::Result<Vec<u32>, arrow::error::ArrowError> {
    let rows = columns.first().map_or(0, Array::len);
    let mut differs: Option<BooleanArray> = None;
    for column in columns {
        // The keys of a dictionary: its values are distinct, and comparing texts is slower.
        let keys = column
            .as_any_dictionary_opt()
            .map(|d| arrow::array::make_array(d.keys().to_data()));
        let column = keys.as_ref().unwrap_or(column);
        let changed = distinct(&column.slice(1, rows - 1), &column.slice(0, rows - 1))?;
        differs = Some(match differs {
            Some(others) => arrow::compute::or(&others, &changed)?,
            None => changed,
        });
    }
    let changes = differs
        .iter()
        .flat_map(|d| d.values().set_indices().collect::<Vec<_>>());
    Ok(std::iter::once(0).chain(changes.map(|i| i as u32 + 1)).collect())
}
