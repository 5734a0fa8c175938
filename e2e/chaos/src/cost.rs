//! What it costs to keep the log on three datanodes: the same batches are written to a cluster with three voters for
//! each region and to one with a single voter, on the same machine, one after the other.
//!
//! ```text
//! start ─▶ write for a while ─▶ write and measure ─▶ count the rows ─▶ end      quorum, local; local, quorum; …
//! ```
//!
//! Each cluster is a new one, and alone: nothing but the batches and the processes themselves is at work.

mod batches;
mod memtables;
mod replication;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use crate::cluster::{Cluster, Shape};
use crate::cpu::Ticks;
use crate::faults::Fault;
use crate::network::Network;
use crate::report::{Entry, Report};
use crate::run::{Course, Ending, Plan};
use crate::schedule::Share;
use batches::Writers;
use memtables::{Memtables, Watch};
pub use replication::Replication;
use replication::{Taken, Turn};

/// Connections are made, and the first files of the log.
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);
const QUORUM: usize = 3;
const LOCAL: usize = 1;
/// A turn takes no longer.
const TURN: Duration = Duration::from_secs(60);

pub struct CostRun {
    plan: Plan,
    until: Instant,
    shape: Shape,
    network: Arc<Network>,
    report: Report,
}

/// What is counted of a cluster at one time.
struct Marks {
    at: Instant,
    rows: u64,
    peer_bytes: u64,
    write_bytes: Option<u64>,
}

impl CostRun {
    pub fn start(plan: Plan, shape: &Shape, network: Arc<Network>, report: Report) -> Self {
        Self {
            until: Instant::now() + plan.at_most,
            plan,
            shape: shape.clone(),
            network,
            report,
        }
    }

    fn entry(&mut self) -> &mut Entry {
        self.report.entry(Fault::ReplicationCost)
    }

    /// Both, by turns the one first and the other.
    async fn turn(&mut self) -> Result<()> {
        let busy = Ticks::now()?;
        let turn = if self.entry().count.is_multiple_of(2) {
            let quorum = self.write_to(QUORUM).await?;
            let local = self.write_to(LOCAL).await?;
            Turn { quorum, local }
        } else {
            let local = self.write_to(LOCAL).await?;
            let quorum = self.write_to(QUORUM).await?;
            Turn { quorum, local }
        };
        let busy = Ticks::now()?.since(busy);
        let entry = self.entry();
        entry.count += 1;
        entry.note_cpu(busy);
        entry.replication.get_or_insert_default().add(turn);
        entry.settle(Fault::ReplicationCost);
        Ok(())
    }

    /// What a new cluster takes.
    async fn write_to(&mut self, voters: usize) -> Result<Taken> {
        let shape = Shape {
            voters,
            dir: self.shape.dir.join(format!("voters-{voters}")),
            ..self.shape.clone()
        };
        let mut cluster = Cluster::start(&shape, Arc::clone(&self.network)).await?;
        let outcome = self.measure(&cluster).await;
        let (taken, outcome) = match outcome {
            Ok(taken) => (taken, Ok(())),
            Err(error) => (Taken::default(), Err(error)),
        };
        cluster.explained(outcome)?;
        drop(cluster);
        // The next one begins with nothing.
        std::fs::remove_dir_all(&shape.dir)?;
        Ok(taken)
    }

    async fn measure(&mut self, cluster: &Cluster) -> Result<Taken> {
        batches::create_table(cluster).await?;
        cluster.until_whole().await?;
        let (mut writers, mut watch) = (Writers::start(cluster)?, Watch::default());
        watch.look_for(cluster, WARM_UP).await?;
        let from = Marks::of(cluster, &writers).await?;
        watch.look_for(cluster, MEASURED).await?;
        let to = Marks::of(cluster, &writers).await?;
        let errors = writers.finish().await?;
        let (acknowledged, found) = (writers.rows(), batches::count(cluster).await?);
        let entry = self.entry();
        entry.client_errors += errors;
        entry.rows_acknowledged += acknowledged as usize;
        entry.rows_lost += acknowledged.saturating_sub(found) as usize;
        // What has failed may be there all the same.
        if errors == 0 {
            entry.rows_doubled += found.saturating_sub(acknowledged) as usize;
        }
        with_peaks(to.since(&from), cluster, &watch).await
    }
}

/// With the memory of each datanode by what it does for the region.
async fn with_peaks(mut taken: Taken, cluster: &Cluster, watch: &Watch) -> Result<Taken> {
    let regions = cluster.regions().await?;
    let region = regions.first().context("the region is not there")?;
    let mut memtables = Memtables {
        limit: watch.limit(),
        ..Memtables::default()
    };
    for node in &region.voters {
        let (peak, rows) = (cluster.peak_memory(*node)?, watch.most(*node));
        let (place, place_of_rows) = match region.leader == Some(*node) {
            true => (&mut taken.peak_leader, &mut memtables.leader),
            false if region.hot.contains(node) => (&mut taken.peak_hot_follower, &mut memtables.hot_follower),
            false => (
                &mut taken.peak_log_only_follower,
                &mut memtables.log_only_follower,
            ),
        };
        *place = peak.max(*place);
        *place_of_rows = rows.max(*place_of_rows);
    }
    // An older program does not tell what they may take.
    taken.memtables = (memtables.limit > 0).then_some(memtables);
    Ok(taken)
}

impl Marks {
    async fn of(cluster: &Cluster, writers: &Writers) -> Result<Self> {
        let mut peer_bytes = 0;
        for node in 0..cluster.datanodes() {
            let metrics = cluster.datanode_metrics(node).await?;
            peer_bytes += metrics.sum("greptime_datanode_peer_bytes_sent_total");
        }
        Ok(Self {
            peer_bytes,
            write_bytes: cluster.sent_by_frontend()?,
            rows: writers.rows(),
            at: Instant::now(),
        })
    }

    fn since(&self, before: &Self) -> Taken {
        let write_bytes = self.write_bytes.zip(before.write_bytes);
        Taken {
            rows: self.rows - before.rows,
            seconds: (self.at - before.at).as_secs_f64(),
            peer_bytes: self.peer_bytes.saturating_sub(before.peer_bytes),
            write_bytes: write_bytes.map(|(now, before)| now.saturating_sub(before)),
            ..Taken::default()
        }
    }
}

impl Course for CostRun {
    async fn all(&mut self) -> Result<Ending> {
        let missing = self.shares().iter().map(Share::missing).sum();
        for turn in 1..=missing {
            if Instant::now() + TURN.min(self.plan.at_most / 4) > self.until {
                return Ok(Ending::TimeIsUp);
            }
            let outcome = self.turn().await;
            outcome
                .with_context(|| format!("{}, turn {turn} of {missing}", Fault::ReplicationCost.name()))?;
            if let Some(replication) = &self.entry().replication {
                println!("{turn}/{missing}: {replication}");
            }
            self.plan.write(&mut self.report)?;
        }
        Ok(Ending::Whole)
    }

    async fn finish(&mut self) -> Result<()> {
        self.entry().settle(Fault::ReplicationCost);
        self.plan.write(&mut self.report)?;
        if self.entry().count > 0 {
            println!("\n{}\n{}", crate::report::heading(), self.entry());
        }
        self.report.check_sound()
    }

    fn shares(&self) -> Vec<Share> {
        self.plan.shares(&self.report)
    }
}
