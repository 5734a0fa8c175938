//! `make demo`: a three-node Kubernetes, the operator, a cluster, Prometheus, people's clients, and pods that die
//! while somebody writes. Ends with a report and leaves everything running.

#![allow(clippy::disallowed_methods)] // Real time of real processes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use greptime_e2e_cluster::database::Database;
use greptime_e2e_cluster::install::{self, Images};
use greptime_e2e_cluster::scenarios::READY;
use greptime_e2e_cluster::sql::Http;
use greptime_e2e_cluster::verify::{Verdict, verify};
use greptime_e2e_cluster::writer::{Load, Logs, Tally, Writer, create_table};
use greptime_lab::forward::{self, Target};
use greptime_lab::process::Daemon;
use greptime_lab::progress::{Stopwatch, wait_until};
use greptime_lab::{Cluster, Lab, shell};
use serde_json::{Value, json};

const HTTP: u16 = 4000;
const MYSQL: u16 = 4002;
const POSTGRES: u16 = 4003;
const BACK: Duration = Duration::from_secs(90);

/// Shows all of it on this machine: a three-node Kubernetes, the operator, a GreptimeCluster, Prometheus, and pods that
/// die while somebody writes. Prints a report and leaves everything running; `make clean` removes it. Needs root.
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> Result<()> {
    Arguments::parse();
    let watch = Stopwatch::start();
    let lab = Lab::from_env();
    // The laboratory's own program, since its nodes run that program too.
    let up = Command::new(install::programs()?.join("greptime-lab"))
        .arg("up")
        .status()?;
    ensure!(up.success(), "the laboratory does not come up");
    let cluster = Cluster::of_lab(lab.clone())?;
    let images = Images::push(&lab)?;
    watch.say("the images are in the registry");
    install::operator(&cluster, &images, watch)?;
    let demo = Database::new(&cluster, "default", "demo");
    apply_samples(&demo)?;
    let applied = Stopwatch::start();
    watch.say("manifests/samples/cluster.yaml is applied");
    demo.wait_ready(READY)?;
    watch.say(&format!(
        "the cluster is Ready, {:.1} s after kubectl apply",
        applied.elapsed().as_secs_f64()
    ));
    for port in [HTTP, MYSQL, POSTGRES] {
        demo.forward(port, port)?;
    }
    let http = demo.http(HTTP)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    start_prometheus(&lab, &demo)?;
    watch.say("Prometheus scrapes the node exporter and the cluster's pods, and writes into the cluster");
    wait_for_metrics(&runtime, &http, &lab)?;
    watch.say("metrics arrive");
    show_queries()?;
    let outcome = disturb(&runtime, &demo, &http, watch)?;
    watch.say("report");
    report(&runtime, &http, &outcome)
}

