//! What a query says of its cost, to those who ask.

use arrow_flight::FlightData;
use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use greptime_proto::v1;
use greptime_query::{Measure, RegionReport, RegionScanSpec};
use prost::Message as _;

use super::wire::connect;
use crate::testing::{Node, WriteOptions, batch, row};

fn time(ms: i64) -> Expr {
    lit(ScalarValue::TimestampMillisecond(Some(ms), None))
}

/// Three files with ten rows each, of the times 0, 100 and 200 and later; and five rows in memory, of 300 and later.
async fn three_files() -> Node {
    let node = Node::new().await;
    for start in [0, 100, 200] {
        let rows: Vec<_> = (start..start + 10).map(|t| row("a", t, t as f64)).collect();
        node.write(&rows).await.unwrap();
        node.flush().await.unwrap();
    }
    let rows: Vec<_> = (300..305).map(|t| row("b", t, 1.0)).collect();
    node.write(&rows).await.unwrap();
    node
}

fn request(node: &Node, filters: Vec<Expr>, report: bool) -> v1::QueryRequest {
    let spec = RegionScanSpec {
        filters,
        ..node.spec()
    };
    v1::QueryRequest {
        report,
        ..node.scan_request(spec)
    }
}

async fn report_of(node: &Node, filters: Vec<Expr>) -> RegionReport {
    let answer = node.datanode.query(request(node, filters, true)).await.unwrap();
    let _: Vec<_> = answer.rows.try_collect().await.unwrap();
    answer.report.get().unwrap()
}

/// A measure of the leaf; absent ones are zero.
fn leaf(report: &RegionReport, name: &str) -> Measure {
    let leaf = report.operators.last().unwrap();
    assert!(leaf.line.starts_with("RegionScanExec"), "{leaf:?}");
    let measure = leaf.measures.iter().find(|m| m.name == name);
    measure.cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_report_says_which_files_were_left_out_and_what_was_read() {
    let node = three_files().await;
    let filters = vec![col("ts").gt_eq(time(100)), col("ts").lt(time(105))];
    let report = report_of(&node, filters.clone()).await;
    assert!(report.is_complete && report.nanos > 0, "{report:?}");
    let pruned = |name| {
        let measure = leaf(&report, name);
        (measure.value, measure.left)
    };
    assert_eq!(pruned("files_pruned_by_time"), (2, 1), "{report:?}");
    assert_eq!(pruned("row_groups_pruned_by_time"), (0, 1), "{report:?}");
    assert_eq!(pruned("rows_pruned"), (0, 10), "{report:?}");
    let (_, pages) = pruned("pages_pruned");
    assert!(pages > 0, "{report:?}");
    for (name, value) in [("rows_in_memory", 0), ("rows_selected", 5), ("output_rows", 5)] {
        assert_eq!(leaf(&report, name).value, value, "{name}: {report:?}");
    }
    let bytes = ["bytes_from_memory", "bytes_from_disk", "bytes_from_store"];
    assert!(bytes.iter().any(|b| leaf(&report, b).value > 0), "{report:?}");
    assert!(leaf(&report, "bytes_decoded").value > 0, "{report:?}");
    let again = report_of(&node, filters).await;
    assert_eq!(leaf(&again, "bytes_decoded").value, 0, "{again:?}");
    assert!(leaf(&again, "bytes_decoded_before").value > 0, "{again:?}");
    assert_eq!(leaf(&again, "store_requests").value, 0, "{again:?}");
}

#[tokio::test]
async fn row_groups_without_a_wanted_value_are_left_out_where_no_newer_row_is_elsewhere() {
    let node = three_files().await;
    let wanted = || vec![col("usage").gt_eq(lit(205.0))];
    let pruned = |report: &RegionReport| {
        let measure = leaf(report, "row_groups_pruned_by_statistics");
        (measure.value, measure.left)
    };
    let report = report_of(&node, wanted()).await;
    assert_eq!(pruned(&report), (2, 1), "{report:?}");
    assert_eq!(leaf(&report, "output_rows").value, 5, "{report:?}");
    // A newer file replaces rows of the last one with values that are not wanted.
    let rows: Vec<_> = (200..210).map(|t| row("a", t, 0.0)).collect();
    node.write(&rows).await.unwrap();
    node.flush().await.unwrap();
    let report = report_of(&node, wanted()).await;
    assert_eq!(leaf(&report, "output_rows").value, 0, "{report:?}");
    // The rows that were in memory are in the new file, behind the times that are merged.
    assert_eq!(pruned(&report).0, 3, "{report:?}");
}

#[tokio::test]
async fn a_delete_goes_on_hiding_a_row_whose_value_is_wanted() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 7.0), row("b", 1, 7.0)]).await.unwrap();
    let delete = WriteOptions {
        op: v1::WriteOp::Delete,
        ..node.options()
    };
    let identity = batch(&[row("a", 1, 0.0)]).project(&[0, 1]).unwrap();
    node.write_batch(delete, &identity).await.unwrap();
    node.flush().await.unwrap();
    let found = node.read_where(vec![col("usage").gt(lit(5.0))]).await.unwrap();
    assert_eq!(found, [row("b", 1, 7.0)]);
}

