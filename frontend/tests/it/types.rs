//! Every type a column can have: written in all ways, and read back.

use serde_json::json;

use crate::cluster::Cluster;

const CREATE: &str = "CREATE TABLE t (ts TIMESTAMP(9) TIME INDEX, d DECIMAL(10, 2), j JSON, v VECTOR(3), \
     b VARBINARY, day DATE, f FLOAT, u BIGINT UNSIGNED, s TINYINT)";

#[tokio::test]
async fn decimals_json_and_vectors_come_back_as_they_were_written() {
    let cluster = Cluster::start().await;
    cluster.sql(CREATE).await;
    cluster
        .sql("INSERT INTO t VALUES (1, 12345678.905, '{\"a\": [1, 2]}', '[1, 2.5, -3]', X'00ff', '2026-01-31', 1.5, \
              18446744073709551615, -128), (2, '-0.01', 'null', NULL, 'text', NULL, NULL, 0, NULL)")
        .await;
    let expected = json!([
        [
            "12345678.91",
            "{\"a\": [1, 2]}",
            "[1.0, 2.5, -3.0]",
            "2026-01-31",
            1.5,
            18_446_744_073_709_551_615_u64,
            -128
        ],
        ["-0.01", "null", null, null, null, 0, null],
    ]);
    assert_eq!(
        cluster
            .sql("SELECT d, j, v, day, f, u, s FROM t ORDER BY ts")
            .await,
        expected
    );
    cluster
        .sql("CREATE TABLE copy (ts TIMESTAMP(9) TIME INDEX, d DECIMAL(20, 4), j JSON, v VECTOR(3))")
        .await;
    cluster.sql("INSERT INTO copy SELECT ts, d, j, v FROM t").await;
    cluster
        .sql("INSERT INTO copy SELECT arrow_cast(9, 'Timestamp(Nanosecond, None)'), 1, '[]', '[4,5,6]'")
        .await;
    assert_eq!(
        cluster
            .sql("SELECT d, j, v FROM copy ORDER BY ts DESC LIMIT 1")
            .await,
        json!([["1.0000", "[]", "[4.0, 5.0, 6.0]"]])
    );
    assert_eq!(
        cluster.sql("SELECT sum(d) FROM copy").await,
        json!([["12345679.9000"]])
    );
}

#[tokio::test]
async fn what_is_none_of_its_type_is_refused() {
    let cluster = Cluster::start().await;
    cluster.sql(CREATE).await;
    for (sql, parts) in [
        (
            "INSERT INTO t (ts, d) VALUES (1, 123456789)",
            &["`d`", "DECIMAL(10, 2)"][..],
        ),
        (
            "INSERT INTO t (ts, d) VALUES (1, 'x')",
            &["`d`", "DECIMAL(10, 2)"],
        ),
        ("INSERT INTO t (ts, j) VALUES (1, '{a}')", &["`j`", "JSON"]),
        (
            "INSERT INTO t (ts, j) SELECT arrow_cast(1, 'Timestamp(Nanosecond, None)'), '{'",
            &["`j`", "JSON"],
        ),
        (
            "INSERT INTO t (ts, v) VALUES (1, '[1, 2]')",
            &["`v`", "VECTOR(3)"],
        ),
        (
            "INSERT INTO t (ts, v) VALUES (1, '[1, 2, x]')",
            &["`v`", "VECTOR(3)"],
        ),
        ("INSERT INTO t (ts, s) VALUES (1, 128)", &["`s`", "TINYINT"]),
        (
            "INSERT INTO t (ts) VALUES (9223372036854775808)",
            &["`ts`", "TIMESTAMP(9)"],
        ),
        (
            "INSERT INTO t (ts) VALUES ('2300-01-01 00:00:00')",
            &["`ts`", "TIMESTAMP(9)"],
        ),
        (
            "CREATE TABLE x (ts TIMESTAMP TIME INDEX, d DECIMAL(39, 2))",
            &["DECIMAL(39, 2)"],
        ),
        (
            "CREATE TABLE x (ts TIMESTAMP TIME INDEX, d DECIMAL(5, 6))",
            &["DECIMAL(5, 6)"],
        ),
        (
            "CREATE TABLE x (ts TIMESTAMP TIME INDEX, v VECTOR(0))",
            &["VECTOR(0)"],
        ),
        (
            "CREATE TABLE x (ts TIMESTAMP TIME INDEX, v VECTOR)",
            &["VECTOR(n)"],
        ),
    ] {
        let (status, message) = cluster.error(sql).await;
        assert_eq!(status, 400, "{sql}: {message}");
        for part in parts {
            assert!(message.contains(part), "{sql}: {message}");
        }
    }
}

