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
        ("ADMIN migrate_region('1024:0', 1)", 400, "from, to"),
        (
            "ADMIN migrate_region('1024:0', 'a', 2)",
            400,
            "'a' is not the number of a datanode",
        ),
        ("ADMIN migrate_node(1, 2, 3)", 400, "migrate_node(from"),
        ("ADMIN procedure_state('p7')", 404, "p7"),
        ("ADMIN procedure_state(7)", 400, "text in quotes"),
    ] {
        let (found, message) = cluster.error(sql).await;
        assert_eq!(found, status, "{sql}: {message}");
        assert!(message.contains(part), "{sql}: {message}");
    }
}

#[tokio::test]
async fn procedures_are_asked_of_metasrv() {
    let cluster = Cluster::with_cpu().await;
    for (sql, parts) in [
        (
            "ADMIN migrate_region('1024:1', 0, '2', 60)",
            &[
                "MigrateRegion",
                "region_id: 4398046511105",
                "from_node: 0",
                "to_node: 2",
                "timeout_ms: 60000",
            ][..],
        ),
        ("ADMIN migrate_region(4398046511105, 0, 2)", &["timeout_ms: 0"]),
        ("ADMIN migrate_node(1)", &["MigrateNode", "from_node: 1"]),
        ("ADMIN abort_procedure('p1')", &["AbortProcedure", "p1"]),
        (
            "ADMIN force_recover_region('1024:1', 2)",
            &["ForceRecoverRegion", "survivor_node: 2"],
        ),
    ] {
        let answer = cluster.sql(sql).await;
        let asked = answer[0][0].as_str().unwrap();
        assert!(parts.iter().all(|part| asked.contains(part)), "{sql}: {asked}");
    }
}

#[tokio::test]
async fn procedures_are_shown_as_json_and_as_rows() {
    let cluster = Cluster::with_cpu().await;
    let answer = cluster.sql("ADMIN procedure_state('p1')").await;
    let state: serde_json::Value = serde_json::from_str(answer[0][0].as_str().unwrap()).unwrap();
    assert_eq!(
        (&state["state"], &state["phase"]),
        (&json!("running"), &json!("warming"))
    );
    let rows = cluster
        .sql(
            "SELECT procedure_id, region, from_peer, to_peer, state, phase, waiting, part_of, end_time, phases \
             FROM information_schema.region_migrations",
        )
        .await;
    let phases = r#"[{"at_ms":1700000000000,"phase":"joining"}]"#;
    let waiting = "datanode 2 has yet to apply what there is";
    assert_eq!(
        rows,
        json!([[
            "p1", "1024:0", 0, 2, "running", "warming", waiting, "p0", null, phases
        ]])
    );
}
