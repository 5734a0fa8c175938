//! Every type that a column can have, as a tag and as a field: in memory, in the log, in files and in merged files.

use datafusion::logical_expr::Expr;
use datafusion::prelude::col;
use greptime_proto::v1;
use greptime_query::RegionScanSpec;
use greptime_rows::SeriesBatch;
use greptime_types::{ColumnSchema, ColumnType, Semantic, TableInfo, TableSchema, TimeUnit};

use super::model::cells::{Cell, Rows, TYPES, array_of, equals, examples, rows_of};
use crate::config::DatanodeConfig;
use crate::testing::{Node, WriteOptions, table};

fn table_of(columns: Vec<ColumnSchema>, key: Vec<String>) -> TableInfo {
    TableInfo {
        schema: TableSchema::new(columns, key).unwrap(),
        ..table(1024, false)
    }
}

fn time() -> ColumnSchema {
    let milliseconds = ColumnType::Timestamp(TimeUnit::Millisecond);
    ColumnSchema::new("ts", milliseconds, Semantic::Timestamp)
}

async fn send(node: &Node, op: v1::WriteOp, rows: &Rows) {
    let options = WriteOptions { op, ..node.options() };
    let rows = SeriesBatch::from_named(&rows.batch(&node.table), &node.table.schema).unwrap();
    node.write_series(options, &rows).await.unwrap();
}

async fn read(node: &Node, filters: Vec<Expr>) -> Vec<Vec<Cell>> {
    let spec = RegionScanSpec {
        filters,
        ..node.spec()
    };
    rows_of(&node.scan(spec).await.unwrap())
}

async fn compact(node: &Node) {
    let region = node.datanode.regions().get(node.region).unwrap();
    let request = v1::CompactRequest {
        header: node.header(),
        region_id: node.region.as_u64(),
    };
    node.datanode.compact(request).await.unwrap();
    assert_eq!(region.with_state(|s| s.view().unwrap().files.len()), 1);
}

/// What is equal to a value of the column.
fn is(column: &str, column_type: ColumnType, cell: &Cell) -> Expr {
    let Some(text) = cell else {
        return col(column).is_null();
    };
    let array = array_of(column_type, &[Some(text.clone())]);
    let value = datafusion::common::ScalarValue::try_from_array(&array, 0).unwrap();
    col(column).eq(datafusion::prelude::lit(value))
}

/// Times at both ends have no date, and are times all the same.
fn values_of(column_type: ColumnType) -> Vec<Cell> {
    let mut values = examples(column_type);
    if let ColumnType::Timestamp(_) = column_type {
        values.extend([i64::MIN.to_string(), i64::MAX.to_string()]);
    }
    std::iter::once(None)
        .chain(values.into_iter().map(Some))
        .collect()
}

/// One row of each tag, told apart by `n`.
struct Tagged {
    node: Node,
    column_type: ColumnType,
    expected: Vec<(Cell, i64)>,
}

impl Tagged {
    async fn new(column_type: ColumnType) -> Self {
        let columns = vec![
            ColumnSchema::new("tag", column_type, Semantic::Tag),
            time(),
            ColumnSchema::new("n", ColumnType::Int64, Semantic::Field),
        ];
        let of = table_of(columns, vec!["tag".into()]);
        Self {
            node: Node::of(DatanodeConfig::default(), of).await,
            column_type,
            expected: values_of(column_type).into_iter().map(|v| (v, -1)).collect(),
        }
    }

    /// Writes the rows whose position is a multiple of `step`, so that their `n` is `first` and more.
    async fn write(&mut self, first: i64, step: usize) {
        let mut rows = Vec::new();
        for (at, (tag, n)) in self.expected.iter_mut().enumerate().step_by(step) {
            *n = first + at as i64;
            rows.push(vec![tag.clone(), Some("1".into()), Some(n.to_string())]);
        }
        // Not in the order of the tags.
        rows.reverse();
        let names = ["tag", "ts", "n"].map(str::to_owned).to_vec();
        send(&self.node, v1::WriteOp::Put, &Rows { names, rows }).await;
    }

    async fn delete(&mut self, at: usize) {
        let (tag, _) = self.expected.remove(at);
        let rows = vec![vec![tag, Some("1".into())]];
        let names = ["tag", "ts"].map(str::to_owned).to_vec();
        send(&self.node, v1::WriteOp::Delete, &Rows { names, rows }).await;
    }

    async fn is_right(&self, place: &str) {
        let row = |(tag, n): &(Cell, i64)| vec![tag.clone(), Some("1".into()), Some(n.to_string())];
        let mut all: Vec<_> = self.expected.iter().map(row).collect();
        all.sort();
        assert_eq!(
            read(&self.node, vec![]).await,
            all,
            "{:?} {place}",
            self.column_type
        );
        for one in &self.expected {
            let found = read(&self.node, vec![is("tag", self.column_type, &one.0)]).await;
            let equal = self.expected.iter().filter(|other| equals(&other.0, &one.0));
            let mut equal: Vec<_> = equal.map(row).collect();
            equal.sort();
            assert_eq!(found, equal, "{:?} {place}: {:?}", self.column_type, one.0);
        }
    }

    async fn restarted(mut self) -> Self {
        self.node = self.node.crash().await;
        self.node.wait_until_readable().await;
        self
    }
}

