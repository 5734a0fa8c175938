//! SQL from end to end.

use serde_json::json;

use crate::cluster::{CREATE_CPU, Cluster};

#[tokio::test]
async fn rows_go_to_the_regions_of_their_partitions_and_come_back() {
    let cluster = Cluster::with_cpu().await;
    assert_eq!(cluster.fake.rows_by_region("cpu"), [30, 30, 30]);
    assert_eq!(
        cluster
            .sql("SELECT count(*), sum(n), min(usage), max(host) FROM cpu")
            .await,
        json!([[90, 4005, 0.0, "host_8"]])
    );
    let rows = cluster
        .sql("SELECT host, ts, usage FROM cpu WHERE host = 'host_4' ORDER BY ts DESC LIMIT 2")
        .await;
    assert_eq!(rows, json!([["host_4", 9000, 42.5], ["host_4", 8000, 38.0]]));
}

#[tokio::test]
async fn a_second_row_with_the_same_tags_and_time_replaces_the_first() {
    let cluster = Cluster::with_cpu().await;
    assert_eq!(
        cluster
            .sql("INSERT INTO cpu (host, ts, usage) VALUES ('host_0', 0, 99)")
            .await,
        json!(1)
    );
    assert_eq!(
        cluster
            .sql("SELECT usage, n FROM cpu WHERE host = 'host_0' AND ts = 0")
            .await,
        json!([[99.0, null]])
    );
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
}

#[tokio::test]
async fn joins_groups_and_subqueries_work_over_regions() {
    let cluster = Cluster::with_cpu().await;
    cluster
        .sql(
            "CREATE TABLE hosts (host STRING PRIMARY KEY, ts TIMESTAMP TIME INDEX, dc STRING); \
              INSERT INTO hosts VALUES ('host_1', 0, 'a'), ('host_5', 0, 'b'), ('host_7', 0, 'b')",
        )
        .await;
    let rows = cluster
        .sql("SELECT dc, count(*) AS c, max(n) FROM cpu JOIN hosts ON cpu.host = hosts.host GROUP BY dc ORDER BY dc")
        .await;
    assert_eq!(rows, json!([["a", 10, 82], ["b", 20, 88]]));
    let rows = cluster
        .sql("SELECT count(*) FROM cpu WHERE usage > (SELECT avg(usage) FROM cpu)")
        .await;
    assert_eq!(rows, json!([[45]]));
    let rows = cluster
        .sql("SELECT count(DISTINCT host) FROM cpu WHERE host IN (SELECT host FROM hosts)")
        .await;
    assert_eq!(rows, json!([[3]]));
    let rows = cluster
        .sql("SELECT host, avg(usage) a FROM cpu GROUP BY host HAVING avg(usage) > 23.7 ORDER BY a")
        .await;
    assert_eq!(
        rows,
        json!([["host_7", 23.75], ["host_8", 24.25]])
            .as_array()
            .map(|_| rows.clone())
            .unwrap()
    );
}

#[tokio::test]
async fn insert_takes_columns_by_name_defaults_and_expressions() {
    let cluster = Cluster::start().await;
    cluster
        .sql("CREATE TABLE t (ts TIMESTAMP(3) DEFAULT now() TIME INDEX, a STRING DEFAULT 'x', b INT DEFAULT 7, \
              c DOUBLE NOT NULL DEFAULT 0.5, d STRING, \"Upper\" BOOLEAN, PRIMARY KEY (a))")
        .await;
    cluster
        .sql("INSERT INTO t (d, ts) VALUES ('y', '2026-01-31 12:00:00.123')")
        .await;
    cluster.sql("INSERT INTO t (ts, a, b, \"Upper\") VALUES (5, DEFAULT, 1 + 2, true), (-1, lower('ABC'), -3, NULL)").await;
    assert_eq!(
        cluster
            .sql("SELECT ts, a, b, c, d, \"Upper\" FROM t ORDER BY ts")
            .await,
        json!([
            [-1, "abc", -3, 0.5, null, null],
            [5, "x", 3, 0.5, null, true],
            [1_769_860_800_123_i64, "x", 7, 0.5, "y", null]
        ])
    );
    cluster.sql("INSERT INTO t (a) VALUES ('now')").await;
    assert_eq!(
        cluster
            .sql("SELECT count(*) FROM t WHERE a = 'now' AND ts > now() - INTERVAL '1 hour'")
            .await,
        json!([[1]])
    );
    cluster
        .sql("INSERT INTO t (ts, a, c) SELECT ts, 'copy', c * 2 FROM t WHERE a = 'x'")
        .await;
    assert_eq!(
        cluster
            .sql("SELECT count(*), sum(c) FROM t WHERE a = 'copy'")
            .await,
        json!([[2, 2.0]])
    );
}

