//! Requests while regions are away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use greptime_types::RegionId;
use serde_json::json;

use crate::cluster::Cluster;

async fn after(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test]
async fn a_write_is_held_until_the_datanode_is_back() {
    let cluster = Cluster::with_cpu().await;
    cluster.fake.set_down(1, true);
    let write = cluster.sql("INSERT INTO cpu VALUES ('host_4', 99000, 1, 1)");
    let back = async {
        after(300).await;
        assert!(
            cluster
                .metrics
                .text()
                .contains("greptime_frontend_held_requests 1")
        );
        cluster.fake.set_down(1, false);
    };
    let (written, ()) = tokio::join!(write, back);
    assert_eq!(written, json!(1));
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[91]]));
}

#[tokio::test]
async fn a_query_is_held_too_and_other_regions_are_not() {
    let cluster = Cluster::with_cpu().await;
    cluster.fake.set_down(1, true);
    assert_eq!(
        cluster
            .sql("SELECT count(*) FROM cpu WHERE host = 'host_0'")
            .await,
        json!([[10]])
    );
    let query = cluster.sql("SELECT count(*) FROM cpu");
    let back = async {
        after(200).await;
        cluster.fake.set_down(1, false);
    };
    assert_eq!(tokio::join!(query, back).0, json!([[90]]));
}

#[tokio::test]
async fn a_new_leader_is_used_as_soon_as_it_is_known() {
    let cluster = Cluster::with_cpu().await;
    let region = RegionId::new(1024, 1);
    cluster.fake.set_down(1, true);
    let write = cluster.sql("INSERT INTO cpu VALUES ('host_4', 99000, 1, 1)");
    let failover = async {
        after(100).await;
        cluster.fake.move_leader(region, 2);
    };
    assert_eq!(tokio::join!(write, failover).0, json!(1));
    assert_eq!(
        cluster
            .sql("SELECT count(*) FROM cpu WHERE host = 'host_4'")
            .await,
        json!([[11]])
    );
    assert_eq!(cluster.fake.leader(region), 2);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_applied_once() {
    let cluster = Cluster::start().await;
    cluster
        .sql("CREATE TABLE events (ts TIMESTAMP TIME INDEX, v BIGINT) WITH (append_mode = 'true')")
        .await;
    cluster.fake.lose_answers.store(2, Ordering::SeqCst);
    assert_eq!(
        cluster.sql("INSERT INTO events VALUES (1, 1), (2, 2)").await,
        json!(2)
    );
    assert_eq!(cluster.fake.duplicates(), 2);
    assert_eq!(cluster.sql("SELECT count(*) FROM events").await, json!([[2]]));
}

#[tokio::test]
async fn the_deadline_ends_the_wait_and_says_what_was_waited_for() {
    let cluster = Cluster::with(|c| c.write_timeout = Duration::from_millis(300), None).await;
    cluster.fill_cpu().await;
    cluster.fake.set_down(1, true);
    let (status, message) = cluster.error("INSERT INTO cpu VALUES ('host_4', 0, 1, 1)").await;
    assert_eq!(status, 504, "{message}");
    assert!(
        message.contains("1024:1") && message.contains("refuses the connection"),
        "{message}"
    );
}

#[tokio::test]
async fn the_writer_is_told_what_is_lost_with_a_majority() {
    let cluster = Cluster::with(|c| c.write_timeout = Duration::from_millis(300), None).await;
    cluster.fill_cpu().await;
    cluster.fake.set_down(1, true);
    let told = "too few of its voters live, 2 are needed; lost: datanode 1, datanode 2; left: datanode 0";
    cluster.fake.lose_majority(RegionId::new(1024, 1), told);
    let (status, message) = cluster.error("INSERT INTO cpu VALUES ('host_4', 0, 1, 1)").await;
    assert_eq!(status, 504, "{message}");
    assert!(message.contains("1024:1") && message.contains(told), "{message}");
}

#[tokio::test]
async fn beyond_the_budget_for_held_requests_a_write_fails_at_once() {
    let cluster = Cluster::with(|c| c.hold_memory = 10, None).await;
    cluster.fill_cpu().await;
    cluster.fake.set_down(1, true);
    let (status, message) = cluster.error("INSERT INTO cpu VALUES ('host_4', 0, 1, 1)").await;
    assert_eq!(status, 429, "{message}");
}

#[tokio::test]
async fn a_dropped_table_is_not_waited_for() {
    let cluster = Cluster::with_cpu().await;
    cluster.fake.set_down(1, true);
    let write = cluster.error("INSERT INTO cpu VALUES ('host_4', 0, 1, 1)");
    let dropped = async {
        after(100).await;
        cluster.sql("DROP TABLE cpu").await;
    };
    let ((status, _), ()) = tokio::join!(write, dropped);
    assert!(status == 503 || status == 404, "{status}");
}

#[tokio::test]
async fn a_query_ends_at_its_deadline() {
    let cluster = Cluster::with(|c| c.query_timeout = Duration::from_millis(300), None).await;
    cluster.fill_cpu().await;
    cluster.fake.set_down(1, true);
    let (status, message) = cluster.error("SELECT count(*) FROM cpu").await;
    assert_eq!(status, 504, "{message}");
}
