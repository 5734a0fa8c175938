//! Random programs: a table, and what is done to it.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use greptime_log::Fault as LogFault;
use greptime_types::{
    Change, ColumnSchema, ColumnType, MergeMode, Semantic, TableInfo, TableSchema, TimeUnit, Ttl,
};

use super::cells::{Cell, Rows, TYPES, converted, equals, examples};
use super::map::Map;
use crate::testing::{Dice, Fault, PutFault, Request, table};

/// What time it is for the table, in milliseconds since 1970.
pub const NOW_MS: i64 = 1_800_000_000_000;

const DAY: i64 = 24 * 60 * 60;

#[derive(Debug)]
pub enum Step {
    /// `by_id`: as frontends of today send rows. `again`: the answer is lost, and the frontend repeats it.
    Write {
        rows: Rows,
        by_id: bool,
        again: bool,
    },
    Delete {
        rows: Rows,
        by_id: bool,
    },
    Update(Update),
    Alter(Vec<Change>),
    /// For a while the table keeps nothing; what was before is truncated after it.
    Instant {
        rows: Rows,
    },
    Truncate,
    Flush,
    Compact,
    /// Deletes replaced files at once.
    Clean,
    /// A clean restart.
    Reopen,
    /// The power goes in the middle of a write, which is repeated after the restart.
    KillWriting {
        fault: LogFault,
        rows: Rows,
    },
    /// The power goes while a flush trims the log.
    KillFlushing {
        fault: LogFault,
    },
    /// The bucket goes away while rows are flushed and files merged, then the power.
    KillBucket {
        change: u64,
        fault: PutFault,
    },
    Scan,
    Query {
        conditions: Vec<Condition>,
        names: Vec<String>,
    },
}

/// The power goes.
#[derive(Debug)]
pub struct Cut {
    /// So many changes of log and bucket happen before, of those of the work.
    pub after: u64,
    /// What becomes of the change of the bucket with which it goes, if it is one.
    pub last: PutFault,
    /// What a request of the bucket meets before.
    pub fault: Option<(Request, Fault)>,
    pub during: Vec<Work>,
}

#[derive(Debug)]
pub enum Work {
    /// At most one of these.
    Write(Rows),
    Flush,
    Merge,
    /// Old files of the log are removed.
    Reclaim,
}

impl Step {
    pub fn is_kill(&self) -> bool {
        matches!(
            self,
            Self::KillWriting { .. } | Self::KillFlushing { .. } | Self::KillBucket { .. }
        )
    }
}

pub fn some_cut(dice: &mut Dice, map: &Map) -> Cut {
    let mut during = Vec::new();
    if dice.once_in(2) {
        during.push(Work::Write(some_rows(dice, &map.table)));
    }
    if during.is_empty() || dice.once_in(2) {
        during.push(Work::Flush);
    }
    if dice.once_in(3) {
        during.push(Work::Merge);
    }
    if dice.once_in(2) {
        during.push(Work::Reclaim);
    }
    let request = [Request::Put, Request::Get, Request::Delete][dice.roll(3) as usize];
    let fault = [Fault::Unavailable, Fault::TimedOut, Fault::AnswerLost][dice.roll(3) as usize];
    Cut {
        after: 1 + dice.roll(3 + 6 * during.len() as u64),
        last: [PutFault::Refused, PutFault::AnswerLost][dice.roll(2) as usize],
        fault: dice.once_in(3).then_some((request, fault)),
        during,
    }
}

/// `SET column = value WHERE condition`
#[derive(Clone, Debug)]
pub struct Update {
    pub column: String,
    pub value: Cell,
    pub condition: Condition,
}

/// What a column of a row must be.
#[derive(Clone, Debug)]
pub struct Condition {
    pub column: String,
    pub column_type: ColumnType,
    pub is: Is,
}

#[derive(Clone, Debug)]
pub enum Is {
    Equal(String),
    Null,
    NotNull,
    /// Both ends included.
    Between(i64, i64),
}

impl Condition {
    pub fn holds(&self, cell: &Cell) -> bool {
        match (&self.is, cell) {
            (Is::Equal(wanted), cell) => equals(cell, &Some(wanted.clone())),
            (Is::Null, cell) => cell.is_none(),
            (Is::NotNull, cell) => cell.is_some(),
            (Is::Between(from, to), Some(cell)) => (from..=to).contains(&&cell.parse().unwrap()),
            (Is::Between(..), None) => false,
        }
    }

