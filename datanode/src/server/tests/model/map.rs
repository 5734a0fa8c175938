//! The naive map: every row as its values by column id.

use std::collections::BTreeMap;

use greptime_types::{Change, ColumnSchema, MergeMode, Semantic, TableInfo, Ttl};

use super::cells::{Cell, Rows, converted};
use super::program::{Condition, Update};

type Row = BTreeMap<u32, Cell>;

#[derive(Debug)]
pub struct Map {
    pub table: TableInfo,
    rows: Vec<Row>,
    now_ms: i64,
    /// Rows of earlier times may have been dropped for their age, even if the table keeps rows longer now.
    aged: i64,
}

impl Map {
    pub fn new(table: TableInfo, now_ms: i64) -> Self {
        Self {
            table,
            rows: Vec::new(),
            now_ms,
            aged: i64::MIN,
        }
    }

    fn merges(&self) -> bool {
        self.table.options.merge_mode == MergeMode::LastNonNull
    }

    /// Tags in the order of the primary key, and the time.
    fn key(&self) -> Vec<u32> {
        let schema = &self.table.schema;
        let tags = schema
            .primary_key
            .iter()
            .map(|name| schema.column(name).unwrap().id);
        tags.chain([schema.time_index().id]).collect()
    }

    fn same(&self, row: &Row) -> Option<usize> {
        let key = self.key();
        let same = |other: &Row| key.iter().all(|id| other[id] == row[id]);
        self.rows.iter().position(same)
    }

    pub fn write(&mut self, rows: &Rows) {
        if self.table.ttl() == Ttl::Instant {
            return;
        }
        for cells in &rows.rows {
            let said: Row = rows
                .columns(&self.table)
                .map(|(at, c)| (c.id, cells[at].clone()))
                .collect();
            let row = self.completed(&said);
            match self.same(&row) {
                Some(_) if self.table.options.append_mode => self.rows.push(row),
                Some(at) if self.merges() => {
                    let news = said.into_iter().filter(|(_, cell)| cell.is_some());
                    self.rows[at].extend(news);
                }
                Some(at) => self.rows[at] = row,
                None => self.rows.push(row),
            }
        }
    }

    /// What a row has in the columns that its writer did not say: where fields are merged it says nothing, else it is
    /// as rows of before the column.
    fn completed(&self, said: &Row) -> Row {
        let merges = self.merges();
        let value = |column: &ColumnSchema| match said.get(&column.id) {
            Some(cell) => cell.clone(),
            None if merges => None,
            None => absent(column),
        };
        let columns = self.table.schema.columns.iter();
        columns.map(|column| (column.id, value(column))).collect()
    }

    pub fn delete(&mut self, rows: &Rows) {
        for cells in &rows.rows {
            let said: Row = rows
                .columns(&self.table)
                .map(|(at, c)| (c.id, cells[at].clone()))
                .collect();
            if let Some(at) = self.same(&self.completed(&said)) {
                self.rows.remove(at);
            }
        }
    }

    pub fn truncate(&mut self) {
        self.rows.clear();
    }

    pub fn alter(&mut self, changes: &[Change]) {
        let next = self.table.altered(changes).unwrap().unwrap();
        for row in &mut self.rows {
            let of = |now: &ColumnSchema| {
                let before = self.table.schema.columns.iter().find(|old| old.id == now.id);
                match before {
                    Some(old) => converted(&row[&now.id], old.column_type, now.column_type),
                    None => absent(now),
                }
            };
            *row = next.schema.columns.iter().map(|now| (now.id, of(now))).collect();
        }
        self.table = next;
        self.aged = self.aged.max(self.cutoff());
    }

    /// What the table had for `instant` is undefined, but for a truncation that follows.
    pub fn forget_age(&mut self) {
        self.aged = self.cutoff();
    }

    /// Rows of earlier times have lived their time.
    fn cutoff(&self) -> i64 {
        let unit = self.table.schema.time_unit();
        let cutoff = self.table.ttl().cutoff(self.now_ms, unit);
        cutoff.unwrap_or(i64::MIN)
    }

    /// Rows that meet all conditions, with the named columns, sorted.
    pub fn select(&self, conditions: &[Condition], names: &[String]) -> Vec<Vec<Cell>> {
        let column = |name: &String| self.table.schema.column(name).unwrap();
        let ids: Vec<u32> = names.iter().map(|name| column(name).id).collect();
        let meets = |row: &&Row| conditions.iter().all(|c| c.holds(&row[&column(&c.column).id]));
        let time = self.table.schema.time_index().id;
        let defined = |row: &&Row| self.is_defined(&row[&time]);
        let rows = self.rows.iter().filter(meets).filter(defined);
        let mut rows: Vec<Vec<Cell>> = rows
            .map(|row| ids.iter().map(|id| row[id].clone()).collect())
            .collect();
        rows.sort();
        rows
    }

    /// Whether the map knows what becomes of rows of that time.
    pub fn is_defined(&self, time: &Cell) -> bool {
        time.as_ref()
            .is_some_and(|t| t.parse::<i64>().unwrap() >= self.aged)
    }

    /// Whether rows of that time must not be shown.
    pub fn is_over(&self, time: &Cell) -> bool {
        time.as_ref().unwrap().parse::<i64>().unwrap() < self.cutoff()
    }

    /// What a frontend writes for an UPDATE: rows as they are, with the new value.
    pub fn updated(&self, update: &Update) -> Rows {
        let schema = &self.table.schema;
        let wanted =
            |c: &&ColumnSchema| c.semantic != Semantic::Field || !self.merges() || c.name == update.column;
        let names: Vec<String> = schema
            .columns
            .iter()
            .filter(wanted)
            .map(|c| c.name.clone())
            .collect();
        let mut rows = self.select(std::slice::from_ref(&update.condition), &names);
        let at = names.iter().position(|name| *name == update.column).unwrap();
        for row in &mut rows {
            row[at].clone_from(&update.value);
        }
        Rows { names, rows }
    }

    /// Identities that are there.
    pub fn identities(&self) -> Rows {
        let schema = &self.table.schema;
        let time = schema.time_index().name.clone();
        let names: Vec<String> = schema.primary_key.iter().cloned().chain([time]).collect();
        let rows = self.select(&[], &names);
        Rows { names, rows }
    }
}

/// What rows show that do not have the column. A tag says which row is which, so they have none.
fn absent(column: &ColumnSchema) -> Cell {
    let text = column.absent.clone().filter(|_| column.semantic != Semantic::Tag);
    converted(&text, greptime_types::ColumnType::String, column.column_type)
}
