//! When a datanode that has come may be called ready, so that a roll goes on to the next one.

use std::time::Duration;

use greptime_metasrv_plan::assignment::{Assignment, Extent};
use greptime_proto::v1;
use greptime_types::{NodeId, NodeRole};

use crate::repair::{LAG, leading_report};
use crate::server::State;

/// After so long it is, whatever it lacks: a roll that waits for ever would keep from others what they wait for.
const AT_MOST: Duration = Duration::from_secs(60);

impl State {
    /// Whether a datanode has what the groups of its replicas have, so that another one may stop: leaders there hand over
    /// to it, and a majority remains. `assignments`: the replicas that it should hold.
    pub(crate) fn has_caught_up(&self, node: NodeId, assignments: &[Assignment], now: Duration) -> bool {
        let Some(session) = self.sessions.get(NodeRole::Datanode, node) else {
            return false;
        };
        let has = |replica: &Assignment| {
            // Of a group that nobody leads it cannot be said, and this may be one that it waits for.
            let Some(leader) = leading_report(self, replica.region) else {
                return true;
            };
            let own = session.reports.get(&replica.region);
            own.is_some_and(|own| {
                own.raft_id == leader.raft_id || extent(own).has_caught_up(&extent(leader), replica.hot, LAG)
            })
        };
        now >= session.since + AT_MOST || assignments.iter().all(has)
    }
}

fn extent(report: &v1::RegionReport) -> Extent {
    Extent {
        last_term: report.last_term,
        last_index: report.last_index,
        applied_index: report.applied_index,
        hot: report.hot,
    }
}
