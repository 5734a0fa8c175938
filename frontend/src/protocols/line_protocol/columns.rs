//! Lines straight into columns.
//!
//! The tags of a line are looked up as they are written: a set that was seen before costs one hash. Fields are
//! expected in the order of the line before, so a name is compared in place. Values go to the end of their column;
//! a line that turns out to be wrong is taken back.

use std::borrow::Cow;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use memchr::{memchr, memchr2};

use super::parse::{BadLine, Cursor, FieldValue, line_end};
use super::values::{Column, Kind};

/// The lines of one measurement.
#[derive(Debug)]
pub struct TableLines<'a> {
    pub name: Cow<'a, str>,
    /// In the order of their first line; a value for each series.
    pub tags: Vec<Column<'a>>,
    /// In the order of their first line; a value for each line.
    pub fields: Vec<Column<'a>>,
    /// How many sets of tags there are. A set that is written in two ways counts twice.
    pub series: u32,
    /// The series of each line.
    pub keys: Vec<u32>,
    /// Of each line, in the precision of the request; 0 for those in `untimed`.
    pub times: Vec<i64>,
    /// Lines without a time.
    pub untimed: Vec<u32>,
    /// Columns cannot hold these lines: names are used twice, or values of a field have several types.
    pub uneven: bool,
    fields_by_name: HashMap<Cow<'a, str>, usize>,
}

/// What a body has, by measurement in the order of the first line of each.
#[derive(Debug, Default)]
pub struct Body<'a> {
    pub tables: Vec<TableLines<'a>>,
    pub bad: Vec<BadLine>,
}

/// A set of tags as it was written, with its measurement.
struct Known {
    hash: u64,
    start: usize,
    end: usize,
    table: usize,
    series: u32,
}

struct Parser<'a> {
    text: &'a str,
    body: Body<'a>,
    tables_by_name: HashMap<Cow<'a, str>, usize>,
    known: HashTable<Known>,
    hasher: DefaultHashBuilder,
}

/// How much there was before a line, to take it back.
#[derive(Clone, Copy)]
struct Mark {
    tables: usize,
    table: usize,
    tags: usize,
    fields: usize,
    series: u32,
    rows: usize,
}

/// The same lines as `parse_lines` finds, and the same complaints.
pub fn parse_columns(text: &str) -> Body<'_> {
    let mut parser = Parser {
        text,
        body: Body::default(),
        tables_by_name: HashMap::new(),
        known: HashTable::new(),
        hasher: DefaultHashBuilder::default(),
    };
    parser.run();
    parser.body
}

impl<'a> Parser<'a> {
    fn run(&mut self) {
        let bytes = self.text.as_bytes();
        let (mut start, mut number) = (0, 1);
        while start < bytes.len() {
            let first = memchr(b'\n', &bytes[start..]).unwrap_or(bytes.len() - start);
            let special = memchr2(b'"', b'\\', &bytes[start..start + first]).is_some();
            // Only a quote or an escape can make a line longer than to its first break.
            let length = if special {
                line_end(&self.text[start..])
            } else {
                first
            };
            let line = self.text[start..start + length].trim_end_matches('\r');
            let trimmed = line.trim_start_matches([' ', '\t']);
            if !trimmed.is_empty() && !trimmed.starts_with('#') {
                let at = line.len() - trimmed.len();
                self.take(start, Cursor { text: line, at }, number);
            }
            let breaks = if length > first {
                self.text[start..start + length].matches('\n').count()
            } else {
                0
            };
            number += breaks + 1;
            start += length + 1;
        }
    }

    /// The line that begins at `start` of the text.
    fn take(&mut self, start: usize, mut cursor: Cursor<'a>, number: usize) {
        let mut mark = None;
        let result = self.line(start, &mut cursor, &mut mark);
        if let Err(reason) = result {
            if let Some(mark) = mark {
                self.take_back(mark);
            }
            let line = cursor.text;
            let column = line[..cursor.at.min(line.len())].chars().count() + 1;
            self.body.bad.push(BadLine {
                line: number,
                column,
                reason,
            });
        }
    }

    fn line(&mut self, start: usize, cursor: &mut Cursor<'a>, mark: &mut Option<Mark>) -> Result<(), String> {
        let begin = cursor.at;
        let end = tags_end(cursor);
        let section = &cursor.text.as_bytes()[begin..end];
        let hash = self.hasher.hash_one(section);
        let text = self.text.as_bytes();
        let same = |k: &Known| k.hash == hash && &text[k.start..k.end] == section;
        let found = self.known.find(hash, same).map(|k| (k.table, k.series));
        let (table, series) = match found {
            Some((table, series)) => {
                cursor.at = end;
                *mark = Some(self.mark(table));
                (table, series)
            }
            None => self.new_series(cursor, mark)?,
        };
        cursor.spaces("the fields")?;
        let lines = &mut self.body.tables[table];
        lines.read_fields(cursor)?;
        let time = quick_time(cursor).map_or_else(|| cursor.timestamp(), |time| Ok(Some(time)))?;
        if time.is_none() {
            lines.untimed.push(lines.keys.len() as u32);
        }
        lines.keys.push(series);
        lines.times.push(time.unwrap_or(0));
        if found.is_none() {
            let known = Known {
                hash,
                start: start + begin,
                end: start + end,
                table,
                series,
            };
            self.known.insert_unique(hash, known, |k| k.hash);
        }
        Ok(())
    }

