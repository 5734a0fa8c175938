//! `greptime-chaos`: faults on a cluster of plain processes, many times, and how long writes wait for each.

mod cluster;
mod copied;
mod cost;
mod cpu;
mod disk;
mod faults;
mod floor;
mod load;
mod mass;
mod metrics;
mod network;
mod owner;
mod picture;
mod process;
mod reader;
mod report;
mod round;
mod run;
mod schedule;
mod steps;
mod written;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};

use cluster::Shape;
use faults::Fault;
use greptime_e2e_chaos::numbers;
use greptime_lab::disk::Disk;
use network::Network;
use run::{Ending, Plan};

/// Breaks a cluster of one etcd, some metasrv, datanodes and a frontend while each of three regions is written to by
/// schedule. Prints, for each kind of fault, how long writes of a region whose leader was hit were not acknowledged,
/// whether every acknowledged row is there once, and whether a read ever lacked one.
///
/// `mass-kill` is another run: a datanode that leads very many regions is killed, and each of them is written to once.
/// `replication-cost` is none of faults: it compares a log on three datanodes with one on a single datanode.
///
/// As root, each process has a network of its own, so that it can be cut off. Otherwise all are on the loopback, and
/// the faults that cut are not there.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The database program.
    #[arg(long)]
    node: PathBuf,
    /// Another version of it, which all processes begin as: each is an upgraded one when a fault has started it again.
    /// With rolling-restart and metasrv-kill that is an upgrade of everything but the frontend, which stays as it is.
    #[arg(long, value_name = "NODE")]
    before: Option<PathBuf>,
    /// The etcd program.
    #[arg(long)]
    etcd: PathBuf,
    /// The kinds of faults, which take turns [default: kill, stop, metasrv-kill, and partition if it is possible].
    #[arg(long, value_enum, value_delimiter = ',')]
    fault: Vec<Fault>,
    /// How often kills and migrations happen; faults that others have to notice by themselves a fifth as often, and what
    /// concerns metasrv, etcd or each datanode a fiftieth. None of them less than 20 times, if the kills are as many.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Writes each second, to each of three regions.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Where the report goes; the picture goes beside it.
    #[arg(long, default_value = "reports/chaos.json")]
    report: PathBuf,
    /// Goes on with the report that is there: what it has is not done again.
    #[arg(long)]
    resume: bool,
    /// Minutes after which no more faults begin.
    #[arg(long, default_value_t = 90)]
    minutes: u64,
    /// Regions that the datanode leads which mass-kill kills.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    leaders: u16,
    /// Metasrv processes, of which one leads.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    metasrvs: u8,
    /// Datanodes [default: 3, and 4 when regions move].
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=9))]
    datanodes: Option<u8>,
    /// Bare changes of leaders, for the floor of every gap; and as many handovers while nobody writes, for that of moves.
    #[arg(long, default_value_t = 5)]
    floors: usize,
    /// Data and logs, kept afterwards; a temporary directory that is removed if it is not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

const BY_DEFAULT: [Fault; 4] = [Fault::Kill, Fault::Stop, Fault::MetasrvKill, Fault::Partition];

/// As of a process that SIGINT has ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match chaos(Arguments::parse()) {
        Ok(Ending::Whole | Ending::TimeIsUp) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chaos(arguments: Arguments) -> Result<Ending> {
    sweep();
    let is_root = rustix::process::geteuid().is_root();
    // Before there are threads, which would stay in the network of before.
    let network = match is_root {
        true => Network::own(),
        false => Err(anyhow::anyhow!("only root may make networks")),
    };
    let faults = choose_faults(&arguments.fault, network.as_ref().err(), is_root)?;
    let network = network.unwrap_or(Network::Loopback);
    let temporary = tempfile::Builder::new().prefix(&owner::name("")).tempdir()?;
    let dir = match &arguments.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => temporary.path().to_owned(),
    };
    std::fs::create_dir_all(&dir)?;
    let moves = faults.contains(&Fault::Migrate);
    let shape = Shape {
        node: std::path::absolute(&arguments.node)?,
        before: arguments.before.as_ref().map(std::path::absolute).transpose()?,
        etcd: std::path::absolute(&arguments.etcd)?,
        dir,
        metasrvs: usize::from(arguments.metasrvs),
        voters: 3,
        datanodes: arguments.datanodes.map_or(if moves { 4 } else { 3 }, usize::from),
        disks: faults.iter().any(|fault| fault.needs_disks()),
        tells_steps: moves,
    };
    let plan = Plan {
        faults,
        count: arguments.count,
        rate: arguments.rate,
        report: arguments.report,
        resume: arguments.resume,
        at_most: Duration::from_secs(60 * arguments.minutes),
        floors: arguments.floors,
        leaders: usize::from(arguments.leaders),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run::run(plan, &shape, network));
    if outcome.is_err() && arguments.dir.is_none() {
        keep(temporary)?;
    }
    outcome
}

