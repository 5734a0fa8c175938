//! A datanode that leads very many regions is killed, and each of them is written to at once: how long until the last
//! one takes a row.
//!
//! ```text
//! gather ─▶ a row for each region ─▶ SIGKILL ─▶ a row for each region ─▶ new start ─▶ whole ─▶ gather …
//!           ordinary                 gap, of each region from the kill to the acknowledgement
//! ```
//!
//! The regions are in a cluster of their own, with nothing else in it: neither the schedule of the other faults nor
//! their readers. Each write is sent once; what the frontend does not deliver is an error.

mod gather;
mod sweep;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::cluster::{Cluster, Shape};
use crate::cpu::Ticks;
use crate::faults::{Fault, inflict, undo};
use crate::load;
use crate::network::Network;
use crate::numbers::milliseconds;
use crate::process;
use crate::report::{self, Entry, LeadersLost, Report, Seen, bin_of};
use crate::run::{Course, Ending, Plan};
use crate::schedule::Share;
use crate::steps::{Moment, Outage, Steps, TAKE_OVER};
use sweep::{Sweep, sweep};
use tables::{Place, Row, Tables};

/// The same one each time: the other voters of a region that it leads are the same then, and take over as many each.
const VICTIM: usize = 0;
/// Reading everything back and writing the report takes no longer.
const TO_FINISH: Duration = Duration::from_secs(120);

pub struct MassRun {
    plan: Plan,
    until: Instant,
    cluster: Cluster,
    client: reqwest::Client,
    tables: Tables,
    report: Report,
    /// What was acknowledged.
    rows: Vec<Row>,
    sweeps: i64,
    /// Lost and doubled rows in the entry that is continued.
    before: load::Damage,
}

impl MassRun {
    pub async fn start(plan: Plan, shape: &Shape, network: Arc<Network>, mut report: Report) -> Result<Self> {
        let until = Instant::now() + plan.at_most;
        let entry = report.entry(Fault::MassKill);
        check_same_number(entry, plan.leaders)?;
        let before = load::Damage {
            lost: entry.rows_lost,
            doubled: entry.rows_doubled,
        };
        // A connection for each region, here and at the frontend.
        process::allow_many_files()?;
        let cluster = Cluster::start(shape, network).await?;
        let began = Instant::now();
        let tables = Tables::of(plan.leaders);
        tables.create(&cluster).await?;
        cluster.until_whole().await?;
        println!(
            "{} regions in {} tables, after {:.1} s",
            plan.leaders,
            tables.names().count(),
            began.elapsed().as_secs_f64()
        );
        Ok(Self {
            client: load::client()?,
            plan,
            until,
            cluster,
            tables,
            report,
            rows: Vec::new(),
            sweeps: 0,
            before,
        })
    }

    fn entry(&mut self) -> &mut Entry {
        self.report.entry(Fault::MassKill)
    }

    async fn round(&mut self) -> Result<()> {
        self.cluster.check_processes()?;
        gather::gather(&self.cluster, &self.client, VICTIM).await?;
        let led = self.led_by_victim().await?;
        let began = Moment::now();
        let ordinary = self.sweep(&led).await?;
        let times = ordinary.times(began);
        self.entry().samples.ordinary.extend(times);
        // So many writes at once may have made it look unwell.
        gather::gather(&self.cluster, &self.client, VICTIM).await?;
        let led = self.led_by_victim().await?;
        let before = self.cluster.incarnation(VICTIM).await?;
        self.kill(&led).await?;
        let started = Instant::now();
        // What the killed process has said may be believed for a while.
        self.cluster.until_another(VICTIM, before).await?;
        self.cluster.until_whole().await?;
        let entry = self.entry();
        if let Some(lost) = entry.leaders_lost.last_mut() {
            lost.whole_after_ms = Some(milliseconds(started.elapsed()));
        }
        entry.settle(Fault::MassKill);
        Ok(())
    }

    /// The regions that the victim leads, with their names: all that there are.
    async fn led_by_victim(&self) -> Result<BTreeMap<Place, String>> {
        let regions = self.cluster.regions().await?;
        let led = regions.iter().filter(|r| r.leader == Some(VICTIM));
        let led: BTreeMap<Place, String> = led
            .filter_map(|r| Some((Place::of(r)?, r.region.clone())))
            .collect();
        ensure!(
            led.len() == self.plan.leaders,
            "datanode {VICTIM} leads {} of {} regions, though nothing has happened to it",
            led.len(),
            self.plan.leaders
        );
        Ok(led)
    }

