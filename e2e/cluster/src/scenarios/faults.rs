//! What goes wrong while somebody writes. After each: every acknowledged row is there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::progress::{Stopwatch, wait_until};
use greptime_lab::{Node, Service, Stop, faults, node, services};
use rustix::process::Signal;

use super::{READY, Suite};
use crate::database::{Database, Placed};
use crate::regions::{Regions, id_of};
use crate::verify::{Verdict, verify};
use crate::writer::{Load, Logs, Tally, Writer, create_table};

/// A pod is back within seconds, on a busy machine within more.
const BACK: Duration = Duration::from_secs(90);
/// No fault of these may keep writes from being acknowledged for longer.
const WITHIN: Duration = Duration::from_secs(30);
/// Other replicas take over what a datanode led; in a fraction of a second, on a busy machine in more.
const FAILOVER: Duration = Duration::from_secs(3);
/// How long a write may take on a machine that starts a pod meanwhile; somebody who waits for metasrv waits for longer.
const UNNOTICED: Duration = Duration::from_secs(2);
/// Nodes find a metasrv that has another address within this time.
const FOUND: Duration = Duration::from_secs(5);
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
    let logs = Logs::of(table)?;
    let writer = suite.runtime.block_on(async {
        http.sql(&create_table(table)).await?;
        Writer::start(http.clone(), load, &logs)
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let before = writer.tally().rows_acknowledged;
    disturb(&writer)?;
    let after = writer.tally().rows_acknowledged;
    std::thread::sleep(Duration::from_secs(2));
    let tally = suite.runtime.block_on(writer.finish())?;
    let verdict = suite
        .runtime
        .block_on(verify(&http, table, &logs))
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
    ensure!(before > 0, "nothing was acknowledged before the fault: {tally:?}");
    ensure!(
        tally.rows_acknowledged > after && tally.longest_gap < WITHIN,
        "writing did not recover within {WITHIN:?}: {tally:?}"
    );
    if let Some(lab) = &suite.cluster.lab {
        let files = services::count_objects(lab, &database.place())?;
        ensure!(files > 1, "nothing was flushed, so no row was read from a file");
    }
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
            let pods = database.pods(role)?;
            ensure!(!pods.is_empty(), "there is no {role}");
            for pod in pods {
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

/// The only metasrv goes and comes back under another address: nobody who writes notices.
pub fn metasrv_replaced(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let (tally, _) = under_load(suite, "metasrv_replaced", |_| {
        for pod in database.pods("metasrv")? {
            database.replace_pod(&pod, BACK)?;
        }
        // All nodes have found it by then.
        std::thread::sleep(FOUND);
        Ok(())
    })?;
    ensure!(
        tally.errors == 0 && tally.longest_gap < UNNOTICED,
        "writes waited for metasrv, or failed without it: {tally:?}"
    );
    Ok(())
}

/// `kill -9` of every process, one after the other.
pub fn processes_killed(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let lab = suite.cluster.breakable().context("needs the laboratory")?;
    under_load(suite, "processes_killed", |_| {
        each_pod(database, |pod| {
            let before = life(database, pod)?;
            faults::signal_container(lab, &database.namespace, pod, None, Signal::KILL)?;
            let another = || Ok(life(database, pod)? != before);
            let pause = Duration::from_millis(100);
            wait_until("restart counted", BACK, pause, another, || database.explain())?;
            database.wait_pod(pod, BACK, |_| true)
        })
    })?;
    Ok(())
}

/// Which process of the pod this is: another pod of the name, or a restart, is another one.
fn life(database: &Database, pod: &str) -> Result<String> {
    let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount}";
    let life = database.kubectl(&["get", "pod", pod, "-o", path])?;
    ensure!(
        life.split_whitespace().count() == 2,
        "{pod} has not started: {life:?}"
    );
    Ok(life)
}

/// A node loses its power while a datanode runs on it, and comes back.
pub fn node_crash(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let lab = suite.cluster.breakable().context("needs the laboratory")?;
    // Without the only metasrv replicas elect by themselves, and later.
    let Placed {
        pod, node: victim, ..
    } = database.datanode_alone(&["main-metasrv-0"])?;
    let victim: Node = victim.parse()?;
    let before = life(database, &pod)?;
    let (tally, _) = under_load(suite, "node_crash", |_| {
        let regions = Regions {
            database,
            runtime: &suite.runtime,
            http: &suite.http()?,
            table: "node_crash",
        };
        // Nobody would notice the end of one that leads nothing.
        regions.let_lead(id_of(&pod)?)?;
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
    let after = life(database, &pod)?;
    ensure!(after != before, "the datanode did not go down with its node");
    ensure!(
        tally.longest_gap < FAILOVER,
        "the regions of the node were not taken over within {FAILOVER:?}: {tally:?}"
    );
    database.wait_ready(READY)
}

/// etcd restarts and S3 is away: writes go on, no pod restarts, and the condition names what is away.
pub fn stores_away(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let lab = suite.cluster.breakable().context("needs the laboratory")?;
    database.wait_ready(READY)?;
    let before = database.pod_identities()?;
    let http = suite.http()?;
    let (tally, _) = under_load(suite, "stores_away", |_| {
        Service::Etcd.stop(lab, Stop::Abruptly)?;
        // Longer than metasrv's lease: it stops leading, and writes go on.
        std::thread::sleep(Duration::from_secs(8));
        Service::Etcd.start(lab)?;
        let create = || {
            let statement = "CREATE TABLE IF NOT EXISTS after_etcd (ts TIMESTAMP(3) TIME INDEX)";
            Ok(suite.runtime.block_on(http.sql(statement)).is_ok())
        };
        let (limit, pause) = (Duration::from_secs(30), Duration::from_millis(200));
        wait_until("a table can be created again", limit, pause, create, || {
            database.explain()
        })?;
        Service::S3.stop(lab, Stop::Abruptly)?;
        database.wait_condition(
            "DependenciesReachable",
            "False",
            "object_store",
            Duration::from_secs(60),
        )?;
        let files = services::count_objects(lab, &database.place())?;
        std::thread::sleep(Duration::from_secs(30));
        Service::S3.start(lab)?;
        database.wait_condition("DependenciesReachable", "True", "", Duration::from_secs(60))?;
        let more = || Ok(services::count_objects(lab, &database.place())? > files);
        wait_until("what waited is flushed", BACK, pause, more, || database.explain())
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
