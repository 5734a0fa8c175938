//! `ADMIN force_recover_region`: of a group that lost its majority for good, one replica goes on alone.
//!
//! Everything that was flushed is on the object store, whoever is lost. Of what was not, the survivor has what reached it:
//! all that was acknowledged if it leads in the newest epoch. Else what only the others had is lost, though it may have been
//! acknowledged. So metasrv does this for a person who asks for it, and refuses where it need not be, or where somebody else
//! has more ([`Bereaved::leave_to`](greptime_metasrv_plan::failover::Bereaved::leave_to)).

use std::collections::BTreeSet;
use std::time::Duration;

use greptime_metasrv_plan::failover::Survivor;
use greptime_metasrv_plan::migration::Phase;
use greptime_proto::v1::{self, push};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{Error, NodeId, NodeRole, RegionId, Result};
use tracing::warn;

use super::start::{begun, members_of};
use super::{ForceRecoverRegion, Procedure, Work};
use crate::catalog::{Catalog, Edit, Member};
use crate::failover::bereaved;
use crate::repair::leader_of;
use crate::server::{Metasrv, State};

/// An order to go on alone.
pub(super) struct Recover {
    pub(super) region: RegionId,
    node: NodeId,
    body: v1::RecoverRegion,
}

impl Recover {
    pub(super) fn say(&self, state: &State) {
        if let Some(session) = state.sessions.get(NodeRole::Datanode, self.node) {
            session.say(push::Body::Recover(self.body));
        }
    }
}

/// What the survivor is to be told, unless it leads alone already.
pub(super) fn order(state: &State, work: &ForceRecoverRegion) -> Option<Recover> {
    (!is_recovered(state, work)).then_some(Recover {
        region: work.region,
        node: work.node,
        body: v1::RecoverRegion {
            region_id: work.region.as_u64(),
            raft_id: work.raft_id,
            seen_term: work.seen_term,
        },
    })
}

fn is_recovered(state: &State, work: &ForceRecoverRegion) -> bool {
    leader_of(state, work.region).is_some_and(|led| {
        led.raft_id == work.raft_id && led.epoch > work.seen_term && led.voters == [work.raft_id].into()
    })
}

impl Metasrv {
    pub(crate) async fn force_recover_region(
        &self,
        request: v1::ForceRecoverRegion,
    ) -> Result<v1::DdlResponse> {
        let region = RegionId::from_u64(request.region_id);
        let mut procedure = None;
        let catalog = self
            .change(|catalog| {
                let is_same = |p: &&Procedure| match &p.work {
                    Work::ForceRecoverRegion(work) => (work.region, work.node) == (region, request.survivor_node),
                    _ => false,
                };
                if let Some(running) = catalog.running().find(is_same) {
                    procedure = Some((running.id.clone(), false));
                    return Ok(vec![]);
                }
                let of = (region, request.survivor_node);
                let (survivor, others) = survivor(&mut self.state.lock(), catalog, of, self.now())?;
                let work = ForceRecoverRegion {
                    region,
                    node: survivor.node,
                    raft_id: survivor.raft_id,
                    seen_term: survivor.seen_term,
                };
                let record = Procedure {
                    reason: Some(what_is_kept(&survivor)),
                    ..self.record(i64::MAX, Work::ForceRecoverRegion(work))
                };
                warn!(%region, node = request.survivor_node, procedure = %record.id, "a replica goes on alone");
                procedure = Some((record.id.clone(), true));
                let member = Member {
                    node: survivor.node,
                    raft_id: survivor.raft_id,
                };
                let members = catalog.put_survivor(region, &member, &others);
                let ended = catalog.migration_of(region).map(|moving| self.given_up(moving));
                let records = ended.into_iter().chain([record]).map(Edit::PutProcedure);
                Ok(members.into_iter().chain(records).collect())
            })
            .await?;
        Ok(begun(&catalog, region.table(), procedure))
    }

    /// A migration of the region has nothing to move any more, and would change who is recorded.
    fn given_up(&self, moving: &Procedure) -> Procedure {
        let mut record = Procedure {
            format: FORMAT_VERSION,
            reason: Some("a replica of the region goes on alone".into()),
            ..moving.clone()
        };
        record.enter(Phase::Aborted, self.options.clock.wall_ms());
        record
    }

    /// Ends those whose replica leads alone. From then on the group gets its other members anew.
    pub(super) async fn end_recoveries(&self) -> Result<()> {
        let is_any = {
            let state = self.state.lock();
            let catalog = state.catalog.as_ref();
            catalog.is_some_and(|catalog| over(&state, catalog).next().is_some())
        };
        if !is_any {
            return Ok(());
        }
        // Decided again inside, from the newest catalog.
        let changed = self.change(|catalog| {
            let ended = |p: &Procedure| Procedure {
                format: FORMAT_VERSION,
                ended_ms: Some(self.options.clock.wall_ms()),
                ..p.clone()
            };
            let state = self.state.lock();
            Ok(over(&state, catalog).map(ended).map(Edit::PutProcedure).collect())
        });
        changed.await.map(drop)
    }
}

/// Recoveries whose replica leads alone, or whose table is gone.
fn over<'a>(state: &'a State, catalog: &'a Catalog) -> impl Iterator<Item = &'a Procedure> {
    catalog.running().filter(|p| match &p.work {
        Work::ForceRecoverRegion(work) => {
            is_recovered(state, work) || !catalog.tables.contains_key(&work.region.table())
        }
        _ => false,
    })
}

/// The replica that goes on, and who voted or learned beside it, recorded or not.
fn survivor(
    state: &mut State,
    catalog: &Catalog,
    (region, node): (RegionId, NodeId),
    now: Duration,
) -> Result<(Survivor, BTreeSet<u64>)> {
    members_of(catalog, region)?;
    let watch = state.watch.as_mut().ok_or_else(|| {
        Error::unavailable("this metasrv does not lead any more; the next one takes the request")
    })?;
    let group = bereaved((&state.sessions, watch), catalog, region, now);
    let survivor = group
        .leave_to(node)
        .map_err(|refusal| match refusal.is_for_a_moment() {
            true => Error::unavailable(refusal.to_string()),
            false => Error::invalid(refusal.to_string()),
        })?;
    let own = state.sessions.last_said(node, region);
    let others = own.into_iter().flat_map(|r| r.voters.iter().chain(&r.learners));
    Ok((survivor, others.copied().collect()))
}

fn what_is_kept(survivor: &Survivor) -> String {
    let Survivor { kept, log, .. } = survivor;
    format!(
        "kept: {kept} (its log ends at entry {}, up to {} in files)",
        log.last_index, log.flushed_index
    )
}
