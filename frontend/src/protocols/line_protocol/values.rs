//! A column that grows by one value at a time, and may lack values.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringBuilder, UInt64Array,
};
use datafusion::arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use greptime_types::ColumnType;

use super::parse::{Cursor, FieldValue};

/// What kind of values a column has: that of its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Float,
    Integer,
    Unsigned,
    Boolean,
    Text,
}

impl Kind {
    pub fn of(value: &FieldValue) -> Self {
        match value {
            FieldValue::Float(_) => Self::Float,
            FieldValue::Integer(_) => Self::Integer,
            FieldValue::Unsigned(_) => Self::Unsigned,
            FieldValue::Boolean(_) => Self::Boolean,
            FieldValue::Text(_) => Self::Text,
        }
    }

    /// Of the column that a table gets for it.
    pub fn column_type(self) -> ColumnType {
        match self {
            Self::Float => ColumnType::Float64,
            Self::Integer => ColumnType::Int64,
            Self::Unsigned => ColumnType::UInt64,
            Self::Boolean => ColumnType::Boolean,
            Self::Text => ColumnType::String,
        }
    }
}

#[derive(Debug)]
enum Values {
    Float(Vec<f64>),
    Integer(Vec<i64>),
    Unsigned(Vec<u64>),
    Boolean(Vec<bool>),
    /// The bytes of all, and where each ends.
    Text(Vec<u8>, Vec<usize>),
}

/// Values by row. Memory grows with the values, not with the rows that lack one.
#[derive(Debug)]
pub struct Column<'a> {
    pub name: Cow<'a, str>,
    /// The name has no byte that would have to be escaped, so it stands in a line as it is.
    plain: bool,
    values: Values,
    /// The row of each value; absent while each row up to the last value has one.
    rows: Option<Vec<u32>>,
}

impl<'a> Column<'a> {
    pub fn new(name: Cow<'a, str>, kind: Kind) -> Self {
        let values = match kind {
            Kind::Float => Values::Float(vec![]),
            Kind::Integer => Values::Integer(vec![]),
            Kind::Unsigned => Values::Unsigned(vec![]),
            Kind::Boolean => Values::Boolean(vec![]),
            Kind::Text => Values::Text(vec![], vec![]),
        };
        Self {
            plain: !name.bytes().any(|b| b", =\\".contains(&b)),
            name,
            values,
            rows: None,
        }
    }

    pub fn kind(&self) -> Kind {
        match &self.values {
            Values::Float(_) => Kind::Float,
            Values::Integer(_) => Kind::Integer,
            Values::Unsigned(_) => Kind::Unsigned,
            Values::Boolean(_) => Kind::Boolean,
            Values::Text(..) => Kind::Text,
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Float(values) => values.len(),
            Values::Integer(values) => values.len(),
            Values::Unsigned(values) => values.len(),
            Values::Boolean(values) => values.len(),
            Values::Text(_, ends) => ends.len(),
        }
    }

    /// Whether the name and `=` come next in the line.
    pub fn is_next(&self, cursor: &Cursor<'_>) -> bool {
        let rest = &cursor.text.as_bytes()[cursor.at..];
        let name = self.name.as_bytes();
        self.plain && rest.get(name.len()) == Some(&b'=') && rest.starts_with(name)
    }

    /// The value of `row`, which comes after all earlier ones. False if the row has one already, or if the value
    /// is of another kind; then nothing changes.
    pub fn push(&mut self, row: usize, value: FieldValue<'_>) -> bool {
        if Kind::of(&value) != self.kind() || !self.begin(row) {
            return false;
        }
        match (&mut self.values, value) {
            (Values::Float(values), FieldValue::Float(value)) => values.push(value),
            (Values::Integer(values), FieldValue::Integer(value)) => values.push(value),
            (Values::Unsigned(values), FieldValue::Unsigned(value)) => values.push(value),
            (Values::Boolean(values), FieldValue::Boolean(value)) => values.push(value),
            (Values::Text(bytes, ends), FieldValue::Text(value)) => {
                bytes.extend_from_slice(value.as_bytes());
                ends.push(bytes.len());
            }
            _ => return false,
        }
        true
    }

