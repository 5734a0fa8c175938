//! `greptime-chaos`: faults on a cluster of plain processes, many times, and how long writes wait for each.

mod cluster;
mod load;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tokio::time::Instant;

use cluster::{Cluster, Programs, RegionReport};
use load::{HOSTS, Load};
use report::Report;

/// Breaks a cluster of one etcd, one metasrv, three datanodes and a frontend while each region is written to by
/// schedule. Prints, for each kind of fault, how long writes of a region whose leader was hit were not acknowledged, and
/// whether every acknowledged row is there once.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The database program.
    #[arg(long)]
    node: PathBuf,
    /// The etcd program.
    #[arg(long)]
    etcd: PathBuf,
    /// The faults, one kind after the other.
    #[arg(long, value_enum, default_values = ["kill", "stop", "metasrv-kill"])]
    fault: Vec<Fault>,
    /// How often each kind happens.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Writes each second, to each of three regions.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Where the report goes.
    #[arg(long, default_value = "reports/chaos.json")]
    report: PathBuf,
    /// Data and logs, kept afterwards; a temporary directory that is removed if it is not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGKILL of a datanode that leads regions; it starts again when the others have taken over.
    Kill,
    /// SIGSTOP of a datanode that leads regions, for two seconds.
    Stop,
    /// SIGKILL of the metasrv; it starts again after a second.
    MetasrvKill,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::MetasrvKill => "metasrv_kill",
        }
    }
}

/// Writes that are not acknowledged for so long have failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is looked at around a fault.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => temporary.path().to_owned(),
    };
    std::fs::create_dir_all(&dir)?;
    let programs = Programs {
        node: arguments.node.clone(),
        etcd: arguments.etcd.clone(),
    };
    let mut cluster = Cluster::start(&programs, &dir).await?;
    load::create_table(&cluster).await?;
    cluster.until_whole().await?;
    let mut load = Load::start(&cluster, arguments.rate)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut reports = Vec::new();
    for fault in &arguments.fault {
        let mut report = Report::new(fault.name());
        let (errors, rows) = (load.errors(), load.rows_acknowledged());
        for round in 1..=arguments.count {
            one_fault(*fault, &mut cluster, &load, &mut report)
                .await
                .with_context(|| format!("{}, round {round} of {}", fault.name(), arguments.count))?;
            if round % 10 == 0 || round == arguments.count {
                println!("{} {round}/{}: {report}", fault.name(), arguments.count);
            }
        }
        report.client_errors = load.errors() - errors;
        report.rows_acknowledged = load.rows_acknowledged() - rows;
        reports.push(report);
    }
    load.finish().await?;
    let (lost, doubled) = load.verify(&cluster).await?;
    println!(
        "{} rows acknowledged, {lost} lost, {doubled} twice, {} errors",
        load.rows_acknowledged(),
        load.errors()
    );
    report::write(&arguments.report, &reports, lost, doubled)?;
    anyhow::ensure!(lost == 0 && doubled == 0, "rows are lost or doubled");
    Ok(())
}

/// One fault, from a whole cluster to a whole cluster.
async fn one_fault(fault: Fault, cluster: &mut Cluster, load: &Load, report: &mut Report) -> Result<()> {
    let regions = cluster.until_whole().await?;
    tokio::time::sleep(BEFORE * 2).await;
    let quiet = Instant::now();
    for region in 0..HOSTS.len() {
        report.note_ordinary(load.longest_gap(region, quiet - BEFORE * 2, quiet));
    }
    // Another datanode each time, as far as it leads something.
    let victim = (0..3)
        .map(|n| (report.count() + n) % 3)
        .find(|n| !led_by(&regions, *n).is_empty());
    let victim = victim.context("nobody leads anything")?;
    let hit = match fault {
        Fault::MetasrvKill => (0..HOSTS.len()).collect(),
        Fault::Kill | Fault::Stop => led_by(&regions, victim),
    };
    let began = Instant::now();
    match fault {
        Fault::Kill => cluster.kill_datanode(victim)?,
        Fault::Stop => cluster.freeze_datanode(victim, true)?,
        Fault::MetasrvKill => cluster.kill_metasrv()?,
    }
    until_acknowledged(load, &hit, began).await?;
    tokio::time::sleep(AFTER).await;
    let ended = Instant::now();
    let gaps = hit
        .iter()
        .map(|region| load.longest_gap(*region, began - BEFORE, ended));
    report.note_fault(gaps.collect());
    match fault {
        Fault::Kill => cluster.start_datanode(victim)?,
        Fault::Stop => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.freeze_datanode(victim, false)?;
        }
        Fault::MetasrvKill => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.start_metasrv()?;
        }
    }
    Ok(())
}

/// Regions of the table that a datanode leads, by their number.
fn led_by(regions: &[RegionReport], node: usize) -> Vec<usize> {
    let led = regions.iter().filter(|r| r.leader == Some(node));
    let number = |r: &RegionReport| r.region.rsplit(':').next()?.parse().ok();
    led.filter(|r| r.table.as_deref() == Some("public.chaos"))
        .filter_map(number)
        .collect()
}

/// Waits until something that was acknowledged after `began` is there for each region.
async fn until_acknowledged(load: &Load, regions: &[usize], began: Instant) -> Result<()> {
    let is_back = |region: &usize| load.last(*region).is_some_and(|at| at > began + AFTER / 10);
    while !regions.iter().all(is_back) {
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "writes of regions {regions:?} are not acknowledged any more"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