/// Keeps data and logs of a run that has failed, under a name that no later run removes.
fn keep(dir: tempfile::TempDir) -> Result<()> {
    let kept = dir
        .path()
        .with_file_name(format!("greptime-chaos-failed-{}", std::process::id()));
    std::fs::rename(dir.keep(), &kept)?;
    println!("data and logs stay in {}", kept.display());
    Ok(())
}

/// The faults that are wanted, or an error that says which are possible.
fn choose_faults(wanted: &[Fault], no_network: Option<&anyhow::Error>, is_root: bool) -> Result<Vec<Fault>> {
    if let Some(error) = no_network {
        println!("no networks of their own for the processes ({error:#}): all are on the loopback");
    }
    let is_possible =
        |fault: &Fault| !(fault.needs_network() && no_network.is_some() || fault.needs_disks() && !is_root);
    if wanted.is_empty() {
        return Ok(BY_DEFAULT.into_iter().filter(is_possible).collect());
    }
    let possible = Fault::value_variants().iter().filter(|fault| is_possible(fault));
    let possible: Vec<String> = possible.map(|fault| fault.name()).collect();
    if let Some(fault) = wanted.iter().find(|fault| !is_possible(fault)) {
        bail!(
            "{} needs root and networks of its own; here there are: {}",
            fault.name(),
            possible.join(", ")
        );
    }
    if let Some(alone) = wanted.iter().find(|fault| fault.is_alone())
        && let Some(other) = wanted.iter().find(|fault| *fault != alone)
    {
        bail!(
            "{} has a cluster of its own: {} is for another run, which adds to the report by --resume",
            alone.name(),
            other.name()
        );
    }
    Ok(wanted.to_vec())
}

/// Removes what runs have left behind that were killed themselves.
fn sweep() {
    let disks = disk::left_behind();
    // Whoever waits for a frozen disk cannot be killed.
    disks.iter().for_each(Disk::thaw);
    network::sweep();
    for disk in disks {
        println!("removing {disk}, which a killed run has left behind");
        let _ = disk.remove();
    }
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    let is_left_behind = |dir: &Path| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(owner::is_left_behind)
    };
    for dir in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if is_left_behind(&dir) {
            // What cannot be removed is tried again by the next run.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_networks_the_faults_that_cut_are_refused_by_name_and_left_out_by_default() {
        let error = anyhow::anyhow!("only root");
        let chosen = choose_faults(&[], Some(&error), false).unwrap();
        assert_eq!(chosen, [Fault::Kill, Fault::Stop, Fault::MetasrvKill]);
        let refused = choose_faults(&[Fault::Partition], Some(&error), false).unwrap_err();
        let words =
            "here there are: kill, damaged_log, stop, metasrv_kill, etcd_kill, migrate, rolling_restart";
        assert!(refused.to_string().contains(words), "{refused}");
        let all = choose_faults(&[Fault::SlowDisk, Fault::Partition], None, true).unwrap();
        assert_eq!(all, [Fault::SlowDisk, Fault::Partition]);
    }

    #[test]
    fn the_kill_of_many_leaders_is_for_a_run_of_its_own() {
        let refused = choose_faults(&[Fault::Kill, Fault::MassKill], None, true).unwrap_err();
        assert!(
            refused.to_string().contains("kill is for another run"),
            "{refused}"
        );
        let alone = choose_faults(&[Fault::MassKill], Some(&anyhow::anyhow!("only root")), false);
        assert_eq!(alone.unwrap(), [Fault::MassKill]);
    }

    #[test]
    fn faults_are_given_one_by_one_or_in_a_list() {
        let words = "chaos --node n --etcd e --fault kill,node_crash --fault etcd-kill";
        let arguments = Arguments::try_parse_from(words.split(' ')).unwrap();
        assert_eq!(arguments.fault, [Fault::Kill, Fault::NodeCrash, Fault::EtcdKill]);
    }
}