#[tokio::test]
async fn wrong_rows_are_refused_naming_the_column() {
    let cluster = Cluster::with_cpu().await;
    for (sql, status, parts) in [
        (
            "INSERT INTO cpu VALUES ('a', 'soon', 1, 1)",
            400,
            &["`ts`", "soon", "TIMESTAMP(3)"][..],
        ),
        (
            "INSERT INTO cpu VALUES ('a', 0, 'high', 1)",
            400,
            &["`usage`", "'high'", "DOUBLE"],
        ),
        (
            "INSERT INTO cpu VALUES ('a', 0, 1, 1.5)",
            400,
            &["`n`", "1.5", "BIGINT"],
        ),
        (
            "INSERT INTO cpu VALUES (7, 0, 1, 1)",
            400,
            &["`host`", "7", "STRING"],
        ),
        ("INSERT INTO cpu VALUES ('a', NULL, 1, 1)", 400, &["`ts`", "NULL"]),
        ("INSERT INTO cpu (host, usage) VALUES ('a', 1)", 400, &["`ts`"]),
        (
            "INSERT INTO cpu (host, ts, nosuch) VALUES ('a', 0, 1)",
            400,
            &["`nosuch`"],
        ),
        (
            "INSERT INTO cpu (host, ts, ts) VALUES ('a', 0, 1)",
            400,
            &["`ts`", "twice"],
        ),
        (
            "INSERT INTO cpu (host, ts) VALUES ('a', 0), ('b')",
            400,
            &["row 2", "1 values"],
        ),
        ("INSERT INTO nosuch VALUES (1)", 404, &["nosuch"]),
        ("SELECT nosuch FROM cpu", 400, &["nosuch"]),
        ("SELECT * FROM nosuch", 404, &["nosuch"]),
        ("SELECT * FROM nosuch.cpu", 404, &["nosuch"]),
        ("SELECT (usage FROM cpu", 400, &["SQL"]),
        ("SELEC 1", 400, &["SELEC"]),
        (
            "SELECT 'a' + 1 FROM cpu WHERE n / 0 = 1 AND CAST(host AS BIGINT) = 1",
            400,
            &[],
        ),
        ("UPDATE cpu SET ts = 1", 501, &["`ts`", "identifies a row"]),
        ("USE nosuch", 404, &["nosuch"]),
        ("", 400, &["missing"]),
    ] {
        let (found, message) = cluster.error(sql).await;
        assert_eq!(found, status, "{sql}: {message}");
        for part in parts {
            assert!(message.contains(part), "{sql}: {message} should name {part}");
        }
    }
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
}

