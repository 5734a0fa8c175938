use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, UInt64Type};
use greptime_types::schema::SEQUENCE_COLUMN;

use super::*;
use crate::testing::{Row, batch, row, table};

fn insert(memtable: &mut Memtable, sequence: u64, rows: &[Row]) {
    memtable.insert(batch(rows), sequence, RowOp::Put, 100).unwrap();
}

fn sequences(memtable: &Memtable, after: u64) -> Vec<u64> {
    let key = KeyColumns::of(&table(1, true));
    let mut all = Vec::new();
    for chunk in memtable.chunks().iter().filter(|c| c.max_sequence() > after) {
        let rows = chunk.sorted(&key, after).unwrap();
        let column = rows.column_by_name(SEQUENCE_COLUMN).unwrap();
        all.extend(column.as_primitive::<UInt64Type>().values().iter().copied());
    }
    all.sort_unstable();
    all
}

#[test]
fn small_writes_are_joined_into_few_chunks_and_none_is_lost() {
    let mut memtable = Memtable::default();
    for sequence in 1..=1000 {
        insert(&mut memtable, sequence, &[row("a", sequence as i64, 1.0)]);
    }
    assert!(memtable.chunks().len() < 20, "{} chunks", memtable.chunks().len());
    assert_eq!(memtable.rows(), 1000);
    assert_eq!(sequences(&memtable, 0), (1..=1000).collect::<Vec<_>>());
    assert_eq!(memtable.max_sequence(), Some(1000));
}

#[test]
fn what_is_in_files_is_forgotten_row_by_row() {
    let mut memtable = Memtable::default();
    for sequence in 1..=100 {
        insert(&mut memtable, sequence, &[row("a", sequence as i64, 1.0)]);
    }
    assert_eq!(
        sequences(&memtable, 37),
        (38..=100).collect::<Vec<_>>(),
        "a reader can skip them before"
    );
    let before = memtable.bytes();
    memtable.forget_through(37).unwrap();
    assert_eq!(sequences(&memtable, 0), (38..=100).collect::<Vec<_>>());
    assert!(memtable.bytes() < before);
    memtable.forget_through(100).unwrap();
    assert!(memtable.is_empty());
    assert_eq!(memtable.bytes(), 0);
}

#[test]
fn a_reader_keeps_what_it_saw_while_rows_are_added() {
    let mut memtable = Memtable::default();
    insert(&mut memtable, 1, &[row("a", 1, 1.0)]);
    let seen = memtable.clone();
    insert(&mut memtable, 2, &[row("a", 2, 1.0)]);
    assert_eq!(sequences(&seen, 0), [1]);
    assert_eq!(sequences(&memtable, 0), [1, 2]);
}

#[test]
fn rows_are_sorted_by_key_and_newest_first() {
    let mut memtable = Memtable::default();
    insert(
        &mut memtable,
        1,
        &[
            row("b", 1, 1.0),
            (None, 9, Some(2.0)),
            row("a", 2, 3.0),
            row("a", 1, 4.0),
        ],
    );
    insert(&mut memtable, 2, &[row("a", 1, 5.0), row("a", 1, 6.0)]);
    let key = KeyColumns::of(&table(1, false));
    let chunk = Chunk::join(&memtable.chunks()[0], memtable.chunks().last().unwrap());
    let chunk = if memtable.chunks().len() == 1 {
        Arc::clone(&memtable.chunks()[0])
    } else {
        Arc::new(chunk.unwrap())
    };
    let sorted = chunk.sorted(&key, 0).unwrap();
    let usage = sorted
        .column_by_name("usage")
        .unwrap()
        .as_primitive::<Float64Type>();
    assert_eq!(
        usage.values(),
        &[2.0, 6.0, 4.0, 3.0, 1.0],
        "and in one entry the later row wins"
    );
}
