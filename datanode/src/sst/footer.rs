//! What a file says of itself.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use bytes::Bytes;
use greptime_types::{ColumnSchema, Error, Result, Semantic, TableInfo, format};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::checksum::{self, PAGES_KEY, TAIL_KEY};
use super::layout::Layout;
use super::series::{self, SERIES_KEY, Series};
use super::{CREATED_BY, FLOATS_KEY, FORMAT_KEY, TABLE_KEY};
use crate::defences::Defence;
use crate::schema::{FIELD_ID, tag_dictionary};

/// Length and magic at the end of a Parquet file.
const END_BYTES: usize = 8;

/// A column of a file.
#[derive(Clone, Debug)]
pub struct FileColumn {
    /// Of the table's column; none for sequence and operation.
    pub id: Option<u32>,
    /// Name and type as it is decoded.
    pub field: FieldRef,
}

/// The footer and the page index, decoded.
#[derive(Debug)]
pub struct Footer {
    pub(super) reader: ArrowReaderMetadata,
    pub(super) columns: Vec<FileColumn>,
    pub(super) layout: Layout,
    /// The table when the file was written.
    pub table: TableInfo,
    /// Position of the time index.
    pub(super) time: Option<usize>,
    /// See [`FLOATS_KEY`].
    floats_are_ordered: bool,
    /// See [`SERIES_KEY`]; empty if none are listed.
    series: Vec<Option<Series>>,
    bytes: usize,
}

/// What a tail of a file turned out to be.
pub enum Tail {
    /// The footer begins before it: so many bytes of the end are needed.
    Needs(usize),
    Whole(Box<Footer>),
}

impl Footer {
    /// Reads the footer from the last bytes of a file of `file_bytes` bytes.
    ///
    /// Errors: `Corruption` if they are not what was written; the message does not name the file.
    pub fn from_tail(tail: &Bytes, file_bytes: u64) -> Result<Tail> {
        let footer = match footer_of(tail)? {
            Ok(footer) => footer,
            Err(needed) => return Ok(Tail::Needs(needed)),
        };
        let claim = checksum::tail_claim(footer);
        if let Some((start, wanted)) = claim {
            let length = file_bytes
                .checked_sub(start)
                .filter(|l| *l >= footer.len() as u64);
            let length = length.ok_or_else(|| damaged("its tail begins beyond its end"))? as usize;
            if length > tail.len() {
                return Ok(Tail::Needs(length));
            }
            let found = checksum::tail_checksum(&tail[tail.len() - length..]);
            if found != Some(wanted) && Defence::TailHasAChecksum.holds() {
                return Err(damaged("the checksum of its footer is wrong"));
            }
        }
        let policy = PageIndexPolicy::Optional;
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(policy);
        match reader.try_parse_sized(tail, file_bytes) {
            Ok(()) => {}
            Err(ParquetError::NeedMoreData(needed)) => return Ok(Tail::Needs(needed)),
            Err(error) => return Err(damaged(error)),
        }
        let metadata = reader.finish().map_err(damaged)?;
        let created_by = metadata.file_metadata().created_by();
        if claim.is_none() && created_by.is_some_and(|by| by.starts_with(CREATED_BY)) {
            return Err(damaged("its footer has lost its checksum"));
        }
        Self::new(metadata).map(|footer| Tail::Whole(Box::new(footer)))
    }

    fn new(metadata: ParquetMetaData) -> Result<Self> {
        let value = |key: &str| {
            let pairs = metadata.file_metadata().key_value_metadata()?;
            pairs.iter().find(|p| p.key == key)?.value.clone()
        };
        if let Some(version) = value(FORMAT_KEY).and_then(|v| v.parse().ok()) {
            format::check("file", version)?;
        }
        let table = value(TABLE_KEY).ok_or_else(|| damaged("it does not say of which table it is"))?;
        let table: TableInfo = serde_json::from_str(&table).map_err(damaged)?;
        let checksums = match value(PAGES_KEY) {
            Some(text) => {
                Some(checksum::decode_numbers(&text).ok_or_else(|| damaged("its checksums are unreadable"))?)
            }
            None if value(TAIL_KEY).is_some() => return Err(damaged("it has no checksums of pages")),
            None => None,
        };
        let floats_are_ordered = value(FLOATS_KEY).is_some();
        let layout = Layout::new(&metadata, checksums.as_deref())?;
        let rows = metadata.row_groups().iter().map(|g| g.num_rows() as usize);
        let series = match value(SERIES_KEY) {
            Some(text) => {
                series::decode(&text, rows).ok_or_else(|| damaged("its list of series is unreadable"))?
            }
            None => vec![],
        };
        let (reader, columns) = typed(metadata, &table)?;
        let time_id = table.schema.time_index().id;
        let time = columns.iter().position(|c| c.id == Some(time_id));
        let listed: usize = series.iter().flatten().map(Series::memory_size).sum();
        let bytes = reader.metadata().memory_size() + layout.memory_size() + listed + 4096;
        Ok(Self {
            reader,
            columns,
            layout,
            table,
            time,
            floats_are_ordered,
            series,
            bytes,
        })
    }

