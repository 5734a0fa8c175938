//! Values as texts: what programs say, what the map holds, and what scans give are compared as such.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, FixedSizeListBuilder, Float32Array, Float32Builder, RecordBatch,
    StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use greptime_types::{ColumnSchema, ColumnType, Semantic, TableInfo, TimeUnit};

/// NULL, or the value as text. A time is the number in its unit, bytes are hexadecimal, and a vector is a list.
pub type Cell = Option<String>;

/// One of each kind of type that a column can have.
pub const TYPES: [ColumnType; 22] = {
    use ColumnType as T;
    [
        T::Boolean,
        T::Int8,
        T::Int16,
        T::Int32,
        T::Int64,
        T::UInt8,
        T::UInt16,
        T::UInt32,
        T::UInt64,
        T::Float32,
        T::Float64,
        T::String,
        T::Binary,
        T::Date,
        T::Timestamp(TimeUnit::Second),
        T::Timestamp(TimeUnit::Millisecond),
        T::Timestamp(TimeUnit::Microsecond),
        T::Timestamp(TimeUnit::Nanosecond),
        T::Decimal(10, 2),
        T::Decimal(38, 10),
        T::Json,
        T::Vector(3),
    ]
};

/// Some values of a type, those at its edges among them.
pub fn examples(column_type: ColumnType) -> Vec<String> {
    use ColumnType as T;
    let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
    let numbers = |low: i128, high: u64| [low, 0, 1, 7, high.into()].map(|n| n.to_string()).to_vec();
    match column_type {
        T::Boolean => texts(&["false", "true"]),
        T::Int8 => numbers(i8::MIN.into(), i8::MAX as u64),
        T::Int16 => numbers(i16::MIN.into(), i16::MAX as u64),
        T::Int32 => numbers(i32::MIN.into(), i32::MAX as u64),
        T::Int64 => numbers(i64::MIN.into(), i64::MAX as u64),
        T::UInt8 => numbers(2, u8::MAX.into()),
        T::UInt16 => numbers(2, u16::MAX.into()),
        T::UInt32 => numbers(2, u32::MAX.into()),
        T::UInt64 => numbers(2, u64::MAX),
        T::Float32 | T::Float64 => texts(&["0.0", "-0.0", "NaN", "-1.5", "0.25", "-inf", "inf"]),
        T::String => texts(&["", "0", "7", "true", "v1", "grüße"]),
        T::Binary => texts(&["", "00", "00ff", "76", "ffff"]),
        T::Date => texts(&[
            "0001-01-01",
            "1969-12-31",
            "1970-01-01",
            "2026-02-28",
            "9999-12-31",
        ]),
        // With a date: others have no text, if the column becomes a STRING.
        T::Timestamp(_) => texts(&["-1", "0", "1", "1700000000"]),
        T::Decimal(precision, scale) => {
            let whole = "9".repeat(usize::from(precision) - scale as usize);
            let part = "9".repeat(scale as usize);
            let largest = format!("{whole}.{part}");
            let all = ["-0.01", "0", "1.5", "7", largest.as_str()];
            all.map(|text| same(text, column_type)).to_vec()
        }
        T::Json => texts(&["null", "{}", "7", "{\"a\": [1, 2]}", "{\"a\":[1,2]}"]),
        T::Vector(dimension) => {
            let vector = |first: f32| {
                let numbers: Vec<f32> = (0..dimension).map(|n| first + n as f32 / 4.0).collect();
                format!("{numbers:?}")
            };
            [-1.5, 0.0, f32::MAX, f32::INFINITY].map(vector).to_vec()
        }
    }
}

/// A text as the type shows it.
fn same(text: &str, column_type: ColumnType) -> String {
    let array = array_of(column_type, &[Some(text.to_owned())]);
    cells_of(&array).remove(0).unwrap()
}

