//! `make chaos-cluster`.

use anyhow::Result;
use clap::Parser;
use greptime_e2e_cluster::chaos::{Plan, faults_of, run};

/// Breaks a GreptimeCluster on a real Kubernetes, with each kind of fault many times, while it is written to and read.
/// Prints how long no write was acknowledged, and writes reports/chaos-cluster.json. Ends with an error if a row is lost
/// or doubled, or if a read lacked one that was acknowledged before.
///
/// It needs the laboratory: `greptime-lab up`.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// How often each.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Which kinds, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    fault: Vec<String>,
    /// Writes in a second, each of nine rows over three regions.
    #[arg(long, default_value_t = 50)]
    rate: u32,
}

fn main() -> Result<()> {
    let Arguments { count, fault, rate } = Arguments::parse();
    run(&Plan {
        faults: faults_of(&fault)?,
        count,
        rate,
    })
}
