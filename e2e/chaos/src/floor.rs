//! The floor of a gap: a bare change of leaders between the same processes, with one writer that sends one write after
//! the other, and nothing else. No fault can be over sooner, on this machine.
//!
//! A move of the leadership to the hot follower has no detection in it: order, election, commit, route, resend. Where
//! the database has no such order, a leader is killed instead, and the time until metasrv's verdict is taken off.
//!
//! The floor of a move is the handover itself: from metasrv's order until the first entry of the new term is committed, while
//! nobody writes at all.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENCE, RegionReport};
use crate::load::{HOSTS, Load};
use crate::numbers::{milliseconds, rounded};
use crate::steps::{Handover, Moment, Outage, Steps};

const QUIET: Duration = Duration::from_millis(1_000);
const AFTER: Duration = Duration::from_millis(300);
/// The writer sends to this region.
const REGION: usize = 0;

/// How a change of leaders was brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Migrate,
    IdleKill,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::IdleKill => "idle_kill",
        }
    }
}

/// What handovers are called as the floor of moves.
pub const HANDOVER: &str = "handover";

pub struct Floor {
    pub way: Way,
    /// The gaps of the writer, each in milliseconds.
    pub times: Vec<f64>,
    /// Handovers while nobody writes.
    pub bare: Vec<Bare>,
}

/// A handover with nothing else at work.
pub struct Bare {
    /// With `move`, all of `ADMIN migrate_region`.
    pub steps: Steps,
    /// From the order, in milliseconds; nothing if the datanodes do not tell.
    pub until_committed: Option<f64>,
}

impl Floor {
    /// How long bare handovers took, of those that are known.
    pub fn handovers(&self) -> Vec<f64> {
        self.bare.iter().filter_map(|bare| bare.until_committed).collect()
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |times: &[f64]| times.iter().map(|ms| rounded(*ms)).collect::<Vec<_>>();
        write!(f, "floor, by {}: {:?} ms", self.way.name(), told(&self.times))?;
        match (self.bare.len(), self.handovers().as_slice()) {
            (0, _) => Ok(()),
            (_, []) => write!(f, "; when a bare handover is committed is not told"),
            (_, times) => write!(f, "; bare handovers: {:?} ms", told(times)),
        }
    }
}

/// Changes the leader of a region some times. Nothing else may be writing. `handovers`: how often it does so while not even
/// its own writer writes.
pub async fn measure(cluster: &mut Cluster, times: usize, handovers: usize) -> Result<Floor> {
    let stop = Arc::new(AtomicBool::new(false));
    let (load, writer) = Load::sequential(cluster, HOSTS[REGION], Arc::clone(&stop))?;
    let mut floor = Floor {
        way: Way::Migrate,
        times: Vec::new(),
        bare: Vec::new(),
    };
    for _ in 0..times {
        let time = match floor.way {
            Way::Migrate => match migrate(cluster, &load).await {
                Ok(time) => Some(time),
                Err(error) if floor.times.is_empty() => {
                    println!("no floor by moving the leader ({error:#}): a leader is killed instead");
                    floor.way = Way::IdleKill;
                    kill(cluster, &load).await?
                }
                Err(error) => return Err(error),
            },
            Way::IdleKill => kill(cluster, &load).await?,
        };
        floor.times.extend(time);
    }
    stop.store(true, Ordering::SeqCst);
    writer.await?;
    if floor.way == Way::Migrate {
        for _ in 0..handovers {
            floor.bare.push(hand_over(cluster).await?);
        }
    }
    cluster.until_whole().await?;
    Ok(floor)
}

async fn quiet(cluster: &Cluster) -> Result<(RegionReport, usize)> {
    cluster.until_whole().await?;
    tokio::time::sleep(QUIET).await;
    let regions = cluster.until_whole().await?;
    let region = regions.into_iter().find(|r| r.number() == Some(REGION));
    let region = region.context("the region is not there")?;
    let leader = region.leader.context("nobody leads the region")?;
    Ok((region, leader))
}

fn heir_of(region: &RegionReport, leader: usize) -> Result<usize> {
    let heir = region.hot.iter().find(|node| **node != leader);
    heir.copied().context("no follower is hot")
}

async fn hand_over(cluster: &Cluster) -> Result<Bare> {
    let (region, leader) = quiet(cluster).await?;
    let heir = heir_of(&region, leader)?;
    let log = cluster.log();
    let began = Moment::now();
    cluster.migrate(&region.region, leader, heir).await?;
    let took = milliseconds(began.at.elapsed());
    tokio::time::sleep(AFTER).await;
    let handover = Handover::of(&log.read()?, &region.region, began);
    let mut steps = handover.map_or_else(Steps::new, |handover| handover.steps(None));
    steps.insert("move".to_owned(), took);
    Ok(Bare {
        steps,
        until_committed: handover.and_then(|handover| handover.until_committed()),
    })
}

async fn migrate(cluster: &Cluster, load: &Load) -> Result<f64> {
    let (region, leader) = quiet(cluster).await?;
    let heir = heir_of(&region, leader)?;
    let began = Instant::now();
    cluster.migrate(&region.region, leader, heir).await?;
    tokio::time::sleep(AFTER).await;
    let gap = load.longest_gap(0, began, Instant::now());
    Ok(gap.length.as_secs_f64() * 1000.0)
}

/// Nothing if metasrv did not say when it knew.
async fn kill(cluster: &mut Cluster, load: &Load) -> Result<Option<f64>> {
    let (region, leader) = quiet(cluster).await?;
    let log = cluster.metasrv_log();
    let began = Moment::now();
    cluster.kill_datanode(leader)?;
    while load.last(0).is_none_or(|at| at < began.at + AFTER / 10) {
        ensure!(
            began.at.elapsed() < PATIENCE,
            "the writer is not answered any more"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(AFTER).await;
    let gap = load.longest_gap(0, began.at - AFTER, Instant::now());
    let outage = Outage {
        began,
        victim: leader,
        region: &region.region,
        led: None,
        acknowledged: None,
    };
    let steps = outage.steps(&log.read()?);
    cluster.start_datanode(leader)?;
    let verdict = steps.get("detect");
    Ok(verdict.map(|detect| (began.until(gap.ended) - detect).max(0.0)))
}
