//! Tables that change: ALTER, TRUNCATE, UPDATE, DELETE.

use serde_json::{Value, json};

use crate::cluster::Cluster;

async fn refused(cluster: &Cluster, cases: &[(&str, u16, &str)]) {
    for (sql, status, part) in cases {
        let (found, message) = cluster.error(sql).await;
        assert_eq!(found, *status, "{sql}: {message}");
        assert!(message.contains(part), "{sql}: {message}");
    }
}

#[tokio::test]
async fn columns_are_added_renamed_changed_and_dropped() {
    let cluster = Cluster::with_cpu().await;
    cluster
        .sql("ALTER TABLE cpu ADD COLUMN dc STRING DEFAULT 'east', ADD COLUMN IF NOT EXISTS n BIGINT")
        .await;
    assert_eq!(
        cluster.sql("SELECT count(*), min(dc), max(dc) FROM cpu").await,
        json!([[90, "east", "east"]])
    );
    cluster
        .sql("ALTER TABLE cpu RENAME COLUMN host TO node, RENAME COLUMN ts TO at")
        .await;
    cluster
        .sql("INSERT INTO cpu (node, at, n) VALUES ('host_4', 99000, 1)")
        .await;
    assert_eq!(
        cluster
            .sql("SELECT node, dc FROM cpu WHERE node = 'host_4' AND at > '1970-01-01 00:01:00'")
            .await,
        json!([["host_4", "east"]])
    );
    assert_eq!(
        cluster.fake.rows_by_region("cpu"),
        [30, 31, 30],
        "the rule has the new name"
    );
    let plan = cluster.explain("SELECT * FROM cpu WHERE node = 'host_4'").await;
    assert!(plan.contains("1024:1") && !plan.contains("1024:2"), "{plan}");
    cluster.sql("ALTER TABLE cpu MODIFY COLUMN n STRING").await;
    assert_eq!(
        cluster
            .sql("SELECT n FROM cpu WHERE node = 'host_0' ORDER BY at LIMIT 2")
            .await,
        json!([["0"], ["9"]])
    );
    cluster.sql("ALTER TABLE cpu ALTER COLUMN n TYPE DOUBLE").await;
    assert_eq!(
        cluster
            .sql("SELECT n FROM cpu WHERE node = 'host_0' ORDER BY at LIMIT 2")
            .await,
        json!([[0.0], [9.0]])
    );
    cluster
        .sql("ALTER TABLE cpu DROP COLUMN n, DROP COLUMN IF EXISTS nosuch")
        .await;
    cluster.sql("ALTER TABLE cpu ADD COLUMN n BIGINT").await;
    assert_eq!(
        cluster.sql("SELECT max(n) FROM cpu").await,
        json!([[null]]),
        "it is another column"
    );
    refused(
        &cluster,
        &[
            ("ALTER TABLE cpu DROP COLUMN at", 400, "the time index"),
            ("ALTER TABLE cpu DROP COLUMN node", 400, "a partition column"),
            (
                "ALTER TABLE cpu MODIFY COLUMN node BIGINT",
                400,
                "a partition column",
            ),
            (
                "ALTER TABLE cpu MODIFY COLUMN usage BIGINT",
                501,
                "DOUBLE to BIGINT",
            ),
            ("ALTER TABLE cpu ADD COLUMN usage DOUBLE", 409, "`usage`"),
            ("ALTER TABLE cpu ADD COLUMN m BIGINT DEFAULT 'x'", 400, "DEFAULT"),
            ("ALTER TABLE cpu RENAME COLUMN usage TO node", 409, "`node`"),
            ("ALTER TABLE nosuch DROP COLUMN a", 404, "nosuch"),
            ("ALTER TABLE cpu SET 'append_mode' = 'true'", 501, "append_mode"),
            ("ALTER TABLE cpu SET 'ttl' = 'soon'", 400, "30d"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_table_is_renamed_and_its_options_are_set() {
    let cluster = Cluster::with_cpu().await;
    cluster.sql("ALTER TABLE cpu RENAME load").await;
    assert_eq!(cluster.sql("SELECT count(*) FROM load").await, json!([[90]]));
    let (status, _) = cluster.error("SELECT * FROM cpu").await;
    assert_eq!(status, 404);
    cluster.sql("ALTER TABLE load RENAME TO cpu").await;
    cluster
        .sql("ALTER TABLE cpu SET 'ttl' = '7d', 'comment' = 'it''s'")
        .await;
    let text = |rows: Value| rows[0][1].as_str().unwrap().to_owned();
    let shown = text(cluster.sql("SHOW CREATE TABLE cpu").await);
    assert!(
        shown.contains("'ttl' = '7days'") && shown.contains("'comment' = 'it''s'"),
        "{shown}"
    );
    cluster.sql("ALTER TABLE cpu UNSET 'ttl'").await;
    let shown = text(cluster.sql("SHOW CREATE TABLE cpu").await);
    assert!(!shown.contains("ttl"), "{shown}");
    let window = "'compaction.twcs.time_window'";
    cluster
        .sql(&format!("ALTER TABLE cpu SET {window} = '120m', 'ttl' = '7d'"))
        .await;
    let shown = text(cluster.sql("SHOW CREATE TABLE cpu").await);
    assert!(shown.contains(&format!("{window} = '2h'")), "{shown}");
    cluster
        .sql(&format!("ALTER TABLE cpu UNSET {window}, 'ttl'"))
        .await;
    let shown = text(cluster.sql("SHOW CREATE TABLE cpu").await);
    assert!(!shown.contains("time_window"), "{shown}");
    cluster.sql("ALTER DATABASE public SET 'ttl' = '1h 30m'").await;
    assert_eq!(cluster.fake.table("cpu").ttl().to_string(), "1h 30m");
    refused(
        &cluster,
        &[
            ("ALTER DATABASE public SET 'ttl' = 'instant'", 400, "instant"),
            ("ALTER DATABASE public SET 'size' = '1'", 400, "`size`"),
            (
                "CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH ('append_mode' = 'true', 'merge_mode' = 'last_non_null')",
                400,
                "append mode",
            ),
            ("CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH ('merge_mode' = 'first')", 400, "last_non_null"),
            ("CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH ('ttl' = '3 turns')", 400, "ttl"),
            ("ALTER TABLE cpu SET 'compaction.twcs.time_window' = '0s'", 400, "one second"),
            ("ALTER TABLE cpu SET 'compaction.twcs.time_window' = '-1h'", 400, "'2h' or '7d'"),
            ("ALTER TABLE cpu SET 'compaction.twcs.trigger_file_num' = '8'", 400, "compaction.twcs.time_window"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_window_of_compactions_is_told_when_a_table_is_made() {
    let cluster = Cluster::start().await;
    cluster
        .sql("CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH ('compaction.twcs.time_window' = '1day')")
        .await;
    let shown = cluster.sql("SHOW CREATE TABLE t").await;
    let text = shown[0][1].as_str().unwrap().to_owned();
    assert!(text.contains("'compaction.twcs.time_window' = '1day'"), "{text}");
    cluster.sql("DROP TABLE t").await;
    cluster.sql(&text).await;
    assert_eq!(cluster.sql("SHOW CREATE TABLE t").await, shown);
    assert_eq!(
        cluster.fake.table("t").options.extra["compaction.twcs.time_window"],
        "1day"
    );
}

#[tokio::test]
async fn writers_see_nothing_of_changes_beside_them() {
    let cluster = Cluster::with_cpu().await;
    let writer = async {
        for n in 0..200 {
            // By position, so that the names do not matter to the writer.
            let sql = format!(
                "INSERT INTO cpu VALUES ('host_{}', {}, {n}, {n})",
                n % 9,
                1_000_000 + n
            );
            assert_eq!(cluster.sql(&sql).await, json!(1));
            tokio::task::yield_now().await;
        }
    };
    let changer = async {
        for (from, to) in [
            ("usage", "a"),
            ("a", "b"),
            ("b", "c"),
            ("host", "node"),
            ("ts", "at"),
            ("n", "m"),
        ] {
            cluster
                .sql(&format!("ALTER TABLE cpu RENAME COLUMN {from} TO {to}"))
                .await;
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    };
    tokio::join!(writer, changer);
    assert_eq!(
        cluster
            .sql("SELECT count(*), sum(m), sum(c) FROM cpu WHERE at >= '1970-01-01 00:10:00'")
            .await,
        json!([[200, 19900, 19900.0]])
    );
}

#[tokio::test]
async fn an_update_sets_fields_by_any_predicate() {
    let cluster = Cluster::with_cpu().await;
    assert_eq!(
        cluster
            .sql(
                "UPDATE cpu AS c SET usage = c.usage + 1000, n = 7 WHERE c.n > (SELECT avg(n) + 40 FROM cpu)"
            )
            .await,
        json!(5)
    );
    assert_eq!(
        cluster
            .sql("SELECT count(*), sum(n) FROM cpu WHERE usage > 1000")
            .await,
        json!([[5, 35]])
    );
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
    assert_eq!(
        cluster.sql("UPDATE cpu SET usage = '1.5' WHERE n = 0").await,
        json!(1)
    );
    assert_eq!(
        cluster.sql("SELECT usage FROM cpu WHERE n = 0").await,
        json!([[1.5]])
    );
    assert_eq!(cluster.sql("UPDATE cpu SET usage = NULL").await, json!(90));
    assert_eq!(
        cluster.sql("SELECT count(usage), count(n) FROM cpu").await,
        json!([[0, 90]])
    );
    cluster
        .sql("CREATE TABLE events (ts TIMESTAMP TIME INDEX, v BIGINT) WITH (append_mode = 'true')")
        .await;
    refused(
        &cluster,
        &[
            ("UPDATE cpu SET host = 'a'", 501, "identifies a row"),
            ("UPDATE cpu SET ts = 1", 501, "identifies a row"),
            ("UPDATE cpu SET nosuch = 1", 400, "`nosuch`"),
            ("UPDATE cpu SET n = 1, n = 2", 400, "twice"),
            ("UPDATE cpu SET n = 'many'", 400, "`n`"),
            ("UPDATE events SET v = 1", 501, "append mode"),
            ("DELETE FROM events", 501, "append mode"),
            ("UPDATE nosuch SET v = 1", 404, "nosuch"),
            ("UPDATE cpu SET n = 1 LIMIT 1", 501, "WHERE"),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_update_of_merged_fields_cannot_unsay_a_value() {
    let cluster = Cluster::start().await;
    cluster
        .sql(
            "CREATE TABLE t (host STRING PRIMARY KEY, ts TIMESTAMP TIME INDEX, a BIGINT, b BIGINT) \
              WITH (merge_mode = 'last_non_null')",
        )
        .await;
    cluster.sql("ALTER TABLE t ADD COLUMN c BIGINT DEFAULT 7").await;
    cluster.sql("INSERT INTO t VALUES ('x', 1, 1, 2, 3)").await;
    assert_eq!(cluster.sql("UPDATE t SET a = a + 1").await, json!(1));
    assert_eq!(
        cluster.fake.newest_written("t"),
        ["host", "ts", "a", "c"],
        "b is not said, and c says that it is not"
    );
    refused(&cluster, &[("UPDATE t SET a = NULL", 400, "last_non_null")]).await;
}

#[tokio::test]
async fn a_delete_takes_any_predicate_and_any_number_of_rows() {
    let cluster = Cluster::with(|c| c.query_memory = 8 << 20, None).await;
    cluster.fill_cpu().await;
    assert_eq!(
        cluster
            .sql("DELETE FROM cpu WHERE host IN (SELECT host FROM cpu GROUP BY host HAVING sum(n) > 440) AND n < 50")
            .await,
        json!(26)
    );
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[64]]));
    for part in 0..100 {
        let rows: Vec<String> = (0..500)
            .map(|n| format!("('host_1', {}, 1, 1)", 1_000_000 + part * 500 + n))
            .collect();
        cluster
            .sql(&format!("INSERT INTO cpu VALUES {}", rows.join(", ")))
            .await;
    }
    assert_eq!(
        cluster
            .sql("DELETE FROM cpu WHERE host = 'host_1' AND ts >= '1970-01-01 00:16:40'")
            .await,
        json!(50_000)
    );
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[64]]));
}

#[tokio::test]
async fn a_truncated_table_is_empty_and_takes_rows() {
    let cluster = Cluster::with_cpu().await;
    assert_eq!(cluster.sql("TRUNCATE TABLE cpu").await, json!(0));
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[0]]));
    cluster.sql("INSERT INTO cpu VALUES ('host_4', 0, 1, 1)").await;
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[1]]));
    refused(&cluster, &[("TRUNCATE nosuch", 404, "nosuch")]).await;
}