#[tokio::test]
async fn what_is_wrong_is_said_word_by_word() {
    let cluster = Cluster::with_cpu().await;
    let create = |from: &str, to: &str| {
        let other = CREATE_CPU.replace("TABLE cpu", "TABLE other");
        assert!(other.contains(from));
        other.replace(from, to)
    };
    for (sql, status, message) in [
        (
            create("host >= 'host_6')", "host > 'host_6')"),
            400,
            "partitions leave a gap: host = 'host_6' belongs to none",
        ),
        (
            create("host < 'host_6'", "host <= 'host_6'"),
            400,
            "partitions overlap: host = 'host_6' belongs to `host >= 'host_3' AND host <= 'host_6'` and to `host \
             >= 'host_6'`",
        ),
        (
            create("PARTITION ON COLUMNS (host)", "PARTITION ON COLUMNS (rack)"),
            400,
            "PARTITION ON COLUMNS names `rack`, which is not a column",
        ),
        (CREATE_CPU.into(), 409, "table `public.cpu` exists already"),
        (
            "SELECT usge FROM cpu".into(),
            400,
            "column `usge` does not exist, did you mean `usage`? There are `host`, `ts`, `usage`, `n`",
        ),
        (
            "SELECT a.hots FROM cpu a JOIN cpu b ON a.ts = b.ts".into(),
            400,
            "column `a.hots` does not exist, did you mean `a.host`? There are `a.host`, `a.ts`, `a.usage`, `a.n`, \
             `b.host`, `b.ts`, `b.usage`, `b.n`",
        ),
        (
            "SELECT temperature FROM cpu".into(),
            400,
            "column `temperature` does not exist; there are `host`, `ts`, `usage`, `n`",
        ),
        (
            "INSERT INTO cpu (host, ts, usages) VALUES ('a', 0, 1)".into(),
            400,
            "column `usages` does not exist in public.cpu, did you mean `usage`? There are `host`, `ts`, `usage`, \
             `n`",
        ),
        (
            "INSERT INTO cpu (host, ts, ts) VALUES ('a', 0, 1)".into(),
            400,
            "column `ts` of public.cpu is named twice; name each column once",
        ),
        (
            "INSERT INTO cpu (host, ts) VALUES ('a', 0), ('b')".into(),
            400,
            "row 2 has 1 values, INSERT INTO public.cpu (`host`, `ts`) takes 2; write one value for each column",
        ),
        (
            "INSERT INTO cpu (host, usage) VALUES ('a', 1)".into(),
            400,
            "column `ts` of public.cpu must have a value; name it in the column list of INSERT",
        ),
        (
            "INSERT INTO cpu VALUES ('a', 0, 1, 1), ('a', 1, 'high', 1)".into(),
            400,
            "column `usage`, row 2: 'high' is not DOUBLE",
        ),
        (
            "INSERT INTO cpu VALUES ('a', 0, 1, 1.5)".into(),
            400,
            "column `n`, row 1: 1.5 is not BIGINT",
        ),
        (
            "INSERT INTO cpu VALUES ('a', 'soon', 1, 1)".into(),
            400,
            "column `ts`, row 1: 'soon' is not TIMESTAMP(3)",
        ),
        (
            "INSERT INTO cpu VALUES ('a', NULL, 1, 1)".into(),
            400,
            "column `ts`, row 1: cannot be NULL",
        ),
    ] {
        let expected = (status, message.to_string());
        assert_eq!(cluster.error(&sql).await, expected, "{sql}");
    }
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
}

#[tokio::test]
async fn a_select_that_does_not_fit_its_table_is_refused_naming_the_target() {
    let cluster = Cluster::with_cpu().await;
    for (sql, message) in [
        (
            "INSERT INTO cpu (ts, ts) SELECT ts, ts FROM cpu",
            "column `ts` of public.cpu is named twice; name each column once",
        ),
        (
            "INSERT INTO cpu (host, time) SELECT host, ts FROM cpu",
            "column `time` does not exist in public.cpu; there are `host`, `ts`, `usage`, `n`",
        ),
        (
            "INSERT INTO cpu (host, usage) SELECT host, usage FROM cpu",
            "column `ts` of public.cpu must have a value; name it in the column list of INSERT",
        ),
        (
            "INSERT INTO cpu SELECT host, ts FROM cpu",
            "the SELECT gives 2 columns, INSERT INTO public.cpu (`host`, `ts`, `usage`, `n`) takes 4: nothing is \
             left for `usage`, `n`; select a value for each column, or name fewer",
        ),
        (
            "INSERT INTO cpu (host, ts) SELECT host, ts, usage FROM cpu",
            "the SELECT gives 3 columns, INSERT INTO public.cpu (`host`, `ts`) takes 2: nothing takes `usage`; \
             name a column for each value, or select fewer",
        ),
        (
            "INSERT INTO cpu (host, ts, usage, n) SELECT host, ts, n, n FROM cpu",
            "INSERT INTO public.cpu (`host`, `ts`, `usage`, `n`) takes 4, and two values of the SELECT have the \
             same name; name each one after its column: SELECT … AS \"host\", … AS \"ts\", … AS \"usage\", … AS \
             \"n\"",
        ),
        (
            "INSERT INTO cpu (host, ts, n) SELECT host, ts, host AS name FROM cpu",
            "column `n` of public.cpu is BIGINT, the SELECT gives `name` for it, which is STRING; write CAST(… AS \
             BIGINT)",
        ),
        (
            "INSERT INTO cpu (host, ts) SELECT n, ts FROM cpu",
            "column `host` of public.cpu is STRING, the SELECT gives `n` for it, which is BIGINT; write CAST(… AS \
             STRING)",
        ),
        // The types are looked at also where there is no row.
        (
            "INSERT INTO cpu (host, ts) SELECT host, usage FROM cpu WHERE host = 'nobody'",
            "column `ts` of public.cpu is TIMESTAMP(3), the SELECT gives `usage` for it, which is DOUBLE; write \
             CAST(… AS TIMESTAMP(3))",
        ),
        (
            "INSERT INTO cpu (host, ts) SELECT host, CASE WHEN n < 5 THEN ts END AS ts FROM cpu",
            "column `ts` of public.cpu cannot be NULL; leave such rows out of the SELECT",
        ),
        (
            "INSERT INTO cpu (host, ts) SELECT host, nosuch FROM cpu",
            "column `nosuch` does not exist; there are `host`, `ts`, `usage`, `n`",
        ),
    ] {
        let expected = (400, message.to_string());
        assert_eq!(cluster.error(sql).await, expected, "{sql}");
    }
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
    let copied = "INSERT INTO cpu (host, ts, usage, n) SELECT concat('copy_', host), ts, n AS usage, n FROM cpu \
                  WHERE n < 9";
    assert_eq!(cluster.sql(copied).await, json!(9));
    assert_eq!(
        cluster
            .sql("SELECT count(*), sum(usage) FROM cpu WHERE host LIKE 'copy%'")
            .await,
        json!([[9, 36.0]])
    );
}

