use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::partition::{Op, PartitionExpr, PartitionRule, Value};
use crate::{ErrorKind, TableOptions, TableState, TimeUnit};

fn cpu() -> TableInfo {
    let compare = |op| PartitionExpr::compare("host", op, Value::String("m".into()));
    TableInfo {
        format: 1,
        id: 1024,
        database: "public".into(),
        name: "cpu".into(),
        schema: TableSchema::new(
            vec![
                ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
                ColumnSchema::new(
                    "ts",
                    ColumnType::Timestamp(TimeUnit::Millisecond),
                    Semantic::Timestamp,
                ),
                ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
                ColumnSchema::new("n", ColumnType::Int32, Semantic::Field),
            ],
            vec!["host".into()],
        )
        .unwrap(),
        options: TableOptions::default(),
        partition: PartitionRule::new(vec!["host".into()], vec![compare(Op::Lt), compare(Op::GtEq)]).unwrap(),
        state: TableState::Ready,
        created_ms: 0,
        database_ttl: None,
    }
}

fn rename(from: &str, to: &str) -> Change {
    Change::RenameColumn {
        from: from.into(),
        to: to.into(),
    }
}

fn drop_column(name: &str) -> Change {
    Change::DropColumn {
        name: name.into(),
        if_exists: false,
    }
}

fn add(name: &str) -> Change {
    Change::AddColumn {
        column: ColumnSchema::new(name, ColumnType::Int64, Semantic::Field),
        if_not_exists: false,
    }
}

fn window(length: Option<&str>) -> Change {
    Change::SetTimeWindow {
        length: length.map(str::to_owned),
    }
}

fn vector_tag() -> Change {
    Change::AddColumn {
        column: ColumnSchema::new("v", ColumnType::Vector(3), Semantic::Tag),
        if_not_exists: false,
    }
}

fn tag_with_default() -> Change {
    let mut column = ColumnSchema::new("dc", ColumnType::Int64, Semantic::Tag);
    column.absent = Some("1".into());
    Change::AddColumn {
        column,
        if_not_exists: false,
    }
}

fn modify(name: &str, column_type: ColumnType) -> Change {
    Change::ModifyColumn {
        name: name.into(),
        column_type,
    }
}

/// A chain of types for one column; the first that is refused.
fn refused(chain: &[ColumnType]) -> Option<ColumnType> {
    let mut table = cpu();
    let column = ColumnSchema::new("x", chain[0], Semantic::Field);
    let add = Change::AddColumn {
        column,
        if_not_exists: false,
    };
    table = table.altered(&[add]).unwrap().unwrap();
    for to in &chain[1..] {
        let modify = Change::ModifyColumn {
            name: "x".into(),
            column_type: *to,
        };
        match table.altered(&[modify]) {
            Ok(next) => table = next.unwrap(),
            Err(error) => {
                assert!(error.message.contains("add a new column"), "{error}");
                return Some(*to);
            }
        }
    }
    None
}

#[test]
fn a_type_is_refused_under_which_rows_would_differ_by_when_they_were_rewritten() {
    use ColumnType::*;
    let fine: &[&[ColumnType]] = &[
        &[Int8, Int32, Int64, String],
        &[Int32, String, Float64],
        &[Int32, Float64],
        &[Float64, String, Float64],
        &[Boolean, String, Int32],
    ];
    for chain in fine {
        assert_eq!(refused(chain), None, "{chain:?}");
    }
    let differ: &[&[ColumnType]] = &[
        &[String, Float64, String],
        &[String, Int32, Int64],
        &[Int32, Float64, String],
        &[Float32, Float64, String],
        &[Float32, String, Float64],
        &[Int16, String, Int32, String],
    ];
    for chain in differ {
        assert_eq!(refused(chain), chain.last().copied(), "{chain:?}");
    }
}

#[test]
fn a_renamed_tag_is_renamed_in_key_and_rule() {
    let next = cpu()
        .altered(&[rename("host", "node"), rename("ts", "at")])
        .unwrap()
        .unwrap();
    assert_eq!(next.schema.primary_key, ["node"]);
    assert_eq!(next.partition.columns, ["node"]);
    assert_eq!(
        next.partition.partitions[1].expr.as_ref().unwrap().to_string(),
        "node >= 'm'"
    );
    assert_eq!(next.schema.time_index().name, "at");
    assert_eq!((next.schema.version, next.schema.writes_from), (2, 2));
}

