//! Runs seeds of the simulation.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use greptime_sim::report::Report;
use greptime_sim::{Outcome, missed, quiet_panics, run};

/// A whole cluster in simulated time, with faults drawn from a seed.
#[derive(Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this one only.
    #[arg(long)]
    seed: Option<u64>,
    /// Say everything that happened.
    #[arg(long)]
    trace: bool,
    /// Stop at the first violation.
    #[arg(long)]
    first: bool,
    /// Take this rule away: the seeds must find a violation.
    #[arg(long)]
    without: Option<String>,
    /// Take away each rule that the seeds are said to show, one at a time.
    #[arg(long)]
    each_is_missed: bool,
    /// Where the numbers go.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// So many seeds reach every branch.
const ENOUGH: u64 = 1000;
/// The last of a trace that broke a rule.
const LAST_LINES: usize = 60;

fn main() -> Result<()> {
    let args = Args::parse();
    quiet_panics();
    match (&args.without, args.seed) {
        (Some(rule), _) => {
            println!("{rule}: {}", missed::without(rule, args.seeds)?);
            Ok(())
        }
        _ if args.each_is_missed => each_is_missed(args.seeds),
        (_, Some(seed)) => one(seed, &args),
        _ => many(&args),
    }
}

fn each_is_missed(seeds: u64) -> Result<()> {
    let mut useless = Vec::new();
    for rule in missed::FOUND {
        match missed::without(rule, seeds) {
            Ok(found) => println!("{rule}: {found}"),
            Err(error) => useless.push(error.to_string()),
        }
    }
    for (rule, why) in missed::UNSEEN {
        println!("{rule} is not for the seeds: {why}");
    }
    match useless.is_empty() {
        true => Ok(()),
        false => bail!("{}", useless.join("; ")),
    }
}

fn one(seed: u64, args: &Args) -> Result<()> {
    let outcome = run(seed, args.trace);
    outcome.lines.iter().for_each(|line| println!("{line}"));
    let seconds = outcome.simulated as f64 / 1e6;
    println!(
        "seed {seed}: {seconds:.1} s, {} events, {} writes, {} reads, digest {:016x}",
        outcome.events, outcome.acks, outcome.reads, outcome.digest
    );
    fail_on(&outcome)
}

fn fail_on(outcome: &Outcome) -> Result<()> {
    match outcome.violations.first() {
        None => Ok(()),
        Some(first) => bail!(
            "seed {}, at {} µs: {}: {}",
            first.seed,
            first.micros,
            first.name,
            first.what
        ),
    }
}

fn many(args: &Args) -> Result<()> {
    let clock = stopwatch();
    let mut report = Report::default();
    for seed in args.from..args.from + args.seeds {
        let outcome = run(seed, false);
        report.add(&outcome);
        for violation in &outcome.violations {
            println!(
                "seed {seed}, at {} µs: {}: {}",
                violation.micros, violation.name, violation.what
            );
        }
        if args.first && !outcome.violations.is_empty() {
            break;
        }
    }
    report.seconds = clock();
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    println!(
        "{} seeds in {:.1} s: {:.1} simulated hours, {} events, {} writes, {} reads",
        report.seeds,
        report.seconds,
        report.simulated_hours,
        report.events,
        report.acknowledged_writes,
        report.reads
    );
    let Some(first) = report.violations.first() else {
        let unreached = report.unreached();
        if report.seeds >= ENOUGH && !unreached.is_empty() {
            bail!("so many seeds, and none has reached {}", unreached.join(", "));
        }
        return Ok(());
    };
    let traced = run(first.seed, true);
    let skipped = traced.lines.len().saturating_sub(LAST_LINES);
    traced.lines[skipped..].iter().for_each(|line| println!("{line}"));
    let seeds: std::collections::BTreeSet<u64> = report.violations.iter().map(|v| v.seed).collect();
    bail!(
        "{} seeds broke a rule: {seeds:?}; `greptime-sim --seed {} --trace` shows how",
        seeds.len(),
        first.seed
    )
}

/// How long this program takes; nothing that is simulated looks at it.
#[allow(clippy::disallowed_methods)]
fn stopwatch() -> impl Fn() -> f64 {
    let start = std::time::Instant::now();
    move || start.elapsed().as_secs_f64()
}