    /// Kills the victim, writes to each region that it led, notes when each took its row, and starts it again.
    async fn kill(&mut self, led: &BTreeMap<Place, String>) -> Result<()> {
        let log = self.cluster.metasrv_log();
        let busy = Ticks::now()?;
        // When this returns the process is gone: no row can be acknowledged by the one that is killed.
        let began = inflict(Fault::MassKill, &mut self.cluster, VICTIM, 0)?;
        let sweep = self.sweep(led).await?;
        let busy = Ticks::now()?.since(busy);
        undo(Fault::MassKill, &mut self.cluster, VICTIM)?;
        let lines = log.read()?;
        let seen = sweep.acknowledged.iter().map(|(place, at)| {
            let outage = Outage {
                began,
                victim: VICTIM,
                region: &led[place],
                led: None,
                acknowledged: Some(*at),
            };
            let gap = at.saturating_duration_since(began.at);
            Seen {
                gap,
                sort: None,
                steps: with_take_over(outage.steps(&lines), milliseconds(gap)),
                orders: outage.orders(&lines),
                timeline: bin_of(gap, Fault::MassKill.bin()),
            }
        });
        let seen: Vec<Seen> = seen.collect();
        let entry = self.entry();
        seen.into_iter().for_each(|seen| entry.note(seen));
        let errors = sweep.errors.len();
        let lost = LeadersLost::of(led.len(), &sweep.times(began), errors);
        entry.leaders_lost.push(lost);
        entry.note_cpu(busy);
        entry.count += 1;
        entry.settle(Fault::MassKill);
        Ok(())
    }

    /// Writes one row to each region, and keeps in mind what was acknowledged.
    async fn sweep(&mut self, led: &BTreeMap<Place, String>) -> Result<Sweep> {
        let time = load::FIRST_TIME + self.sweeps;
        self.sweeps += 1;
        let url = load::write_url(&self.cluster);
        let sweep = sweep(&self.client, &url, led.keys().copied(), time).await?;
        let acknowledged = sweep.acknowledged.iter();
        self.rows
            .extend(acknowledged.map(|(place, _)| Row { place: *place, time }));
        if let Some(why) = sweep.errors.first() {
            println!("{} writes failed, one of them by: {why}", sweep.errors.len());
        }
        let entry = self.report.entry(Fault::MassKill);
        entry.client_errors += sweep.errors.len() as u64;
        entry.rows_acknowledged += sweep.acknowledged.len();
        Ok(sweep)
    }

    /// Reads all rows back.
    async fn verify(&mut self) -> Result<()> {
        let damage = self.tables.verify(&self.cluster, &self.rows).await?;
        let before = self.before;
        let entry = self.entry();
        entry.rows_lost = before.lost + damage.lost;
        entry.rows_doubled = before.doubled + damage.doubled;
        Ok(())
    }
}

impl Course for MassRun {
    async fn all(&mut self) -> Result<Ending> {
        let missing = self.shares().iter().map(Share::missing).sum();
        for round in 1..=missing {
            if Instant::now() + TO_FINISH.min(self.plan.at_most / 4) > self.until {
                return Ok(Ending::TimeIsUp);
            }
            let outcome = self.round().await;
            let outcome = self.cluster.explained(outcome);
            outcome.with_context(|| format!("{}, round {round} of {missing}", Fault::MassKill.name()))?;
            if let Some(lost) = self.entry().leaders_lost.last() {
                println!("{round}/{missing}: {lost}");
            }
            self.plan.write(&mut self.report)?;
        }
        Ok(Ending::Whole)
    }

    async fn finish(&mut self) -> Result<()> {
        self.cluster.mend()?;
        if let Err(error) = self.cluster.until_whole().await {
            println!("{error:#}");
        }
        let read = self.verify().await;
        self.entry().settle(Fault::MassKill);
        // A report says what was done, whatever has become of the cluster.
        self.plan.write(&mut self.report)?;
        if self.entry().count > 0 {
            println!("\n{}\n{}", report::heading(), self.entry());
        }
        read.context("what was written could not be read back")?;
        self.report.check_sound()
    }

    fn shares(&self) -> Vec<Share> {
        self.plan.shares(&self.report)
    }
}

/// Numbers of kills of so many leaders say nothing about kills of others.
fn check_same_number(entry: &Entry, leaders: usize) -> Result<()> {
    let other = entry.leaders_lost.iter().find(|lost| lost.leaders != leaders);
    if let Some(lost) = other {
        anyhow::bail!(
            "the report has kills of datanodes that led {} regions, and cannot be continued with {leaders}",
            lost.leaders
        );
    }
    Ok(())
}

/// What remains of the gap after metasrv's order. When each region got its leader is not asked: a thousand are much to
/// tell, and telling would take the time that is measured.
fn with_take_over(mut steps: Steps, gap: f64) -> Steps {
    if let (Some(detect), Some(campaign)) = (steps.get("detect"), steps.get("campaign")) {
        let rest = (gap - detect - campaign).max(0.0);
        steps.insert(TAKE_OVER.to_owned(), rest);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_metasrv_did_not_need_is_the_take_over() {
        let steps = [("detect", 20.0), ("campaign", 30.0)].map(|(name, ms)| (name.to_owned(), ms));
        assert_eq!(with_take_over(steps.into(), 400.0)[TAKE_OVER], 350.0);
        assert!(with_take_over(Steps::new(), 400.0).is_empty(), "it is not known");
    }

    #[test]
    fn a_report_is_continued_with_as_many_leaders_only() {
        let mut entry = Entry::new("mass_kill");
        assert!(check_same_number(&entry, 1_000).is_ok());
        entry.leaders_lost.push(LeadersLost::of(50, &[40.0], 0));
        assert!(check_same_number(&entry, 50).is_ok());
        let refused = check_same_number(&entry, 1_000).unwrap_err();
        assert!(refused.to_string().contains("led 50 regions"), "{refused}");
    }
}
