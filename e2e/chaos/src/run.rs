//! A whole run: the kinds of faults by turns, and a report of what was done, however it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::cluster::{Cluster, Shape};
use crate::cost::CostRun;
use crate::cpu::Ticks;
use crate::faults::Fault;
use crate::floor::{self, Floor};
use crate::load::{self, Damage, Load};
use crate::mass::MassRun;
use crate::network::Network;
use crate::picture;
use crate::reader::{Counts, Readers};
use crate::report::{self, Report};
use crate::round::Round;
use crate::schedule::{self, Share};
use crate::written::{Tally, Written};

/// Above this share of the machine, times say more of the machine than of the database.
const BUSY_AT_MOST: f64 = 70.0;
/// How often a long run reads back what it wrote, and writes its report.
const CHECK_EVERY: Duration = Duration::from_secs(120);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Reading everything back and writing the report takes no longer.
const TO_FINISH: Duration = Duration::from_secs(120);

/// What a run does.
pub struct Plan {
    pub faults: Vec<Fault>,
    pub count: usize,
    pub rate: u32,
    pub report: PathBuf,
    pub resume: bool,
    pub at_most: Duration,
    pub floors: usize,
    /// Regions that the one leads that is killed for the sake of all of them.
    pub leaders: usize,
}

impl Plan {
    /// What is done of each kind, and what is to be done.
    pub fn shares(&self, report: &Report) -> Vec<Share> {
        let share = |fault: &Fault| Share {
            fault: *fault,
            done: report.count(*fault),
            wanted: fault.times(self.count),
        };
        self.faults.iter().map(share).collect()
    }

    /// Writes the report of what was done and what is missing, and its picture.
    pub fn write(&self, report: &mut Report) -> Result<()> {
        for share in self.shares(report) {
            report.entry(share.fault).missing = share.missing();
        }
        let mut report = report.clone();
        report.entries.retain(|entry| entry.count + entry.missing > 0);
        report.write(&self.report)?;
        report
            .entries
            .retain(|entry| entry.count > 0 && entry.replication.is_none());
        let file = self.report.with_extension("svg");
        Ok(std::fs::write(
            file,
            picture::draw(&report.entries, f64::from(self.rate)),
        )?)
    }
}

/// Faults on a cluster that has started.
pub trait Course {
    /// Does them all.
    async fn all(&mut self) -> Result<Ending>;

    /// Reads back what was written, and writes the report. An error if anything is lost, doubled or stale.
    async fn finish(&mut self) -> Result<()>;

    fn shares(&self) -> Vec<Share>;
}

/// How a run ended that found nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Whole,
    /// With faults missing.
    TimeIsUp,
    Interrupted,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "all is done",
            Self::TimeIsUp => "the time is up",
            Self::Interrupted => "interrupted",
        })
    }
}

/// Runs the plan. Interrupted once, it ends with a valid report; twice, at once.
pub async fn run(plan: Plan, shape: &Shape, network: Network) -> Result<Ending> {
    let mut stop = Stop::new()?;
    let report = match plan.resume {
        true => Report::read(&plan.report)?,
        false => Report::default(),
    };
    let network = Arc::new(network);
    match plan.faults.as_slice() {
        [Fault::MassKill, ..] => carry_out(MassRun::start(plan, shape, network, report), &mut stop).await,
        [Fault::ReplicationCost, ..] => {
            let start = async { Ok(CostRun::start(plan, shape, network, report)) };
            carry_out(start, &mut stop).await
        }
        _ => carry_out(Run::start(plan, shape, network, report), &mut stop).await,
    }
}

async fn carry_out<C: Course>(start: impl Future<Output = Result<C>>, stop: &mut Stop) -> Result<Ending> {
    let mut course = tokio::select! {
        course = start => course?,
        () = stop.wanted() => {
            println!("interrupted before the first fault");
            return Ok(Ending::Interrupted);
        }
    };
    let outcome = tokio::select! {
        outcome = course.all() => outcome,
        () = stop.wanted() => Ok(Ending::Interrupted),
    };
    match &outcome {
        Ok(Ending::Whole) => {}
        Ok(early) => println!("{early}; the report will be of what was done"),
        Err(error) => println!("{error:#}; the report will be of what was done"),
    }
    tokio::select! {
        finished = course.finish() => finished?,
        () = stop.wanted() => bail!("interrupted again, without a report"),
    }
    if let Ok(early @ (Ending::TimeIsUp | Ending::Interrupted)) = &outcome {
        println!(
            "{early}; missing: {}. RESUME=1, or --resume, goes on with the report",
            missing(&course.shares())
        );
    }
    outcome
}

/// What is still to come, in words.
fn missing(shares: &[Share]) -> String {
    let missing = shares.iter().filter(|share| share.missing() > 0);
    let words =
        missing.map(|share| format!("{} of {} {}", share.missing(), share.wanted, share.fault.name()));
    words.collect::<Vec<_>>().join(", ")
}

/// SIGINT and SIGTERM.
struct Stop(Signal, Signal);

