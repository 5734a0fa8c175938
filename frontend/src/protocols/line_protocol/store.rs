//! Lines as rows of tables that are made when they are first written to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::future::join_all;
use greptime_proto::v1::WriteOp;
use greptime_types::{ColumnType, Error, PartitionRule, Result, Semantic, TableInfo, TableSchema, TimeUnit};

use super::parse::{BadLine, FieldValue, Line, parse_lines};
use super::{Precision, convert};
use crate::frontend::Frontend;
use crate::ingest::auto::{WantedTable, wanted_column};
use crate::ingest::cells::batch_from_rows;
use crate::ingest::literal::Cell;
use crate::query::metric::TIME_COLUMN;
use crate::route::Deadline;

/// More complaints than this are counted, not listed.
const MAX_LISTED: usize = 10;

/// Writes the good lines. An error of kind `InvalidArgument` names the bad ones; then the good ones are stored.
pub async fn write_lines(
    frontend: &Frontend,
    database: &str,
    text: &str,
    precision: Precision,
) -> Result<()> {
    let (lines, mut bad) = parse_lines(text);
    let deadline = frontend
        .executor
        .engine
        .router
        .deadline_in(frontend.config.write_timeout);
    let mut by_table: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &lines {
        by_table.entry(line.measurement.as_ref()).or_default().push(line);
    }
    let tables = by_table.iter();
    let writes =
        tables.map(|(name, lines)| write_table(frontend, database, name, lines, precision, deadline));
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
async fn write_table(
    frontend: &Frontend,
    database: &str,
    name: &str,
    lines: &[&Line<'_>],
    precision: Precision,
    deadline: Deadline,
) -> Result<(u64, Vec<BadLine>)> {
    let wanted = wanted_table(name, lines);
    let table = frontend.auto.ensure(database, &wanted, deadline).await?;
    let columns: Vec<String> = wanted
        .columns
        .iter()
        .map(|c| match c.semantic {
            Semantic::Timestamp => table.schema.time_index().name.clone(),
            _ => c.name.clone(),
        })
        .collect();
    let now_ms = frontend.clock.wall_ms();
    let (mut written, mut bad) = (0, Vec::new());
    // Few lines of many columns each are many cells: no part takes more memory than another.
    for part in lines.chunks((MOST_CELLS / columns.len().max(1)).max(1)) {
        let (rows, unreadable) = rows_of(&table.schema, &columns, part, precision, now_ms);
        let (rows, refused) = acceptable(&table, &columns, rows, now_ms);
        bad.extend(unreadable.into_iter().chain(refused));
        if rows.is_empty() {
            continue;
        }
        let batch = batch_from_rows(&table.schema, &columns, &rows, now_ms)?;
        let ingestor = &frontend.executor.ingestor;
        let stored = ingestor.write(&table, &batch, WriteOp::Put, deadline).await;
        written += stored.map_err(|error| match written {
            0 => error,
            _ => error.context(format!("after {written} lines were stored")),
        })?;
    }
    Ok((written, bad))
}

/// Cells that are held at once, each of some 64 bytes.
const MOST_CELLS: usize = 1 << 20;

/// The columns that the lines have. Where they disagree on a type, the first line decides.
fn wanted_table(name: &str, lines: &[&Line]) -> WantedTable {
    let mut seen = BTreeSet::new();
    let (mut tags, mut fields) = (Vec::new(), Vec::new());
    for line in lines {
        for (key, _) in &line.tags {
            if seen.insert(key.as_ref()) {
                tags.push(wanted_column(key.as_ref(), ColumnType::String, Semantic::Tag));
            }
        }
    }
    for line in lines {
        for (key, value) in &line.fields {
            if seen.insert(key.as_ref()) {
                fields.push(wanted_column(key.as_ref(), type_of(value), Semantic::Field));
            }
        }
    }
    let time = wanted_column(
        TIME_COLUMN,
        ColumnType::Timestamp(TimeUnit::Nanosecond),
        Semantic::Timestamp,
    );
    let columns = tags.into_iter().chain([time]).chain(fields).collect();
    WantedTable {
        name: name.to_string(),
        columns,
        partition: PartitionRule::single(),
    }
}

fn type_of(value: &FieldValue) -> ColumnType {
    match value {
        FieldValue::Float(_) => ColumnType::Float64,
        FieldValue::Integer(_) => ColumnType::Int64,
        FieldValue::Unsigned(_) => ColumnType::UInt64,
        FieldValue::Boolean(_) => ColumnType::Boolean,
        FieldValue::Text(_) => ColumnType::String,
    }
}

fn cell_of(value: &FieldValue) -> Cell {
    match value {
        // Debug writes a float so that it reads back as the same.
        FieldValue::Float(value) => Cell::Number(format!("{value:?}")),
        FieldValue::Integer(value) => Cell::Number(value.to_string()),
        FieldValue::Unsigned(value) => Cell::Number(value.to_string()),
        FieldValue::Boolean(value) => Cell::Bool(*value),
        FieldValue::Text(value) => Cell::Text(value.to_string()),
    }
}

/// A row and the number of its line.
type NumberedRow = (usize, Vec<Option<Cell>>);

fn rows_of(
    schema: &TableSchema,
    columns: &[String],
    lines: &[&Line],
    precision: Precision,
    now_ms: i64,
) -> (Vec<NumberedRow>, Vec<BadLine>) {
    let positions: HashMap<&str, usize> = columns.iter().enumerate().map(|(i, c)| (c.as_str(), i)).collect();
    let (mut rows, mut bad) = (Vec::with_capacity(lines.len()), Vec::new());
    for line in lines {
        let time = match line.timestamp {
            Some(time) => convert(time, precision.0, schema.time_unit()),
            None => convert(now_ms, TimeUnit::Millisecond, schema.time_unit()),
        };
        let Some(time) = time else {
            let reason = format!(
                "the time does not fit {}",
                schema.time_index().column_type.sql_name()
            );
            bad.push(BadLine {
                line: line.number,
                column: 0,
                reason,
            });
            continue;
        };
        let mut row = vec![Some(Cell::Null); columns.len()];
        let mut set = |name: &str, cell: Cell| {
            if let Some(position) = positions.get(name) {
                row[*position] = Some(cell);
            }
        };
        for (key, value) in &line.fields {
            set(key, cell_of(value));
        }
        for (key, value) in &line.tags {
            set(key, Cell::Text(value.to_string()));
        }
        set(&schema.time_index().name, Cell::Number(time.to_string()));
        rows.push((line.number, row));
    }
    (rows, bad)
}

/// Leaves out rows whose values do not fit the table's columns. All rows are tried at once first, since mostly
/// all of them fit.
fn acceptable(
    table: &TableInfo,
    columns: &[String],
    rows: Vec<NumberedRow>,
    now_ms: i64,
) -> (Vec<Vec<Option<Cell>>>, Vec<BadLine>) {
    let (numbers, rows): (Vec<usize>, Vec<_>) = rows.into_iter().unzip();
    if batch_from_rows(&table.schema, columns, &rows, now_ms).is_ok() {
        return (rows, vec![]);
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (line, row) in numbers.into_iter().zip(rows) {
        match batch_from_rows(&table.schema, columns, std::slice::from_ref(&row), now_ms) {
            Ok(_) => good.push(row),
            Err(error) => {
                let reason = error.message.replace(", row 1", "");
                bad.push(BadLine {
                    line,
                    column: 0,
                    reason,
                });
            }
        }
    }
    (good, bad)
}