#[test]
fn a_dropped_and_added_name_is_another_column() {
    let next = cpu().altered(&[drop_column("n"), add("n")]).unwrap().unwrap();
    assert_eq!(next.schema.column("n").unwrap().id, 4);
    assert_eq!(
        next.schema.writes_from, 2,
        "rows for the old `n` must not land in the new one"
    );
}

#[test]
fn what_does_not_change_the_meaning_of_rows_leaves_older_writers_alone() {
    let ttl = Some("7d".parse().unwrap());
    for change in [
        add("more"),
        Change::SetTtl { ttl },
        window(Some("2h")),
        Change::RenameTable { to: "load".into() },
    ] {
        let next = cpu().altered(&[change]).unwrap().unwrap();
        assert_eq!((next.schema.version, next.schema.writes_from), (2, 0));
    }
}

#[test]
fn what_is_so_already_changes_nothing() {
    let same = ColumnSchema::new("n", ColumnType::Int32, Semantic::Field);
    let tolerant = Change::AddColumn {
        column: same,
        if_not_exists: true,
    };
    let gone = Change::DropColumn {
        name: "nosuch".into(),
        if_exists: true,
    };
    let changes = [
        tolerant,
        gone,
        rename("n", "n"),
        Change::SetTtl { ttl: None },
        window(None),
        modify("n", ColumnType::Int32),
    ];
    assert_eq!(cpu().altered(&changes).unwrap(), None);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    for (change, kind, part) in [
        (drop_column("ts"), ErrorKind::InvalidArgument, "the time index"),
        (
            drop_column("host"),
            ErrorKind::InvalidArgument,
            "a partition column",
        ),
        (
            drop_column("nosuch"),
            ErrorKind::InvalidArgument,
            "there are `host`, `ts`",
        ),
        (rename("n", "usage"), ErrorKind::AlreadyExists, "`usage`"),
        (rename("nosuch", "x"), ErrorKind::InvalidArgument, "`nosuch`"),
        (
            rename("n", "__sequence"),
            ErrorKind::InvalidArgument,
            "__sequence",
        ),
        (add("n"), ErrorKind::AlreadyExists, "`n`"),
        (vector_tag(), ErrorKind::InvalidArgument, "tags are of BOOLEAN"),
        (window(Some("0s")), ErrorKind::InvalidArgument, "time_window"),
        (window(Some("-1h")), ErrorKind::InvalidArgument, "'2h' or '7d'"),
        (window(Some("500ms")), ErrorKind::InvalidArgument, "one second"),
        (tag_with_default(), ErrorKind::Unsupported, "without DEFAULT"),
        (
            modify("host", ColumnType::Int64),
            ErrorKind::InvalidArgument,
            "only fields",
        ),
        (
            modify("n", ColumnType::Int16),
            ErrorKind::Unsupported,
            "INT to SMALLINT",
        ),
        (
            modify("usage", ColumnType::Int64),
            ErrorKind::Unsupported,
            "DOUBLE to BIGINT",
        ),
    ] {
        let error = cpu().altered(std::slice::from_ref(&change)).unwrap_err();
        assert_eq!(error.kind, kind, "{change:?}: {error}");
        assert!(error.message.contains(part), "{change:?}: {error}");
    }
}

#[test]
fn the_window_of_compactions_is_kept_as_it_is_shown() {
    let next = cpu().altered(&[window(Some(" 120m "))]).unwrap().unwrap();
    assert_eq!(next.options.extra[crate::catalog::TIME_WINDOW], "2h");
    let unset = next.altered(&[window(None)]).unwrap().unwrap();
    assert_eq!(unset.options, cpu().options);
}

#[test]
fn a_table_whose_tag_is_a_vector_can_still_be_changed() {
    let mut old = cpu();
    old.schema.columns[0].column_type = ColumnType::Vector(3);
    let ttl = Some("7d".parse().unwrap());
    // As ALTER DATABASE does to all of its tables.
    let next = old.altered(&[Change::SetDatabaseTtl { ttl }]).unwrap().unwrap();
    assert_eq!(next.database_ttl, ttl);
}