#[tokio::test]
async fn wrong_tables_are_refused_with_a_reason() {
    let cluster = Cluster::with_cpu().await;
    let (status, message) = cluster.error(CREATE_CPU).await;
    assert_eq!(status, 409);
    assert!(message.contains("cpu"), "{message}");
    cluster
        .sql(&CREATE_CPU.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        .await;
    let (_, message) = cluster
        .error(
            &CREATE_CPU
                .replace("TABLE cpu", "TABLE c")
                .replace("host >= 'host_6')", "host > 'host_6')"),
        )
        .await;
    assert!(
        message.contains("gap") && message.contains("host = 'host_6'"),
        "{message}"
    );
    let (_, message) = cluster
        .error(
            &CREATE_CPU
                .replace("TABLE cpu", "TABLE c")
                .replace("host < 'host_6'", "host <= 'host_6'"),
        )
        .await;
    assert!(
        message.contains("overlap") && message.contains("host = 'host_6'"),
        "{message}"
    );
    let (status, message) = cluster
        .error("CREATE TABLE information_schema.t (ts TIMESTAMP TIME INDEX)")
        .await;
    assert_eq!((status, message.contains("read")), (403, true), "{message}");
    let (status, _) = cluster.error("DROP TABLE nosuch").await;
    assert_eq!(status, 404);
    cluster.sql("DROP TABLE IF EXISTS nosuch").await;
}

#[tokio::test]
async fn tables_and_databases_come_and_go() {
    let cluster = Cluster::with_cpu().await;
    cluster.sql("CREATE DATABASE other; USE other; CREATE TABLE t (ts TIMESTAMP TIME INDEX); INSERT INTO t VALUES (1)").await;
    assert_eq!(
        cluster.sql("SHOW DATABASES").await,
        json!([["other"], ["public"], ["information_schema"]])
    );
    assert_eq!(cluster.sql("SELECT * FROM other.t").await, json!([[1]]));
    assert_eq!(cluster.sql("SELECT * FROM greptime.other.t").await, json!([[1]]));
    assert_eq!(cluster.sql("SHOW TABLES").await, json!([["cpu"]]));
    assert_eq!(
        cluster.sql("SHOW TABLES FROM other LIKE '%'").await,
        json!([["t"]])
    );
    cluster
        .sql("ALTER TABLE cpu ADD COLUMN note STRING, ADD COLUMN dc STRING PRIMARY KEY")
        .await;
    cluster
        .sql("INSERT INTO cpu (host, dc, ts, note) VALUES ('host_0', 'a', 0, 'hi')")
        .await;
    assert_eq!(
        cluster
            .sql("SELECT n, note FROM cpu WHERE host = 'host_0' AND ts = 0 ORDER BY n NULLS FIRST")
            .await,
        json!([[null, "hi"], [0, null]])
    );
    let (status, message) = cluster.error("ALTER TABLE cpu ADD COLUMN note STRING").await;
    assert_eq!((status, message.contains("`note`")), (409, true));
    cluster.sql("DELETE FROM cpu WHERE host >= 'host_1'").await;
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[11]]));
    cluster.sql("DROP TABLE cpu").await;
    assert_eq!(cluster.error("SELECT * FROM cpu").await.0, 404);
    cluster.sql("DROP DATABASE other").await;
    assert_eq!(cluster.error("SELECT * FROM other.t").await.0, 404);
}

