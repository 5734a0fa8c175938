//! The tables of the simulated cluster: one in append mode, one whose newest row of a key counts.

use std::collections::BTreeMap;

use greptime_types::format::FORMAT_VERSION;
use greptime_types::{
    ColumnSchema, ColumnType, Partition, PartitionRule, Semantic, TableId, TableInfo, TableOptions,
    TableSchema, TableState, TimeUnit,
};

/// As the catalog gives them to the first tables.
pub const APPENDED: TableId = 1024;
pub const OVERWRITTEN: TableId = 1025;
pub const REGIONS: u32 = 2;

/// A table as it is created.
pub fn table_of(id: TableId) -> TableInfo {
    let time = ColumnType::Timestamp(TimeUnit::Millisecond);
    let columns = vec![
        ColumnSchema::new("key", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("ts", time, Semantic::Timestamp),
    ];
    let schema = TableSchema::new(columns, vec!["key".into()]).expect("the columns fit each other");
    let partition = |region| Partition { region, expr: None };
    TableInfo {
        format: FORMAT_VERSION,
        id,
        database: "public".into(),
        name: format!("table_{id}"),
        schema,
        options: TableOptions {
            append_mode: id == APPENDED,
            extra: BTreeMap::new(),
            ..TableOptions::default()
        },
        partition: PartitionRule {
            columns: vec![],
            partitions: (0..REGIONS).map(partition).collect(),
        },
        state: TableState::Creating,
        created_ms: 0,
        database_ttl: None,
    }
}