    /// Reads an integer that is written in the usual way; false leaves everything as it was.
    pub fn quick_integer(&mut self, row: usize, cursor: &mut Cursor<'_>) -> bool {
        if !matches!(self.values, Values::Integer(_)) {
            return false;
        }
        let bytes = &cursor.text.as_bytes()[cursor.at..];
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        let (mut at, mut number) = (start, 0_i64);
        while let Some(digit) = bytes.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d <= 9) {
            // Eighteen digits fit 64 bits, whatever they are.
            if at - start == 18 {
                return false;
            }
            number = number * 10 + i64::from(digit);
            at += 1;
        }
        let ends = bytes.get(at) == Some(&b'i') && matches!(bytes.get(at + 1), None | Some(b',' | b' '));
        if at == start || !ends || !self.begin(row) {
            return false;
        }
        if let Values::Integer(values) = &mut self.values {
            values.push(if negative { -number } else { number });
        }
        cursor.at += at + 1;
        true
    }

    /// Makes `row` the row of the next value, unless it has one.
    fn begin(&mut self, row: usize) -> bool {
        let length = self.len();
        match &mut self.rows {
            None if length == row => true,
            None if length > row => false,
            None => {
                let mut rows: Vec<u32> = (0..length as u32).collect();
                rows.push(row as u32);
                self.rows = Some(rows);
                true
            }
            Some(rows) if rows.last().is_some_and(|last| *last as usize >= row) => false,
            Some(rows) => {
                rows.push(row as u32);
                true
            }
        }
    }

    /// Forgets the values of `row` and those behind it.
    pub fn truncate(&mut self, row: usize) {
        let keep = self.position(row);
        if let Some(rows) = &mut self.rows {
            rows.truncate(keep);
        }
        match &mut self.values {
            Values::Float(values) => values.truncate(keep),
            Values::Integer(values) => values.truncate(keep),
            Values::Unsigned(values) => values.truncate(keep),
            Values::Boolean(values) => values.truncate(keep),
            Values::Text(bytes, ends) => {
                ends.truncate(keep);
                bytes.truncate(ends.last().copied().unwrap_or(0));
            }
        }
    }

    /// Of the first value that belongs to `row` or to one behind it.
    fn position(&self, row: usize) -> usize {
        match &self.rows {
            None => row.min(self.len()),
            Some(rows) => rows.partition_point(|r| (*r as usize) < row),
        }
    }

    /// Whether each of the rows has a value.
    pub fn is_complete(&self, rows: Range<usize>) -> bool {
        self.position(rows.end) - self.position(rows.start) == rows.len()
    }

    /// The rows as a column of a table; `None` if its type needs more than a widening without loss.
    pub fn array(&self, rows: Range<usize>, column_type: ColumnType) -> Option<ArrayRef> {
        let values = self.position(rows.start)..self.position(rows.end);
        let place = Place {
            rows: self.rows.as_ref().map(|rows| &rows[values.clone()]),
            range: rows,
        };
        let array: ArrayRef = match (&self.values, column_type) {
            (Values::Float(all), ColumnType::Float64) => {
                let (values, nulls) = place.spread(&all[values], |v| *v);
                Arc::new(Float64Array::new(values.into(), nulls))
            }
            (Values::Integer(all), ColumnType::Int64) => {
                let (values, nulls) = place.spread(&all[values], |v| *v);
                Arc::new(Int64Array::new(values.into(), nulls))
            }
            (Values::Integer(all), ColumnType::Float64) => {
                let (values, nulls) = place.spread(&all[values], |v| *v as f64);
                Arc::new(Float64Array::new(values.into(), nulls))
            }
            (Values::Unsigned(all), ColumnType::UInt64) => {
                let (values, nulls) = place.spread(&all[values], |v| *v);
                Arc::new(UInt64Array::new(ScalarBuffer::from(values), nulls))
            }
            (Values::Boolean(all), ColumnType::Boolean) => {
                let (values, nulls) = place.spread(&all[values], |v| *v);
                Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls))
            }
            (Values::Text(bytes, ends), ColumnType::String) => place.texts(bytes, ends, values)?,
            _ => return None,
        };
        Some(array)
    }

    /// The texts of some rows, in any order.
    pub fn texts_of(&self, rows: &[u32]) -> Option<ArrayRef> {
        let Values::Text(bytes, ends) = &self.values else {
            return None;
        };
        let mut builder = StringBuilder::with_capacity(rows.len(), bytes.len().min(rows.len() * 16));
        for row in rows {
            let at = match &self.rows {
                None => Some(*row as usize).filter(|at| *at < ends.len()),
                Some(rows) => rows.binary_search(row).ok(),
            };
            match at {
                Some(at) => builder.append_value(text_at(bytes, ends, at)?),
                None => builder.append_null(),
            }
        }
        Some(Arc::new(builder.finish()))
    }
}

fn text_at<'t>(bytes: &'t [u8], ends: &[usize], at: usize) -> Option<&'t str> {
    let start = if at == 0 { 0 } else { ends[at - 1] };
    std::str::from_utf8(&bytes[start..ends[at]]).ok()
}

/// Which rows of a range some values belong to.
struct Place<'r> {
    /// Absent: the values are those of the first rows.
    rows: Option<&'r [u32]>,
    range: Range<usize>,
}

impl Place<'_> {
    fn spread<T, U: Copy + Default>(
        &self,
        values: &[T],
        convert: impl Fn(&T) -> U,
    ) -> (Vec<U>, Option<NullBuffer>) {
        let length = self.range.len();
        if values.len() == length {
            return (values.iter().map(convert).collect(), None);
        }
        let (mut all, mut valid) = (vec![U::default(); length], vec![false; length]);
        for (i, value) in values.iter().enumerate() {
            let row = self.row(i);
            (all[row], valid[row]) = (convert(value), true);
        }
        (all, Some(NullBuffer::from(valid)))
    }

    /// Within the range.
    fn row(&self, value: usize) -> usize {
        self.rows
            .map_or(value, |rows| rows[value] as usize - self.range.start)
    }

    fn texts(&self, bytes: &[u8], ends: &[usize], values: Range<usize>) -> Option<ArrayRef> {
        let mut builder = StringBuilder::with_capacity(self.range.len(), bytes.len());
        let mut next = 0;
        for (i, at) in values.enumerate() {
            let row = self.row(i);
            builder.append_nulls(row - next);
            builder.append_value(text_at(bytes, ends, at)?);
            next = row + 1;
        }
        builder.append_nulls(self.range.len() - next);
        Some(Arc::new(builder.finish()))
    }
}
