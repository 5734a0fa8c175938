use greptime_types::{ColumnType, Semantic, TimeUnit, Value};

use super::*;

fn one(sql: &str) -> Statement {
    let mut statements = parse_statements(sql, Lexer::Standard).unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0)
}

fn table(sql: &str) -> CreateTable {
    match one(sql) {
        Statement::CreateTable(create) => *create,
        other => panic!("{sql}: {other:?}"),
    }
}

fn error(sql: &str) -> String {
    parse_statements(sql, Lexer::Standard).expect_err(sql).message
}

#[test]
fn the_table_of_the_design_is_read() {
    let create = table(
        "CREATE TABLE cpu (
           hostname STRING, region STRING, ts TIMESTAMP(3) TIME INDEX, usage_user DOUBLE, usage_system DOUBLE,
           PRIMARY KEY (hostname, region)
         ) PARTITION ON COLUMNS (hostname)
           (hostname < 'host_3', hostname >= 'host_3' AND hostname < 'host_6', hostname >= 'host_6')
         WITH (ttl = '30d', append_mode = 'false');",
    );
    assert_eq!(create.schema.primary_key, ["hostname", "region"]);
    assert_eq!(create.schema.time_index().name, "ts");
    assert!(!create.schema.time_index().nullable);
    assert_eq!(
        create.schema.column("usage_user").unwrap().semantic,
        Semantic::Field
    );
    assert_eq!(create.partition.partitions.len(), 3);
    assert_eq!(create.options.ttl, Some("30d".parse().unwrap()));
    assert!(!create.options.append_mode);
}

#[test]
fn keys_and_the_time_index_are_given_in_either_way() {
    let clauses = table("CREATE TABLE t (a STRING, ts TIMESTAMP, TIME INDEX (ts), PRIMARY KEY (a))");
    let options = table("CREATE TABLE t (a STRING PRIMARY KEY, ts TIMESTAMP TIME INDEX)");
    assert_eq!(clauses, options);
    let order =
        table("CREATE TABLE t (a STRING, b STRING, ts TIMESTAMP NOT NULL TIME INDEX, PRIMARY KEY (b, a),)");
    assert_eq!(order.schema.primary_key, ["b", "a"]);
}

#[test]
fn every_type_has_its_names() {
    use ColumnType::*;
    let timestamp = |unit| Timestamp(unit);
    for (names, expected) in [
        (
            &["STRING", "TEXT", "VARCHAR(20)", "CHAR(3)", "string", "LONGTEXT"][..],
            String,
        ),
        (&["DOUBLE", "FLOAT64", "DOUBLE PRECISION"], Float64),
        (&["FLOAT", "REAL", "FLOAT32"], Float32),
        (&["INT", "INTEGER", "INT32"], Int32),
        (&["BIGINT", "INT64"], Int64),
        (&["SMALLINT"], Int16),
        (&["TINYINT"], Int8),
        (&["INT UNSIGNED", "UINT32"], UInt32),
        (&["BIGINT UNSIGNED", "UINT64"], UInt64),
        (&["SMALLINT UNSIGNED"], UInt16),
        (&["TINYINT UNSIGNED", "UINT8"], UInt8),
        (&["BOOLEAN", "BOOL"], Boolean),
        (&["BINARY", "BYTEA", "VARBINARY", "BLOB"], Binary),
        (&["DATE"], Date),
        (
            &["TIMESTAMP", "TIMESTAMP(3)", "TIMESTAMP_MS"],
            timestamp(TimeUnit::Millisecond),
        ),
        (&["TIMESTAMP(0)", "TIMESTAMP_S"], timestamp(TimeUnit::Second)),
        (
            &["TIMESTAMP(6)", "TIMESTAMP_US", "DATETIME"],
            timestamp(TimeUnit::Microsecond),
        ),
        (&["TIMESTAMP(9)", "TIMESTAMP_NS"], timestamp(TimeUnit::Nanosecond)),
    ] {
        for name in names {
            let create = table(&format!("CREATE TABLE t (c {name}, ts TIMESTAMP TIME INDEX)"));
            assert_eq!(create.schema.columns[0].column_type, expected, "{name}");
            // What is shown can be read again.
            let shown = expected.sql_name();
            let again = table(&format!("CREATE TABLE t (c {shown}, ts TIMESTAMP TIME INDEX)"));
            assert_eq!(again.schema.columns[0].column_type, expected, "{shown}");
        }
    }
}