impl Stop {
    fn new() -> Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self(interrupt, signal(SignalKind::terminate())?))
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

struct Run {
    plan: Plan,
    until: Instant,
    cluster: Cluster,
    load: Load,
    readers: Readers,
    report: Report,
    began: Ticks,
    written: Written,
    /// The fault whose round has begun last, and may have been interrupted.
    at_work: Option<Fault>,
    /// Of the report that is continued.
    before: BTreeMap<Fault, Tally>,
    /// How long the rounds of each kind took, and how many they were.
    took: BTreeMap<Fault, (Duration, u32)>,
    checked: Instant,
    told: Instant,
}

/// What counted so far, in order to know what a stretch adds.
#[derive(Clone, Copy)]
struct Marks {
    rows: usize,
    reads: Counts,
    ticks: Ticks,
}

impl Run {
    async fn start(plan: Plan, shape: &Shape, network: Arc<Network>, mut report: Report) -> Result<Self> {
        let until = Instant::now() + plan.at_most;
        let mut cluster = Cluster::start(shape, network).await?;
        load::create_table(&cluster).await?;
        cluster.until_whole().await?;
        let handovers = match plan.faults.contains(&Fault::Migrate) {
            true => plan.floors,
            false => 0,
        };
        let floor = floor::measure(&mut cluster, plan.floors, handovers).await?;
        println!("{floor}");
        let before = prepare(&mut report, &plan, &floor);
        let load = Load::start(&cluster, plan.rate)?;
        let readers = Readers::start(&cluster, &load)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Whoever takes over, or moves, has files too.
        load::flush(&cluster).await?;
        let now = Instant::now();
        Ok(Self {
            plan,
            until,
            cluster,
            load,
            readers,
            report,
            began: Ticks::now()?,
            written: Written::default(),
            at_work: None,
            before,
            took: BTreeMap::new(),
            checked: now,
            told: now,
        })
    }

    async fn one_round(&mut self, fault: Fault) -> Result<()> {
        let round = Round {
            fault,
            cluster: &mut self.cluster,
            load: &self.load,
            entry: self.report.entry(fault),
        };
        round.run().await
    }

    fn marks(&self) -> Result<Marks> {
        Ok(Marks {
            rows: self.load.rows_acknowledged(),
            reads: self.readers.counts(),
            ticks: Ticks::now()?,
        })
    }

    /// Adds what has been counted since the marks to the entry, and sets the marks anew.
    fn settle(&mut self, fault: Fault, marks: &mut Marks) -> Result<()> {
        let now = self.marks()?;
        self.written.note(fault, self.load.next_times());
        let entry = self.report.entry(fault);
        entry.rows_acknowledged += now.rows - marks.rows;
        entry.reads += now.reads.reads - marks.reads.reads;
        entry.read_errors += now.reads.errors - marks.reads.errors;
        entry.stale_reads += now.reads.stale - marks.reads.stale;
        entry.note_cpu(now.ticks.since(marks.ticks));
        *marks = now;
        self.settle_rows();
        Ok(())
    }

    /// What came of the rows of each kind, some of which was not known yet when its round ended.
    fn settle_rows(&mut self) {
        let tallies = self.written.tally(&self.load.failed());
        for (fault, before) in &self.before {
            let now = tallies.get(fault).copied().unwrap_or_default();
            let entry = self.report.entry(*fault);
            entry.client_errors = before.errors + now.errors;
            entry.rows_lost = before.damage.lost + now.damage.lost;
            entry.rows_doubled = before.damage.doubled + now.damage.doubled;
            entry.settle(*fault);
        }
    }

    fn tell(&mut self, fault: Fault) {
        let shares = self.shares();
        let left: usize = shares.iter().map(Share::missing).sum();
        if self.told.elapsed() < TELL_EVERY && left > 0 {
            return;
        }
        self.told = Instant::now();
        let time: Duration = shares
            .iter()
            .map(|share| self.usual_round(share.fault) * share.missing() as u32)
            .sum();
        let entry = self.report.entry(fault);
        let gap = entry.gap_ms;
        println!(
            "{}, {} times: gap p50 {:.0} p99 {:.0} max {:.0} ms; {left} faults left, about {} min",
            fault.name(),
            entry.count,
            gap.p50,
            gap.p99,
            gap.max,
            time.as_secs().div_ceil(60)
        );
    }

    /// About how long a round of it takes.
    fn usual_round(&self, fault: Fault) -> Duration {
        let seen = self.took.get(&fault);
        seen.map_or(fault.usual_round(), |(all, rounds)| *all / *rounds)
    }

    /// Reads back what was written since this was done last, and writes the report.
    async fn check(&mut self) -> Result<()> {
        self.checked = Instant::now();
        self.written.read_back(&self.load, &self.cluster, false).await?;
        self.settle_rows();
        self.plan.write(&mut self.report)
    }