#[test]
fn a_cast_that_may_fail_needs_a_nullable_column() {
    let mut table = cpu();
    table.schema.columns.push(ColumnSchema {
        id: 4,
        nullable: false,
        ..ColumnSchema::new("s", ColumnType::String, Semantic::Field)
    });
    table.schema.next_column_id = 5;
    let error = table.altered(&[modify("s", ColumnType::Int64)]).unwrap_err();
    assert!(error.message.contains("NOT NULL"), "{error}");
    table.schema.columns[4].nullable = true;
    assert!(
        table
            .altered(&[modify("s", ColumnType::Int64)])
            .unwrap()
            .is_some()
    );
}

#[test]
fn records_of_before_are_read() {
    let mut json = serde_json::to_value(cpu()).unwrap();
    let schema = json["schema"].as_object_mut().unwrap();
    schema.remove("writes_from");
    json["options"]["ttl"] = "whenever".into();
    let read: TableInfo = serde_json::from_value(json).unwrap();
    assert_eq!(read, cpu());
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let name = || prop::sample::select(vec!["host", "ts", "usage", "n", "x", "y"]).prop_map(str::to_owned);
    let types = prop::sample::select(vec![ColumnType::Int64, ColumnType::String, ColumnType::Float64]);
    let change = prop_oneof![
        (name(), any::<bool>(), any::<bool>()).prop_map(|(name, tag, if_not_exists)| Change::AddColumn {
            column: ColumnSchema::new(
                &name,
                ColumnType::String,
                if tag { Semantic::Tag } else { Semantic::Field }
            ),
            if_not_exists,
        }),
        (name(), any::<bool>()).prop_map(|(name, if_exists)| Change::DropColumn { name, if_exists }),
        (name(), name()).prop_map(|(from, to)| Change::RenameColumn { from, to }),
        (name(), types).prop_map(|(name, column_type)| Change::ModifyColumn { name, column_type }),
        name().prop_map(|to| Change::RenameTable { to }),
    ];
    prop::collection::vec(prop::collection::vec(change, 1..3), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ids_are_never_reused_and_versions_grow_by_one(steps in changes()) {
        let mut table = cpu();
        // What each id ever was.
        let mut born: BTreeMap<u32, Semantic> = table.schema.columns.iter().map(|c| (c.id, c.semantic)).collect();
        for step in steps {
            let Ok(Some(next)) = table.altered(&step) else { continue };
            prop_assert_eq!(next.schema.version, table.schema.version + 1);
            prop_assert!(next.schema.writes_from <= next.schema.version);
            prop_assert!(next.schema.writes_from >= table.schema.writes_from);
            prop_assert!(next.schema.validate().is_ok());
            for column in &next.schema.columns {
                let before = table.schema.columns.iter().any(|c| c.id == column.id);
                prop_assert!(before || !born.contains_key(&column.id), "{} came back", column.id);
                let semantic = *born.entry(column.id).or_insert(column.semantic);
                prop_assert_eq!(semantic, column.semantic);
                prop_assert!(column.id < next.schema.next_column_id);
            }
            // A name that means another column, or another type, shuts out writers of before.
            let moved = table.schema.columns.iter().any(|old| {
                next.schema.column(&old.name).is_none_or(|c| c.id != old.id || c.column_type != old.column_type)
            });
            prop_assert_eq!(moved, next.schema.writes_from == next.schema.version);
            for column in &next.partition.columns {
                prop_assert!(next.schema.column(column).is_some());
            }
            table = next;
        }
    }
}

#[test]
fn where_fields_are_merged_no_value_may_become_null() {
    let modify = |name: &str, column_type| Change::ModifyColumn {
        name: name.into(),
        column_type,
    };
    let mut table = cpu();
    let text = [modify("usage", ColumnType::String)];
    table = table.altered(&text).unwrap().unwrap();
    let number = [modify("usage", ColumnType::Float64)];
    assert!(table.altered(&number).unwrap().is_some());
    table.options.merge_mode = crate::MergeMode::LastNonNull;
    let error = table.altered(&number).unwrap_err();
    assert!(error.message.contains("last_non_null"), "{error}");
    assert!(
        table
            .altered(&[modify("n", ColumnType::Int64)])
            .unwrap()
            .is_some()
    );
}