    pub fn expr(&self) -> Expr {
        let column = col(self.column.as_str());
        let literal = |text: &str| {
            let array = super::cells::array_of(self.column_type, &[Some(text.to_owned())]);
            lit(ScalarValue::try_from_array(&array, 0).unwrap())
        };
        match &self.is {
            Is::Equal(text) => column.eq(literal(text)),
            Is::Null => column.is_null(),
            Is::NotNull => column.is_not_null(),
            Is::Between(from, to) => {
                let (from, to) = (literal(&from.to_string()), literal(&to.to_string()));
                column.clone().gt_eq(from).and(column.lt_eq(to))
            }
        }
    }
}

/// A table of some mode, unit of time, tags and fields.
pub fn some_table(dice: &mut Dice) -> TableInfo {
    let units = [
        TimeUnit::Second,
        TimeUnit::Millisecond,
        TimeUnit::Microsecond,
        TimeUnit::Nanosecond,
    ];
    let unit = units[dice.roll(4) as usize];
    let tags: Vec<ColumnType> = match dice.roll(4) {
        0 => vec![],
        1 => vec![ColumnType::String, some_tag_type(dice)],
        _ => vec![ColumnType::String],
    };
    let mut columns: Vec<ColumnSchema> = Vec::new();
    columns.extend(
        (0..)
            .zip(&tags)
            .map(|(i, t): (usize, _)| ColumnSchema::new(format!("t{i}"), *t, Semantic::Tag)),
    );
    columns.push(ColumnSchema::new(
        "ts",
        ColumnType::Timestamp(unit),
        Semantic::Timestamp,
    ));
    for i in 0..1 + dice.roll(3) {
        let field_type = some_field_type(dice);
        columns.push(ColumnSchema::new(format!("f{i}"), field_type, Semantic::Field));
    }
    let key = (0..tags.len()).map(|i| format!("t{i}")).collect();
    let mut table = table(1024, false);
    table.schema = TableSchema::new(columns, key).unwrap();
    match dice.roll(3) {
        0 => table.options.append_mode = true,
        1 => table.options.merge_mode = MergeMode::LastNonNull,
        _ => {}
    }
    if dice.once_in(2) {
        let window = ["1s", "1h", "7days"][dice.roll(3) as usize];
        let option = "compaction.twcs.time_window".to_owned();
        table.options.extra.insert(option, window.into());
    }
    table
}

pub fn some_step(dice: &mut Dice, map: &Map) -> Step {
    let appends = map.table.options.append_mode;
    match dice.roll(100) {
        0..30 => Step::Write {
            rows: some_rows(dice, &map.table),
            by_id: dice.roll(3) > 0,
            again: dice.once_in(8),
        },
        30..38 if !appends => Step::Delete {
            rows: some_identities(dice, map),
            by_id: dice.once_in(2),
        },
        38..44 if !appends => some_update(dice, &map.table).map_or(Step::Scan, Step::Update),
        44..53 => some_change(dice, map).map_or(Step::Scan, Step::Alter),
        53 => Step::Truncate,
        54 if dice.once_in(2) => Step::Instant {
            rows: some_rows(dice, &map.table),
        },
        55..69 => Step::Flush,
        69..74 => Step::Compact,
        74..76 => Step::Clean,
        76..79 => Step::Reopen,
        79..82 => some_kill(dice, map),
        82..91 => Step::Query {
            conditions: (0..1 + dice.roll(2))
                .map(|_| some_condition(dice, &map.table))
                .collect(),
            names: some_names(dice, &map.table),
        },
        _ => Step::Scan,
    }
}

fn some_kill(dice: &mut Dice, map: &Map) -> Step {
    let fault = [LogFault::Lost, LogFault::SyncFailedButKept, LogFault::Torn][dice.roll(3) as usize];
    match dice.roll(5) {
        0..3 => Step::KillWriting {
            fault,
            rows: some_rows(dice, &map.table),
        },
        3 => Step::KillFlushing { fault },
        _ => Step::KillBucket {
            change: 1 + dice.roll(8),
            fault: [PutFault::Refused, PutFault::AnswerLost][dice.roll(2) as usize],
        },
    }
}