    fn print(&self, busy: f64) {
        println!("\n{}", report::heading());
        for entry in self.report.entries.iter().filter(|e| e.count > 0) {
            println!("{entry}");
        }
        let reads = self.readers.counts();
        println!(
            "{} rows acknowledged, {} errors; {} reads, {} of them without an answer, {} stale; the machine was {busy:.0} % \
             busy",
            self.load.rows_acknowledged(),
            self.load.failed().iter().map(Vec::len).sum::<usize>(),
            reads.reads,
            reads.errors,
            reads.stale
        );
        if busy > BUSY_AT_MOST {
            println!(
                "WARNING: more than {BUSY_AT_MOST} % busy: times are longer than on a machine that has time; compare them \
                 with those of ordinary commits and with the floor"
            );
        }
    }
}

impl Course for Run {
    async fn all(&mut self) -> Result<Ending> {
        let mut marks = self.marks()?;
        while let Some(fault) = schedule::next(&self.shares()) {
            if Instant::now() + TO_FINISH.min(self.plan.at_most / 4) > self.until {
                return Ok(Ending::TimeIsUp);
            }
            let began = Instant::now();
            self.at_work = Some(fault);
            let outcome = self.one_round(fault).await;
            self.settle(fault, &mut marks)?;
            let outcome = self.cluster.explained(outcome);
            let number = self.report.count(fault) + 1;
            outcome.with_context(|| format!("{}, number {number}", fault.name()))?;
            let (all, rounds) = self.took.entry(fault).or_default();
            (*all, *rounds) = (*all + began.elapsed(), *rounds + 1);
            self.tell(fault);
            if self.checked.elapsed() > CHECK_EVERY {
                self.check().await?;
            }
        }
        Ok(Ending::Whole)
    }

    async fn finish(&mut self) -> Result<()> {
        let busy = Ticks::now()?.since(self.began).percent();
        self.cluster.mend()?;
        if let Err(error) = self.cluster.until_whole().await {
            println!("{error:#}");
        }
        self.readers.finish().await?;
        self.load.finish().await?;
        if let Some(fault) = self.at_work {
            self.written.note(fault, self.load.next_times());
        }
        let read = self.written.read_back(&self.load, &self.cluster, true).await;
        self.settle_rows();
        // A report says what was done, whatever has become of the cluster.
        self.plan.write(&mut self.report)?;
        self.print(busy);
        read.context("what was written could not be read back")?;
        self.report.check_sound()?;
        // What belongs to no entry is there too.
        ensure!(self.readers.counts().stale == 0, "reads were stale");
        Ok(())
    }

    fn shares(&self) -> Vec<Share> {
        self.plan.shares(&self.report)
    }
}

/// Notes the floor of each kind that is to come; what has become of the rows of a report that is continued.
fn prepare(report: &mut Report, plan: &Plan, floor: &Floor) -> BTreeMap<Fault, Tally> {
    let mut before = BTreeMap::new();
    for share in plan.shares(report) {
        let entry = report.entry(share.fault);
        if share.missing() > 0 && !before.contains_key(&share.fault) {
            entry.note_floor(share.fault, floor);
        }
        let damage = Damage {
            lost: entry.rows_lost,
            doubled: entry.rows_doubled,
        };
        let errors = entry.client_errors;
        before.insert(share.fault, Tally { errors, damage });
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(report: PathBuf) -> Plan {
        Plan {
            faults: vec![Fault::Kill, Fault::Stop, Fault::EtcdKill],
            count: 100,
            rate: 200,
            report,
            resume: false,
            at_most: Duration::from_secs(60),
            floors: 1,
            leaders: 2,
        }
    }

    #[test]
    fn a_report_names_what_is_missing_and_what_never_happened() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path().join("chaos.json"));
        let mut report = Report::default();
        report.entry(Fault::Kill).count = 90;
        report.entry(Fault::Stop).count = 20;
        plan.write(&mut report).unwrap();
        let written = Report::read(&plan.report).unwrap();
        let missing: Vec<_> = written
            .entries
            .iter()
            .map(|e| (e.fault.as_str(), e.count, e.missing))
            .collect();
        assert_eq!(missing, [("kill", 90, 10), ("stop", 20, 0), ("etcd_kill", 0, 20)]);
        let words = super::missing(&plan.shares(&report));
        assert_eq!(words, "10 of 100 kill, 20 of 20 etcd_kill");
    }

    #[test]
    fn what_a_report_has_already_is_kept_when_it_is_continued() {
        let plan = plan(PathBuf::from("chaos.json"));
        let floor = Floor {
            way: floor::Way::Migrate,
            times: vec![4.0],
            bare: Vec::new(),
        };
        let mut report = Report::default();
        report.entry(Fault::Kill).client_errors = 7;
        report.entry(Fault::Stop).count = 20;
        let before = prepare(&mut report, &plan, &floor);
        assert_eq!(before[&Fault::Kill].errors, 7);
        let floors = |fault| {
            report
                .entries
                .iter()
                .find(|e| e.fault == fault)
                .map(|e| e.samples.floors.len())
        };
        assert_eq!((floors("kill"), floors("stop")), (Some(1), Some(0)));
    }
}