#[tokio::test]
async fn a_table_says_its_types_so_that_it_can_be_made_again() {
    let cluster = Cluster::start().await;
    cluster.sql(CREATE).await;
    let shown = cluster.sql("SHOW CREATE TABLE t").await;
    let text = shown[0][1].as_str().unwrap().to_owned();
    for part in ["\"d\" DECIMAL(10, 2)", "\"j\" JSON", "\"v\" VECTOR(3)"] {
        assert!(text.contains(part), "{text}");
    }
    cluster.sql("DROP TABLE t").await;
    cluster.sql(&text).await;
    assert_eq!(cluster.sql("SHOW CREATE TABLE t").await, shown);
    let described = cluster.sql("DESCRIBE t").await;
    assert_eq!(described[1][1], "DECIMAL(10, 2)");
    let (_, answer) = cluster.answer("SELECT d, j, v FROM t").await;
    let schema = &answer["output"][0]["records"]["schema"]["column_schemas"];
    let types: Vec<&str> = schema
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["data_type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["Decimal(10, 2)", "String", "Vector(3)"]);
    assert_eq!(
        cluster
            .sql("SELECT data_type FROM information_schema.columns WHERE table_name = 't' AND column_name = 'v'")
            .await,
        json!([["vector(3)"]])
    );
}

#[tokio::test]
async fn every_type_but_a_vector_can_be_a_tag() {
    let cluster = Cluster::start().await;
    for (at, (name, value)) in [
        ("BOOLEAN", "true"),
        ("TINYINT", "-128"),
        ("SMALLINT", "-7"),
        ("INT", "7"),
        ("BIGINT", "-9223372036854775808"),
        ("TINYINT UNSIGNED", "255"),
        ("SMALLINT UNSIGNED", "7"),
        ("INT UNSIGNED", "7"),
        ("BIGINT UNSIGNED", "18446744073709551615"),
        ("FLOAT", "1.5"),
        ("DOUBLE", "-2.5"),
        ("DECIMAL(10, 2)", "12345678.91"),
        ("STRING", "'a'"),
        ("BINARY", "X'00ff'"),
        ("DATE", "'2026-01-31'"),
        ("TIMESTAMP(9)", "'2026-01-31 00:00:00'"),
        ("JSON", "'{}'"),
    ]
    .into_iter()
    .enumerate()
    {
        cluster
            .sql(&format!(
                "CREATE TABLE t{at} (tag {name}, ts TIMESTAMP TIME INDEX, n INT, PRIMARY KEY (tag))"
            ))
            .await;
        cluster
            .sql(&format!(
                "INSERT INTO t{at} VALUES ({value}, 1, {at}), (NULL, 1, -1)"
            ))
            .await;
        let found = cluster
            .sql(&format!("SELECT n FROM t{at} WHERE tag IS NOT NULL"))
            .await;
        assert_eq!(found, json!([[at]]), "{name}");
    }
    for sql in [
        "CREATE TABLE v (v VECTOR(3), ts TIMESTAMP TIME INDEX, PRIMARY KEY (v))",
        "CREATE TABLE v (v VECTOR(3) PRIMARY KEY, ts TIMESTAMP TIME INDEX)",
    ] {
        let (status, message) = cluster.error(sql).await;
        assert_eq!(status, 400, "{sql}: {message}");
        for part in ["`v`", "VECTOR(3)", "DECIMAL, STRING"] {
            assert!(message.contains(part), "{sql}: {message}");
        }
    }
}

#[tokio::test]
async fn json_is_looked_into() {
    let cluster = Cluster::start().await;
    cluster
        .sql("CREATE TABLE t (ts TIMESTAMP TIME INDEX, j JSON)")
        .await;
    cluster
        .sql("INSERT INTO t VALUES (1, '{\"a\": {\"b\": [1, 2.5, \"x\", true]}}'), (2, '{}')")
        .await;
    assert_eq!(
        cluster
            .sql("SELECT json_get_int(j, 'a.b[0]'), json_get_float(j, '$.a.b[1]'), json_get_string(j, 'a.b[2]'), \
                  json_get_bool(j, 'a.b[3]'), json_path_exists(j, 'a.c') FROM t WHERE json_path_exists(j, 'a')")
            .await,
        json!([[1, 2.5, "x", true, false]])
    );
}

#[tokio::test]
async fn times_at_the_edges_are_read_back() {
    let cluster = Cluster::start().await;
    for (p, name) in [(0, "s"), (3, "ms"), (6, "us"), (9, "ns")] {
        cluster
            .sql(&format!(
                "CREATE TABLE {name} (ts TIMESTAMP({p}) TIME INDEX, v INT)"
            ))
            .await;
        let (low, high) = (i64::MIN, i64::MAX);
        cluster
            .sql(&format!(
                "INSERT INTO {name} VALUES ({low}, 1), ({high}, 2), (-1, 3)"
            ))
            .await;
        assert_eq!(
            cluster.sql(&format!("SELECT ts FROM {name} ORDER BY ts")).await,
            json!([[low], [-1], [high]])
        );
        assert_eq!(
            cluster
                .sql(&format!("SELECT v FROM {name} WHERE CAST(ts AS BIGINT) = {high}"))
                .await,
            json!([[2]])
        );
    }
}
