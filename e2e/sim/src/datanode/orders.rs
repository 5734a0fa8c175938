//! Orders of metasrv that take their time, one after the other.

use std::collections::VecDeque;
use std::rc::Rc;

use greptime_log::{Change, InFiles, Input, Member};
use greptime_metasrv_plan::assignment;
use greptime_rules::{Checkpoint, View};
use greptime_types::{Error, RegionId, Result, TableInfo, format};

use super::Datanode;
use super::log::CHANGE_WITHIN;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::message::{ChangeMembers, Initialise, Push};
use crate::region::{Region, State};
use crate::rules::holds;
use crate::sim::Micros;
use crate::trace::Branch;

/// So many orders of a lane wait.
const MOST_WAITING: usize = 4;

/// Orders that wait for a group: of which region, and whether it is the one that ends it.
pub type Lane = (RegionId, bool);

/// Index at which the log of a new region begins.
const FIRST_INDEX: u64 = 1;

impl Datanode {
    pub(super) async fn obey_orders(self: Rc<Self>) {
        while let Some(order) = self.orders.take(&self.sim, Micros::MAX).await {
            let lane = match &order {
                Push::ChangeMembers(order) => Some((order.region, false)),
                Push::Alter(region, _) => Some((*region, false)),
                Push::Recover { region, .. } => Some((*region, true)),
                _ => None,
            };
            match lane.filter(|_| holds("StuckGroupsHoldUpNobody")) {
                None => self.obey(order).await,
                Some(lane) if self.lanes.borrow().contains_key(&lane) => {
                    let mut lanes = self.lanes.borrow_mut();
                    let waiting = lanes.entry(lane).or_default();
                    if waiting.len() < MOST_WAITING {
                        waiting.push_back(order);
                    }
                }
                Some(lane) => {
                    self.lanes.borrow_mut().insert(lane, VecDeque::new());
                    self.sim.spawn(self.me, Rc::clone(&self).obey_lane(lane, order));
                }
            }
        }
    }

    async fn obey_lane(self: Rc<Self>, lane: Lane, first: Push) {
        let mut next = Some(first);
        while let Some(order) = next {
            self.obey(order).await;
            let mut lanes = self.lanes.borrow_mut();
            next = lanes.get_mut(&lane).and_then(VecDeque::pop_front);
            if next.is_none() {
                lanes.remove(&lane);
            }
        }
    }

    /// What is not carried out is repeated until a report shows that it was.
    async fn obey(&self, order: Push) {
        let _ = match order {
            Push::Initialise(order) => self.initialise(order),
            Push::ChangeMembers(order) => self.change_members(order).await,
            Push::Alter(region, table) => self.alter(region, &table).await,
            Push::DropReplica(region) => self.drop_replica(region),
            Push::Recover {
                region,
                raft_id,
                seen_term,
            } => self.recover(region, raft_id, seen_term).await,
            _ => Ok(()),
        };
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

    /// Makes a replica the only one of its group, and from the files if these have more.
    async fn recover(&self, region: RegionId, raft_id: u64, seen_term: u64) -> Result<()> {
        let manifest = Manifest {
            bucket: &self.bucket,
            region,
        };
        let view = manifest.load(0).await?;
        let term = self.region(region).map_or(0, |r| r.read(|s| s.status().term));
        if term > seen_term && holds("LateRecoveryIsVoid") {
            return Ok(());
        }
        let checkpoint = Checkpoint::of(&view).map(|checkpoint| checkpoint.encode());
        let files = checkpoint.transpose()?.map(|checkpoint| InFiles {
            through: view.flushed_seq,
            term: view.epoch,
            checkpoint,
        });
        self.tell(vec![Input::Recover {
            region,
            raft_id,
            seen_term: seen_term.max(view.epoch),
            files,
        }]);
        Ok(())
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
