//! `make chaos-cluster`: each kind of fault many times on a real cluster, while somebody writes and reads, and how long
//! writes waited.
//!
//! `make chaos` does the same with plain processes, more often and with more to see; this one has what lies between:
//! kubelet, probes, Services, DNS, pods that come back under another address.

mod fault;
mod reader;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use greptime_lab::Lab;
use greptime_lab::progress::{Stopwatch, wait_until};
use humantime::format_rfc3339_millis;
use serde_json::{Value, json};

pub use fault::Fault;
use fault::{Target, inflict, undo};
use reader::Reader;
use report::{Entry, Report};

use crate::database::Database;
use crate::regions::{Regions, TAKE_OVER, id_of};
use crate::scenarios::{READY, Suite};
use crate::sql::Http;
use crate::verify::verify;
use crate::writer::{Load, Logs, Writer, create_table};

const NAMESPACE: &str = "chaos";
const HTTP: u16 = 14100;
/// Three metasrv, three datanodes, a frontend.
const PODS: usize = 7;
/// A pod is back within seconds, on a busy machine within more.
const BACK: Duration = Duration::from_secs(120);
/// In which nothing happens, before each fault: what a gap is compared with.
const ORDINARY: Duration = Duration::from_secs(2);
/// Writes are acknowledged again when the last acknowledgement is no older than this.
const FLOWING: Duration = Duration::from_millis(200);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub faults: Vec<Fault>,
    pub count: usize,
    /// Writes in a second.
    pub rate: u32,
}

/// Does it all; the report is written after each kind.
pub fn run(plan: &Plan) -> Result<()> {
    let suite = Suite::start()?;
    let lab = suite
        .cluster
        .breakable()
        .context("it breaks nodes: it needs the laboratory")?;
    let database = start(&suite)?;
    let mut report = Report::default();
    for fault in &plan.faults {
        let chaos = Chaos {
            suite: &suite,
            lab,
            database: &database,
            fault: *fault,
            table: format!("chaos_{}", fault.name()),
            http: database.http(HTTP)?,
        };
        let entry = chaos
            .all(plan)
            .with_context(|| format!("{}: {}", fault.name(), database.explain()))?;
        println!("{entry}");
        report.add(entry);
        report.write()?;
    }
    report.print();
    ensure!(
        report.stale_reads() == 0,
        "reads lacked rows that were acknowledged before"
    );
    database.discard()
}

/// Three metasrv, so that any of them may go, and the settings that people have.
fn start(suite: &Suite) -> Result<Database> {
    let database = Database::new(&suite.cluster, NAMESPACE, "chaos");
    database.prepare()?;
    let mut manifest = database.manifest();
    manifest["spec"]["metasrv"]["replicas"] = json!(3);
    database.apply(&manifest)?;
    database.wait_ready(READY)?;
    Ok(database)
}

/// One kind of fault, again and again.
struct Chaos<'a> {
    suite: &'a Suite,
    lab: &'a Lab,
    database: &'a Database,
    fault: Fault,
    table: String,
    http: Http,
}

