//! The clients that people have: `psql`, `mysql`, `curl`, Prometheus.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::progress::wait_until;
use greptime_lab::shell;

use super::{PORT, Suite};

const MYSQL_PORT: u16 = PORT + 2;
const POSTGRES_PORT: u16 = PORT + 3;
const PROMETHEUS_PORT: u16 = 14090;

/// `psql -c` against the shared cluster, unaligned and without headers.
fn psql(statement: &str) -> Result<String> {
    let mut command = Command::new("psql");
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &POSTGRES_PORT.to_string(),
        "-U",
        "greptime",
        "-d",
        "public",
    ]);
    shell::finish(
        command
            .args(["-At", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .env("PGCONNECT_TIMEOUT", "10"),
    )
}

fn mysql(statement: &str) -> Result<String> {
    let mut command = Command::new("mysql");
    command.args([
        "-h",
        "127.0.0.1",
        "-P",
        &MYSQL_PORT.to_string(),
        "-u",
        "greptime",
        "--skip-ssl",
    ]);
    shell::finish(command.args(["-N", "-B", "-D", "public", "-e", statement]))
}

/// What one client writes the others read, with joins and aggregates.
pub fn psql_mysql_http(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let http = suite.http()?;
    database.forward(MYSQL_PORT, 4002)?;
    database.forward(POSTGRES_PORT, 4003)?;
    psql(
        "CREATE TABLE clients (host STRING, ts TIMESTAMP(3) TIME INDEX, cpu DOUBLE, PRIMARY KEY (host)) \
         PARTITION ON COLUMNS (host) (host < 'h', host >= 'h')",
    )?;
    mysql("INSERT INTO clients VALUES ('a', 1000, 1.5), ('x', 1000, 2.5)")?;
    psql("INSERT INTO clients (host, ts, cpu) VALUES ('a', '1970-01-01 00:00:02', 3.5)")?;
    suite
        .runtime
        .block_on(http.write_lines("clients,host=x cpu=4.5 2000".into()))?;
    let sums = "SELECT host, sum(cpu), count(*) FROM clients GROUP BY host ORDER BY host";
    let answer = psql(sums)?;
    ensure!(answer.trim() == "a|5|2\nx|7|2", "psql: {answer}");
    let answer = mysql(sums)?;
    ensure!(
        answer.trim().replace(".0", "") == "a\t5\t2\nx\t7\t2",
        "mysql: {answer}"
    );
    let joined = "SELECT count(*) FROM clients a JOIN clients b ON a.host = b.host";
    let rows = suite.runtime.block_on(http.rows(joined))?;
    ensure!(rows == [[serde_json::json!(8)]], "HTTP: {rows:?}");
    let error = psql("SELECT nothing FROM clients")
        .err()
        .context("an unknown column must be an error")?;
    ensure!(format!("{error:#}").contains("nothing"), "psql: {error:#}");
    let error = mysql("SELECT * FROM nowhere")
        .err()
        .context("an unknown table must be an error")?;
    ensure!(format!("{error:#}").contains("nowhere"), "mysql: {error:#}");
    let peers = "SELECT count(DISTINCT region_id) FROM information_schema.region_peers";
    ensure!(mysql(peers)?.trim().parse::<u64>()? >= 2, "region_peers is empty");
    Ok(())
}

/// A real Prometheus scrapes itself and writes into the cluster; its metrics are tables.
pub fn prometheus_remote_write(suite: &Suite) -> Result<()> {
    let http = suite.http()?;
    let dir = std::env::temp_dir().join(format!("greptime-e2e-prometheus-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: prometheus\n  static_configs:\n  \
         - targets: ['127.0.0.1:{PROMETHEUS_PORT}']\nremote_write:\n- url: {}/v1/prometheus/write?db=public\n",
        http.base
    );
    std::fs::write(dir.join("prometheus.yml"), config)?;
    let log = std::fs::File::create(dir.join("log"))?;
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("prometheus")?;
    let arrived = || {
        let count = "SELECT count(*) FROM prometheus_build_info";
        let rows = suite.runtime.block_on(http.rows(count));
        Ok(rows.is_ok_and(|rows| rows[0][0].as_i64().is_some_and(|n| n >= 3)))
    };
    let explain = || shell::tail(&dir.join("log"), 15);
    let pause = Duration::from_millis(500);
    let outcome = wait_until(
        "metrics from Prometheus",
        Duration::from_secs(60),
        pause,
        arrived,
        explain,
    );
    prometheus.kill()?;
    prometheus.wait()?;
    std::fs::remove_dir_all(&dir)?;
    outcome
}