/// A time of today, of a few days ago, or of long ago, among few.
fn some_time(dice: &mut Dice, table: &TableInfo) -> i64 {
    let days = [0, 0, 0, 0, 1, 3, 40][dice.roll(7) as usize];
    let seconds = NOW_MS / 1000 - days * DAY - dice.roll(8) as i64;
    seconds * 10_i64.pow(u32::from(table.schema.time_unit().precision()))
}

/// Half of them of few types, so that there is something to change.
fn some_field_type(dice: &mut Dice) -> ColumnType {
    match dice.once_in(2) {
        true => TYPES[dice.roll(TYPES.len() as u64) as usize],
        false => [
            ColumnType::Int32,
            ColumnType::Int64,
            ColumnType::Float64,
            ColumnType::String,
        ][dice.roll(4) as usize],
    }
}

fn some_tag_type(dice: &mut Dice) -> ColumnType {
    let types = TYPES.map(Some);
    let of_tags = types.map(|t| t.filter(|t| !matches!(t, ColumnType::Vector(_))));
    let of_tags: Vec<ColumnType> = of_tags.into_iter().flatten().collect();
    of_tags[dice.roll(of_tags.len() as u64) as usize]
}

fn some_value(dice: &mut Dice, column_type: ColumnType) -> Cell {
    let number = dice.roll(20) as i64 - 4;
    match (column_type, dice.roll(5)) {
        (_, 0) => None,
        (ColumnType::Int32 | ColumnType::Int64, 1..4) => Some(number.to_string()),
        (ColumnType::Float64, 1) => Some(format!("{:?}", number as f64)),
        (ColumnType::Float64, 2) => Some(format!("{:?}", number as f64 + 0.25)),
        (ColumnType::String, 1) => Some(number.to_string()),
        (ColumnType::String, 2) => Some(format!("v{number}")),
        _ => dice.pick(&examples(column_type)).cloned(),
    }
}

fn some_cell(dice: &mut Dice, table: &TableInfo, column: &ColumnSchema) -> Cell {
    match (column.semantic, column.column_type) {
        (Semantic::Timestamp, _) => Some(some_time(dice, table).to_string()),
        (Semantic::Field, column_type) => some_value(dice, column_type),
        (Semantic::Tag, ColumnType::String) => {
            [None, Some(""), Some("a"), Some("b")][dice.roll(4) as usize].map(str::to_owned)
        }
        (Semantic::Tag, column_type) => {
            // Few, so that rows meet.
            let mut some = examples(column_type).into_iter().take(3).map(Some);
            some.nth(dice.roll(4) as usize).flatten()
        }
    }
}

/// A few rows; sometimes without some of the columns.
fn some_rows(dice: &mut Dice, table: &TableInfo) -> Rows {
    let all = dice.roll(3) > 0;
    let mut columns: Vec<&ColumnSchema> = table.schema.columns.iter().collect();
    columns.retain(|c| all || c.semantic == Semantic::Timestamp || dice.roll(3) > 0);
    let count = if dice.once_in(10) { 40 } else { 1 + dice.roll(5) };
    let row = |_| columns.iter().map(|c| some_cell(dice, table, c)).collect();
    Rows {
        rows: (0..count).map(row).collect(),
        names: columns.iter().map(|c| c.name.clone()).collect(),
    }
}

/// Mostly of rows that are there.
fn some_identities(dice: &mut Dice, map: &Map) -> Rows {
    let Rows { names, rows } = map.identities();
    let mut chosen = Vec::new();
    for _ in 0..1 + dice.roll(3) {
        chosen.extend(dice.pick(&rows).cloned());
    }
    if chosen.is_empty() || dice.once_in(5) {
        let cell = |name: &String| some_cell(dice, &map.table, map.table.schema.column(name).unwrap());
        chosen.push(names.iter().map(cell).collect());
    }
    Rows { names, rows: chosen }
}

fn some_update(dice: &mut Dice, table: &TableInfo) -> Option<Update> {
    let columns = table.schema.columns.iter();
    let fields: Vec<&ColumnSchema> = columns.filter(|c| c.semantic == Semantic::Field).collect();
    let field = dice.pick(&fields)?;
    let merges = table.options.merge_mode == MergeMode::LastNonNull;
    Some(Update {
        column: field.name.clone(),
        // Where fields are merged an UPDATE to NULL is refused.
        value: some_value(dice, field.column_type)
            .or_else(|| merges.then(|| examples(field.column_type).remove(0))),
        condition: some_condition(dice, table),
    })
}

