//! `ADMIN …` reaches the regions that it names.

use greptime_types::RegionId;
use serde_json::json;

use crate::cluster::Cluster;

#[tokio::test]
async fn a_table_is_flushed_region_by_region() {
    let cluster = Cluster::with_cpu().await;
    assert_eq!(
        cluster.sql("ADMIN flush_table('cpu')").await,
        json!([["1024:0", 7], ["1024:1", 7], ["1024:2", 7]])
    );
    let mut flushed = cluster.fake.flushed.lock().clone();
    flushed.sort();
    assert_eq!(flushed, [0, 1, 2].map(|n| RegionId::new(1024, n)));
}

#[tokio::test]
async fn a_region_is_named_by_both_numbers_or_by_one() {
    let cluster = Cluster::with_cpu().await;
    for sql in [
        "admin flush_region('1024:2')",
        "ADMIN flush_region(4398046511106)",
    ] {
        assert_eq!(cluster.sql(sql).await, json!([["1024:2", 7]]));
    }
    assert_eq!(*cluster.fake.flushed.lock(), [RegionId::new(1024, 2); 2]);
}

#[tokio::test]
async fn compaction_says_what_it_did() {
    let cluster = Cluster::with_cpu().await;
    assert_eq!(
        cluster.sql("ADMIN compact_region('1024:1')").await,
        json!([["1024:1", 3, 1, 300, 100]])
    );
    let rows = cluster
        .sql("ADMIN compact_table('public.cpu', 'strict_window', '3600')")
        .await;
    assert_eq!(rows.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let cluster = Cluster::with_cpu().await;
    for (sql, status, part) in [
        ("ADMIN flush_table('nosuch')", 404, "nosuch"),
        ("ADMIN flush_all('cpu')", 400, "flush_table"),
        ("ADMIN flush_region('x')", 400, "1024:0"),
        ("ADMIN flush_table(7)", 400, "name of a table"),
        ("ADMIN flush_table('cpu'", 400, "Expected"),
    ] {
        let (found, message) = cluster.error(sql).await;
        assert_eq!(found, status, "{sql}: {message}");
        assert!(message.contains(part), "{sql}: {message}");
    }
}
