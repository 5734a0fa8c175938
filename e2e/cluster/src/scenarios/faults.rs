//! What goes wrong while somebody writes. After each: every acknowledged row is there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::progress::{Stopwatch, wait_until};
use greptime_lab::{Node, Service, Stop, faults, node};
use rustix::process::Signal;

use super::{READY, Suite};
use crate::database::Database;
use crate::verify::{Verdict, verify};
use crate::writer::{Load, Tally, Writer, create_table};

/// A pod is back within seconds, on a busy machine within more.
const BACK: Duration = Duration::from_secs(90);
const ROLES: [&str; 3] = ["datanode", "frontend", "metasrv"];

/// Runs `disturb` while a writer writes into `table`, then reads everything back.
fn under_load(
    suite: &Suite,
    table: &str,
    disturb: impl FnOnce(&Writer) -> Result<()>,
) -> Result<(Tally, Verdict)> {
    let database = suite.main()?;
    database.wait_ready(READY)?;
    let http = suite.http()?;
    let load = Load {
        table: table.into(),
        rate: 20,
        rows: 18,
    };
    std::fs::create_dir_all("reports")?;
    let file = std::path::PathBuf::from(format!("reports/{table}.acknowledged"));
    let writer = suite.runtime.block_on(async {
        http.sql(&create_table(table)).await?;
        Writer::start(http.clone(), load, &file)
    })?;
    std::thread::sleep(Duration::from_secs(1));
    disturb(&writer)?;
    std::thread::sleep(Duration::from_secs(2));
    let tally = suite.runtime.block_on(writer.finish())?;
    let verdict = suite
        .runtime
        .block_on(verify(&http, table, &file))
        .with_context(|| database.explain())?;
    let watch = Stopwatch::start();
    watch.say(&format!(
        "{table}: {} requests, {} errors, {} rows acknowledged, {} read back, longest gap {:.1} s {:?}",
        tally.requests,
        tally.errors,
        verdict.acknowledged,
        verdict.read_back,
        tally.longest_gap.as_secs_f64(),
        tally.reasons.first(),
    ));
    ensure!(
        verdict.acknowledged > 0,
        "nothing was acknowledged: {:?}",
        tally.reasons
    );
    Ok((tally, verdict))
}

/// How often every pod is hit; `make test-long` asks for more.
fn rounds() -> Result<usize> {
    match std::env::var("GREPTIME_TEST_ROUNDS") {
        Ok(text) => text.parse().context("GREPTIME_TEST_ROUNDS is no number"),
        Err(_) => Ok(1),
    }
}

/// Hits every pod, one after the other.
fn each_pod(database: &Database, hit: impl Fn(&str) -> Result<()>) -> Result<()> {
    for _ in 0..rounds()? {
        for role in ROLES {
            for pod in database.pods(role)? {
                hit(&pod)?;
            }
        }
    }
    Ok(())
}

/// `kubectl delete pod` of every pod, one after the other.
pub fn pods_deleted_in_turn(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    under_load(suite, "pods_deleted", |_| {
        each_pod(database, |pod| database.replace_pod(pod, BACK).map(drop))
    })?;
    Ok(())
}

/// `kill -9` of every process, one after the other.
pub fn processes_killed(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let lab = suite.cluster.breakable().context("needs the laboratory")?;
    under_load(suite, "processes_killed", |_| {
        each_pod(database, |pod| {
            let restarts = restarts(database, pod)?;
            faults::signal_container(lab, &database.namespace, pod, None, Signal::KILL)?;
            let more = || Ok(self::restarts(database, pod)? > restarts);
            let pause = Duration::from_millis(100);
            wait_until("restart counted", BACK, pause, more, || database.explain())?;
            database.wait_pod(pod, BACK, |_| true)
        })
    })?;
    Ok(())
}

fn restarts(database: &Database, pod: &str) -> Result<u64> {
    let path = "jsonpath={.status.containerStatuses[0].restartCount}";
    let count = database.kubectl(&["get", "pod", pod, "-o", path])?;
    Ok(count.trim().parse().unwrap_or(0))
}

/// A node loses its power while a datanode runs on it, and comes back.
pub fn node_crash(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let lab = suite.cluster.breakable().context("needs the laboratory")?;
    let name = database.kubectl(&["get", "pod", "main-datanode-0", "-o", "jsonpath={.spec.nodeName}"])?;
    let index: u8 = name
        .trim()
        .trim_start_matches("node")
        .parse()
        .context("a node's name ends in its number")?;
    let victim = Node::new(index)?;
    let before = restarts(database, "main-datanode-0")?;
    let (tally, _) = under_load(suite, "node_crash", |_| {
        node::crash(lab, victim)?;
        lab.wait_for_node(victim, false, Duration::from_secs(60))?;
        node::start(lab, victim)?;
        lab.wait_for_node(victim, true, Duration::from_secs(90))?;
        for role in ROLES {
            for pod in database.pods(role)? {
                database.wait_pod(&pod, BACK, |_| true)?;
            }
        }
        Ok(())
    })?;
    let after = restarts(database, "main-datanode-0")?;
    ensure!(
        after > before,
        "the datanode of the crashed node was not restarted"
    );
    // One region of the table lives there, so writes must have waited for it.
    ensure!(
        tally.longest_gap > Duration::from_secs(1),
        "nobody noticed the crash: {tally:?}"
    );
    database.wait_ready(READY)
}

/// etcd restarts and S3 is away: writes go on, no pod restarts, and the condition names what is away.
pub fn stores_away(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let lab = suite.cluster.breakable().context("needs the laboratory")?;
    database.wait_ready(READY)?;
    let before = database.pod_identities()?;
    let (tally, _) = under_load(suite, "stores_away", |_| {
        Service::Etcd.stop(lab, Stop::Abruptly)?;
        std::thread::sleep(Duration::from_secs(3));
        Service::Etcd.start(lab)?;
        std::thread::sleep(Duration::from_secs(3));
        Service::S3.stop(lab, Stop::Abruptly)?;
        database.wait_condition(
            "DependenciesReachable",
            "False",
            "object_store",
            Duration::from_secs(60),
        )?;
        std::thread::sleep(Duration::from_secs(30));
        Service::S3.start(lab)?;
        database.wait_condition("DependenciesReachable", "True", "", Duration::from_secs(60))
    })?;
    ensure!(
        tally.errors == 0,
        "writes failed while etcd and S3 were away: {:?}",
        tally.reasons
    );
    let after = database.pod_identities()?;
    ensure!(before == after, "pods were restarted:\n{before}\n{after}");
    database.wait_ready(READY)
}
