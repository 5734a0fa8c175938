//! Queries over more than fits in memory: they spill or fail, and the frontend goes on.

use std::fmt::Write;

use greptime_frontend::FrontendConfig;
use serde_json::json;

use crate::cluster::Cluster;

const POOL: u64 = 4 << 20;
/// A hash table of so many numbers takes twice the pool, and their texts do too.
const ROWS: usize = 150_000;

const REFUSED: &str = "the query needs more memory than is left of 4MiB (frontend.query_memory): ";
const ADVICE: &str = "; select fewer rows or columns, or raise the setting";

/// One stream, so that a test does not depend on how many share the pool.
fn small(config: &mut FrontendConfig) {
    config.query_memory = POOL;
    config.query_parallelism = 1;
}

/// `n` counts in no order, each with a text of sixty digits, in three regions.
async fn fill(cluster: &Cluster, rows: usize) {
    cluster
        .sql(
            "CREATE TABLE wide (host STRING, ts TIMESTAMP(3) TIME INDEX, n BIGINT, pad STRING, PRIMARY KEY (host)) \
             PARTITION ON COLUMNS (host) (host < 'host_3', host >= 'host_3' AND host < 'host_6', \
             host >= 'host_6') WITH ('append_mode' = 'true')",
        )
        .await;
    let mut lines = String::new();
    for row in 0..rows {
        // A prime that divides no number of rows here: every number comes once.
        let n = row * 7919 % rows;
        writeln!(lines, "wide,host=host_{} n={n}i,pad=\"{n:060}\" {row}", n % 9).unwrap();
    }
    let (status, text) = cluster.post("/v1/influxdb/write?precision=ms", lines).await;
    assert_eq!(status, 204, "{text}");
}

#[tokio::test]
async fn what_can_spill_answers_over_more_than_the_memory() {
    let cluster = Cluster::with(small, None).await;
    fill(&cluster, ROWS).await;
    let (status, text) = cluster
        .post(
            "/v1/sql?format=csv",
            "SELECT n, count(*) AS c FROM wide GROUP BY n ORDER BY n DESC",
        )
        .await;
    assert_eq!(status, 200, "{text}");
    let mut lines = text.lines();
    for n in (0..ROWS).rev() {
        assert_eq!(lines.next(), Some(format!("{n},1").as_str()));
    }
    assert_eq!(lines.next(), None);
    let copied = "INSERT INTO wide (host, ts, n, pad) SELECT host, ts, n + 1000000, pad FROM wide";
    assert_eq!(cluster.sql(copied).await, json!(ROWS));
    assert_eq!(
        cluster.sql("SELECT count(*), max(n) FROM wide").await,
        json!([[2 * ROWS, 1_000_000 + ROWS - 1]])
    );
}

#[tokio::test]
async fn a_statement_too_long_for_the_memory_is_refused_before_it_is_parsed() {
    let cluster = Cluster::with(small, None).await;
    let long = format!("SELECT {} 1", "1 + ".repeat(25_000));
    let (status, text) = cluster.post("/v1/sql", long).await;
    assert_eq!(status, 429, "{text}");
    assert!(
        text.contains("a statement of 97.7 KB") && text.contains("frontend.query_memory"),
        "{text}"
    );
    assert_eq!(cluster.sql("SELECT 1").await, json!([[1]]));
}

#[tokio::test]
async fn what_cannot_spill_names_the_setting_and_the_next_query_works() {
    let cluster = Cluster::with(small, None).await;
    fill(&cluster, ROWS).await;
    for (holder, sql) in [
        (
            "CrossJoinExec",
            "SELECT max(a.pad), max(b.pad) FROM wide a CROSS JOIN wide b",
        ),
        (
            "HashJoinInput",
            "SELECT count(*) FROM wide a JOIN wide b ON a.pad = b.pad",
        ),
        ("AggregateStream", "SELECT array_length(array_agg(pad)) FROM wide"),
        (
            "WindowAggExec",
            "SELECT max(m) FROM (SELECT max(pad) OVER () AS m FROM wide)",
        ),
    ] {
        let (status, message) = cluster.error(sql).await;
        assert_eq!(status, 429, "{sql}: {message}");
        let found = message.strip_prefix(REFUSED).and_then(|m| m.strip_suffix(ADVICE));
        let found = found.unwrap_or_else(|| panic!("{sql}: {message}"));
        assert!(
            found.starts_with(holder) && found.ends_with("and cannot spill to disk"),
            "{sql}: {message}"
        );
        assert_eq!(cluster.sql("SELECT 1").await, json!([[1]]));
    }
    assert_eq!(
        cluster.sql("SELECT count(*), max(n) FROM wide").await,
        json!([[ROWS, ROWS - 1]])
    );
}

#[tokio::test]
async fn an_answer_that_must_be_held_counts_as_memory_of_queries() {
    let cluster = Cluster::with(small, None).await;
    fill(&cluster, ROWS).await;
    let advice = "use LIMIT, or format=csv, MySQL's or PostgreSQL's protocol, which stream";
    let whole = "SELECT pad FROM wide";
    let message = format!(
        "the answer does not fit in the memory that other queries leave (frontend.query_memory); {advice}"
    );
    assert_eq!(cluster.error(whole).await, (429, message.clone()));
    let (status, text) = cluster.post("/v1/sql?format=table", whole).await;
    assert_eq!((status.as_u16(), text.contains(&message)), (429, true), "{text}");
    let (status, text) = cluster.post("/v1/sql?format=csv", whole).await;
    assert_eq!((status.as_u16(), text.lines().count()), (200, ROWS));
    assert_eq!(cluster.sql("SELECT 1").await, json!([[1]]));
}

#[tokio::test]
async fn a_spill_beyond_its_limit_names_the_setting() {
    let change = |config: &mut FrontendConfig| {
        small(config);
        config.spill_limit = 64 << 10;
    };
    let cluster = Cluster::with(change, None).await;
    fill(&cluster, ROWS).await;
    let (status, message) = cluster
        .error("SELECT n, count(*) AS c FROM wide GROUP BY n ORDER BY c LIMIT 1")
        .await;
    assert_eq!(
        (status, message.as_str()),
        (
            429,
            "the query has to spill more to disk than is left of 64KiB (frontend.spill_limit); select fewer rows \
             or columns, or raise the setting"
        )
    );
    assert_eq!(cluster.sql("SELECT 1").await, json!([[1]]));
}

#[tokio::test]
async fn a_huge_limit_takes_no_memory() {
    let cluster = Cluster::with_cpu().await;
    let rows = cluster
        .sql("SELECT host, max(n) AS m FROM cpu GROUP BY host ORDER BY m DESC LIMIT 1000000000")
        .await;
    assert_eq!(rows.as_array().unwrap().len(), 9);
    assert_eq!(rows[0], json!(["host_8", 89]));
}

#[tokio::test]
async fn rows_without_a_partner_come_once_also_when_their_join_goes_on_in_parts() {
    let cluster = Cluster::with(small, None).await;
    fill(&cluster, ROWS).await;
    cluster.fill_cpu().await;
    // Ninety rows of `wide` have a partner, and the left side does not fit.
    let rows = cluster
        .sql("SELECT count(*), count(c.n), max(w.pad) FROM wide w LEFT JOIN cpu c ON abs(w.n - c.n) < 1")
        .await;
    assert_eq!(rows, json!([[ROWS, 90, format!("{:060}", ROWS - 1)]]));
}
