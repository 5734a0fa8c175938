//! Whole columns of a row group, decoded once and kept.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{FieldRef, Fields};
use arrow::error::ArrowError;
use greptime_types::{Error, Result, Semantic};
use parquet::arrow::arrow_reader::RowSelection;

use crate::schema::{absent, recast};

use super::decode::{decode_columns, undecodable};
use super::series::Series;
use super::{ReadMetrics, SstFile};
use crate::cache::{ColumnKey, Decoded, OneOf, Rows};

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
            match self.kept(row_group, column, Rows::All, metrics) {
                Some(array) => known.push((column, array)),
                None => missing.push(column),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let batch = decode_columns(self, row_group, &missing, None, metrics).await?;
            for (&column, array) in missing.iter().zip(batch.columns()) {
                self.keep(row_group, column, Rows::All, array);
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

    /// One row of each of the series of a row group, in the types that are asked for; kept, since they are few. A column
    /// that the file does not have is NULL.
    pub async fn of_series(
        &self,
        row_group: usize,
        series: &Series,
        fields: &Fields,
        which: OneOf,
        metrics: &ReadMetrics,
    ) -> Result<Vec<ArrayRef>> {
        let failed = |e: ArrowError| undecodable(self, row_group, &e);
        let mut found: Vec<Option<ArrayRef>> = Vec::with_capacity(fields.len());
        for field in fields {
            found.push(match self.footer.find(field) {
                Some(column) => self.kept(row_group, column, Rows::OfSeries(which), metrics),
                None => Some(absent(field, series.len()).map_err(failed)?),
            });
        }
        let missing: Fields = fields
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(field, _)| Arc::clone(field))
            .collect();
        let read = self.read_of_series(row_group, series, &missing, which, metrics);
        let mut read = read.await?.into_iter();
        let mut columns = Vec::with_capacity(fields.len());
        for (field, found) in fields.iter().zip(found) {
            let array = found
                .or_else(|| read.next())
                .ok_or_else(|| Error::internal("a column of a row group was not read"))?;
            columns.push(recast(&array, field.data_type()).map_err(failed)?);
        }
        Ok(columns)
    }

    /// Reads one row of each series, of columns that the file has, and keeps them. Of whole columns, if these are at hand
    /// or the series are so short that all pages have to be decoded for them.
    async fn read_of_series(
        &self,
        row_group: usize,
        series: &Series,
        fields: &Fields,
        which: OneOf,
        metrics: &ReadMetrics,
    ) -> Result<Vec<ArrayRef>> {
        if fields.is_empty() {
            return Ok(vec![]);
        }
        let row = |rows: Range<usize>| match which {
            OneOf::First => rows.start,
            OneOf::Last => rows.end - 1,
        };
        let columns: Vec<usize> = fields.iter().filter_map(|f| self.footer.find(f)).collect();
        let arrays = if self.are_cached(row_group, fields) || !self.knows_series(row_group) {
            let rows = UInt32Array::from_iter_values(series.ranges().map(|rows| row(rows) as u32));
            let whole = self.columns(row_group, fields, metrics).await?;
            let taken = whole.iter().map(|column| take(column, &rows, None));
            taken.collect::<std::result::Result<Vec<_>, _>>()
        } else {
            let rows = series.ranges().map(|rows| row(rows.clone())..row(rows) + 1);
            let rows = RowSelection::from_consecutive_ranges(rows, series.rows());
            let mut positions = columns.clone();
            positions.sort_unstable();
            positions.dedup();
            let batch = decode_columns(self, row_group, &positions, Some(rows), metrics).await?;
            let place = |column: &usize| positions.partition_point(|position| position < column);
            Ok(columns
                .iter()
                .map(|c| Arc::clone(batch.column(place(c))))
                .collect())
        };
        let arrays = arrays.map_err(|e: ArrowError| undecodable(self, row_group, &e))?;
        for (column, array) in columns.into_iter().zip(&arrays) {
            self.keep(row_group, column, Rows::OfSeries(which), array);
        }
        Ok(arrays)
    }

    /// What is kept of a column.
    fn kept(&self, row_group: usize, column: usize, rows: Rows, metrics: &ReadMetrics) -> Option<ArrayRef> {
        let key = self.key(row_group, column, rows);
        let Some(Decoded::Column(array)) = self.caches().decoded.get(&key) else {
            return None;
        };
        ReadMetrics::add(&metrics.bytes_decoded_before, array.get_array_memory_size());
        Some(array)
    }

    fn keep(&self, row_group: usize, column: usize, rows: Rows, array: &ArrayRef) {
        let key = self.key(row_group, column, rows);
        self.caches()
            .decoded
            .insert(key, Decoded::Column(Arc::clone(array)));
    }

    /// Where the series of a row group begin. Two neighbours may have the same tags. If the footer does not list them,
    /// all tags are decoded.
    pub async fn series(&self, row_group: usize, metrics: &ReadMetrics) -> Result<Series> {
        if let Some(series) = self.footer.series(row_group) {
            return Ok(series.clone());
        }
        let key = self.key(row_group, usize::MAX, Rows::Starts);
        if let Some(Decoded::Series(series)) = self.caches().decoded.get(&key) {
            ReadMetrics::add(&metrics.bytes_decoded_before, series.memory_size());
            return Ok(series);
        }
        let rows = self.rows_of(row_group)?;
        let positions = self.tag_positions();
        let failed = |e: ArrowError| undecodable(self, row_group, &e);
        let mut tags = vec![];
        if rows > 0 && !positions.is_empty() {
            let batch = decode_columns(self, row_group, &positions, None, metrics).await?;
            tags = batch.columns().to_vec();
        }
        let series = Series::of(&tags, rows).map_err(failed)?;
        let first = UInt32Array::from_iter_values(series.ranges().map(|rows| rows.start as u32));
        for (&position, column) in positions.iter().zip(&tags) {
            let values = take(column, &first, None).map_err(failed)?;
            self.keep(row_group, position, Rows::OfSeries(OneOf::First), &values);
        }
        self.caches().decoded.insert(key, Decoded::Series(series.clone()));
        Ok(series)
    }

    /// Whether the series of a row group are known without decoding anything.
    pub fn knows_series(&self, row_group: usize) -> bool {
        self.footer.series(row_group).is_some()
    }

    /// Whether all columns that the file has are decoded already.
    pub fn are_cached(&self, row_group: usize, fields: &Fields) -> bool {
        let mut columns = fields.iter().filter_map(|f| self.footer.find(f));
        columns.all(|column| self.is_decoded(row_group, column))
    }

    pub(super) fn is_decoded(&self, row_group: usize, column: usize) -> bool {
        let key = self.column_key(row_group, column);
        self.caches().decoded.contains(&key)
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
        self.key(row_group, column, Rows::All)
    }

    fn key(&self, row_group: usize, column: usize, rows: Rows) -> ColumnKey {
        ColumnKey {
            file: Arc::clone(&self.name),
            row_group: row_group as u32,
            column: column as u32,
            rows,
        }
    }
}
