//! One fault, from a whole cluster to a whole cluster, and what is measured of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::cluster::{Cluster, RegionReport};
use crate::copied::{Added, Stock};
use crate::faults::{Fault, Kind, inflict, undo};
use crate::load::{HOSTS, Load};
use crate::numbers::milliseconds;
use crate::report::{BINS_AFTER, BINS_BEFORE, Entry, Seen};
use crate::steps::{Handover, LEAD, Line, Moment, Outage, Steps, phases};

/// Writes that are not acknowledged for so long have failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is looked at around a fault.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(500);
/// In which nothing happens, before a fault; ordinary gaps are those of such stretches.
const QUIET: Duration = Duration::from_secs(1);
/// Writes before and after the death of metasrv or etcd are compared over this time.
const COMPARED: Duration = Duration::from_secs(5);
/// How often metasrv is asked who leads, while it matters.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// How often they are asked who leads among themselves, which takes seconds.
const WATCH_EVERY: Duration = Duration::from_millis(20);
/// After a kill, for so long the others are alone: what the new start costs is no part of the gap.
const ALONE: Duration = Duration::from_millis(100);
/// Within this a datanode has counted the file that it has put.
const COUNTED_WITHIN: Duration = Duration::from_secs(1);
/// An acknowledgement that comes so soon after a fault was on its way before it.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// What a round works with.
pub struct Round<'a> {
    pub fault: Fault,
    pub cluster: &'a mut Cluster,
    pub load: &'a Load,
    pub entry: &'a mut Entry,
}

/// A region that a fault hit.
struct Hit {
    number: usize,
    region: String,
}

