//! Writes whose tags are apart from their rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray, TimestampMillisecondArray, UInt32Array};
use greptime_rows::SeriesBatch;
use greptime_types::ErrorKind;

use crate::region::{RegionEntry, RowOp, WriteEntry};
use crate::testing::{Node, batch, row};

fn series(node: &Node, rows: &[crate::testing::Row]) -> SeriesBatch {
    SeriesBatch::from_named(&batch(rows), &node.table.schema).unwrap()
}

#[tokio::test]
async fn entries_of_both_formats_are_read_back_after_a_crash() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0), row("b", 1, 2.0)]).await.unwrap();
    let rows = [
        row("a", 1, 3.0),
        row("c", 2, 4.0),
        (None, 3, Some(5.0)),
        (Some(String::new()), 3, None),
    ];
    let written = node
        .write_series(node.options(), &series(&node, &rows))
        .await
        .unwrap();
    assert_eq!(written.affected_rows, 4);
    let expected = [
        (None, 3, Some(5.0)),
        (Some(String::new()), 3, None),
        row("a", 1, 3.0),
        row("b", 1, 2.0),
        row("c", 2, 4.0),
    ];
    assert_eq!(node.read().await.unwrap(), expected);
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(
        node.read().await.unwrap(),
        expected,
        "NULL and the empty text are two series"
    );
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), expected);
    let node = node.crash().await;
    node.wait_until_readable().await;
    assert_eq!(node.read().await.unwrap(), expected);
}

#[tokio::test]
async fn rows_of_several_days_become_a_file_for_each_day() {
    let node = Node::new().await;
    let day = 24 * 60 * 60 * 1000;
    let rows = [
        row("a", 1, 1.0),
        row("a", day, 2.0),
        row("a", 2, 3.0),
        row("a", -1, 4.0),
    ];
    node.write_series(node.options(), &series(&node, &rows))
        .await
        .unwrap();
    node.write_series(node.options(), &series(&node, &[row("a", 1, 5.0)]))
        .await
        .unwrap();
    node.flush().await.unwrap();
    let region = node.datanode.regions().get(node.region).unwrap();
    let files = region.with_state(|s| s.view().unwrap().files.clone());
    let mut times: Vec<_> = files.values().map(|f| (f.min_time, f.max_time, f.rows)).collect();
    times.sort_unstable();
    assert_eq!(
        times,
        [(-1, -1, 1), (1, 2, 2), (day, day, 1)],
        "and only the newest row of an identity"
    );
    let expected = [
        row("a", -1, 4.0),
        row("a", 1, 5.0),
        row("a", 2, 3.0),
        row("a", day, 2.0),
    ];
    assert_eq!(node.read().await.unwrap(), expected);
}

#[tokio::test]
async fn what_does_not_fit_the_table_is_refused_by_name() {
    let node = Node::new().await;
    let host: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let time: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1]));
    let usage: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let keys = || UInt32Array::from(vec![0]);
    let make = |of_series, of_rows| SeriesBatch::of_columns(1, of_series, keys(), of_rows).unwrap();
    let good = make(
        vec![(0, Arc::clone(&host))],
        vec![(1, Arc::clone(&time)), (2, Arc::clone(&usage))],
    );
    node.write_series(node.options(), &good).await.unwrap();
    for (wrong, why) in [
        (
            make(vec![], vec![(0, Arc::clone(&host)), (1, Arc::clone(&time))]),
            "`host` must be in the series",
        ),
        (
            make(vec![(1, Arc::clone(&time))], vec![]),
            "`ts` must be in the rows",
        ),
        (
            make(vec![(0, Arc::clone(&usage))], vec![(1, Arc::clone(&time))]),
            "`host` of table",
        ),
        (
            make(vec![(9, Arc::clone(&host))], vec![(1, Arc::clone(&time))]),
            "no column with the id 9",
        ),
        (make(vec![(0, Arc::clone(&host))], vec![]), "lack column `ts`"),
    ] {
        let error = node.write_series(node.options(), &wrong).await.unwrap_err();
        assert!(
            error.kind == ErrorKind::InvalidArgument && error.message.contains(why),
            "{error}"
        );
    }
    assert_eq!(node.read().await.unwrap(), [row("a", 1, 1.0)]);
}

#[tokio::test]
async fn a_program_that_does_not_know_series_refuses_their_entries() {
    let node = Node::new().await;
    let entry = |rows| {
        let write = WriteEntry {
            request: greptime_types::RequestId {
                incarnation: 1,
                number: 1,
            },
            finished: greptime_types::Finished::below(1),
            schema_version: 1,
            op: RowOp::Put,
            rows,
        };
        RegionEntry::Write(write).encode().unwrap()
    };
    let new = series(&node, &[row("a", 1, 1.0)]).encode().unwrap();
    // The first field of an entry is its format.
    assert_eq!(entry(new.clone())[..2], [8, 2]);
    let old = greptime_rows::Encoded {
        series: bytes::Bytes::new(),
        ..new
    };
    assert_eq!(entry(old)[..2], [8, 1]);
}
