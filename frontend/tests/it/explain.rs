//! EXPLAIN ANALYZE: what regions report of their part.

use std::sync::atomic::Ordering;

use crate::cluster::Cluster;

const BY_HOST: &str = "SELECT host, count(*) FROM cpu WHERE usage >= 0 GROUP BY host";

impl Cluster {
    /// The plan with its numbers, and how many queries were asked for them.
    async fn analyze(&self, sql: &str) -> (String, usize) {
        let before = self.fake.reports_asked.load(Ordering::SeqCst);
        let rows = self.sql(&format!("EXPLAIN ANALYZE {sql}")).await;
        let asked = self.fake.reports_asked.load(Ordering::SeqCst) - before;
        (rows[0][1].as_str().unwrap().to_owned(), asked)
    }
}

fn line<'a>(plan: &'a str, of: &str) -> &'a str {
    let mut lines = plan.lines().map(str::trim_start);
    lines
        .find(|l| l.starts_with(of))
        .unwrap_or_else(|| panic!("{of}: {plan}"))
}

#[tokio::test]
async fn what_regions_report_is_added_up() {
    let cluster = Cluster::with_cpu().await;
    let (plan, asked) = cluster.analyze(BY_HOST).await;
    assert_eq!(asked, 3);
    let regions = line(&plan, "RegionQueryExec");
    assert!(
        regions.contains("slowest=1024:") && regions.contains(" on node "),
        "{plan}"
    );
    assert!(!regions.contains("reported="), "{plan}");
    let partial = line(&plan, "AggregateExec: mode=Partial");
    assert!(partial.contains("output_rows=9,"), "{plan}");
    let filter = line(&plan, "FilterExec");
    assert!(filter.contains("output_rows=90,"), "{plan}");
    assert_eq!(plan.matches("FilterExec").count(), 1, "{plan}");
    // The leaf is what the datanode made of it.
    assert!(!plan.contains("RegionScan"), "{plan}");
}

#[tokio::test]
async fn verbose_shows_each_region() {
    let cluster = Cluster::with_cpu().await;
    let (plan, asked) = cluster.analyze(&format!("VERBOSE {BY_HOST}")).await;
    assert_eq!(asked, 3);
    for region in 0..3 {
        let region = line(&plan, &format!("Region 1024:{region}: node={region}"));
        for part in [
            "output_rows=3,",
            "first_rows_after=",
            " time=",
            "time_on_datanode=1.00ms",
        ] {
            assert!(region.contains(part), "{part}: {plan}");
        }
    }
    assert_eq!(plan.matches("mode=Partial").count(), 3, "{plan}");
    assert_eq!(plan.matches("FilterExec").count(), 3, "{plan}");
}

#[tokio::test]
async fn only_explain_analyze_asks_for_reports() {
    let cluster = Cluster::with_cpu().await;
    cluster.sql(BY_HOST).await;
    cluster.explain(BY_HOST).await;
    assert_eq!(cluster.fake.reports_asked.load(Ordering::SeqCst), 0);
    let (plan, asked) = cluster
        .analyze("SELECT a.n FROM cpu a JOIN cpu b ON a.host = b.host AND a.ts = b.ts")
        .await;
    assert_eq!(asked, 6, "{plan}");
}

#[tokio::test]
async fn datanodes_that_report_nothing_are_shown_as_such() {
    let cluster = Cluster::with_cpu().await;
    cluster.fake.reports_nothing.store(true, Ordering::SeqCst);
    let (plan, asked) = cluster.analyze(BY_HOST).await;
    assert_eq!(asked, 3);
    assert!(
        line(&plan, "RegionQueryExec").contains("reported=0 of 3"),
        "{plan}"
    );
    assert!(plan.contains("RegionScan: "), "{plan}");
}

#[tokio::test]
async fn a_region_that_is_not_read_to_the_end_shows_what_it_did_until_then() {
    let cluster = Cluster::with_cpu().await;
    let (plan, _) = cluster.analyze("VERBOSE SELECT * FROM cpu LIMIT 5").await;
    let regions = (0..3).map(|region| line(&plan, &format!("Region 1024:{region}: ")));
    let asked: Vec<_> = regions.filter(|r| !r.contains("not asked")).collect();
    assert!(!asked.is_empty(), "{plan}");
    assert!(
        plan.contains("LocalLimitExec: fetch=5, metrics=[output_rows=5"),
        "{plan}"
    );
}
