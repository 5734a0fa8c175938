//! `make chaos-cluster`.

use anyhow::Result;
use clap::{Parser, ValueEnum};
use greptime_e2e_cluster::chaos::{Fault, Plan, run};

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
    #[arg(long, value_enum, value_delimiter = ',')]
    fault: Vec<Fault>,
    /// Writes in a second, each of nine rows over three regions.
    #[arg(long, default_value_t = 50)]
    rate: u32,
}

fn main() -> Result<()> {
    let Arguments { count, fault, rate } = Arguments::parse();
    let faults = match fault.is_empty() {
        true => Fault::value_variants().to_vec(),
        false => fault,
    };
    run(&Plan { faults, count, rate })
}