    fn mark(&self, table: usize) -> Mark {
        let lines = &self.body.tables[table];
        Mark {
            tables: self.body.tables.len(),
            table,
            tags: lines.tags.len(),
            fields: lines.fields.len(),
            series: lines.series,
            rows: lines.keys.len(),
        }
    }

    /// Reads a measurement and tags that were not seen before.
    fn new_series(
        &mut self,
        cursor: &mut Cursor<'a>,
        mark: &mut Option<Mark>,
    ) -> Result<(usize, u32), String> {
        let name = cursor.name(b", ", "a measurement")?;
        let tables = self.body.tables.len();
        let table = match self.tables_by_name.get(&name) {
            Some(table) => *table,
            None => {
                self.tables_by_name.insert(name.clone(), tables);
                self.body.tables.push(TableLines::new(name));
                tables
            }
        };
        *mark = Some(Mark {
            tables,
            ..self.mark(table)
        });
        let series = self.body.tables[table].read_tags(cursor)?;
        Ok((table, series))
    }

    fn take_back(&mut self, mark: Mark) {
        if self.body.tables.len() > mark.tables {
            if let Some(lines) = self.body.tables.pop() {
                self.tables_by_name.remove(&lines.name);
            }
            return;
        }
        let lines = &mut self.body.tables[mark.table];
        lines.tags.truncate(mark.tags);
        lines
            .tags
            .iter_mut()
            .for_each(|c| c.truncate(mark.series as usize));
        lines.series = mark.series;
        for column in lines.fields.drain(mark.fields..) {
            lines.fields_by_name.remove(&column.name);
        }
        lines.fields.iter_mut().for_each(|c| c.truncate(mark.rows));
    }
}

impl<'a> TableLines<'a> {
    fn new(name: Cow<'a, str>) -> Self {
        Self {
            name,
            tags: vec![],
            fields: vec![],
            series: 0,
            keys: vec![],
            times: vec![],
            untimed: vec![],
            uneven: false,
            fields_by_name: HashMap::new(),
        }
    }

    fn read_tags(&mut self, cursor: &mut Cursor<'a>) -> Result<u32, String> {
        let series = self.series as usize;
        let mut expected = 0;
        while cursor.peek() == Some(b',') {
            cursor.at += 1;
            let position = match self.tags.get(expected) {
                Some(tag) if tag.is_next(cursor) => {
                    cursor.at += tag.name.len();
                    expected
                }
                _ => {
                    let key = cursor.name(b"=, ", "a tag")?;
                    self.tag(key)
                }
            };
            cursor.expect(b'=', "after the name of a tag")?;
            let value = cursor.name(b", ", "the value of a tag")?;
            expected = position + 1;
            self.uneven |= !self.tags[position].push(series, FieldValue::Text(value));
        }
        self.series += 1;
        Ok(series as u32)
    }

    fn tag(&mut self, key: Cow<'a, str>) -> usize {
        if let Some(position) = self.tags.iter().position(|c| c.name == key) {
            return position;
        }
        self.tags.push(Column::new(key, Kind::Text));
        self.tags.len() - 1
    }

    fn read_fields(&mut self, cursor: &mut Cursor<'a>) -> Result<(), String> {
        let row = self.keys.len();
        let mut expected = 0;
        loop {
            let known = match self.fields.get(expected) {
                Some(field) if field.is_next(cursor) => {
                    cursor.at += field.name.len() + 1;
                    Some(expected)
                }
                _ => None,
            };
            let position = match known {
                Some(position) => {
                    let field = &mut self.fields[position];
                    if field.quick_integer(row, cursor) {
                        position
                    } else {
                        let value = cursor.value()?;
                        self.uneven |= !field.push(row, value);
                        position
                    }
                }
                None => {
                    let key = cursor.name(b"=, ", "a field")?;
                    cursor.expect(b'=', "after the name of a field")?;
                    let value = cursor.value()?;
                    let position = self.field(key, Kind::of(&value));
                    self.uneven |= !self.fields[position].push(row, value);
                    position
                }
            };
            expected = position + 1;
            if cursor.peek() != Some(b',') {
                return Ok(());
            }
            cursor.at += 1;
        }
    }

    fn field(&mut self, key: Cow<'a, str>, kind: Kind) -> usize {
        if let Some(position) = self.fields_by_name.get(&key) {
            return *position;
        }
        self.fields_by_name.insert(key.clone(), self.fields.len());
        self.fields.push(Column::new(key, kind));
        self.fields.len() - 1
    }
}

/// Where measurement and tags end: at the first space that is not escaped.
fn tags_end(cursor: &Cursor<'_>) -> usize {
    let bytes = cursor.text.as_bytes();
    let mut at = cursor.at;
    let first = memchr(b' ', &bytes[at..]).map_or(bytes.len(), |space| at + space);
    if memchr(b'\\', &bytes[at..first]).is_none() {
        return first;
    }
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if bytes.get(at + 1).is_some_and(|b| b", =\\".contains(b)) => at += 2,
            b' ' => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Digits up to the end of the line; what is written in any other way is left to [`Cursor::timestamp`].
fn quick_time(cursor: &mut Cursor<'_>) -> Option<i64> {
    let digits = cursor.text.as_bytes().get(cursor.at..)?.strip_prefix(b" ")?;
    // Nineteen digits may be too many for 64 bits.
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut time = 0_i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        time = time.checked_mul(10)?.checked_add(i64::from(digit))?;
    }
    cursor.at = cursor.text.len();
    Some(time)
}

#[cfg(test)]
mod tests;
