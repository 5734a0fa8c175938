//! A whole run: the faults one kind after the other, and a report of what was done, however it ends.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::cluster::{Cluster, Shape};
use crate::cpu::Ticks;
use crate::faults::Fault;
use crate::floor::{self, Floor};
use crate::load::{self, Load};
use crate::mass::MassRun;
use crate::network::Network;
use crate::reader::{Counts, Readers};
use crate::report::{self, Entry, Report};
use crate::round::Round;
use crate::{numbers, picture};

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
    /// Writes the report of what was done, and its picture.
    pub fn write(&self, report: &Report) -> Result<()> {
        let done = |entry: &&Entry| entry.count > 0;
        let report = Report {
            entries: report.entries.iter().filter(done).cloned().collect(),
        };
        report.write(&self.report)?;
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
}

/// How a run ended that found nothing wrong.
pub enum Ending {
    Whole,
    /// With faults missing, and why.
    Early(&'static str),
}

/// Runs the plan. Interrupted once, it ends with a valid report; twice, at once.
pub async fn run(plan: Plan, shape: &Shape, network: Network) -> Result<Ending> {
    let mut stop = Stop::new()?;
    let report = match plan.resume {
        true => Report::read(&plan.report)?,
        false => Report::default(),
    };
    match plan.faults.contains(&Fault::MassKill) {
        true => carry_out(MassRun::start(plan, shape, network, report), &mut stop).await,
        false => carry_out(Run::start(plan, shape, network, report), &mut stop).await,
    }
}

async fn carry_out<C: Course>(start: impl Future<Output = Result<C>>, stop: &mut Stop) -> Result<Ending> {
    let mut course = tokio::select! {
        course = start => course?,
        () = stop.wanted() => return Ok(Ending::Early("interrupted before the first fault")),
    };
    let outcome = tokio::select! {
        outcome = course.all() => outcome,
        () = stop.wanted() => Ok(Ending::Early("interrupted")),
    };
    match &outcome {
        Ok(Ending::Whole) => {}
        Ok(Ending::Early(why)) => println!("{why}; the report will be of what was done"),
        Err(error) => println!("{error:#}; the report will be of what was done"),
    }
    tokio::select! {
        finished = course.finish() => finished?,
        () = stop.wanted() => bail!("interrupted again, without a report"),
    }
    outcome
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
    floor: Floor,
    began: Ticks,
    stretches: Vec<Stretch>,
    checked: Instant,
    told: Instant,
}

/// The part of a run in which one kind of fault happened.
struct Stretch {
    fault: Fault,
    /// For each region, the times of the rows that were written.
    from: Vec<i64>,
    to: Vec<i64>,
    /// Lost and doubled rows in the entry that is continued.
    lost_before: usize,
    doubled_before: usize,
}

/// What counted so far, in order to know what a stretch adds.
#[derive(Clone, Copy)]
struct Marks {
    errors: u64,
    rows: usize,
    reads: Counts,
    ticks: Ticks,
}

impl Run {
    async fn start(plan: Plan, shape: &Shape, network: Network, report: Report) -> Result<Self> {
        let until = Instant::now() + plan.at_most;
        let mut cluster = Cluster::start(shape, network).await?;
        load::create_table(&cluster).await?;
        cluster.until_whole().await?;
        let floor = floor::measure(&mut cluster, plan.floors).await?;
        println!(
            "floor, by {}: {:?} ms",
            floor.way.name(),
            floor
                .times
                .iter()
                .map(|ms| numbers::rounded(*ms))
                .collect::<Vec<_>>()
        );
        let load = Load::start(&cluster, plan.rate)?;
        let readers = Readers::start(&cluster, &load)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = Instant::now();
        Ok(Self {
            plan,
            until,
            cluster,
            load,
            readers,
            report,
            floor,
            began: Ticks::now()?,
            stretches: Vec::new(),
            checked: now,
            told: now,
        })
    }

