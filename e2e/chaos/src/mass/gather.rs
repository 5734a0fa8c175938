//! Makes one datanode lead all regions.
//!
//! Only leadership moves where the datanode has a replica already, as it has of all with three datanodes. So a thousand
//! regions are enough for a thousand leaders, and not three thousand.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::tables::Place;
use crate::cluster::{Cluster, RegionReport, migrate};

/// metasrv moves so many at the same time; more would wait there.
const AT_ONCE: usize = 8;
const TELL_EVERY: Duration = Duration::from_secs(30);
/// metasrv hands a region back that is not led by whom it prefers, when that one has been well for two seconds. Who
/// leads after this time is left alone.
const SETTLED: Duration = Duration::from_secs(3);

/// Returns when the cluster is whole and the datanode has led every region for a while.
pub async fn gather(cluster: &Cluster, client: &reqwest::Client, node: usize) -> Result<()> {
    let mut settled = false;
    loop {
        let regions = cluster.until_whole().await?;
        let moves = elsewhere(&regions, node);
        if moves.is_empty() {
            if settled {
                return Ok(());
            }
            tokio::time::sleep(SETTLED).await;
            settled = true;
            continue;
        }
        settled = false;
        println!("datanode {node} gets the leadership of {} regions", moves.len());
        let all = moves.len();
        let (moved, failed) = move_all(client, &cluster.frontend_http, moves, node).await?;
        if let Some(error) = failed {
            // What has changed since the regions were looked at can be moved the next time.
            if moved == 0 {
                return Err(error.context(format!("none of {all} regions can be moved")));
            }
            println!(
                "{} of {all} moves have failed, one of them by: {error:#}",
                all - moved
            );
        }
    }
}

/// The regions that others lead, and who does.
fn elsewhere(regions: &[RegionReport], node: usize) -> Vec<(String, usize)> {
    let ours = regions.iter().filter(|r| Place::of(r).is_some());
    let led = ours.filter_map(|r| Some((r.region.clone(), r.leader?)));
    led.filter(|(_, leader)| *leader != node).collect()
}

/// How many regions have moved, and why another has not.
async fn move_all(
    client: &reqwest::Client,
    frontend: &str,
    regions: Vec<(String, usize)>,
    to: usize,
) -> Result<(usize, Option<Error>)> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut moves = JoinSet::new();
    let all = regions.len();
    for (region, from) in regions {
        let (client, frontend, permits) = (client.clone(), frontend.to_owned(), Arc::clone(&permits));
        moves.spawn(async move {
            let _permit = permits.acquire().await;
            migrate(&client, &frontend, &region, from, to).await
        });
    }
    let (mut moved, mut failed, mut told) = (0, None, Instant::now());
    while let Some(outcome) = moves.join_next().await {
        match outcome.context("a move has failed")? {
            Ok(()) => moved += 1,
            Err(error) => failed = Some(error),
        }
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            println!("{moved}/{all} have moved");
        }
    }
    Ok((moved, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regions_of_ours_that_others_lead_are_moved() {
        let region = |table: &str, region: &str, leader| RegionReport {
            region: region.to_owned(),
            table: Some(table.to_owned()),
            leader,
            voters: vec![0, 1, 2],
            hot: vec![0, 1],
        };
        let regions = [
            region("public.mass_0", "1024:0", Some(0)),
            region("public.mass_0", "1024:1", Some(2)),
            region("public.other", "1025:0", Some(2)),
            // It cannot be moved, and no cluster is whole with it.
            region("public.mass_1", "1026:0", None),
        ];
        assert_eq!(elsewhere(&regions, 0), [("1024:1".to_owned(), 2)]);
    }
}
