//! Orders of metasrv that take their time, one after the other.

use std::rc::Rc;

use greptime_log::{Change, Input, Member};
use greptime_metasrv_plan::assignment;
use greptime_rules::{Checkpoint, View};
use greptime_types::{Error, RegionId, Result, TableInfo, format};

use super::Datanode;
use super::log::CHANGE_WITHIN;
use crate::entry::Entry;
use crate::message::{ChangeMembers, Initialise, Push};
use crate::region::{Region, State};
use crate::sim::Micros;
use crate::trace::Branch;

/// Index at which the log of a new region begins.
const FIRST_INDEX: u64 = 1;

impl Datanode {
    pub(super) async fn obey_orders(self: Rc<Self>) {
        while let Some(order) = self.orders.take(&self.sim, Micros::MAX).await {
            // What is not carried out is repeated until a report shows that it was.
            let _ = match order {
                Push::Initialise(order) => self.initialise(order),
                Push::ChangeMembers(order) => self.change_members(order).await,
                Push::Alter(region, table) => self.alter(region, &table).await,
                Push::DropReplica(region) => self.drop_replica(region),
                _ => Ok(()),
            };
        }
    }

    fn initialise(&self, order: Initialise) -> Result<()> {
        let id = order.region;
        if self.region(id).is_some() {
            return Ok(());
        }
        let joins = order.voters.is_empty();
        let checkpoint = Checkpoint {
            format: format::FORMAT_VERSION,
            table: order.table.as_ref().clone(),
            flushed_seq: if joins { 0 } else { FIRST_INDEX },
            manifest_version: 0,
            requests: Default::default(),
        };
        let bytes = checkpoint.encode()?;
        let manifest = (!joins).then(View::default);
        self.insert_region(Region::new(id, checkpoint, manifest));
        if joins {
            self.sim.hit(Branch::ReplicaJoins);
        }
        self.tell(vec![Input::Initialise(greptime_log::Initialise {
            region: id,
            raft_id: order.raft_id,
            voters: order.voters,
            members: order.members.iter().map(member).collect(),
            checkpoint: bytes,
        })]);
        Ok(())
    }

    async fn change_members(&self, order: ChangeMembers) -> Result<()> {
        let region = self
            .region(order.region)
            .ok_or_else(|| Error::unavailable("it is not here"))?;
        region.admit(order.epoch, 0, &self.sim)?;
        let learners = order.learners.iter().map(member).map(Change::AddLearner);
        let voters = order.voters.iter().map(member).map(Change::AddVoter);
        let removed = order.remove.into_iter().map(|raft_id| Change::Remove { raft_id });
        let changes: Vec<Change> = learners.chain(voters).chain(removed).collect();
        if !order.voters.is_empty() && !region.read(State::is_replicated) {
            self.sim.hit(Branch::GroupOfOneGrows);
        }
        if changes.iter().any(|c| matches!(c, Change::Remove { .. })) {
            self.sim.hit(Branch::MemberIsReplaced);
        }
        let members = order.members.iter().map(member).collect();
        let until = self.sim.now() + CHANGE_WITHIN;
        let changed = self.ask(order.region, None, until, |token| Input::Change {
            region: order.region,
            token,
            changes,
            members,
        });
        changed.await.map(drop)
    }

    /// Only the leader is told, and only it can.
    async fn alter(&self, id: RegionId, table: &TableInfo) -> Result<()> {
        let region = self
            .region(id)
            .ok_or_else(|| Error::unavailable("it is not here"))?;
        if table.schema.version <= region.read(|s| s.table().schema.version) {
            return Ok(());
        }
        let data = Entry::Alter(Box::new(table.clone())).encode();
        let until = self.sim.now() + CHANGE_WITHIN;
        let altered = self.ask(id, None, until, |token| Input::Propose {
            region: id,
            token,
            data,
        });
        altered.await.map(drop)
    }

    /// The region goes on elsewhere.
    fn drop_replica(&self, id: RegionId) -> Result<()> {
        if let Some(region) = self.regions.borrow_mut().remove(&id) {
            region.change(|s| s.fail("its replica was dropped".into()));
            self.sim.hit(Branch::ReplicaLeaves);
        }
        self.tell(vec![Input::Drop { region: id }]);
        Ok(())
    }
}

fn member(member: &assignment::Member) -> Member {
    Member {
        raft_id: member.raft_id,
        node: member.node,
    }
}