#[tokio::test]
async fn rows_are_told_apart_by_a_tag_of_any_type_but_a_vector() {
    for column_type in TYPES {
        if matches!(column_type, ColumnType::Vector(_)) {
            continue;
        }
        let mut tagged = Tagged::new(column_type).await;
        tagged.write(0, 1).await;
        tagged.write(100, 2).await;
        tagged.is_right("in memory").await;
        tagged = tagged.restarted().await;
        tagged.is_right("from the log").await;
        tagged.node.flush().await.unwrap();
        tagged.is_right("from a file").await;
        tagged.write(200, 2).await;
        tagged.is_right("from a file and memory").await;
        tagged.node.flush().await.unwrap();
        tagged.is_right("from two files").await;
        tagged.delete(1).await;
        tagged.is_right("with a delete in memory").await;
        tagged.node.flush().await.unwrap();
        tagged.is_right("with a delete in a file").await;
        compact(&tagged.node).await;
        tagged.is_right("from a merged file").await;
        tagged = tagged.restarted().await;
        tagged.is_right("from a merged file that is not cached").await;
    }
}

/// A column of each type, named by its position.
fn fields() -> Vec<ColumnSchema> {
    let field = |(at, column_type): (usize, ColumnType)| {
        ColumnSchema::new(format!("f{at}"), column_type, Semantic::Field)
    };
    TYPES.into_iter().enumerate().map(field).collect()
}

/// Each value of each type in some row; columns with fewer begin again.
fn rows_of_fields(first: usize, rows: usize) -> Rows {
    let fields = fields();
    let values: Vec<Vec<Cell>> = fields.iter().map(|f| values_of(f.column_type)).collect();
    let row = |at: usize| {
        let cells = values.iter().map(|v| v[(first + at) % v.len()].clone());
        let key = [Some(format!("host-{at}")), Some("1".into())];
        key.into_iter().chain(cells).collect()
    };
    let names = ["host", "ts"].map(str::to_owned).into_iter();
    Rows {
        names: names.chain(fields.iter().map(|f| f.name.clone())).collect(),
        rows: (0..rows).map(row).collect(),
    }
}

fn in_order(rows: &Rows) -> Vec<Vec<Cell>> {
    let mut rows = rows.rows.clone();
    rows.sort();
    rows
}

#[tokio::test]
async fn fields_of_every_type_come_back_from_everywhere() {
    let mut columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        time(),
    ];
    columns.extend(fields());
    let of = table_of(columns, vec!["host".into()]);
    let node = Node::of(DatanodeConfig::default(), of).await;
    let put = v1::WriteOp::Put;
    send(&node, put, &rows_of_fields(5, 20)).await;
    let expected = rows_of_fields(0, 40);
    send(&node, put, &expected).await;
    let expected = in_order(&expected);
    assert_eq!(read(&node, vec![]).await, expected, "in memory");
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(read(&node, vec![]).await, expected, "from the log");
    node.flush().await.unwrap();
    assert_eq!(read(&node, vec![]).await, expected, "from a file");
    let newer = rows_of_fields(3, 30);
    send(&node, put, &newer).await;
    node.flush().await.unwrap();
    let mut expected = in_order(&newer);
    expected.extend(rows_of_fields(0, 40).rows.split_off(30));
    expected.sort();
    assert_eq!(read(&node, vec![]).await, expected, "from two files");
    compact(&node).await;
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(read(&node, vec![]).await, expected, "from a merged file");
    each_value_is_found(&node, &expected).await;
}

async fn each_value_is_found(node: &Node, rows: &[Vec<Cell>]) {
    for (at, field) in fields().iter().enumerate() {
        for value in values_of(field.column_type) {
            if value.is_some() && matches!(field.column_type, ColumnType::Vector(_)) {
                continue;
            }
            let found = read(node, vec![is(&field.name, field.column_type, &value)]).await;
            let wanted: Vec<_> = rows
                .iter()
                .filter(|row| equals(&row[at + 2], &value))
                .cloned()
                .collect();
            assert_eq!(found, wanted, "{:?} is {value:?}", field.column_type);
        }
    }
}

/// Files know the smallest and the largest of their numbers, and NaN is none of them.
#[tokio::test]
async fn what_is_not_a_number_is_found_in_files_as_it_is_in_memory() {
    let number = ColumnType::Float64;
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        time(),
        ColumnSchema::new("f", number, Semantic::Field),
    ];
    let node = Node::of(DatanodeConfig::default(), table_of(columns, vec!["host".into()])).await;
    let names = ["host", "ts", "f"].map(str::to_owned).to_vec();
    let row = |(at, value): (usize, &str)| {
        let cells = [format!("host-{at}"), "1".into(), value.into()];
        cells.map(Some).to_vec()
    };
    let rows = ["1.0", "NaN", "-2.5"].into_iter().enumerate().map(row).collect();
    send(&node, v1::WriteOp::Put, &Rows { names, rows }).await;
    let value = |n: f64| datafusion::prelude::lit(n);
    let filters = [
        col("f").eq(value(f64::NAN)),
        col("f").gt(value(5.0)),
        col("f").gt_eq(value(f64::NAN)),
        col("f").lt(value(f64::NAN)),
        col("f").not_eq(value(1.0)),
    ];
    let mut in_memory = Vec::new();
    for filter in &filters {
        in_memory.push(read(&node, vec![filter.clone()]).await);
    }
    node.flush().await.unwrap();
    let node = node.crash().await;
    node.wait_until_readable().await;
    for (filter, expected) in filters.iter().zip(in_memory) {
        assert_eq!(read(&node, vec![filter.clone()]).await, expected, "{filter}");
    }
}