impl Round<'_> {
    pub async fn run(mut self) -> Result<()> {
        match self.fault.kind() {
            Kind::OneDatanode => self.one_datanode().await?,
            Kind::Control => self.control().await?,
            Kind::Move => self.migrate().await?,
            Kind::EachDatanode => self.each_datanode().await?,
            Kind::ManyLeaders | Kind::Cost => bail!("{} needs other regions than these", self.fault.name()),
        }
        self.entry.count += 1;
        Ok(())
    }

    /// A stretch in which nothing happens, to a cluster that is whole; the regions at its end.
    async fn quiet(&mut self, length: Duration) -> Result<Vec<RegionReport>> {
        self.cluster.check_processes()?;
        self.cluster.until_whole().await?;
        let (began, mut passed) = (Instant::now(), Duration::ZERO);
        while passed < length {
            passed += QUIET;
            sleep_until(began + passed).await;
            let now = Instant::now();
            for region in 0..HOSTS.len() {
                let gap = self.load.longest_gap(region, now - QUIET, now);
                self.entry.samples.ordinary.push(milliseconds(gap.length));
            }
        }
        self.cluster.until_whole().await
    }

    /// For how long nothing happens first. Of what happens most often, a quarter of the rounds says what is ordinary;
    /// before the others is the quiet that the last round ended with.
    fn stretch(&self) -> Duration {
        let is_frequent = matches!(self.fault, Fault::Kill | Fault::Migrate);
        match is_frequent && !self.entry.count.is_multiple_of(4) {
            true => Duration::ZERO,
            false => QUIET,
        }
    }

    async fn one_datanode(&mut self) -> Result<()> {
        let regions = self.quiet(self.stretch()).await?;
        let (turn, nodes) = (self.entry.count, self.cluster.datanodes());
        // Another one each time, as far as it leads something.
        let mut victims = (0..nodes).map(|n| (turn + n) % nodes);
        let victim = victims.find(|n| !led_by(&regions, *n).is_empty());
        let victim = victim.context("nobody leads anything")?;
        let hits = led_by(&regions, victim);
        let process = self.cluster.incarnation(victim).await?;
        let log = self.cluster.metasrv_log();
        let began = inflict(self.fault, self.cluster, victim, turn)?;
        let led = self.while_it_lasts(&hits, victim, began).await?;
        undo(self.fault, self.cluster, victim)?;
        let undone = Instant::now();
        self.until_acknowledged(&hits, undone).await?;
        let ended = Instant::now();
        let lines = log.read()?;
        if self.fault.ends_datanode() {
            self.cluster.until_another(victim, process).await?;
        }
        self.cluster.until_whole().await?;
        sleep(AFTER).await;
        self.until_shown(began.at).await;
        for hit in &hits {
            let gap = self.load.longest_gap(hit.number, began.at - BEFORE, ended);
            let led = led.get(&hit.number).copied();
            let first = led.and_then(|at| self.load.first_since(hit.number, at - ASK_EVERY * 2));
            let outage = Outage {
                began,
                victim,
                region: &hit.region,
                led,
                acknowledged: first,
            };
            let (steps, orders) = (outage.steps(&lines), outage.orders(&lines));
            self.note(hit, began.at, gap.length, steps, orders);
        }
        self.note_return(ended);
        Ok(())
    }

    /// Waits until the regions that were hit are written to again, and the fault has lasted as long as it should; when
    /// metasrv was first seen to know other leaders.
    async fn while_it_lasts(
        &self,
        hits: &[Hit],
        victim: usize,
        began: Moment,
    ) -> Result<BTreeMap<usize, Instant>> {
        let (least, most) = self.fault.lasts();
        let mut led = BTreeMap::new();
        let over = async {
            self.watch_leaders(hits, victim, &mut led).await;
            self.until_acknowledged(hits, began.at + ON_ITS_WAY).await
        };
        // One that the others do not take over from must be undone.
        match tokio::time::timeout(most, over).await {
            Ok(outcome) => outcome?,
            Err(_) => println!("nobody has taken over from datanode {victim} for {most:?}"),
        }
        if self.fault == Fault::Kill {
            sleep(ALONE).await;
        }
        sleep_until(began.at + least).await;
        Ok(led)
    }

    async fn watch_leaders(&self, hits: &[Hit], victim: usize, led: &mut BTreeMap<usize, Instant>) {
        while led.len() < hits.len() {
            let regions = self.cluster.regions().await.unwrap_or_default();
            let now = Instant::now();
            let others = regions.iter().filter(|r| r.leader.is_some_and(|l| l != victim));
            for region in others {
                if let Some(hit) = hits.iter().find(|hit| hit.region == region.region) {
                    led.entry(hit.number).or_insert(now);
                }
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// metasrv or etcd dies, which no write should feel.
    async fn control(&mut self) -> Result<()> {
        self.quiet(COMPARED).await?;
        let victim = match self.fault {
            Fault::MetasrvKill => self.cluster.leading_metasrv().await?,
            _ => 0,
        };
        let began = inflict(self.fault, self.cluster, victim, self.entry.count)?;
        let (mut nobody_led, undo_at) = (None, began.at + self.fault.lasts().0);
        // It watches until it is stopped, here by the time.
        let _ = timeout_at(undo_at, self.watch_metasrv(&mut nobody_led)).await;
        undo(self.fault, self.cluster, victim)?;
        let undone = Instant::now();
        let _ = timeout_at(began.at + COMPARED, self.watch_metasrv(&mut nobody_led)).await;
        tokio::select! {
            whole = self.cluster.until_whole() => drop(whole?),
            () = self.watch_metasrv(&mut nobody_led) => {}
        }
        let lead = nobody_led.map(|at| (LEAD.to_owned(), began.until(at)));
        let (steps, began): (Steps, _) = (lead.into_iter().collect(), began.at);
        // Who has come to lead has everybody come first.
        sleep(AFTER * 2).await;
        let ended = Instant::now();
        self.until_shown(began).await;
        self.note_return(undone);
        for time in self.load.latencies(began - COMPARED, began) {
            self.entry.samples.before.add(time);
        }
        for time in self.load.latencies(began, began + COMPARED) {
            self.entry.samples.after.add(time);
        }
        for time in self.load.latencies(ended - COMPARED, ended) {
            self.entry.samples.whole.add(time);
        }
        for number in 0..HOSTS.len() {
            let region = String::new();
            let gap = self.load.longest_gap(number, began - BEFORE, ended);
            self.note(&Hit { number, region }, began, gap.length, steps.clone(), 0);
        }
        Ok(())
    }

    /// Asks who leads among the metasrv, for ever; notes when nobody was last seen to.
    async fn watch_metasrv(&self, nobody_led: &mut Option<Instant>) {
        loop {
            if self.cluster.leading_metasrv().await.is_err() {
                *nobody_led = Some(Instant::now());
            }
            sleep(WATCH_EVERY).await;
        }
    }

    async fn migrate(&mut self) -> Result<()> {
        let regions = self.quiet(self.stretch()).await?;
        let (turn, nodes) = (self.entry.count, self.cluster.datanodes());
        let number = turn % HOSTS.len();
        let region = regions
            .iter()
            .find(|r| is_of_table(r) && r.number() == Some(number));
        let region = region.context("the region is not there")?;
        let from = region.leader.context("nobody leads the region")?;
        let mut outside = (0..nodes).filter(|n| !region.voters.contains(n));
        let mut followers = region.voters.iter().copied().filter(|n| *n != from);
        let to = match turn.is_multiple_of(2) {
            true => outside.next(),
            false => followers.next(),
        };
        let to = to.context("there is no datanode to move to")?;
        let before = Stock::now(self.cluster).await?;
        ensure!(
            before.bytes_of_rows() > 0,
            "there are no files that a move could copy"
        );
        let log = self.cluster.log();
        let moment = Moment::now();
        let began = moment.at;
        self.cluster.migrate(&region.region, from, to).await?;
        let took = milliseconds(began.elapsed());
        self.cluster.until_whole().await?;
        sleep(AFTER).await;
        self.until_shown(began).await;
        let gap = self.load.longest_gap(number, began - BEFORE, Instant::now());
        let hit = Hit {
            number,
            region: region.region.clone(),
        };
        let added = self.added_since(&before).await?;
        self.entry.note_move(added);
        let (mut steps, orders) = self.steps_of_move(&hit, &log.read()?, moment);
        steps.insert("move".to_owned(), took);
        let gap_began = gap.ended - gap.length;
        steps.insert(
            "gap_at".to_owned(),
            milliseconds(gap_began.saturating_duration_since(began)),
        );
        self.note(&hit, began, gap.length, steps, orders);
        Ok(())
    }

    /// The phases of a move, and the steps of the handover in it; how often metasrv had to order the latter.
    fn steps_of_move(&self, hit: &Hit, lines: &[Line], began: Moment) -> (Steps, usize) {
        let mut steps = phases(lines, &hit.region, began);
        let Some(handover) = Handover::of(lines, &hit.region, began) else {
            return (steps, 0);
        };
        let first = self.load.first_since(hit.number, handover.taken_since());
        steps.extend(handover.steps(first));
        (steps, handover.orders)
    }

    /// What a move has added to the object store. A disk that takes its time may have files that are not counted yet: what
    /// looks copied is looked at again.
    async fn added_since(&self, before: &Stock) -> Result<Added> {
        let added = Stock::now(self.cluster).await?.since(before);
        if added.copied == 0 {
            return Ok(added);
        }
        sleep(COUNTED_WITHIN).await;
        Ok(Stock::now(self.cluster).await?.since(before))
    }

    async fn each_datanode(&mut self) -> Result<()> {
        for node in 0..self.cluster.datanodes() {
            let regions = self.quiet(QUIET).await?;
            let hits = led_by(&regions, node);
            let process = self.cluster.incarnation(node).await?;
            let log = self.cluster.metasrv_log();
            let began = Moment::now();
            self.cluster.end_datanode(node).await?;
            let end = milliseconds(began.at.elapsed());
            self.cluster.start_datanode(node)?;
            self.until_acknowledged(&hits, Instant::now()).await?;
            self.cluster.until_another(node, process).await?;
            self.cluster.until_whole().await?;
            sleep(AFTER).await;
            self.until_shown(began.at).await;
            let lines = log.read()?;
            for hit in &hits {
                let gap = self
                    .load
                    .longest_gap(hit.number, began.at - BEFORE, Instant::now());
                let outage = Outage {
                    began,
                    victim: node,
                    region: &hit.region,
                    led: None,
                    acknowledged: None,
                };
                let mut steps = outage.steps(&lines);
                steps.insert("end".to_owned(), end);
                self.note(hit, began.at, gap.length, steps, 0);
            }
        }
        Ok(())
    }

    /// Waits until something that was acknowledged after `since` is there for each region.
    async fn until_acknowledged(&self, hits: &[Hit], since: Instant) -> Result<()> {
        let is_back = |hit: &Hit| self.load.last(hit.number).is_some_and(|at| at > since);
        while !hits.iter().all(is_back) {
            ensure!(
                since.elapsed() < PATIENCE,
                "writes of regions {:?} are not acknowledged any more",
                hits.iter().map(|hit| &hit.region).collect::<Vec<_>>()
            );
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until the time around a fault that is shown has passed.
    async fn until_shown(&self, began: Instant) {
        sleep_until(began + self.fault.bin() * BINS_AFTER as u32).await;
    }

    fn note(&mut self, hit: &Hit, began: Instant, gap: Duration, steps: Steps, orders: usize) {
        self.entry.note(Seen {
            gap,
            sort: self.fault.sort(self.entry.count),
            steps,
            orders,
            timeline: timeline(self.load, hit.number, began, self.fault.bin()),
        });
    }

    /// The longest gap of any region since `from`, in which what was hit has come back.
    fn note_return(&mut self, from: Instant) {
        let now = Instant::now();
        let gaps = (0..HOSTS.len()).map(|region| self.load.longest_gap(region, from, now).length);
        let longest = gaps.max().unwrap_or_default();
        self.entry.samples.returns.push(milliseconds(longest));
    }
}

fn is_of_table(region: &RegionReport) -> bool {
    region.table.as_deref() == Some("public.chaos")
}

/// Regions of the table that a datanode leads.
fn led_by(regions: &[RegionReport], node: usize) -> Vec<Hit> {
    let led = regions
        .iter()
        .filter(|r| r.leader == Some(node) && is_of_table(r));
    let hit = |r: &RegionReport| {
        Some(Hit {
            number: r.number()?,
            region: r.region.clone(),
        })
    };
    led.filter_map(hit).collect()
}

/// Acknowledgements of a region around a fault, in each bin.
fn timeline(load: &Load, region: usize, began: Instant, bin: Duration) -> Vec<u64> {
    let from = began - bin * BINS_BEFORE as u32;
    let mut bins = vec![0; BINS_BEFORE + BINS_AFTER];
    for acknowledged in load.between(region, from, began + bin * BINS_AFTER as u32) {
        let passed = acknowledged.at.saturating_duration_since(from);
        let place = (passed.as_secs_f64() / bin.as_secs_f64()) as usize;
        if let Some(count) = bins.get_mut(place) {
            *count += 1;
        }
    }
    bins
}
