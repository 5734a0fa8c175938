//! The regions of a table, as the database tells, and who is to lead them.

use std::time::Duration;

use anyhow::{Context, Result};
use greptime_lab::progress::wait_until;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::database::Database;
use crate::sql::Http;

/// A region takes another leader in a fraction of a second, on a busy machine in more.
pub const TAKE_OVER: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Region {
    pub region: String,
    /// Of the datanode.
    pub leader: Option<u64>,
    /// The datanodes that have a replica.
    pub peers: Vec<u64>,
}

/// The regions of one table.
pub struct Regions<'a> {
    pub database: &'a Database,
    pub runtime: &'a Runtime,
    pub http: &'a Http,
    pub table: &'a str,
}

/// The id of the datanode in a pod.
pub fn id_of(pod: &str) -> Result<u64> {
    let (_, id) = pod.rsplit_once('-').context("a pod's name ends in its number")?;
    Ok(id.parse()?)
}

impl Regions<'_> {
    pub fn all(&self) -> Result<Vec<Region>> {
        let statement = format!(
            "SELECT region, peer_id, is_leader FROM information_schema.region_peers WHERE table_name = '{}' ORDER BY \
             region, peer_id",
            self.table
        );
        let mut regions: Vec<Region> = Vec::new();
        for row in self.sql(&statement)? {
            let name = row[0].as_str().unwrap_or_default();
            let peer = row[1].as_u64().unwrap_or_default();
            if regions.last().is_none_or(|r| r.region != name) {
                regions.push(Region {
                    region: name.to_owned(),
                    leader: None,
                    peers: Vec::new(),
                });
            }
            let region = regions.last_mut().context("just added")?;
            region.peers.push(peer);
            if row[2] == "Yes" {
                region.leader = Some(peer);
            }
        }
        Ok(regions)
    }

    /// One that the datanode leads; if it leads none, one is handed to it.
    pub fn let_lead(&self, datanode: u64) -> Result<Region> {
        let regions = self.all()?;
        if let Some(led) = regions.iter().find(|r| r.leader == Some(datanode)) {
            return Ok(led.clone());
        }
        let other = regions.first().context("the table has no region")?;
        self.migrate(other, datanode)?;
        Ok(Region {
            leader: Some(datanode),
            ..other.clone()
        })
    }

    /// Moves a region, and waits until it is led there.
    pub fn migrate(&self, region: &Region, to: u64) -> Result<()> {
        let name = &region.region;
        let from = region.leader.with_context(|| format!("nobody leads {name}"))?;
        let order = format!("ADMIN migrate_region('{name}', {from}, {to})");
        self.sql(&order)?;
        let leads = || {
            let is_it = |r: &Region| r.region == *name && r.leader == Some(to);
            Ok(self.all()?.iter().any(is_it))
        };
        let pause = Duration::from_millis(50);
        wait_until(&order, TAKE_OVER, pause, leads, || self.database.explain())
    }

    fn sql(&self, statement: &str) -> Result<Vec<Vec<Value>>> {
        self.runtime.block_on(self.http.rows(statement))
    }
}