#[tokio::test]
async fn a_shown_table_can_be_made_again() {
    let cluster = Cluster::start().await;
    cluster
        .sql("CREATE TABLE w (\"Host\" STRING, ts TIMESTAMP(9) TIME INDEX, v DOUBLE DEFAULT 1.5, PRIMARY KEY (\"Host\")) \
              PARTITION ON COLUMNS (\"Host\") (\"Host\" < 'm', \"Host\" >= 'm') WITH ('append_mode' = 'true', ttl = '30d')")
        .await;
    let first = cluster.fake.table("w");
    let shown = cluster.sql("SHOW CREATE TABLE w").await;
    let text = shown[0][1].as_str().unwrap().to_string();
    cluster.sql("DROP TABLE w").await;
    cluster.sql(&text).await;
    let second = cluster.fake.table("w");
    assert_eq!(
        (first.schema, first.options, first.partition),
        (second.schema, second.options, second.partition)
    );
    let described = cluster.sql("DESCRIBE w").await;
    assert_eq!(described[0], json!(["Host", "STRING", "PRI", "YES", "", "TAG"]));
    assert_eq!(
        described[1],
        json!(["ts", "TIMESTAMP(9)", "PRI", "NO", "", "TIMESTAMP"])
    );
    assert_eq!(
        cluster.sql("SHOW COLUMNS FROM w LIKE 'v'").await[0][1],
        json!("double")
    );
    assert_eq!(
        cluster.sql("SHOW INDEX FROM w").await.as_array().unwrap().len(),
        2
    );
}

#[tokio::test]
async fn information_schema_shows_tables_regions_and_nodes() {
    let cluster = Cluster::with_cpu().await;
    let all = "SELECT table_name, regions FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(cluster.sql(all).await, json!([["cpu", 3]]));
    let rows = cluster
        .sql("SELECT column_name, semantic_type FROM information_schema.columns WHERE table_name = 'cpu'")
        .await;
    assert_eq!(rows[0], json!(["host", "TAG"]));
    let rows = cluster
        .sql("SELECT partition_expression FROM information_schema.partitions ORDER BY region_id")
        .await;
    assert_eq!(rows[1], json!(["host >= 'host_3' AND host < 'host_6'"]));
    let rows = cluster
        .sql("SELECT p.region_id, r.peer_id, r.peer_addr, r.is_leader, r.status FROM information_schema.region_peers r \
              JOIN information_schema.partitions p ON p.greptime_partition_id = r.region_id ORDER BY 1")
        .await;
    assert_eq!(rows[2], json!(["1024:2", 2, "node-2", "Yes", "ALIVE"]));
    let rows = cluster
        .sql("SELECT peer_type, count(*) FROM information_schema.cluster_info GROUP BY 1")
        .await;
    assert_eq!(rows, json!([["DATANODE", 3]]));
    assert_eq!(
        cluster
            .sql("SELECT count(*) FROM information_schema.schemata")
            .await,
        json!([[2]])
    );
}

#[tokio::test]
async fn clients_may_ask_who_they_talk_to() {
    let cluster = Cluster::start().await;
    let rows = cluster
        .sql("SELECT database(), version(), @@version_comment, @@session.autocommit")
        .await;
    assert_eq!(rows[0][0], json!("public"));
    assert!(rows[0][1].as_str().unwrap().contains("Greptime"), "{rows}");
    assert_eq!(rows[0][3], json!(1));
    cluster
        .sql("SET NAMES utf8mb4; BEGIN; COMMIT; SET search_path TO public")
        .await;
    assert_eq!(
        cluster.sql("SHOW VARIABLES LIKE 'time_z%'").await,
        json!([["time_zone", "UTC"]])
    );
}