#[test]
fn wrong_tables_are_refused_with_what_is_wrong() {
    for (sql, parts) in [
        ("CREATE TABLE t (a STRING)", &["TIME INDEX"][..]),
        ("CREATE TABLE t (a STRING TIME INDEX)", &["`a`", "TIMESTAMP"]),
        (
            "CREATE TABLE t (a TIMESTAMP TIME INDEX, b TIMESTAMP TIME INDEX)",
            &["several"],
        ),
        ("CREATE TABLE t (a TIMESTAMP NULL TIME INDEX)", &["`a`", "NULL"]),
        (
            "CREATE TABLE t (a TIMESTAMP, TIME INDEX (b))",
            &["`b`", "not defined"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX, a INT, A STRING)",
            &["`a`", "twice"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX, PRIMARY KEY (x))",
            &["`x`"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX, PRIMARY KEY (ts))",
            &["`ts`", "at once"],
        ),
        (
            "CREATE TABLE t (a STRING PRIMARY KEY, ts TIMESTAMP TIME INDEX, PRIMARY KEY (a))",
            &["two PRIMARY KEY"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP(4) TIME INDEX)",
            &["`ts`", "TIMESTAMP(4)"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX, a POINT)",
            &["`a`", "POINT"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX) ENGINE = innodb",
            &["innodb"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH (foo = 'x')",
            &["`foo`", "append_mode"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH (append_mode = 'maybe')",
            &["maybe"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH (merge_mode = 'first_row')",
            &["first_row"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX, v VECTOR(3), PRIMARY KEY (v))",
            &["`v`", "VECTOR(3)", "STRING"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH ('compaction.twcs.time_window' = '0s')",
            &["compaction.twcs.time_window", "'2h'"],
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP TIME INDEX) WITH ('compaction.twcs.time_window' = 'wide')",
            &["'wide'", "'2h'"],
        ),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX", &["SQL", "EOF"]),
        ("CREATE TABLE x.y.t (ts TIMESTAMP TIME INDEX)", &["greptime"]),
    ] {
        let message = error(sql);
        for part in parts {
            assert!(message.contains(part), "{sql}: `{message}` should name {part}");
        }
    }
}

#[test]
fn wrong_partition_rules_name_the_gap_the_overlap_or_the_column() {
    let create = |rule: &str| {
        format!(
            "CREATE TABLE t (a STRING, n INT, f DOUBLE, ts TIMESTAMP TIME INDEX, PRIMARY KEY (a, n)) PARTITION ON COLUMNS {rule}"
        )
    };
    for (rule, parts) in [
        ("(a) (a < 'm', a > 'm')", &["gap", "a = 'm'"][..]),
        ("(a) (a <= 'm', a >= 'm')", &["overlap", "a = 'm'"]),
        ("(n) (n < 0, n >= 10)", &["gap", "0 < n < 10"]),
        ("(x) (x < 0, x >= 0)", &["`x`", "not a column"]),
        ("(a) (n < 0, n >= 0)", &["`n`"]),
        ("(f) (f < 0, f >= 0)", &["`f`", "PRIMARY KEY"]),
        ("(a) (a < 5, a >= 5)", &["`a`", "STRING", "5"]),
        ("(n) (n < 'x', n >= 'x')", &["`n`", "INT", "'x'"]),
        ("(n) (n < 3000000000, n >= 3000000000)", &["`n`", "3000000000"]),
        ("(a) (a LIKE 'x%', a NOT LIKE 'x%')", &["comparisons"]),
        ("(a) (a < lower('M'), a >= 'm')", &["comparisons"]),
    ] {
        let message = error(&create(rule));
        for part in parts {
            assert!(message.contains(part), "{rule}: `{message}` should name {part}");
        }
    }
    let fine = table(&create(
        "(a, n) (a < 'm' AND n < -5, a < 'm' AND -5 <= n, (a >= 'm'))",
    ));
    let row = |a: &'static str, n: i64| {
        fine.partition
            .route(&move |c| {
                if c == "a" {
                    Value::String(a.into())
                } else {
                    Value::Int(n)
                }
            })
            .unwrap()
    };
    assert_eq!([row("a", -6), row("a", -5), row("z", 0)], [0, 1, 2]);
    let by_time = table(&create("(ts) (ts < '2026-01-01', ts >= '2026-01-01')"));
    let bound = by_time.partition.partitions[0].expr.as_ref().unwrap().to_string();
    assert_eq!(bound, "ts < 1767225600000");
}

#[test]
fn names_are_lowercase_unless_quoted() {
    let create = table("CREATE TABLE Public.Cpu (Host STRING, \"Ts\" TIMESTAMP TIME INDEX, `B` INT)");
    assert_eq!(
        create.table,
        TableName {
            database: Some("public".into()),
            name: "cpu".into()
        }
    );
    let names: Vec<_> = create.schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["host", "Ts", "B"]);
}

#[test]
fn statements_are_separated_by_semicolons() {
    let all = parse_statements(";;SELECT 1; CREATE DATABASE x;\n-- done\n", Lexer::Standard).unwrap();
    assert_eq!(
        all.iter().map(Statement::tag).collect::<Vec<_>>(),
        ["SELECT", "CREATE DATABASE"]
    );
    assert!(
        parse_statements(" -- nothing", Lexer::Standard)
            .unwrap()
            .is_empty()
    );
    assert!(error("SELECT 1 SELECT 2").contains("SQL"));
}

#[test]
fn what_clients_show_is_understood() {
    let like = |p: &str| Some(Like(p.into()));
    let name = |n: &str| TableName {
        database: None,
        name: n.into(),
    };
    for (sql, expected) in [
        ("SHOW DATABASES", Show::Databases { like: None }),
        ("SHOW SCHEMAS LIKE 'p%'", Show::Databases { like: like("p%") }),
        (
            "SHOW TABLES",
            Show::Tables {
                database: None,
                like: None,
                full: false,
            },
        ),
        (
            "SHOW FULL TABLES FROM db LIKE 'c%'",
            Show::Tables {
                database: Some("db".into()),
                like: like("c%"),
                full: true,
            },
        ),
        ("SHOW CREATE TABLE cpu", Show::CreateTable(name("cpu"))),
        (
            "SHOW COLUMNS FROM cpu",
            Show::Columns {
                table: name("cpu"),
                like: None,
                full: false,
            },
        ),
        (
            "SHOW FULL COLUMNS FROM `cpu`",
            Show::Columns {
                table: name("cpu"),
                like: None,
                full: true,
            },
        ),
        ("SHOW INDEX FROM cpu", Show::Index(name("cpu"))),
        (
            "SHOW KEYS IN db.cpu",
            Show::Index(TableName {
                database: Some("db".into()),
                name: "cpu".into(),
            }),
        ),
        ("SHOW VARIABLES", Show::Variables { like: None }),
        ("SHOW VARIABLES LIKE 'a%'", Show::Variables { like: like("a%") }),
        (
            "SHOW SESSION VARIABLES LIKE 'a%'",
            Show::Variables { like: like("a%") },
        ),
        (
            "SHOW VARIABLES WHERE Variable_name = 'x'",
            Show::Variables { like: like("x") },
        ),
        ("SHOW ENGINES", Show::Engines),
        ("SHOW server_version", Show::Variable("server_version".into())),
    ] {
        match one(sql) {
            Statement::Show(show) => assert_eq!(show, expected, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
    for sql in [
        "SHOW WARNINGS",
        "SHOW STATUS",
        "SHOW COLLATION",
        "SHOW CHARSET",
        "SHOW PROCESSLIST",
        "SHOW TABLE STATUS",
    ] {
        assert!(matches!(one(sql), Statement::Show(Show::Empty(_))), "{sql}");
    }
}

#[test]
fn what_drivers_set_is_ignored() {
    for sql in [
        "SET NAMES utf8mb4",
        "SET @@session.autocommit = 1, sql_mode = 'x'",
        "SET search_path TO public",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "ROLLBACK",
    ] {
        assert!(matches!(one(sql), Statement::Ignored(_)), "{sql}");
    }
}

#[test]
fn a_column_may_be_called_user() {
    let text = |sql: &str| match one(sql) {
        Statement::Query(query) => query.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text("SELECT user, current_user() FROM t"),
        "SELECT user, current_user FROM t"
    );
    assert_eq!(
        table("CREATE TABLE t (user STRING PRIMARY KEY, ts TIMESTAMP TIME INDEX)")
            .schema
            .columns[0]
            .name,
        "user"
    );
}

#[test]
fn mysql_has_its_own_quotes() {
    let sql = r#"SELECT "a" FROM `T` WHERE b = 'it\'s'"#;
    let text = |lexer| match parse_statements(sql, lexer).unwrap().remove(0) {
        Statement::Query(query) => query.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(text(Lexer::MySql).contains("'it"), "{}", text(Lexer::MySql));
    assert!(parse_statements(sql, Lexer::Standard).is_err());
}

#[test]
fn parameters_are_numbered_and_bound() {
    use datafusion::sql::sqlparser::ast::Value as Literal;
    let mut statement = one("SELECT * FROM t WHERE a = ? AND b IN (?, 3) LIMIT ?");
    assert_eq!(params::number(&mut statement), 3);
    let values = [
        Literal::SingleQuotedString("it's".into()),
        Literal::Number("-2".into(), false),
        Literal::Number("5".into(), false),
    ];
    let Statement::Query(bound) = params::bind(&statement, &values).unwrap() else {
        panic!()
    };
    assert_eq!(
        bound.to_string(),
        "SELECT * FROM t WHERE a = 'it''s' AND b IN (-2, 3) LIMIT 5"
    );
    let error = params::bind(&statement, &values[..2]).unwrap_err();
    assert!(error.message.contains("$3"), "{error}");
    let mut dollars = one("INSERT INTO t VALUES ($2, $1, $2)");
    assert_eq!(params::number(&mut dollars), 2);
}

#[test]
fn like_matches_as_sql_does() {
    for (pattern, text, expected) in [
        ("%", "", true),
        ("a%", "ABC", true),
        ("_b_", "abc", true),
        ("a_", "abc", false),
        ("%c%", "abcd", true),
    ] {
        assert_eq!(Like(pattern.into()).matches(text), expected, "{pattern} {text}");
    }
}

#[test]
fn what_is_not_supported_says_so() {
    for sql in [
        "CREATE INDEX i ON t (a)",
        "DROP INDEX i",
        "DELETE FROM t USING x",
        "GRANT SELECT ON t TO x",
    ] {
        let error = parse_statements(sql, Lexer::Standard).expect_err(sql);
        assert_eq!(
            error.kind,
            greptime_types::ErrorKind::Unsupported,
            "{sql}: {error}"
        );
    }
}
