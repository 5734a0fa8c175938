//! Values as texts: what programs say, what the map holds, and what scans give are compared as such.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use greptime_types::{ColumnSchema, ColumnType, Semantic, TableInfo};

/// NULL, or the value as text. A time is the number in its unit.
pub type Cell = Option<String>;

/// Values of one type as an array of it.
pub fn array_of(column_type: ColumnType, cells: &[Cell]) -> ArrayRef {
    let texts = StringArray::from(cells.to_vec());
    let to = column_type.to_arrow();
    match column_type {
        ColumnType::Timestamp(_) => cast(&cast(&texts, &DataType::Int64).unwrap(), &to).unwrap(),
        _ => cast(&texts, &to).unwrap(),
    }
}

/// The values of an array.
pub fn cells_of(array: &dyn Array) -> Vec<Cell> {
    let texts = match array.data_type() {
        DataType::Timestamp(..) => cast(&cast(array, &DataType::Int64).unwrap(), &DataType::Utf8),
        _ => cast(array, &DataType::Utf8),
    };
    let texts = texts.unwrap();
    let texts = texts.as_string::<i32>();
    texts.iter().map(|t| t.map(str::to_owned)).collect()
}

/// A value that was written as one type, as another shows it.
pub fn converted(cell: &Cell, from: ColumnType, to: ColumnType) -> Cell {
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
