//! What runs beside the regions, as EXPLAIN shows it.

use serde_json::json;

use crate::cluster::Cluster;

/// The lines of a plan that are inside of the regions' part.
fn beside_regions(plan: &str) -> String {
    let lines: Vec<&str> = plan.lines().collect();
    let start = lines
        .iter()
        .position(|l| l.contains("RegionQueryExec"))
        .unwrap_or_else(|| panic!("{plan}"));
    let depth = |line: &str| line.len() - line.trim_start().len();
    let inside = lines[start + 1..]
        .iter()
        .take_while(|l| depth(l) > depth(lines[start]));
    inside.copied().collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn partial_aggregates_and_filters_run_beside_the_regions() {
    let cluster = Cluster::with_cpu().await;
    let sql = "SELECT host, count(*), avg(usage) FROM cpu WHERE usage > 1 GROUP BY host";
    let plan = cluster.explain(sql).await;
    let inside = beside_regions(&plan);
    assert!(inside.contains("AggregateExec: mode=Partial"), "{plan}");
    assert!(inside.contains("FilterExec: usage"), "{plan}");
    assert!(
        inside.contains("RegionScan") && inside.contains("filters=["),
        "{plan}"
    );
    assert!(!inside.contains("Final"), "{plan}");
    assert_eq!(cluster.sql(sql).await.as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn only_the_columns_that_are_needed_are_read() {
    let cluster = Cluster::with_cpu().await;
    let plan = cluster.explain("SELECT max(usage) FROM cpu").await;
    assert!(plan.contains("projection=[usage]"), "{plan}");
    let plan = cluster.explain("SELECT count(*) FROM cpu").await;
    assert!(plan.contains("projection=[]"), "{plan}");
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
}

#[tokio::test]
async fn sorts_and_limits_run_beside_the_regions() {
    let cluster = Cluster::with_cpu().await;
    let sql = "SELECT host, n FROM cpu ORDER BY n DESC LIMIT 4";
    let plan = cluster.explain(sql).await;
    assert!(
        beside_regions(&plan).contains("SortExec: TopK(fetch=4)"),
        "{plan}"
    );
    assert!(plan.contains("SortPreservingMergeExec"), "{plan}");
    assert_eq!(
        cluster.sql(sql).await,
        json!([["host_8", 89], ["host_7", 88], ["host_6", 87], ["host_5", 86]])
    );
    let plan = cluster.explain("SELECT * FROM cpu LIMIT 5").await;
    assert!(
        plan.contains("limit=5") && beside_regions(&plan).contains("LocalLimitExec: fetch=5"),
        "{plan}"
    );
    assert_eq!(
        cluster
            .sql("SELECT * FROM cpu LIMIT 5")
            .await
            .as_array()
            .unwrap()
            .len(),
        5
    );
    assert_eq!(
        cluster.sql("SELECT n FROM cpu ORDER BY n LIMIT 2 OFFSET 3").await,
        json!([[3], [4]])
    );
}

#[tokio::test]
async fn with_one_region_everything_runs_beside_it() {
    let cluster = Cluster::with_cpu().await;
    let sql = "SELECT host, count(*) AS c FROM cpu WHERE host = 'host_4' GROUP BY host ORDER BY c LIMIT 1";
    let plan = cluster.explain(sql).await;
    assert!(
        plan.trim_start()
            .starts_with("RegionQueryExec: table=public.cpu, regions=[1024:1]"),
        "{plan}"
    );
    assert_eq!(cluster.sql(sql).await, json!([["host_4", 10]]));
}

#[tokio::test]
async fn regions_that_cannot_have_rows_are_not_asked() {
    let cluster = Cluster::with_cpu().await;
    for (filter, regions) in [
        ("host = 'host_0'", "[1024:0]"),
        ("host IN ('host_0', 'host_8')", "[1024:0, 1024:2]"),
        ("host BETWEEN 'host_3' AND 'host_5'", "[1024:1]"),
        ("host > 'host_5' AND host < 'host_6'", "[1024:1]"),
        ("host IS NULL", "[1024:0]"),
        ("host = 'host_4' OR usage > 1", "[1024:0, 1024:1, 1024:2]"),
    ] {
        let plan = cluster
            .explain(&format!("SELECT * FROM cpu WHERE {filter}"))
            .await;
        assert!(plan.contains(&format!("regions={regions}")), "{filter}: {plan}");
    }
    let plan = cluster
        .explain("SELECT * FROM cpu WHERE host = 'a' AND host = 'b'")
        .await;
    assert!(plan.contains("EmptyExec"), "{plan}");
}

#[tokio::test]
async fn the_result_of_a_subquery_stays_here_and_is_right() {
    let cluster = Cluster::with_cpu().await;
    let rows = cluster
        .sql("SELECT host, n FROM cpu WHERE n = (SELECT max(n) FROM cpu)")
        .await;
    assert_eq!(rows, json!([["host_8", 89]]));
    let rows = cluster
        .sql("SELECT count(*) FROM cpu a JOIN cpu b ON a.host = b.host AND a.ts = b.ts")
        .await;
    assert_eq!(rows, json!([[90]]));
    let rows = cluster
        .sql("SELECT host, row_number() OVER (ORDER BY n DESC) FROM cpu ORDER BY n DESC LIMIT 1")
        .await;
    assert_eq!(rows, json!([["host_8", 1]]));
}

#[tokio::test]
async fn explain_analyze_counts_the_rows_of_the_regions() {
    let cluster = Cluster::with_cpu().await;
    let rows = cluster
        .sql("EXPLAIN ANALYZE SELECT * FROM cpu WHERE host = 'host_4'")
        .await;
    let text = rows[0][1].as_str().unwrap();
    assert!(
        text.contains("RegionQueryExec") && text.contains("output_rows=10"),
        "{text}"
    );
}

#[tokio::test]
async fn a_query_beyond_the_memory_fails_and_the_next_one_works() {
    let cluster = Cluster::with(|config| config.query_memory = 64 << 10, None).await;
    cluster.fill_cpu().await;
    // Pairs of all rows with all rows, held for a sort of wide texts.
    let sql = "SELECT repeat(a.host, 200) AS wide, b.n FROM cpu a CROSS JOIN cpu b ORDER BY wide, b.n";
    let (status, message) = cluster.error(sql).await;
    assert_eq!(status, 429, "{message}");
    assert_eq!(cluster.sql("SELECT count(*) FROM cpu").await, json!([[90]]));
}