    /// Bytes of memory.
    pub fn memory_size(&self) -> usize {
        self.bytes
    }

    pub(super) fn metadata(&self) -> &Arc<ParquetMetaData> {
        self.reader.metadata()
    }

    /// The series of a row group, if they are listed.
    pub(super) fn series(&self, row_group: usize) -> Option<&Series> {
        self.series.get(row_group)?.as_ref()
    }

    /// Whether all values of a column lie between its minima and maxima, where it has them.
    pub(super) fn says_all_of(&self, column: usize) -> bool {
        let is_floating = self.columns[column].field.data_type().is_floating();
        self.floats_are_ordered || !is_floating
    }

    /// The position of a wanted column: by its id, or by name if it has none.
    pub(super) fn find(&self, wanted: &Field) -> Option<usize> {
        let id = wanted
            .metadata()
            .get(FIELD_ID)
            .and_then(|id| id.parse::<u32>().ok());
        self.columns.iter().position(|column| match id {
            Some(id) if Defence::ColumnsAreFoundById.holds() => column.id == Some(id),
            _ => column.field.name() == wanted.name(),
        })
    }
}

/// The footer's bytes, or how many bytes of the end are needed to have it.
fn footer_of(tail: &[u8]) -> Result<std::result::Result<&[u8], usize>> {
    let Some(end) = tail.len().checked_sub(END_BYTES) else {
        return Ok(Err(END_BYTES));
    };
    let (length, magic) = tail[end..].split_at(4);
    if magic != b"PAR1" {
        return Err(damaged("it does not end as a Parquet file"));
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    Ok(match end.checked_sub(length) {
        Some(start) => Ok(&tail[start..end]),
        None => Err(length + END_BYTES),
    })
}

/// Columns with their ids, and a reader that gives string tags as dictionaries.
fn typed(metadata: ParquetMetaData, table: &TableInfo) -> Result<(ArrowReaderMetadata, Vec<FileColumn>)> {
    let metadata = Arc::new(metadata);
    let options = ArrowReaderOptions::new();
    let plain = ArrowReaderMetadata::try_new(Arc::clone(&metadata), options.clone()).map_err(damaged)?;
    let descriptor = metadata.file_metadata().schema_descr();
    let mut columns = Vec::new();
    for (i, field) in plain.schema().fields().iter().enumerate() {
        let info = descriptor.root_schema().get_fields()[i].get_basic_info();
        let of_name = || table.schema.column(field.name()).map(|c| c.id);
        let id = if info.has_id() {
            u32::try_from(info.id()).ok()
        } else {
            of_name()
        };
        let column = table.schema.columns.iter().find(|c| Some(c.id) == id);
        columns.push(FileColumn {
            id,
            field: decoded_field(field, column),
        });
    }
    let fields: Vec<FieldRef> = columns.iter().map(|c| Arc::clone(&c.field)).collect();
    let options = options.with_schema(Arc::new(Schema::new(fields)));
    let reader = ArrowReaderMetadata::try_new(metadata, options).map_err(damaged)?;
    Ok((reader, columns))
}

fn decoded_field(field: &FieldRef, column: Option<&ColumnSchema>) -> FieldRef {
    let is_tag = column.is_some_and(|c| c.semantic == Semantic::Tag);
    if is_tag && *field.data_type() == DataType::Utf8 {
        Arc::new(field.as_ref().clone().with_data_type(tag_dictionary()))
    } else {
        Arc::clone(field)
    }
}

/// A field of a file as one that is found by id.
pub(super) fn with_id(field: &Field, id: Option<u32>) -> FieldRef {
    let mut field = field.clone();
    if let Some(id) = id {
        field.metadata_mut().insert(FIELD_ID.to_owned(), id.to_string());
    }
    Arc::new(field)
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::corruption(what.to_string())
}
