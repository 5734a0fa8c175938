//! Statements that differ in constants share a plan, and nothing but the plan.

use greptime_types::format::PREPARED_FORMAT;
use serde_json::json;

use crate::cluster::Cluster;
use crate::fake::Fake;

/// Plans by where they came from: planner, cache.
fn plans(cluster: &Cluster) -> (u64, u64) {
    let text = cluster.metrics.text();
    let of = |from: &str| {
        let name = format!("greptime_frontend_query_plans_total{{from=\"{from}\"}} ");
        text.lines()
            .find_map(|l| l.strip_prefix(&name))
            .map_or(0, |n| n.parse().unwrap())
    };
    (of("planner"), of("cache"))
}

#[tokio::test]
async fn another_constant_takes_the_plan_and_not_the_answer() {
    let cluster = Cluster::with_cpu().await;
    let before = plans(&cluster);
    for host in 0..9 {
        let sql = format!(
            "SELECT host, count(*), max(n) FROM cpu WHERE host = 'host_{host}' AND n >= {host} GROUP BY host"
        );
        let expected = json!([[format!("host_{host}"), 10, 81 + host]]);
        assert_eq!(cluster.sql(&sql).await, expected, "{sql}");
    }
    let after = plans(&cluster);
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 8));
}

#[tokio::test]
async fn times_and_lists_are_constants_too() {
    let cluster = Cluster::with_cpu().await;
    for (from, to, hosts, expected) in [
        (
            "'1970-01-01T00:00:01Z'",
            "'1970-01-01T00:00:03Z'",
            "'host_1', 'host_2'",
            4,
        ),
        (
            "'1970-01-01T00:00:00Z'",
            "'1970-01-01T00:00:09.5Z'",
            "'host_7', 'host_8'",
            20,
        ),
        (
            "'1970-01-01 00:00:05'",
            "'1970-01-01 00:00:06'",
            "'host_0', 'nobody'",
            1,
        ),
    ] {
        let sql = format!("SELECT count(*) FROM cpu WHERE ts >= {from} AND ts < {to} AND host IN ({hosts})");
        assert_eq!(cluster.sql(&sql).await, json!([[expected]]), "{sql}");
    }
    assert_eq!(plans(&cluster).1, 2);
    for (number, expected) in [(2000, 63), (8000, 9)] {
        let sql = format!("SELECT count(*) FROM cpu WHERE ts > {number}");
        assert_eq!(cluster.sql(&sql).await, json!([[expected]]), "{sql}");
    }
    assert_eq!(plans(&cluster).1, 3);
}

#[tokio::test]
async fn a_constant_of_another_kind_keeps_its_meaning() {
    let cluster = Cluster::with_cpu().await;
    for (condition, expected) in [
        ("n > 87", 2),
        ("n > 87.5", 2),
        ("n > 88", 1),
        ("n > '88'", 1),
        ("n > 99999999999999999999", 0),
        ("usage > 44", 1),
        ("usage > 44.4", 1),
        ("host = 'host_1' OR n = 0", 11),
        ("host = 'host_2' OR n = 1", 11),
    ] {
        let sql = format!("SELECT count(*) FROM cpu WHERE {condition}");
        assert_eq!(cluster.sql(&sql).await, json!([[expected]]), "{sql}");
    }
}

#[tokio::test]
async fn a_plan_ends_with_the_catalog_that_it_was_made_for() {
    let cluster = Cluster::with_cpu().await;
    let sql = "SELECT * FROM cpu WHERE host = 'host_3' AND ts = 0";
    assert_eq!(cluster.sql(sql).await, json!([["host_3", 0, 1.5, 3]]));
    cluster.sql("ALTER TABLE cpu ADD COLUMN extra BIGINT").await;
    assert_eq!(cluster.sql(sql).await, json!([["host_3", 0, 1.5, 3, null]]));
    cluster.sql("DROP TABLE cpu").await;
    let (_, error) = cluster.error(sql).await;
    assert!(error.contains("cpu"), "{error}");
}

#[tokio::test]
async fn what_depends_on_the_moment_is_planned_each_time() {
    let cluster = Cluster::with_cpu().await;
    let before = plans(&cluster).1;
    for _ in 0..3 {
        assert_eq!(
            cluster.sql("SELECT count(*) FROM cpu WHERE ts < now()").await,
            json!([[90]])
        );
    }
    assert_eq!(plans(&cluster).1, before);
}

#[tokio::test]
async fn regions_are_sent_one_plan_whatever_the_constants() {
    let cluster = Cluster::with_cpu().await;
    let sent = || cluster.fake.prepared_plans.lock().len();
    for host in 0..9 {
        let sql = format!(
            "SELECT n FROM cpu WHERE host = 'host_{host}' AND n < {} ORDER BY n",
            18 + host
        );
        assert_eq!(cluster.sql(&sql).await, json!([[host], [9 + host]]), "{sql}");
    }
    assert_eq!(sent(), 1);
    // All regions, two, and one.
    for (host, expected) in [(0, 90), (1, 80), (4, 50), (7, 20), (8, 10)] {
        let sql = format!("SELECT count(*) FROM cpu WHERE host >= 'host_{host}'");
        assert_eq!(cluster.sql(&sql).await, json!([[expected]]), "{sql}");
    }
    assert_eq!(sent(), 3, "one more for several regions, and one more for one");
    let nobody = "SELECT count(*) FROM cpu WHERE host >= 'host_5' AND host < 'host_5'";
    assert_eq!(cluster.sql(nobody).await, json!([[0]]));
}

#[tokio::test]
async fn the_first_rows_of_one_statement_do_not_cut_those_of_another() {
    let cluster = Cluster::with_cpu().await;
    for condition in ["host = 'host_1' AND", ""] {
        let ask = async |below: u64| {
            let sql = format!("SELECT n FROM cpu WHERE {condition} n < {below} ORDER BY n DESC LIMIT 2");
            (below, cluster.sql(&sql).await)
        };
        let asked = (0..4).flat_map(|_| [82, 28, 64, 19]).map(ask);
        let (first, step) = if condition.is_empty() { (1, 1) } else { (9, 9) };
        for (below, answer) in futures::future::join_all(asked).await {
            assert_eq!(
                answer,
                json!([[below - first], [below - first - step]]),
                "{condition} {below}"
            );
        }
    }
    assert_eq!(cluster.fake.prepared_plans.lock().len(), 2);
}

/// What a constant is compared with decides what is read, not only what is shown.
#[tokio::test]
async fn constants_reach_the_scan_of_the_regions() {
    let cluster = Cluster::with_cpu().await;
    for (host, region) in [(1, 0), (7, 2)] {
        let sql = format!("SELECT n FROM cpu WHERE host = 'host_{host}' AND n < 9");
        cluster.sql(&sql).await;
        let filters = cluster.fake.newest_filters("cpu", region);
        let host = format!("host = Utf8(\"host_{host}\")");
        assert_eq!(filters, [host.as_str(), "n < Int64(9)"]);
    }
}

#[tokio::test]
async fn datanodes_that_do_not_know_prepared_plans_are_sent_whole_ones() {
    let older = Fake::of_format(PREPARED_FORMAT - 1);
    let cluster = Cluster::over(older, |_| {}, None).await;
    cluster.fill_cpu().await;
    for host in 0..9 {
        let sql = format!("SELECT count(*) FROM cpu WHERE host = 'host_{host}'");
        assert_eq!(cluster.sql(&sql).await, json!([[10]]));
    }
    assert!(cluster.fake.prepared_plans.lock().is_empty());
    assert_eq!(plans(&cluster).1, 8, "they are planned once all the same");
}