/// What the writer saw while pods died.
struct Outcome {
    tally: Tally,
    verdict: Verdict,
    /// Role of the pod that was deleted, and the longest gap in acknowledged writes around it.
    gaps: Vec<(&'static str, Duration)>,
}

fn apply_samples(demo: &Database) -> Result<()> {
    let samples = install::repository().join("manifests/samples");
    for sample in ["s3-credentials.yaml", "cluster.yaml"] {
        let file = samples.join(sample);
        demo.kubectl(&["apply", "-f", file.to_str().context("a path in UTF-8")?])?;
    }
    Ok(())
}

/// Node exporter and Prometheus as anybody runs them, in the network of the cluster's hosts.
fn start_prometheus(lab: &Lab, demo: &Database) -> Result<()> {
    let dir = lab.path("prometheus");
    std::fs::create_dir_all(&dir)?;
    let frontend = format!("{}-frontend.{}.svc.cluster.local", demo.name, demo.namespace);
    let peers = |role: &str| {
        format!(
            "'{}-{role}-peers.{}.svc.cluster.local'",
            demo.name, demo.namespace
        )
    };
    let names: Vec<String> = ["metasrv", "datanode", "frontend"].map(peers).into();
    let config = format!(
        "global: {{scrape_interval: 5s}}\n\
         scrape_configs:\n\
         - job_name: node\n  static_configs:\n  - targets: ['127.0.0.1:9100']\n\
         - job_name: greptime\n  dns_sd_configs:\n  - {{names: [{}], type: A, port: 4000, refresh_interval: 5s}}\n\
         remote_write:\n- url: http://{frontend}:4000/v1/prometheus/write?db=public\n",
        names.join(", ")
    );
    std::fs::write(dir.join("prometheus.yml"), config)?;
    let processes = lab.processes();
    let start = |name: &str, program: &str, args: Vec<String>| {
        let command = lab.client_command(program);
        let prefix = command.get_args().map(|a| a.to_string_lossy().into_owned());
        let arguments: Vec<String> = prefix.chain(args).collect();
        processes.stop(name, Duration::from_secs(5))?;
        processes.start(&Daemon::new(name, command.get_program()).args(arguments))
    };
    start(
        "node-exporter",
        "prometheus-node-exporter",
        vec!["--web.listen-address=127.0.0.1:9100".into()],
    )?;
    let args = vec![
        format!("--config.file={}", dir.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", dir.join("data").display()),
        "--web.listen-address=10.200.0.1:9090".into(),
    ];
    start("prometheus", "prometheus", args)?;
    let target = Target {
        host: "10.200.0.1".into(),
        port: 9090,
    };
    forward::start(lab, ([127, 0, 0, 1], 9090).into(), &target)
}

fn wait_for_metrics(runtime: &tokio::runtime::Runtime, http: &Http, lab: &Lab) -> Result<()> {
    let count = |table: &str| {
        let rows = runtime.block_on(http.rows(&format!("SELECT count(*) FROM {table}")));
        rows.ok().and_then(|rows| rows[0][0].as_i64()).unwrap_or(0)
    };
    let both = || Ok(count("node_load1") > 0 && count("greptime_datanode_region_count") > 0);
    let explain = || lab.processes().tail("prometheus");
    wait_until(
        "metrics in the cluster",
        Duration::from_secs(90),
        Duration::from_millis(500),
        both,
        explain,
    )
}

/// The clients that everybody has, with what they print.
fn show_queries() -> Result<()> {
    let show = |title: &str, command: &mut Command| -> Result<()> {
        println!("\n$ {title}");
        print!("{}", shell::finish(command)?);
        println!();
        Ok(())
    };
    let sql = "SELECT instance, max(greptime_value) AS load1 FROM node_load1 GROUP BY instance";
    let mut psql = Command::new("psql");
    psql.args([
        "-h",
        "127.0.0.1",
        "-p",
        &POSTGRES.to_string(),
        "-U",
        "greptime",
        "-d",
        "public",
        "-c",
        sql,
    ]);
    show(
        &format!("psql -h 127.0.0.1 -p {POSTGRES} -U greptime -d public -c \"{sql}\""),
        &mut psql,
    )?;
    let sql = "SELECT count(*) AS metrics FROM information_schema.tables WHERE table_schema = 'public'";
    let mut mysql = Command::new("mysql");
    mysql.args([
        "-h",
        "127.0.0.1",
        "-P",
        &MYSQL.to_string(),
        "-u",
        "greptime",
        "--skip-ssl",
        "-t",
        "-e",
        sql,
    ]);
    show(
        &format!("mysql -h 127.0.0.1 -P {MYSQL} -u greptime -e \"{sql}\""),
        &mut mysql,
    )?;
    let sql = "SELECT cpu, mode, greptime_value FROM node_cpu_seconds_total ORDER BY greptime_timestamp DESC LIMIT 3";
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-G",
        &format!("http://127.0.0.1:{HTTP}/v1/sql"),
        "--data-urlencode",
        &format!("sql={sql}"),
    ]);
    curl.args(["--data-urlencode", "format=csv"]);
    show(
        &format!("curl -G http://127.0.0.1:{HTTP}/v1/sql --data-urlencode \"sql={sql}\" -d format=csv"),
        &mut curl,
    )
}