impl Chaos<'_> {
    fn all(&self, plan: &Plan) -> Result<Entry> {
        let http = &self.http;
        let load = Load {
            table: self.table.clone(),
            rate: plan.rate,
            rows: 9,
        };
        let logs = Logs::of(&self.table)?;
        let writer = self.suite.runtime.block_on(async {
            http.sql(&create_table(&self.table)).await?;
            Writer::start(http.clone(), load, &logs)
        })?;
        let reader = self
            .suite
            .runtime
            .block_on(async { Reader::start(http.clone(), &self.table, &writer) });
        let mut entry = Entry::new(self.fault);
        for turn in 0..plan.count {
            self.round(turn, &writer, &mut entry)
                .with_context(|| format!("number {}", turn + 1))?;
        }
        entry.reads = self.suite.runtime.block_on(reader.finish())?;
        let tally = self.suite.runtime.block_on(writer.finish())?;
        entry.client_errors = tally.errors;
        entry.reasons = tally.reasons;
        let verdict = self.suite.runtime.block_on(verify(http, &self.table, &logs))?;
        entry.rows_acknowledged = verdict.acknowledged;
        Ok(entry)
    }

    fn round(&self, turn: usize, writer: &Writer, entry: &mut Entry) -> Result<()> {
        let watch = Stopwatch::start();
        let target = self.target(turn)?;
        writer.reset_gap();
        std::thread::sleep(ORDINARY);
        entry.ordinary.push(writer.tally().longest_gap);
        writer.reset_gap();
        let began = Instant::now();
        let done = inflict(self.fault, self.lab, self.database, &target)?;
        if self.fault == Fault::Migrate {
            self.move_away(&target)?;
        }
        std::thread::sleep(self.fault.lasts().saturating_sub(began.elapsed()));
        self.until_flowing(writer)?;
        let seen = writer.tally();
        let gap = seen.longest_gap;
        writer.reset_gap();
        undo(self.fault, self.lab, self.database, &done)?;
        self.until_whole()?;
        entry.gaps.push(gap);
        entry.returns.push(writer.tally().longest_gap);
        watch.say(&format!(
            "{} {}: {target}, gap {} ms until {}",
            self.fault.name(),
            turn + 1,
            gap.as_millis(),
            seen.gap_ended
                .map_or_else(|| "now".to_owned(), |at| format_rfc3339_millis(at).to_string()),
        ));
        Ok(())
    }

    /// Whom it hits. A datanode does not share its node with the metasrv that leads, and leads a region of the table.
    fn target(&self, turn: usize) -> Result<Target> {
        let metasrv = self.leading_metasrv()?;
        let alone = self.database.datanode_alone(&[&metasrv])?;
        let region = self.regions().let_lead(id_of(&alone.pod)?)?;
        Ok(Target {
            metasrv,
            datanode: alone.pod,
            node: alone.node.parse()?,
            region,
            turn,
        })
    }

    /// The region's leadership goes to another datanode.
    fn move_away(&self, target: &Target) -> Result<()> {
        let from = id_of(&target.datanode)?;
        let region = &target.region;
        let to = region.peers.iter().find(|peer| **peer != from);
        self.regions()
            .migrate(region, *to.context("it has no other replica")?)
    }

    fn regions(&self) -> Regions<'_> {
        Regions {
            database: self.database,
            runtime: &self.suite.runtime,
            http: &self.http,
            table: &self.table,
        }
    }

    /// The pod of the metasrv that leads, as it says itself.
    fn leading_metasrv(&self) -> Result<String> {
        let mut leading = None;
        let ask = || {
            let pods = self.database.placed()?.into_iter();
            let mut metasrvs = pods.filter(|p| p.role == "metasrv").map(|p| p.pod);
            leading = metasrvs.find(|pod| self.leads(pod));
            Ok(leading.is_some())
        };
        wait_until("a metasrv leads", BACK, Duration::from_millis(200), ask, || {
            self.database.explain()
        })?;
        leading.context("it was found")
    }

    fn leads(&self, pod: &str) -> bool {
        let url = format!("http://{pod}.chaos-metasrv-peers.{NAMESPACE}.svc.cluster.local:4000/v1/cluster");
        let mut curl = self.lab.client_command("curl");
        let Ok(output) = curl.args(["-sS", "-m", "2", &url]).output() else {
            return false;
        };
        let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        said.is_some_and(|said| said["leader"] == true)
    }

    fn until_flowing(&self, writer: &Writer) -> Result<()> {
        let flows = || Ok(writer.since_acknowledged().is_some_and(|ago| ago < FLOWING));
        let explain = || format!("{:?}\n{}", writer.tally(), self.database.explain());
        wait_until(
            "writes are acknowledged again",
            TAKE_OVER,
            Duration::from_millis(20),
            flows,
            explain,
        )
    }

    /// Every pod is ready, and every region of the table has its three replicas and a leader.
    fn until_whole(&self) -> Result<()> {
        let are_there = || {
            let pods = self.database.placed()?;
            Ok(pods.len() == PODS && pods.iter().all(|p| p.is_ready))
        };
        let pause = Duration::from_millis(200);
        let explain = || self.database.explain();
        wait_until("every pod is ready", BACK, pause, are_there, explain)?;
        let whole = || {
            let Ok(regions) = self.regions().all() else {
                return Ok(false);
            };
            Ok(regions.len() == 3 && regions.iter().all(|r| r.leader.is_some() && r.peers.len() == 3))
        };
        wait_until("every region is led", BACK, pause, whole, explain)?;
        self.database.wait_ready(BACK)?;
        // Replicas apply what they have missed; nothing says from outside when that is done.
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }
}
