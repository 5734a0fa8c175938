//! Which leases go with the answer to a tick.

use std::collections::BTreeMap;
use std::time::Duration;

use greptime_metasrv_plan::lease::may_lease;
use greptime_metasrv_plan::members::Electorate;
use greptime_types::{NodeId, RegionId};

use super::failover::electorate;
use super::{Metasrv, State};
use crate::message::RegionRole;
use crate::trace::Branch;

impl Metasrv {
    /// For how long, and for which of the regions that the datanode leads not.
    pub(super) fn leases(&self, state: &mut State, node: NodeId, now: Duration) -> (u64, Vec<RegionId>) {
        let Some(session) = state.sessions.datanodes.get(&node) else {
            return (0, vec![]);
        };
        let leads = session.reports.values().filter(|r| r.role == RegionRole::Leader);
        let led: Vec<RegionId> = leads.map(|r| r.region).collect();
        let without: Vec<RegionId> = led
            .iter()
            .filter(|region| !self.may_lease(state, **region, now))
            .copied()
            .collect();
        if without.len() == led.len() {
            return (0, vec![]);
        }
        self.sim.hit(Branch::LeaseIsGranted);
        state.granted.insert(node, now);
        (self.policy.lease.as_millis() as u64, without)
    }

    fn may_lease(&self, state: &State, region: RegionId, now: Duration) -> bool {
        let Some(catalog) = &state.catalog else {
            return false;
        };
        if state.withheld.contains(&region) {
            self.sim.hit(Branch::LeaseIsWithheld);
            return false;
        }
        let Electorate {
            voters: members,
            strangers,
        } = electorate(state, catalog, region);
        let voters: Vec<NodeId> = members.iter().map(|(_, member)| member.node).collect();
        let sessions = state.sessions.datanodes.iter();
        let in_touch: BTreeMap<NodeId, Duration> = sessions
            .filter_map(|(node, session)| Some((*node, session.in_touch?)))
            .collect();
        let may = may_lease(&voters, &in_touch, self.session_ends.get(), now, &self.policy);
        if may.is_err() {
            self.sim.hit(Branch::LeaseIsRefused);
        }
        strangers == 0 && may.is_ok()
    }
}