/// One pod of each role dies while a writer writes.
fn disturb(
    runtime: &tokio::runtime::Runtime,
    demo: &Database,
    http: &Http,
    watch: Stopwatch,
) -> Result<Outcome> {
    let logs = Logs::of("demo")?;
    let load = Load {
        table: "demo_writes".into(),
        rate: 20,
        rows: 18,
    };
    let writer = runtime.block_on(async {
        http.sql("DROP TABLE IF EXISTS demo_writes").await?;
        http.sql(&create_table("demo_writes")).await?;
        Writer::start(http.clone(), load, &logs)
    })?;
    watch.say("a writer sends 20 requests of 18 rows each second");
    std::thread::sleep(Duration::from_secs(3));
    let mut gaps = Vec::new();
    for role in ["datanode", "metasrv", "frontend"] {
        let pod = demo
            .pods(role)?
            .pop()
            .with_context(|| format!("there is no {role}"))?;
        writer.reset_gap();
        let took = demo.replace_pod(&pod, BACK)?;
        std::thread::sleep(Duration::from_secs(3));
        let gap = writer.tally().longest_gap;
        watch.say(&format!(
            "{pod} deleted, its successor was ready after {:.1} s; longest gap in acknowledged writes {:.2} s",
            took.as_secs_f64(),
            gap.as_secs_f64()
        ));
        gaps.push((role, gap));
    }
    let tally = runtime.block_on(writer.finish())?;
    let verdict = runtime.block_on(verify(http, "demo_writes", &logs))?;
    ensure!(
        verdict.acknowledged > 0,
        "nothing was acknowledged: {:?}",
        tally.reasons
    );
    Ok(Outcome { tally, verdict, gaps })
}

/// For people here, for machines in `reports/demo.json`.
fn report(runtime: &tokio::runtime::Runtime, http: &Http, outcome: &Outcome) -> Result<()> {
    let Outcome { tally, verdict, gaps } = outcome;
    println!("\nWhere the regions of demo_writes live");
    let places = "SELECT region_id, peer_id, peer_addr, status FROM information_schema.region_peers \
                  WHERE table_name = 'demo_writes' ORDER BY region_id";
    for row in runtime.block_on(http.rows(places))? {
        let cells: Vec<String> = row
            .iter()
            .map(|v| {
                if let Value::String(s) = v {
                    s.clone()
                } else {
                    v.to_string()
                }
            })
            .collect();
        println!(
            "  region {}  datanode {}  {}  {}",
            cells[0], cells[1], cells[2], cells[3]
        );
    }
    println!(
        "\nrequests sent        {}\n  not answered with success  {}\nrows acknowledged    {}\n\
         rows read back       {}\nsha256 of them       {}",
        tally.requests, tally.errors, verdict.acknowledged, verdict.read_back, verdict.checksum
    );
    if let Some(reason) = tally.reasons.first() {
        println!("  (the writer never retries; its first error: {reason})");
    }
    for (role, gap) in gaps {
        println!(
            "longest gap in acknowledged writes, {role} deleted: {:.2} s",
            gap.as_secs_f64()
        );
    }
    println!();
    let seconds = gaps
        .iter()
        .map(|(role, gap)| ((*role).to_owned(), gap.as_secs_f64().into()));
    let numbers = json!({
        "requests": tally.requests, "errors": tally.errors, "rows_acknowledged": verdict.acknowledged,
        "rows_read_back": verdict.read_back, "sha256": verdict.checksum,
        "longest_gap_seconds": Value::Object(seconds.collect()),
    });
    std::fs::write("reports/demo.json", format!("{numbers:#}\n"))?;
    println!(
        "The cluster stays up. Connect with\n  psql -h 127.0.0.1 -p {POSTGRES} -U greptime -d public\n  \
         mysql -h 127.0.0.1 -P {MYSQL} -u greptime --skip-ssl\n  \
         curl -G http://127.0.0.1:{HTTP}/v1/sql --data-urlencode 'sql=SHOW TABLES'\n  \
         KUBECONFIG={} kubectl get greptimeclusters\n  Prometheus: http://127.0.0.1:9090\n\
         `make clean` removes it.",
        Lab::from_env().kubeconfig().display()
    );
    Ok(())
}
