//! The slow way, a value at a time: for lines that do not fit columns as they are, and to say which one does not fit
//! its table, and why.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use greptime_proto::v1::WriteOp;
use greptime_types::{
    ColumnSchema, ColumnType, PartitionRule, Result, Semantic, TableInfo, TableSchema, TimeUnit,
};

use super::parse::{BadLine, FieldValue, Line, parse_lines};
use super::store::{Writing, after};
use super::values::Kind;
use super::{Precision, convert};
use crate::ingest::auto::WantedTable;
use crate::ingest::cells::batch_from_rows;
use crate::ingest::literal::Cell;
use crate::query::metric::TIME_COLUMN;

/// The lines of a body by measurement, parsed when they are first asked for.
pub struct ExactLines<'a> {
    text: &'a str,
    by_name: OnceLock<HashMap<String, Vec<Line<'a>>>>,
}

impl<'a> ExactLines<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            by_name: OnceLock::new(),
        }
    }

    fn of(&self, name: &str) -> Vec<&Line<'a>> {
        let by_name = self.by_name.get_or_init(|| {
            let mut by_name: HashMap<String, Vec<Line>> = HashMap::new();
            // What does not parse was found before.
            for line in parse_lines(self.text).0 {
                match by_name.get_mut(line.measurement.as_ref()) {
                    Some(lines) => lines.push(line),
                    None => {
                        by_name.insert(line.measurement.to_string(), vec![line]);
                    }
                }
            }
            by_name
        });
        by_name.get(name).into_iter().flatten().collect()
    }
}

/// Returns how many lines were stored, and those that the table does not take.
pub async fn write_exactly(writing: Writing<'_>, name: &str) -> Result<(u64, Vec<BadLine>)> {
    let Writing {
        frontend,
        precision,
        deadline,
        now_ms,
        ..
    } = writing;
    let lines = writing.lines.of(name);
    let wanted = wanted_table(name, &lines);
    let table = frontend.auto.ensure(writing.database, &wanted, deadline).await?;
    let columns: Vec<String> = wanted
        .columns
        .iter()
        .map(|c| match c.semantic {
            Semantic::Timestamp => table.schema.time_index().name.clone(),
            _ => c.name.clone(),
        })
        .collect();
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
        written += stored.map_err(|error| after(written, error))?;
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
                tags.push(ColumnSchema::new(key.as_ref(), ColumnType::String, Semantic::Tag));
            }
        }
    }
    for line in lines {
        for (key, value) in &line.fields {
            if seen.insert(key.as_ref()) {
                fields.push(ColumnSchema::new(
                    key.as_ref(),
                    Kind::of(value).column_type(),
                    Semantic::Field,
                ));
            }
        }
    }
    let time = ColumnSchema::new(
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
