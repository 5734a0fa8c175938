//! What the tests have in common.

use greptime_types::{
    ColumnSchema, ColumnType, PartitionRule, RegionId, Semantic, TableInfo, TableOptions, TableSchema,
    TableState, TimeUnit,
};

use crate::FileMeta;

pub const HOME: RegionId = RegionId::new(1, 0);

pub fn table() -> TableInfo {
    let ts = ColumnSchema::new(
        "ts",
        ColumnType::Timestamp(TimeUnit::Millisecond),
        Semantic::Timestamp,
    );
    TableInfo {
        format: 1,
        id: HOME.table(),
        database: "public".into(),
        name: "t".into(),
        schema: TableSchema::new(vec![ts], Vec::new()).expect("the schema keeps the rules"),
        options: TableOptions::default(),
        partition: PartitionRule {
            columns: Vec::new(),
            partitions: Vec::new(),
        },
        state: TableState::Ready,
        created_ms: 0,
        database_ttl: None,
    }
}

/// A file with rows of these sequences.
pub fn file(name: &str, sequences: std::ops::RangeInclusive<u64>) -> FileMeta {
    FileMeta {
        name: name.into(),
        home: HOME,
        rows: sequences.end() + 1 - sequences.start(),
        bytes: 1,
        min_sequence: *sequences.start(),
        max_sequence: *sequences.end(),
        min_time: 0,
        max_time: 0,
        schema_version: 1,
        deletes: 0,
        level: 0,
    }
}