fn some_condition(dice: &mut Dice, table: &TableInfo) -> Condition {
    let column = &table.schema.columns[dice.roll(table.schema.columns.len() as u64) as usize];
    let is = match (column.semantic, dice.roll(4)) {
        (Semantic::Timestamp, _) => {
            let (a, b) = (some_time(dice, table), some_time(dice, table));
            Is::Between(a.min(b), a.max(b))
        }
        (_, 0) => Is::Null,
        (_, 1) => Is::NotNull,
        // There is no comparison of vectors.
        _ if matches!(column.column_type, ColumnType::Vector(_)) => Is::NotNull,
        _ => some_cell(dice, table, column).map_or(Is::Null, Is::Equal),
    };
    Condition {
        column: column.name.clone(),
        column_type: column.column_type,
        is,
    }
}

/// Some columns in the order of the table; at least one.
fn some_names(dice: &mut Dice, table: &TableInfo) -> Vec<String> {
    let names = table.schema.columns.iter().map(|c| c.name.clone());
    let names: Vec<String> = names.collect();
    let mut chosen = names.clone();
    chosen.retain(|_| dice.roll(3) > 0);
    if chosen.is_empty() { names } else { chosen }
}

/// `None` if what was thought of cannot be done to the table.
fn some_change(dice: &mut Dice, map: &Map) -> Option<Vec<Change>> {
    let table = &map.table;
    let columns: Vec<ColumnSchema> = table.schema.columns.clone();
    let fields: Vec<&ColumnSchema> = columns.iter().filter(|c| c.semantic == Semantic::Field).collect();
    let changes = match dice.roll(10) {
        0..3 => vec![add(free_name(dice, table)?, dice, Semantic::Field)],
        3 if table.schema.primary_key.len() < 3 => vec![add(free_name(dice, table)?, dice, Semantic::Tag)],
        4 => vec![drop_column(&dice.pick(&fields)?.name)],
        5 => {
            let name = dice.pick(&fields)?.name.clone();
            vec![drop_column(&name), add(name, dice, Semantic::Field)]
        }
        6 => vec![rename(&dice.pick(&columns)?.name, &free_name(dice, table)?)],
        7 => {
            let (a, b) = (dice.pick(&columns)?, dice.pick(&columns)?);
            let between = free_name(dice, table)?;
            vec![
                rename(&a.name, &between),
                rename(&b.name, &a.name),
                rename(&between, &b.name),
            ]
        }
        8 => vec![Change::ModifyColumn {
            name: dice.pick(&fields)?.name.clone(),
            column_type: some_field_type(dice),
        }],
        _ => vec![Change::SetTtl {
            ttl: [None, Some("2d"), Some("10d")][dice.roll(3) as usize].map(|t| t.parse::<Ttl>().unwrap()),
        }],
    };
    table.altered(&changes).ok().flatten().map(|_| changes)
}

fn free_name(dice: &mut Dice, table: &TableInfo) -> Option<String> {
    let name = format!("f{}", dice.roll(6));
    table.schema.column(&name).is_none().then_some(name)
}

fn add(name: String, dice: &mut Dice, semantic: Semantic) -> Change {
    let column_type = match semantic {
        Semantic::Tag => [ColumnType::String, ColumnType::Int64][dice.roll(2) as usize],
        _ => some_field_type(dice),
    };
    let default = some_value(dice, column_type).filter(|_| semantic == Semantic::Field && dice.once_in(2));
    let default = match column_type {
        // They cannot be added with one.
        ColumnType::Binary | ColumnType::Vector(_) => None,
        _ => converted(&default, column_type, ColumnType::String),
    };
    Change::AddColumn {
        column: ColumnSchema {
            default: default.clone(),
            absent: default,
            ..ColumnSchema::new(&name, column_type, semantic)
        },
        if_not_exists: false,
    }
}

fn drop_column(name: &str) -> Change {
    Change::DropColumn {
        name: name.into(),
        if_exists: false,
    }
}

fn rename(from: &str, to: &str) -> Change {
    Change::RenameColumn {
        from: from.into(),
        to: to.into(),
    }
}