    async fn one_kind(&mut self, fault: Fault, missing: usize) -> Result<Ending> {
        let from = self.load.next_times();
        let entry = self.report.entry(fault);
        entry.note_floor(&self.floor);
        self.stretches.push(Stretch {
            fault,
            to: from.clone(),
            from,
            lost_before: entry.rows_lost,
            doubled_before: entry.rows_doubled,
        });
        let mut marks = self.marks()?;
        let began = Instant::now();
        for round in 0..missing {
            if Instant::now() + TO_FINISH.min(self.plan.at_most / 4) > self.until {
                return Ok(Ending::Early("the time is up"));
            }
            let outcome = self.one_round(fault).await;
            self.settle(fault, &mut marks)?;
            let outcome = self.cluster.explained(outcome);
            outcome.with_context(|| format!("{}, round {} of {missing}", fault.name(), round + 1))?;
            self.tell(fault, round + 1, missing, began.elapsed());
            if self.checked.elapsed() > CHECK_EVERY {
                self.check().await?;
            }
        }
        self.check().await?;
        println!("{}\n{}", report::heading(), self.report.entry(fault));
        Ok(Ending::Whole)
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
            errors: self.load.errors(),
            rows: self.load.rows_acknowledged(),
            reads: self.readers.counts(),
            ticks: Ticks::now()?,
        })
    }

    /// Adds what has been counted since the marks to the entry, and sets the marks anew.
    fn settle(&mut self, fault: Fault, marks: &mut Marks) -> Result<()> {
        let now = self.marks()?;
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.to = self.load.next_times();
        }
        let entry = self.report.entry(fault);
        entry.client_errors += now.errors - marks.errors;
        entry.rows_acknowledged += now.rows - marks.rows;
        entry.reads += now.reads.reads - marks.reads.reads;
        entry.read_errors += now.reads.errors - marks.reads.errors;
        entry.stale_reads += now.reads.stale - marks.reads.stale;
        entry.note_cpu(now.ticks.since(marks.ticks));
        entry.settle(fault);
        *marks = now;
        Ok(())
    }

    fn tell(&mut self, fault: Fault, done: usize, missing: usize, took: Duration) {
        if self.told.elapsed() < TELL_EVERY && done < missing {
            return;
        }
        self.told = Instant::now();
        let mut left = took / done as u32 * (missing - done) as u32;
        let later = self.plan.faults.iter().skip_while(|f| **f != fault).skip(1);
        for fault in later.copied().collect::<Vec<_>>() {
            let missing = self.report.entry(fault).missing(self.plan.count);
            left += fault.usual_round() * missing as u32;
        }
        let gap = self.report.entry(fault).gap_ms;
        println!(
            "{} {done}/{missing}: gap p50 {:.0} p99 {:.0} max {:.0} ms; about {} min left",
            fault.name(),
            gap.p50,
            gap.p99,
            gap.max,
            left.as_secs().div_ceil(60)
        );
    }

    /// Reads back what this kind of fault may have lost, and writes the report.
    async fn check(&mut self) -> Result<()> {
        self.checked = Instant::now();
        if let Some(last) = self.stretches.len().checked_sub(1) {
            self.verify(last).await?;
        }
        self.plan.write(&self.report)
    }

    async fn verify(&mut self, stretch: usize) -> Result<()> {
        let stretch = &self.stretches[stretch];
        let damage = self
            .load
            .verify(&self.cluster, &stretch.from, &stretch.to)
            .await?;
        let entry = self.report.entry(stretch.fault);
        entry.rows_lost = stretch.lost_before + damage.lost;
        entry.rows_doubled = stretch.doubled_before + damage.doubled;
        Ok(())
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
            self.load.errors(),
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
        for fault in self.plan.faults.clone() {
            let missing = self.report.entry(fault).missing(self.plan.count);
            if missing == 0 {
                println!("{}: {} are in the report already", fault.name(), self.plan.count);
                continue;
            }
            if let early @ Ending::Early(_) = self.one_kind(fault, missing).await? {
                return Ok(early);
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
        let mut unread = Ok(());
        for stretch in 0..self.stretches.len() {
            unread = unread.and(self.verify(stretch).await);
        }
        // A report says what was done, whatever has become of the cluster.
        self.plan.write(&self.report)?;
        self.print(busy);
        unread.context("what was written could not be read back")?;
        self.report.check_sound()?;
        // What belongs to no entry is there too.
        ensure!(self.readers.counts().stale == 0, "reads were stale");
        Ok(())
    }
}
