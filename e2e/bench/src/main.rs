//! The benchmark: this database and its peers as whole processes, side by side in one run on one machine.
//!
//! Every database is started by the benchmark itself at its defaults, takes the same rows, and is asked the same
//! queries in turn; every answer is compared with one that was computed from the generated data. See
//! docs/benchmarks/README.md.

mod answer;
mod ask;
mod cold;
mod cold_reads;
mod data;
mod http;
mod ingest;
mod load;
mod measure;
mod memory;
mod output;
mod peers;
mod picture;
mod process;
mod queries;
mod report;
mod samples;
mod suite;
mod timestamp;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use greptime_clock::SystemClock;

use ask::Rounds;
use peers::Place;
use suite::{Parquet, Plan, Suite};

/// Compares this database with its peers, as whole processes on one machine: the same rows, the same queries, every
/// answer checked.
#[derive(Debug, Parser)]
#[command(name = "greptime-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fills and asks all databases, and writes reports/bench.json.
    Run(Box<Run>),
    /// Records what this machine's node exporter says, for `run --scrapes`.
    Record(Record),
}

#[derive(Debug, Args)]
struct Run {
    /// The greptime-node to measure; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Further flag of our server, e.g. --flag=--set --flag=datanode.flush_size=16MiB; may be repeated.
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Hosts of the data that queries ask.
    #[arg(long, default_value_t = 400)]
    hosts: usize,
    /// Hours of data; queries need 13.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(13..))]
    hours: u64,
    /// Further numbers of hosts, for ingest only.
    #[arg(long, value_delimiter = ',', value_name = "HOSTS")]
    more_hosts: Vec<usize>,
    /// Runs of each query, whose median counts.
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// How often each point query is asked again, for the row `…, warm`: the median of the last quarter counts.
    #[arg(long, default_value_t = 200, value_name = "RUNS")]
    warm: usize,
    /// Connections that write.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these peers: VictoriaMetrics, InfluxDB, QuestDB, DuckDB, chDB; `none` for none.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    peers: Vec<String>,
    /// Only queries whose name contains one of these words.
    #[arg(long, value_delimiter = ',', value_name = "WORD")]
    queries: Vec<String>,
    /// Whose files DuckDB and chDB read.
    #[arg(long, value_enum, default_value = "auto")]
    parquet: Parquet,
    /// Also a million idle series.
    #[arg(long)]
    memory: bool,
    /// Also a start on so many files and on the log of --cold-log.
    #[arg(long, value_name = "FILES")]
    cold_files: Option<usize>,
    /// Log of the cold start, in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    cold_log: u64,
    /// Nothing but memory, scrapes and cold start, as far as they are asked for.
    #[arg(long)]
    no_queries: bool,
    /// Also bytes per sample of recorded scrapes.
    #[arg(long, value_name = "FILE")]
    scrapes: Option<PathBuf>,
    /// Directory of data and logs of all databases; emptied.
    #[arg(long, value_name = "DIR", default_value = "/tmp/greptime-bench")]
    dir: PathBuf,
    /// Where install-peers.sh installed the peers.
    #[arg(long, value_name = "DIR")]
    installed: Option<PathBuf>,
    /// The report as JSON; text lies beside it.
    #[arg(long, value_name = "FILE", default_value = "reports/bench.json")]
    out: PathBuf,
    /// Also write docs/benchmarks/engine.json and engine.svg.
    #[arg(long)]
    save: bool,
}

#[derive(Debug, Args)]
struct Record {
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[arg(long, default_value_t = 720)]
    scrapes: usize,
    /// Milliseconds between scrapes.
    #[arg(long, default_value_t = 1000)]
    pause: u64,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(run) => measure_all(*run),
        Command::Record(record) => {
            let pause = Duration::from_millis(record.pause);
            data::exporter::record(&record.to, record.scrapes, pause, &SystemClock::shared())
        }
    }
}

fn measure_all(run: Run) -> anyhow::Result<()> {
    let server = match run.server {
        Some(server) => server,
        None => std::env::current_exe()?.with_file_name("greptime-node"),
    };
    let server = server
        .canonicalize()
        .with_context(|| format!("{} is not there", server.display()))?;
    let dir = std::path::absolute(&run.dir)?;
    std::fs::create_dir_all(&dir)?;
    let place = Place {
        dir,
        installed: installed(run.installed)?,
        clock: SystemClock::shared(),
    };
    let plan = Plan {
        server,
        flags: run.flags,
        hosts: run.hosts,
        hours: run.hours as usize,
        more_hosts: run.more_hosts,
        runs: run.runs.max(1),
        warm: (run.warm > 0).then(|| Rounds {
            before: run.warm - run.warm.div_ceil(4),
            runs: run.warm.div_ceil(4),
            seed: run.seed.wrapping_add(1),
        }),
        connections: run.connections.max(1),
        seed: run.seed,
        peers: run.peers,
        queries: run.queries,
        parquet: run.parquet,
        memory: run.memory,
        scrapes: run.scrapes,
        cold: run.cold_files.map(|files| cold::Size {
            files,
            log_mebibytes: run.cold_log,
        }),
        main: !run.no_queries,
    };
    let mut suite = Suite::new(plan, place);
    let result = suite.run();
    // What was measured before a failure is worth reading too.
    output::write(&suite, &run.out)?;
    result?;
    if run.save {
        output::save(&suite)?;
    }
    Ok(())
}

fn installed(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given);
    }
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/greptimecluster"));
    let cache = std::env::var_os("GREPTIME_CACHE")
        .map(PathBuf::from)
        .or_else(home);
    Ok(cache
        .context("neither GREPTIME_CACHE nor HOME is set")?
        .join("bench"))
}
