//! What the tests of this crate share: a table, rows, a bucket that fails, a node that crashes.

mod bucket;
mod clock;
mod dice;
mod disk;
mod leaf;
mod machine;
mod node;

pub use bucket::{Fault, FaultyStore, PutFault, Request};
pub use clock::SkewedClock;
pub use dice::{Dice, many_series, seeds};
pub use disk::SmallDisk;
pub use leaf::Leaf;
pub use node::{Node, Place, Row, WriteOptions, parts, row, rows_of, start_node, start_on_disk};

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit as ArrowUnit};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use greptime_types::{
    ColumnSchema, ColumnType, PartitionRule, Semantic, TableInfo, TableOptions, TableSchema, TableState,
    TimeUnit,
};

/// `host` is the tag, `ts` the time, `usage` the field.
pub fn table(id: u32, append_mode: bool) -> TableInfo {
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new(
            "ts",
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
        ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
    ];
    TableInfo {
        format: 1,
        id,
        database: "public".into(),
        name: "cpu".into(),
        schema: TableSchema::new(columns, vec!["host".into()]).unwrap(),
        options: TableOptions {
            append_mode,
            ..TableOptions::default()
        },
        partition: PartitionRule {
            columns: vec![],
            partitions: vec![],
        },
        state: TableState::Ready,
        created_ms: 0,
        database_ttl: None,
    }
}

/// The rows as the frontend sends them.
pub fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("host", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(ArrowUnit::Millisecond, None), false),
        Field::new("usage", DataType::Float64, true),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>()),
        Arc::new(
            rows.iter()
                .map(|r| Some(r.1))
                .collect::<TimestampMillisecondArray>(),
        ),
        Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

pub fn ipc(batch: &RecordBatch) -> Bytes {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes.into()
}
