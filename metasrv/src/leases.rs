//! What is promised to leaders in the answers to their beats.

use std::collections::BTreeSet;
use std::time::Duration;

use greptime_metasrv_plan::lease::{Elector, Granted, LeaderBeat, Led, Unheard};
use greptime_metasrv_plan::members::Electorate;
use greptime_proto::v1::{RegionReport, RegionRole};
use greptime_types::{NodeId, NodeRole, RegionId};

use crate::catalog::Catalog;
use crate::failover::electorate;
use crate::server::State;
use crate::sessions::Sessions;
use crate::watch::Beat;

impl State {
    /// Takes in what a datanode's beat says that came in its session just now; what is promised in the answer.
    /// `session_ends`: until when this metasrv surely leads.
    pub(crate) fn has_beaten(
        &mut self,
        (node, serial): (NodeId, u64),
        mut said: Beat,
        session_ends: Duration,
        now: Duration,
    ) -> Granted {
        let session = self.sessions.get(NodeRole::Datanode, node);
        let unheard = session.and_then(|session| session.touch.unheard());
        said.unheard = unheard;
        if let Some(watch) = self.watch.as_mut() {
            watch.beat((node, serial), said, now);
        }
        self.lease(node, unheard, session_ends, now)
    }

    fn lease(
        &mut self,
        node: NodeId,
        unheard: Option<Unheard>,
        session_ends: Duration,
        now: Duration,
    ) -> Granted {
        let (Some(watch), Some(catalog)) = (&mut self.watch, &self.catalog) else {
            return Granted::default();
        };
        let Some(session) = self.sessions.get(NodeRole::Datanode, node) else {
            return Granted::default();
        };
        let is_given_up = |r: &RegionReport| catalog.is_given_up(RegionId::from_u64(r.region_id), r.raft_id);
        let leads = session
            .reports
            .values()
            .filter(|r| r.role() == RegionRole::Leader && !is_given_up(r));
        let apart = watch.unreachable_from(node);
        let beat = LeaderBeat {
            node,
            led: leads
                .map(|said| led(&self.sessions, catalog, said, &apart))
                .collect(),
            oldest_append: Duration::from_millis(session.oldest_append_ms),
            unanswered: unheard.map_or(Duration::ZERO, |u| now.saturating_sub(u.first)),
            renounced: session.renounced.clone(),
        };
        watch.promise(&beat, session_ends, now)
    }
}

/// `apart`: the datanodes that its leader does not reach.
fn led(sessions: &Sessions, catalog: &Catalog, said: &RegionReport, apart: &BTreeSet<NodeId>) -> Led {
    let region = RegionId::from_u64(said.region_id);
    let Electorate { voters, strangers } = electorate(sessions, catalog, region);
    let elector = |node: NodeId| {
        let session = sessions.get(NodeRole::Datanode, node);
        let report = session.and_then(|s| s.reports.get(&region));
        Elector {
            node,
            heard: session.and_then(|s| s.touch.heard()),
            term: report.map_or(0, |r| r.epoch),
            is_apart: apart.contains(&node),
        }
    };
    Led {
        region,
        epoch: said.epoch,
        voters: voters.iter().map(|(_, member)| elector(member.node)).collect(),
        strangers,
    }
}
