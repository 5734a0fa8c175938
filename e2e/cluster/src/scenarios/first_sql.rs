//! From `kubectl apply` to the first acknowledged row.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::progress::Stopwatch;
use serde_json::json;

use super::{NAMESPACE, PORT, READY, Suite};
use crate::database::Database;

/// Every region has three voters within this time.
const REPLICATED: Duration = Duration::from_secs(60);

/// Applies the shared cluster and asks from then on, as an impatient user would. Writes `reports/first-sql.json`.
pub fn apply_to_first_sql(suite: &Suite) -> Result<()> {
    let database = Database::new(&suite.cluster, NAMESPACE, "main");
    database.prepare()?;
    let watch = Stopwatch::start();
    database.apply(&database.manifest())?;
    let http = database.http(PORT)?;
    let first = suite.runtime.block_on(async {
        while watch.elapsed() < READY {
            let created = http
                .sql("CREATE TABLE IF NOT EXISTS first (host STRING, ts TIMESTAMP(3) TIME INDEX, v DOUBLE, PRIMARY KEY (host))")
                .await;
            if created.is_ok() && http.sql("INSERT INTO first VALUES ('a', 1, 0.5)").await.is_ok() {
                return Some(watch.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    });
    let seconds = first.with_context(|| database.explain())?.as_secs_f64();
    watch.say(&format!(
        "the first row is acknowledged {seconds:.1} s after kubectl apply"
    ));
    std::fs::create_dir_all("reports")?;
    std::fs::write("reports/first-sql.json", json!({"seconds": seconds}).to_string())?;
    let database = suite.main()?;
    let rows = suite.runtime.block_on(http.rows("SELECT v FROM first"))?;
    ensure!(rows == [[json!(0.5)]], "found {rows:?}");
    // The table may have been made before the third datanode had come.
    database.wait_condition("NotReplicated", "False", "several voters", REPLICATED)?;
    Ok(())
}
