//! Lines as rows of tables that are made when they are first written to.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use datafusion::arrow::array::{ArrayRef, PrimitiveArray, UInt32Array};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use futures::future::join_all;
use greptime_proto::v1::WriteOp;
use greptime_rows::SeriesBatch;
use greptime_types::{ColumnSchema, ColumnType, Error, PartitionRule, Result, Semantic, TableInfo, TimeUnit};

use super::columns::{TableLines, parse_columns};
use super::exact::{ExactLines, write_exactly};
use super::parse::BadLine;
use super::{Precision, convert};
use crate::frontend::Frontend;
use crate::ingest::auto::WantedTable;
use crate::ingest::cells::default_of;
use crate::ingest::literal::column_from_cells;
use crate::query::metric::TIME_COLUMN;
use crate::route::Deadline;

/// More complaints than this are counted, not listed.
const MAX_LISTED: usize = 10;

/// What all tables of a request share.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    pub frontend: &'a Frontend,
    pub database: &'a str,
    /// The lines once more, for those that do not fit columns.
    pub lines: &'a ExactLines<'a>,
    pub precision: Precision,
    pub deadline: Deadline,
    /// The time of lines that have none.
    pub now_ms: i64,
}

/// Writes the good lines. An error of kind `InvalidArgument` names the bad ones; then the good ones are stored.
pub async fn write_lines(
    frontend: &Frontend,
    database: &str,
    text: &str,
    precision: Precision,
) -> Result<()> {
    let router = &frontend.executor.engine.router;
    let lines = ExactLines::new(text);
    let writing = Writing {
        frontend,
        database,
        lines: &lines,
        precision,
        deadline: router.deadline_in(frontend.config.write_timeout),
        now_ms: frontend.clock.wall_ms(),
    };
    let body = parse_columns(text);
    let mut bad = body.bad;
    let writes = body.tables.iter().map(|lines| write_table(writing, lines));
    let mut failed = None;
    let mut written = 0;
    for result in join_all(writes).await {
        match result {
            Ok((rows, refused)) => {
                written += rows;
                bad.extend(refused);
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    frontend.metrics.ingested("influxdb", written);
    if let Some(error) = failed {
        return Err(error);
    }
    if bad.is_empty() {
        return Ok(());
    }
    bad.sort();
    let listed: Vec<String> = bad.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    let more = match bad.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Err(Error::invalid(format!(
        "partial write ({written} lines stored): {}{more}",
        listed.join("; ")
    )))
}

/// Returns how many lines were stored, and those that the table does not take.
async fn write_table(writing: Writing<'_>, lines: &TableLines<'_>) -> Result<(u64, Vec<BadLine>)> {
    if !lines.is_even() {
        return write_exactly(writing, &lines.name).await;
    }
    let frontend = writing.frontend;
    let wanted = wanted_table(lines);
    let table = frontend
        .auto
        .ensure(writing.database, &wanted, writing.deadline)
        .await?;
    let Some(shape) = Shape::of(&table, lines, writing) else {
        return write_exactly(writing, &lines.name).await;
    };
    let mut written = 0;
    // Few lines of many columns each are many cells: no part takes more memory than another.
    let rows = lines.keys.len();
    let step = (MOST_CELLS / table.schema.columns.len().max(1)).max(1);
    for start in (0..rows).step_by(step) {
        let part = shape.part(lines, start..rows.min(start + step))?;
        let ingestor = &frontend.executor.ingestor;
        let stored = ingestor
            .write_series(&table, part, WriteOp::Put, writing.deadline)
            .await;
        written += stored.map_err(|error| after(written, error))?;
    }
    Ok((written, vec![]))
}

/// An error that came when some lines were stored already.
pub fn after(written: u64, error: Error) -> Error {
    match written {
        0 => error,
        _ => error.context(format!("after {written} lines were stored")),
    }
}

/// Cells of a part.
const MOST_CELLS: usize = 4 << 20;

/// The columns that the lines have. Where they disagree on a type, the first line decides.
fn wanted_table(lines: &TableLines) -> WantedTable {
    let tag = |name: &str| ColumnSchema::new(name, ColumnType::String, Semantic::Tag);
    let time = ColumnType::Timestamp(TimeUnit::Nanosecond);
    let time = ColumnSchema::new(TIME_COLUMN, time, Semantic::Timestamp);
    let fields = lines.fields.iter();
    let fields = fields.map(|f| ColumnSchema::new(f.name.as_ref(), f.kind().column_type(), Semantic::Field));
    let columns = lines
        .tags
        .iter()
        .map(|t| tag(&t.name))
        .chain([time])
        .chain(fields)
        .collect();
    WantedTable {
        name: lines.name.to_string(),
        columns,
        partition: PartitionRule::single(),
    }
}

/// How the columns of lines become those of a table.
struct Shape {
    /// Ids of the tags, in the order of the lines' tags.
    tags: Vec<u32>,
    fields: Vec<(u32, ColumnType)>,
    time: (u32, ColumnType),
    /// In the unit of the table.
    times: Vec<i64>,
    /// What every row gets in columns that the lines do not have.
    constants: Vec<(u32, Semantic, ScalarValue)>,
}

impl Shape {
    /// `None` if the table needs a look at every value.
    fn of(table: &TableInfo, lines: &TableLines, writing: Writing<'_>) -> Option<Self> {
        let schema = &table.schema;
        let time = schema.time_index();
        let rows = lines.keys.len();
        let by_name: HashMap<&str, &ColumnSchema> =
            schema.columns.iter().map(|c| (c.name.as_str(), c)).collect();
        let column = |name: &str, rows: usize, complete: &dyn Fn(usize) -> bool| {
            by_name
                .get(name)
                .copied()
                .filter(|c| c.nullable || complete(rows))
        };
        let mut tags = Vec::with_capacity(lines.tags.len());
        for tag in &lines.tags {
            let complete = |rows| tag.is_complete(0..rows);
            match column(&tag.name, lines.series as usize, &complete) {
                Some(c) if c.column_type == ColumnType::String => tags.push(c.id),
                _ => return None,
            }
        }
        let mut fields = Vec::with_capacity(lines.fields.len());
        for field in &lines.fields {
            let complete = |rows| field.is_complete(0..rows);
            match column(&field.name, rows, &complete) {
                Some(c) if c.semantic == Semantic::Field && field.array(0..0, c.column_type).is_some() => {
                    fields.push((c.id, c.column_type));
                }
                _ => return None,
            }
        }
        let times = times_of(lines, writing, schema.time_unit())?;
        let mut constants = Vec::new();
        let known = fields
            .iter()
            .map(|(id, _)| *id)
            .chain(tags.iter().copied())
            .chain([time.id]);
        let known: HashSet<u32> = known.collect();
        for column in &schema.columns {
            if !known.contains(&column.id) && (column.default.is_some() || !column.nullable) {
                constants.push((column.id, column.semantic, constant(column, writing.now_ms).ok()?));
            }
        }
        Some(Self {
            tags,
            fields,
            time: (time.id, time.column_type),
            times,
            constants,
        })
    }

    /// Some of the lines, with the series that they have.
    fn part(&self, lines: &TableLines, rows: Range<usize>) -> Result<SeriesBatch> {
        let failed = || Error::internal("lines do not fit the columns that were made for them");
        let (keys, kept) = renumber(&lines.keys[rows.clone()], lines.series);
        let mut of_series = Vec::with_capacity(self.tags.len());
        for (id, tag) in self.tags.iter().zip(&lines.tags) {
            of_series.push((*id, tag.texts_of(&kept).ok_or_else(failed)?));
        }
        let mut of_rows = Vec::with_capacity(self.fields.len() + 1);
        let times: PrimitiveArray<Int64Type> = self.times[rows.clone()].to_vec().into();
        let times = datafusion::arrow::compute::cast(&times, &self.time.1.to_arrow());
        of_rows.push((self.time.0, times.map_err(|e| Error::internal(e.to_string()))?));
        for ((id, column_type), field) in self.fields.iter().zip(&lines.fields) {
            of_rows.push((*id, field.array(rows.clone(), *column_type).ok_or_else(failed)?));
        }
        for (id, semantic, value) in &self.constants {
            let (to, length) = match semantic {
                Semantic::Tag => (&mut of_series, kept.len()),
                _ => (&mut of_rows, rows.len()),
            };
            let array: ArrayRef = value
                .to_array_of_size(length)
                .map_err(|e| Error::internal(e.to_string()))?;
            to.push((*id, array));
        }
        SeriesBatch::of_columns(kept.len(), of_series, keys, of_rows)
    }
}

/// Numbers series in the order in which rows have them; returns the new numbers, and the old number of each.
fn renumber(keys: &[u32], series: u32) -> (UInt32Array, Vec<u32>) {
    let (mut numbers, mut kept) = (vec![u32::MAX; series as usize], Vec::new());
    let mut number = |key: &u32| {
        let number = &mut numbers[*key as usize];
        if *number == u32::MAX {
            *number = kept.len() as u32;
            kept.push(*key);
        }
        *number
    };
    let keys: Vec<u32> = keys.iter().map(&mut number).collect();
    (keys.into(), kept)
}

/// `None` if one of them does not fit.
fn times_of(lines: &TableLines, writing: Writing<'_>, unit: TimeUnit) -> Option<Vec<i64>> {
    let mut times = if writing.precision.0 == unit {
        lines.times.clone()
    } else {
        let times = lines.times.iter();
        times
            .map(|t| convert(*t, writing.precision.0, unit))
            .collect::<Option<Vec<i64>>>()?
    };
    for row in &lines.untimed {
        times[*row as usize] = convert(writing.now_ms, TimeUnit::Millisecond, unit)?;
    }
    Some(times)
}

fn constant(column: &ColumnSchema, now_ms: i64) -> Result<ScalarValue> {
    let cell = default_of(column, now_ms)?;
    let array = column_from_cells(column, std::iter::once(&cell))?;
    ScalarValue::try_from_array(array.as_ref(), 0).map_err(|e| Error::internal(e.to_string()))
}
