//! `ADMIN force_recover_region`: of a group that lost its majority for good, one replica goes on alone.
//!
//! Everything that was flushed is on the object store, whoever is lost. Of what was not, the survivor has what reached it:
//! all that was acknowledged if it leads in the newest epoch ([`Kept`]). Else what only the others had is lost, though it
//! may have been acknowledged. So metasrv does this for a person who asks for it, and refuses where it need not be, or where
//! somebody else has more.

use std::collections::BTreeSet;
use std::time::Duration;

use greptime_metasrv_plan::failover::{Kept, Remains};
use greptime_metasrv_plan::members::Electorate;
use greptime_metasrv_plan::migration::Phase;
use greptime_metasrv_plan::{Verdict, majority};
use greptime_proto::v1::{self, push};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{Error, NodeId, NodeRole, RegionId, Result};
use tracing::warn;

use super::start::{begun, member_on, members_of};
use super::{ForceRecoverRegion, Procedure, Work};
use crate::catalog::{Catalog, Edit, Member};
use crate::failover::{electorate, log_end};
use crate::repair::leader_of;
use crate::server::{Metasrv, State};

/// By how much the survivor's term is above every one that is known. Terms that nobody is left to tell of (of an
/// election that only the lost ones saw, in routes of frontends, in the manifest) are above the known ones by the number
/// of those elections at most. So everything of theirs is older for ever: frontends take the new route, files of theirs
/// replace nobody, and they are fenced if they come back and lead among themselves.
const ABOVE_ALL_KNOWN: u64 = 1 << 20;

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
                let state = self.state.lock();
                let survivor = Survivor::choose(&state, catalog, (region, request.survivor_node), self.now())?;
                let work = ForceRecoverRegion {
                    region,
                    node: survivor.member.node,
                    raft_id: survivor.member.raft_id,
                    seen_term: survivor.seen_term,
                };
                let record = Procedure {
                    reason: Some(survivor.what_is_kept()),
                    ..self.record(i64::MAX, Work::ForceRecoverRegion(work))
                };
                warn!(%region, node = request.survivor_node, procedure = %record.id, "a replica goes on alone");
                procedure = Some((record.id.clone(), true));
                let members = catalog.put_survivor(region, &survivor.member, &survivor.others);
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

/// The replica that goes on.
struct Survivor {
    member: Member,
    /// Raft ids of those that voted or learned beside it, recorded or not.
    others: BTreeSet<u64>,
    seen_term: u64,
    last_index: u64,
    flushed_index: u64,
    kept: Kept,
}

impl Survivor {
    fn choose(
        state: &State,
        catalog: &Catalog,
        (region, node): (RegionId, NodeId),
        now: Duration,
    ) -> Result<Self> {
        let recorded = members_of(catalog, region)?;
        let Electorate { voters, strangers } = electorate(&state.sessions, catalog, region);
        let count = voters.len() + strangers;
        let voters: Vec<Member> = voters.into_iter().map(|(_, member)| member.into()).collect();
        let learners = recorded.iter().filter(|m| !voters.contains(m));
        let known: Vec<Member> = voters.iter().chain(learners).cloned().collect();
        let member = member_on(&known, region, node)?;
        let watch = state.watch.as_ref();
        let verdict = |m: &Member| watch.and_then(|watch| watch.verdict(m.node));
        let is_heard = |m: &Member| watch.is_some_and(|watch| watch.hears(m.node, now));
        let report = |member: &Member| {
            let session = state.sessions.get(NodeRole::Datanode, member.node);
            let report = session.filter(|_| is_heard(member))?.reports.get(&region)?;
            let is_whole = report.role() != v1::RegionRole::Failed && report.raft_id == member.raft_id;
            is_whole.then_some(report)
        };
        let alive: Vec<&Member> = voters.iter().filter(|m| report(m).is_some()).collect();
        let own = report(member).ok_or_else(|| {
            Error::invalid(format!(
                "datanode {node} is away, has not been heard for a moment, or has no replica of region {region} any more"
            ))
        })?;
        if alive.len() >= majority(count) {
            return Err(Error::invalid(format!(
                "a majority of region {region} is there ({}); it needs no recovery",
                names(&alive)
            )));
        }
        if let Some(voter) = alive.first().filter(|_| !voters.contains(member)) {
            return Err(Error::invalid(format!(
                "the replica on datanode {node} has no vote yet and may lack much; let datanode {} survive",
                voter.node
            )));
        }
        let position = |r: &v1::RegionReport| (r.last_term, r.last_index);
        if let Some(better) = alive
            .iter()
            .find(|m| report(m).is_some_and(|r| position(r) > position(own)))
        {
            return Err(Error::invalid(format!(
                "datanode {} has more of region {region}; let that one survive",
                better.node
            )));
        }
        let is_gone = |m: &&Member| is_heard(m) || verdict(m).is_some_and(Verdict::is_dead);
        let lost = voters.iter().filter(|m| report(m).is_none());
        if let Some(unsure) = lost.clone().find(|m| !is_gone(m)) {
            let is = verdict(unsure).map_or("not known yet".into(), ToString::to_string);
            return Err(Error::unavailable(format!(
                "datanode {} has not been found to be dead yet ({is}); try again in a moment",
                unsure.node
            )));
        }
        let said = voters
            .iter()
            .filter_map(|m| state.sessions.last_said(m.node, region));
        let said = said.map(|r| r.epoch.max(r.last_term)).max();
        let seen = state.watch.as_ref().map(|watch| watch.highest_led(region));
        Ok(Self {
            member: member.clone(),
            others: own.voters.iter().chain(&own.learners).copied().collect(),
            seen_term: said.max(seen).unwrap_or(0) + ABOVE_ALL_KNOWN,
            last_index: own.last_index,
            flushed_index: own.flushed_index,
            kept: remains(state, catalog, region, own).kept(),
        })
    }

    fn what_is_kept(&self) -> String {
        format!(
            "kept: {} (its log ends at entry {}, up to {} in files)",
            self.kept, self.last_index, self.flushed_index
        )
    }
}

/// What is known of the group of a replica that goes on alone.
fn remains(state: &State, catalog: &Catalog, region: RegionId, own: &v1::RegionReport) -> Remains {
    let Electorate { voters, strangers } = electorate(&state.sessions, catalog, region);
    let others = voters.iter().filter(|(_, member)| member.raft_id != own.raft_id);
    let others = others.map(|(_, member)| {
        let said = state.sessions.last_said(member.node, region);
        let said = said.filter(|report| report.raft_id == member.raft_id);
        said.map(|report| report.epoch.max(report.last_term))
    });
    let led = state.watch.as_ref().map(|watch| watch.highest_led(region));
    Remains {
        leads: (own.role() == v1::RegionRole::Leader).then_some(own.epoch),
        log: log_end(own, Duration::ZERO),
        led: led.unwrap_or(0),
        others: others.collect(),
        strangers,
    }
}

fn names(members: &[&Member]) -> String {
    let names: Vec<String> = members.iter().map(|m| format!("datanode {}", m.node)).collect();
    names.join(", ")
}