#[tokio::test]
async fn few_times_or_values_of_a_long_series_are_read_from_their_pages_alone() {
    for filters in [
        vec![col("ts").gt_eq(time(50_000)), col("ts").lt(time(50_010))],
        vec![col("usage").gt_eq(lit(50_000.0)), col("usage").lt(lit(50_010.0))],
    ] {
        let node = Node::new().await;
        for start in (0..100_000).step_by(25_000) {
            let rows: Vec<_> = (start..start + 25_000).map(|t| row("a", t, t as f64)).collect();
            node.write(&rows).await.unwrap();
        }
        node.flush().await.unwrap();
        let report = report_of(&node, filters).await;
        assert_eq!(leaf(&report, "output_rows").value, 10, "{report:?}");
        let read = leaf(&report, "rows_read").value;
        assert!((10..=2 * 16 * 1024).contains(&read), "{report:?}");
        assert!(leaf(&report, "pages_pruned").value > 0, "{report:?}");
    }
}

#[tokio::test]
async fn rows_in_memory_are_counted_apart_from_those_of_files() {
    let node = three_files().await;
    let report = report_of(&node, vec![col("ts").gt_eq(time(300))]).await;
    assert_eq!(leaf(&report, "files_pruned_by_time").value, 3, "{report:?}");
    assert_eq!(leaf(&report, "rows_in_memory").value, 5, "{report:?}");
    assert_eq!(leaf(&report, "rows_selected").value, 5, "{report:?}");
    let everything = report_of(&node, vec![]).await;
    assert_eq!(leaf(&everything, "rows_selected").value, 35, "{everything:?}");
    assert_eq!(leaf(&everything, "rows_pruned").left, 30, "{everything:?}");
}

#[tokio::test]
async fn columns_of_which_few_rows_are_asked_for_again_are_kept() {
    let node = Node::new().await;
    let hosts = (0..40).map(|n| format!("host_{n}"));
    let rows: Vec<_> = hosts.flat_map(|h| (0..5).map(move |t| row(&h, t, 1.0))).collect();
    node.write(&rows).await.unwrap();
    node.flush().await.unwrap();
    for (host, decoded) in [("host_3", true), ("host_7", true), ("host_31", false)] {
        let report = report_of(&node, vec![col("host").eq(lit(host))]).await;
        assert_eq!(leaf(&report, "output_rows").value, 5, "{report:?}");
        let bytes = leaf(&report, "bytes_decoded").value;
        assert_eq!(bytes > 0, decoded, "{host}: {report:?}");
    }
}

#[tokio::test]
async fn a_query_that_does_not_ask_is_told_nothing() {
    let node = three_files().await;
    let answer = node.datanode.query(request(&node, vec![], false)).await.unwrap();
    let _: Vec<_> = answer.rows.try_collect().await.unwrap();
    assert_eq!(answer.report.get(), None);
}

#[tokio::test]
async fn reports_travel_beside_the_rows_and_after_them() {
    let node = three_files().await;
    let mut flight = FlightServiceClient::new(connect(&node).await);
    let mut messages_of = async |report| {
        let ticket = Ticket::new(request(&node, vec![], report).encode_to_vec());
        let data = flight.do_get(ticket).await.unwrap().into_inner();
        data.try_collect::<Vec<FlightData>>().await.unwrap()
    };
    let plain = messages_of(false).await;
    assert!(plain.iter().all(|m| m.app_metadata.is_empty()));
    let reported = messages_of(true).await;
    let [schema, rows @ .., last] = reported.as_slice() else {
        panic!("{reported:?}")
    };
    assert_eq!(reported.len(), plain.len() + 1);
    assert!(schema.app_metadata.is_empty() && last.data_header.is_empty());
    for message in rows {
        let report = RegionReport::decode(message.app_metadata.clone()).unwrap();
        assert!(!report.is_complete, "{report:?}");
    }
    let report = RegionReport::decode(last.app_metadata.clone()).unwrap();
    assert!(report.is_complete, "{report:?}");
    assert_eq!(leaf(&report, "output_rows").value, 35, "{report:?}");
}