/// As SQL compares: zero is zero whatever its sign, though it is another tag. NULL equals NULL here.
pub fn equals(a: &Cell, b: &Cell) -> bool {
    let unsigned = |cell: &Cell| match cell.as_deref() {
        Some("-0.0") => Some("0.0".to_owned()),
        _ => cell.clone(),
    };
    unsigned(a) == unsigned(b)
}

/// Values of one type as an array of it.
pub fn array_of(column_type: ColumnType, cells: &[Cell]) -> ArrayRef {
    let texts = StringArray::from(cells.to_vec());
    let to = column_type.to_arrow();
    match column_type {
        ColumnType::Binary => {
            let bytes = |text: &Cell| text.as_deref().map(bytes_of);
            Arc::new(cells.iter().map(bytes).collect::<BinaryArray>())
        }
        ColumnType::Vector(dimension) => vectors(dimension as usize, cells),
        ColumnType::Timestamp(_) => cast(&cast(&texts, &DataType::Int64).unwrap(), &to).unwrap(),
        _ => cast(&texts, &to).unwrap(),
    }
}

fn bytes_of(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn vectors(dimension: usize, cells: &[Cell]) -> ArrayRef {
    let mut lists = FixedSizeListBuilder::new(Float32Builder::new(), dimension as i32);
    for cell in cells {
        match cell {
            None => lists.values().append_nulls(dimension),
            Some(text) => {
                let numbers = text.trim_matches(['[', ']']).split(", ");
                let numbers: Float32Array = numbers.map(|n| Some(n.parse::<f32>().unwrap())).collect();
                lists.values().append_array(&numbers);
            }
        }
        lists.append(cell.is_some());
    }
    Arc::new(lists.finish())
}

/// The values of an array.
pub fn cells_of(array: &dyn Array) -> Vec<Cell> {
    let texts = match array.data_type() {
        DataType::Binary => {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
            return array.as_binary::<i32>().iter().map(|b| b.map(hex)).collect();
        }
        DataType::FixedSizeList(..) => {
            let text = |list: ArrayRef| format!("{:?}", list.as_primitive::<Float32Type>().values().to_vec());
            return array.as_fixed_size_list().iter().map(|l| l.map(text)).collect();
        }
        DataType::Timestamp(..) => cast(&cast(array, &DataType::Int64).unwrap(), &DataType::Utf8),
        _ => cast(array, &DataType::Utf8),
    };
    let texts = texts.unwrap();
    let texts = texts.as_string::<i32>();
    texts.iter().map(|t| t.map(str::to_owned)).collect()
}

/// A value that was written as one type, as another shows it.
pub fn converted(cell: &Cell, from: ColumnType, to: ColumnType) -> Cell {
    cell.as_ref()?;
    let array = array_of(from, std::slice::from_ref(cell));
    cells_of(&cast(&array, &to.to_arrow()).unwrap()).remove(0)
}

/// Rows of the named columns of a table.
#[derive(Clone, Debug)]
pub struct Rows {
    pub names: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

impl Rows {
    /// The columns, each found in the table by its name.
    pub fn columns<'a>(&'a self, table: &'a TableInfo) -> impl Iterator<Item = (usize, &'a ColumnSchema)> {
        let named = |name: &String| table.schema.column(name).unwrap();
        self.names.iter().map(named).enumerate()
    }

    /// As a frontend sends them.
    pub fn batch(&self, table: &TableInfo) -> RecordBatch {
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for (at, column) in self.columns(table) {
            let cells: Vec<Cell> = self.rows.iter().map(|row| row[at].clone()).collect();
            let nullable = column.semantic != Semantic::Timestamp;
            fields.push(Field::new(&column.name, column.column_type.to_arrow(), nullable));
            arrays.push(array_of(column.column_type, &cells));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
    }
}

/// The rows of a scan, sorted.
pub fn rows_of(batches: &[RecordBatch]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<Vec<Cell>> = batch.columns().iter().map(|c| cells_of(c)).collect();
        rows.extend((0..batch.num_rows()).map(|i| columns.iter().map(|c| c[i].clone()).collect::<Vec<_>>()));
    }
    rows.sort();
    rows
}
